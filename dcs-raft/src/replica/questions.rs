//! Who asked for what and waits for the answer.

use std::collections::BTreeMap;

use dcs_core::Moment;

use super::{Outlet, Replica, Stuck};
use crate::command::{Command, MembershipChange, Record, Reply, Transaction};
use crate::identity::{NodeId, ProposalId};
use crate::message::{PeerFrame, Request, Response};
use crate::node::Role;
use crate::record;
use crate::state::State;
use crate::storage::Storage;

/// After how many ticks a read is asked again: its question or the answer may have been lost.
const READ_AGAIN: u64 = 3;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// Somebody on this node.
    Here(u64),
    /// Somebody on a node that does not lead.
    Node { node: NodeId, token: u64 },
}

impl Asker {
    pub(super) fn answer(self, response: Response, outlet: &mut impl Outlet) {
        match self {
            Self::Here(token) => outlet.answer(token, response),
            Self::Node { node, token } => outlet.send(node, PeerFrame::Answer { token, response }),
        }
    }
}

#[derive(Debug)]
struct Parked {
    asker: Asker,
    request: Request,
    since: u64,
}

#[derive(Debug)]
struct Read {
    asker: Asker,
    prefix: String,
    since: u64,
    /// When the leader was last asked; never if no leader was known.
    asked: Option<u64>,
    /// What must be applied before it can be served.
    index: Option<u64>,
}

/// Everything that waits for an answer, with the tick at which it was asked.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// No leader is known.
    parked: Vec<Parked>,
    /// In the log of this leader, not yet applied.
    proposals: BTreeMap<ProposalId, (Vec<Asker>, u64)>,
    /// Nodes that wait to be added.
    joins: BTreeMap<NodeId, (Vec<Asker>, u64)>,
    /// Operators that wait until a node is removed.
    removals: BTreeMap<NodeId, (Vec<Asker>, u64)>,
    reads: BTreeMap<u64, Read>,
    /// Sent on to the leader; by our own token.
    forwarded: BTreeMap<u64, (Asker, u64)>,
    last_token: u64,
}

impl Questions {
    /// Nobody has asked yet. Questions to other nodes are numbered from somewhere.
    pub(super) fn numbered_from(start: u64) -> Self {
        Self { last_token: start, ..Self::default() }
    }

    fn token(&mut self) -> u64 {
        self.last_token = self.last_token.wrapping_add(1);
        self.last_token
    }

    /// Answers everybody who has waited for more than `patience` ticks that nothing is known.
    pub(super) fn expire(&mut self, tick: u64, patience: u64, outlet: &mut impl Outlet) {
        let over = |since: u64| tick.saturating_sub(since) > patience;
        let late = |text: &str| Response::Unknown(text.to_owned());
        let (expired, parked): (Vec<_>, Vec<_>) = std::mem::take(&mut self.parked).into_iter().partition(|parked| over(parked.since));
        self.parked = parked;
        for parked in expired {
            parked.asker.answer(late("no leader is known"), outlet);
        }
        for (asker, _) in take_if(&mut self.forwarded, |(_, since)| over(*since)) {
            asker.answer(late("the leader has not answered"), outlet);
        }
        for read in take_if(&mut self.reads, |read| over(read.since)) {
            read.asker.answer(late("no majority has confirmed the leader"), outlet);
        }
        let mut untaken = take_if(&mut self.proposals, |(_, since)| over(*since));
        untaken.extend(take_if(&mut self.joins, |(_, since)| over(*since)));
        untaken.extend(take_if(&mut self.removals, |(_, since)| over(*since)));
        for (askers, _) in untaken {
            answer_all(askers, &late("no majority has taken it"), outlet);
        }
    }

    /// Proposals, joins and removals that were taken here may or may not be done by the next leader.
    pub(super) fn give_up_proposals(&mut self, why: &str, outlet: &mut impl Outlet) {
        let response = Response::Unknown(why.to_owned());
        for (_, (askers, _)) in std::mem::take(&mut self.proposals) {
            answer_all(askers, &response, outlet);
        }
        for (_, (askers, _)) in std::mem::take(&mut self.joins).into_iter().chain(std::mem::take(&mut self.removals)) {
            answer_all(askers, &response, outlet);
        }
    }

    pub(super) fn give_up_all(&mut self, why: &str, outlet: &mut impl Outlet) {
        self.give_up_proposals(why, outlet);
        let response = Response::Unknown(why.to_owned());
        for parked in std::mem::take(&mut self.parked) {
            parked.asker.answer(response.clone(), outlet);
        }
        for (_, read) in std::mem::take(&mut self.reads) {
            read.asker.answer(response.clone(), outlet);
        }
        for (_, (asker, _)) in std::mem::take(&mut self.forwarded) {
            asker.answer(response.clone(), outlet);
        }
    }

