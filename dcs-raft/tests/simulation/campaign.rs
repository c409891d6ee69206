//! Candidates for one lock, as agents are: each believes that it leads until its lease is over, and never two at once.

use dcs_raft::command::{Condition, Done, Operation as Op, Transaction};
use dcs_raft::identity::ProposalId;
use dcs_raft::message::{Request, Response};
use fastrand::Rng;

const TTL_MS: u64 = 3_000;

/// How often the lock is renewed, or tried for.
const PERIOD_MS: u64 = 700;

const LOCK: &str = "/lock";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Handle,
    Lock,
    Renewal,
}

/// One candidate.
#[derive(Debug)]
pub(crate) struct Candidate {
    name: String,
    id: u64,
    /// Which request is under way.
    pub(crate) number: u64,
    /// What was asked, and when first.
    underway: Option<(Asked, u64, Request)>,
    /// The handle, and when the request that proved it was sent.
    handle: Option<(u64, u64)>,
    /// Until when it believes to lead.
    leads_until: u64,
    next: u64,
}

impl Candidate {
    pub(crate) fn new(position: usize, rng: &mut Rng) -> Self {
        Self {
            name: format!("candidate {position}"),
            id: rng.u64(1..),
            number: 0,
            underway: None,
            handle: None,
            leads_until: 0,
            next: rng.u64(..PERIOD_MS),
        }
    }

    /// Whether it believes to lead.
    pub(crate) fn leads(&self, now: u64) -> bool {
        now < self.leads_until
    }

    pub(crate) fn step(&mut self, now: u64) -> Option<Request> {
        if now < self.next {
            return None;
        }
        self.next = now + PERIOD_MS;
        // The same request again, because its fate is unknown. Its time is that of the first attempt.
        if let Some((_, _, request)) = &self.underway {
            return Some(request.clone());
        }
        let (asked, transaction) = match self.handle {
            None => (Asked::Handle, Transaction { then: vec![Op::Grant { ttl_ms: TTL_MS }], ..Transaction::default() }),
            Some((handle, _)) if self.leads(now) => (
                Asked::Renewal,
                Transaction {
                    conditions: vec![Condition::BoundTo { key: LOCK.to_owned(), handle }],
                    then: vec![Op::Refresh { handle }],
                    otherwise: Vec::new(),
                },
            ),
            Some((handle, _)) => (
                Asked::Lock,
                Transaction {
                    conditions: vec![Condition::Absent { key: LOCK.to_owned() }, Condition::Alive { handle }],
                    then: vec![
                        Op::Refresh { handle },
                        Op::Put { key: LOCK.to_owned(), value: self.name.clone().into_bytes(), handle: Some(handle) },
                    ],
                    otherwise: vec![Op::Refresh { handle }],
                },
            ),
        };
        self.number += 1;
        let request = Request::Propose { proposal: ProposalId { client: self.id, number: self.number }, transaction };
        self.underway = Some((asked, now, request.clone()));
        Some(request)
    }

    pub(crate) fn answered(&mut self, response: &Response) {
        let Some((asked, sent, _)) = self.underway else { return };
        let Response::Applied(reply) = response else { return };
        self.underway = None;
        let gone = reply.done.contains(&Done::HandleGone);
        match asked {
            Asked::Handle => self.handle = Some((reply.index, sent)),
            Asked::Lock if reply.held && !gone => self.leads_until = sent + TTL_MS,
            Asked::Renewal if reply.held && !gone => self.leads_until = self.leads_until.max(sent + TTL_MS),
            Asked::Renewal => self.leads_until = 0,
            Asked::Lock => {}
        }
        if gone {
            self.handle = None;
        }
    }
}
