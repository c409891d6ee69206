//! Clients that write and read a few keys, and remember what they were told and when.

use dcs_raft::command::{Condition, Done, Operation as Op, Reply, Transaction};
use dcs_raft::identity::ProposalId;
use dcs_raft::message::{Request, Response};
use fastrand::Rng;

use crate::linearizable::{Action, Operation, Outcome};

/// A client asks again when it has heard nothing for so long.
const ATTEMPT_MS: u64 = 700;

/// And gives up after so long.
const PATIENCE_MS: u64 = 3_500;

/// How many keys there are.
pub(crate) const KEYS: usize = 3;

#[derive(Debug)]
struct Underway {
    key: usize,
    action: Action,
    began: u64,
    asked: u64,
    request: Request,
}

/// One client: one operation after the other.
#[derive(Debug)]
pub(crate) struct Client {
    id: u64,
    number: u64,
    underway: Option<Underway>,
    /// Which operation is under way, counted over all names of the client.
    pub(crate) serial: u64,
    last_value: u64,
    last_seen: [Option<u64>; KEYS],
    pub(crate) finished: u64,
}

/// What a client did, on which key.
pub(crate) type Told = (usize, Operation);

impl Client {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        Self { id: rng.u64(1..), number: 0, underway: None, serial: 0, last_value: 0, last_seen: [None; KEYS], finished: 0 }
    }

    /// Begins something, or asks again. What it gave up, and what it asks for now.
    pub(crate) fn step(&mut self, now: u64, rng: &mut Rng) -> (Option<Told>, Option<Request>) {
        let mut told = None;
        match &mut self.underway {
            Some(underway) if now - underway.began > PATIENCE_MS => {
                told = self.give_up();
            }
            Some(underway) if now - underway.asked > ATTEMPT_MS => {
                underway.asked = now;
                return (None, Some(underway.request.clone()));
            }
            Some(_) => return (None, None),
            None => {}
        }
        (told, Some(self.begin(now, rng)))
    }

    fn begin(&mut self, now: u64, rng: &mut Rng) -> Request {
        let key = rng.usize(..KEYS);
        self.serial += 1;
        self.last_value += 1;
        // Unique over all clients, because their ids are.
        let value = (self.id << 16) | self.last_value;
        let action = match rng.u8(..8) {
            0 | 1 => Action::Write(value),
            2 => Action::Delete,
            3 => Action::Create(value),
            4 => match self.last_seen[key] {
                Some(expected) => Action::Swap { expected, value },
                None => Action::Create(value),
            },
            _ => Action::Read,
        };
        let request = self.request(key, action);
        self.underway = Some(Underway { key, action, began: now, asked: now, request: request.clone() });
        request
    }

    fn request(&mut self, key: usize, action: Action) -> Request {
        let key = key_name(key);
        let put = |value: u64| Op::Put { key: key_of(&key), value: value.to_be_bytes().to_vec(), handle: None };
        let transaction = match action {
            Action::Read => return Request::Read { prefix: key },
            Action::Write(value) => Transaction { then: vec![put(value)], ..Transaction::default() },
            Action::Delete => Transaction { then: vec![Op::Delete { key }], ..Transaction::default() },
            Action::Create(value) => {
                Transaction { conditions: vec![Condition::Absent { key: key_of(&key) }], then: vec![put(value)], ..Transaction::default() }
            }
            Action::Swap { expected, value } => Transaction {
                conditions: vec![Condition::Value { key: key_of(&key), value: expected.to_be_bytes().to_vec() }],
                then: vec![put(value)],
                ..Transaction::default()
            },
        };
        self.number += 1;
        Request::Propose { proposal: ProposalId { client: self.id, number: self.number }, transaction }
    }

    /// An answer to the operation under way came. Nothing if it says nothing.
    pub(crate) fn answered(&mut self, response: &Response, now: u64) -> Option<Told> {
        let underway = self.underway.as_ref()?;
        let outcome = match (response, underway.action) {
            (Response::Applied(reply), Action::Write(_) | Action::Delete | Action::Create(_) | Action::Swap { .. }) => outcome_of(reply),
            (Response::Keys { keys, .. }, Action::Read) => Outcome::Found(
                keys.iter()
                    .find(|key| key.key == key_name(underway.key))
                    .map(|key| u64::from_be_bytes(key.value.as_slice().try_into().expect("what was written"))),
            ),
            (Response::Unknown(_) | Response::Refused(_), _) => return None,
            (other, action) => panic!("{action:?} was answered {other:?}"),
        };
        if let Outcome::Found(value) = outcome {
            self.last_seen[underway.key] = value;
        }
        let operation = Operation { action: underway.action, outcome, began: underway.began, ended: now };
        let key = underway.key;
        self.underway = None;
        self.finished += 1;
        Some((key, operation))
    }

    /// Nobody will ever know what became of it. Goes on under another name, as a new process would.
    pub(crate) fn give_up(&mut self) -> Option<Told> {
        let underway = self.underway.take()?;
        self.id = self.id.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1) | 1;
        self.number = 0;
        if underway.action == Action::Read {
            return None;
        }
        let operation = Operation { action: underway.action, outcome: Outcome::Unknown, began: underway.began, ended: u64::MAX };
        Some((underway.key, operation))
    }
}

fn outcome_of(reply: &Reply) -> Outcome {
    assert!(!reply.done.contains(&Done::HandleGone), "no handle was used");
    if reply.held { Outcome::Done } else { Outcome::Refused }
}

fn key_name(key: usize) -> String {
    format!("/sim/{key}")
}

fn key_of(name: &str) -> String {
    name.to_owned()
}