    /// The leader answered a request that was sent on to it.
    pub(super) fn answered(&mut self, token: u64, response: Response, outlet: &mut impl Outlet) {
        if let Some((asker, _)) = self.forwarded.remove(&token) {
            asker.answer(response, outlet);
        }
    }

    /// A majority confirmed the leader: the read may be served once everything up to `index` is applied.
    pub(super) fn confirmed(&mut self, context: &[u8], index: u64) {
        let read = context.last_chunk::<8>().map(|number| u64::from_be_bytes(*number));
        if let Some(read) = read.and_then(|read| self.reads.get_mut(&read)) {
            read.index.get_or_insert(index);
        }
    }

    /// Serves the reads that can be.
    pub(super) fn read(&mut self, state: &State, outlet: &mut impl Outlet) {
        for read in take_if(&mut self.reads, |read| read.index.is_some_and(|index| index <= state.applied())) {
            let response = Response::Keys { keys: state.keys_with_prefix(&read.prefix), index: state.applied() };
            read.asker.answer(response, outlet);
        }
    }

    /// An entry was applied.
    pub(super) fn applied(&mut self, record: &Record, reply: Option<Reply>, joined: &Response, outlet: &mut impl Outlet) {
        if let (Some(reply), Some(proposal)) = (reply, record.proposal)
            && let Some((askers, _)) = self.proposals.remove(&proposal)
        {
            answer_all(askers, &Response::Applied(reply), outlet);
        }
        let Command::Membership(change) = &record.command else { return };
        let (answered, response) = match change {
            MembershipChange::Add(member) => (self.joins.remove(&member.id), joined),
            MembershipChange::Remove(id) => (self.removals.remove(id), &Response::Done),
            MembershipChange::Promote { .. } | MembershipChange::Move { .. } => return,
        };
        answer_all(answered.map(|(askers, _)| askers).unwrap_or_default(), response, outlet);
    }
}

/// Takes out what fits.
fn take_if<K: Ord + Copy, V>(map: &mut BTreeMap<K, V>, fits: impl Fn(&V) -> bool) -> Vec<V> {
    let keys: Vec<K> = map.iter().filter(|(_, value)| fits(value)).map(|(key, _)| *key).collect();
    keys.iter().filter_map(|key| map.remove(key)).collect()
}

fn answer_all(askers: Vec<Asker>, response: &Response, outlet: &mut impl Outlet) {
    for asker in askers {
        asker.answer(response.clone(), outlet);
    }
}

impl<S: Storage> Replica<S> {
    /// Answers a request, or sees to it that it will be.
    pub(super) fn serve(&mut self, now: Moment, asker: Asker, request: Request, outlet: &mut impl Outlet) {
        if let Some(response) = self.answer_here(&request, now) {
            return asker.answer(response, outlet);
        }
        if let Some(Stuck { problem, .. }) = &self.stuck {
            return asker.answer(Response::Unknown(problem.clone()), outlet);
        }
        if let Request::Read { prefix } = request {
            return self.begin_read(asker, prefix);
        }
        match (self.node.role(), self.node.leader(), asker) {
            // It was elected a moment ago, and its clock does not go yet.
            (Role::Leader, ..) if !self.clock.runs_in(self.node.term()) => {
                self.questions.parked.push(Parked { asker, request, since: self.ticks });
            }
            (Role::Leader, ..) => self.lead(now, asker, request, outlet),
            // It was sent on once, by a node that was wrong about who leads. It asks again.
            (_, _, Asker::Node { .. }) => asker.answer(Response::Unknown("this node does not lead".to_owned()), outlet),
            (_, Some(leader), Asker::Here(_)) => {
                let token = self.questions.token();
                self.questions.forwarded.insert(token, (asker, self.ticks));
                outlet.send(leader, PeerFrame::Forward { token, request });
            }
            (_, None, Asker::Here(_)) => self.questions.parked.push(Parked { asker, request, since: self.ticks }),
        }
    }

    /// What any node answers by itself.
    fn answer_here(&self, request: &Request, now: Moment) -> Option<Response> {
        match request {
            Request::Discover => Some(Response::Identity(self.identity())),
            Request::Status => Some(Response::Status(Box::new(self.status(now)))),
            Request::Wait { .. } => Some(Response::Refused("waiting is served by the connection".to_owned())),
            // Who was counted in needs no leader to be told so: without it there may be none.
            Request::Join { id, address } if self.state.members().get(id).is_some_and(|member| member.address == *address) => {
                Some(Response::Joined(self.foundation.clone()))
            }
            Request::Propose { .. } | Request::Read { .. } | Request::Join { .. } | Request::Remove { .. } | Request::Transfer { .. } => {
                None
            }
        }
    }

    /// Requests that came while no leader was known.
    pub(super) fn ask_parked(&mut self, now: Moment, outlet: &mut impl Outlet) {
        if self.node.leader().is_none() {
            return;
        }
        for parked in std::mem::take(&mut self.questions.parked) {
            self.serve(now, parked.asker, parked.request, outlet);
        }
    }

    /// What only the leader can do.
    fn lead(&mut self, now: Moment, asker: Asker, request: Request, outlet: &mut impl Outlet) {
        match request {
            Request::Propose { proposal, transaction } => self.take_proposal(now, asker, proposal, transaction, outlet),
            Request::Join { id, address } => match self.take_join(now, id, address) {
                Ok(true) => asker.answer(Response::Joined(self.foundation.clone()), outlet),
                Ok(false) => add(&mut self.questions.joins, id, asker, self.ticks),
                Err(response) => asker.answer(response, outlet),
            },
            // Once it is removed, no answer reaches it any more. Whoever asked it asks another one.
            Request::Remove { address } if self.is_at(asker, &address) => {
                asker.answer(Response::Unknown("the node that is to be removed cannot be told about it".to_owned()), outlet);
            }
            Request::Remove { address } => match self.take_removal(now, &address) {
                Ok(node) => add(&mut self.questions.removals, node, asker, self.ticks),
                Err(response) => asker.answer(response, outlet),
            },
            Request::Transfer { to } => asker.answer(self.hand_over(to), outlet),
            Request::Discover | Request::Status | Request::Read { .. } | Request::Wait { .. } => {}
        }
    }

    /// Whether the asker is the node at this address.
    fn is_at(&self, asker: Asker, address: &str) -> bool {
        match asker {
            Asker::Here(_) => false,
            Asker::Node { node, .. } => self.state.members().get(&node).is_some_and(|member| member.address == address),
        }
    }

    fn take_proposal(&mut self, now: Moment, asker: Asker, id: ProposalId, transaction: Transaction, outlet: &mut impl Outlet) {
        // It was applied before, and the answer was lost.
        if let Some(reply) = self.state.recall(id) {
            return asker.answer(Response::Applied(reply), outlet);
        }
        if let Some((askers, _)) = self.questions.proposals.get_mut(&id) {
            return askers.push(asker);
        }
        if self.propose(now, Some(id), Command::Transaction(transaction)) {
            self.questions.proposals.insert(id, (vec![asker], self.ticks));
        } else {
            asker.answer(Response::Refused("the leader has more proposals than it can take".to_owned()), outlet);
        }
    }

    /// Puts a command into the log, if this node leads.
    pub(super) fn propose(&mut self, now: Moment, proposal: Option<ProposalId>, command: Command) -> bool {
        let Some(time_ms) = self.clock.stamp(now) else { return false };
        let record = Record { time_ms, proposal, command };
        let bytes = record::encode(&record);
        match &record.command {
            Command::Membership(change) => self.node.propose_change(change, bytes),
            Command::Tick | Command::Transaction(_) => self.node.propose(bytes),
        }
    }

    fn begin_read(&mut self, asker: Asker, prefix: String) {
        let number = self.questions.token();
        let asked = self.ask_leader_to_confirm(number);
        self.questions.reads.insert(number, Read { asker, prefix, since: self.ticks, asked, index: None });
    }

    fn ask_leader_to_confirm(&mut self, read: u64) -> Option<u64> {
        self.node.leader()?;
        let context = [self.id.0, self.ticks, read].map(u64::to_be_bytes).concat();
        self.node.read_index(context);
        Some(self.ticks)
    }

    /// Asks again for reads whose question or answer seems to be lost.
    pub(super) fn repeat_reads(&mut self) {
        let again: Vec<u64> = self
            .questions
            .reads
            .iter()
            .filter(|(_, read)| read.index.is_none() && read.asked.is_none_or(|asked| self.ticks - asked >= READ_AGAIN))
            .map(|(number, _)| *number)
            .collect();
        for number in again {
            let asked = self.ask_leader_to_confirm(number);
            if let Some(read) = self.questions.reads.get_mut(&number) {
                read.asked = asked;
            }
        }
    }
}

fn add(waiting: &mut BTreeMap<NodeId, (Vec<Asker>, u64)>, node: NodeId, asker: Asker, tick: u64) {
    waiting.entry(node).or_insert_with(|| (Vec::new(), tick)).0.push(asker);
}
