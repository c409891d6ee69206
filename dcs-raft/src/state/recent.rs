//! Which proposals were applied, so that none is applied twice.
//!
//! A client that got no answer sends its proposal again, by another way or to another node, and both may arrive. The
//! first is applied; the others get its answer.
//!
//! What is remembered is bounded, and the bounds err on one side: a proposal that may have been applied is never applied
//! again, only its answer may be lost. Except for a client that was forgotten altogether, after a silence longer than any
//! frame stays on its way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::command::{Done, Reply};
use crate::identity::ProposalId;

/// A client that was silent for so long, on the log clock, is forgotten.
pub(super) const FORGET_AFTER_MS: u64 = 10 * 60 * 1000;
/// Of more clients than this the ones that were silent longest are forgotten.
pub(super) const MOST_CLIENTS: usize = 4096;
/// The answers that are remembered take this much, about, before the oldest of them are forgotten. They travel with every
/// snapshot; and a few of them can be as large as the values that they tell of.
pub(super) const MOST_BYTES: usize = 4 << 20;

/// The proposals that were applied lately.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recent {
    clients: BTreeMap<u64, Client>,
    /// By the index of the entry that was answered.
    answers: BTreeMap<u64, Reply>,
    /// What `answers` take. Not part of a snapshot: it follows from them.
    #[serde(skip)]
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Client {
    /// The last entry that it proposed, and its time.
    heard_at: u64,
    heard_ms: u64,
    /// The highest number of any of its proposals.
    highest: u64,
    /// The entries that applied its proposals, by their numbers.
    applied: BTreeMap<u64, u64>,
}

impl Client {
    /// Whether a number is so far behind that its proposal was applied and forgotten, or given up.
    fn is_past(&self, number: u64) -> bool {
        number <= self.highest.saturating_sub(ProposalId::WINDOW as u64)
    }
}

impl Recent {
    /// Notes that an entry at `index` has this proposal. Whether it was not applied before, nor given up by its client.
    pub(super) fn is_new(&mut self, proposal: ProposalId, index: u64, now_ms: u64) -> bool {
        if !self.clients.contains_key(&proposal.client) && self.clients.len() >= MOST_CLIENTS {
            self.forget_longest_silent();
        }
        let client = self.clients.entry(proposal.client).or_insert_with(|| Client {
            heard_at: index,
            heard_ms: now_ms,
            highest: proposal.number,
            applied: BTreeMap::new(),
        });
        (client.heard_at, client.heard_ms) = (index, now_ms);
        client.highest = client.highest.max(proposal.number);
        let new = !client.is_past(proposal.number) && !client.applied.contains_key(&proposal.number);
        if new {
            client.applied.insert(proposal.number, index);
            let past = client.highest.saturating_sub(ProposalId::WINDOW as u64);
            let kept = client.applied.split_off(&past.saturating_add(1));
            for index in std::mem::replace(&mut client.applied, kept).into_values() {
                self.forget_answer(index);
            }
        }
        new
    }

    /// Remembers the answer to the proposal that was new just now.
    pub(super) fn remember(&mut self, reply: &Reply) {
        self.bytes += size(reply);
        self.answers.insert(reply.index, reply.clone());
        while self.bytes > MOST_BYTES
            && let Some((&oldest, _)) = self.answers.first_key_value()
        {
            self.forget_answer(oldest);
        }
    }

    pub(super) fn recall(&self, proposal: ProposalId) -> Option<&Reply> {
        let index = self.clients.get(&proposal.client)?.applied.get(&proposal.number)?;
        self.answers.get(index)
    }

    /// Forgets the clients that have been silent for long.
    pub(super) fn forget_silent(&mut self, now_ms: u64) {
        let silent = |client: &Client| client.heard_ms.saturating_add(FORGET_AFTER_MS) <= now_ms;
        let gone: Vec<u64> = self.clients.iter().filter(|(_, client)| silent(client)).map(|(id, _)| *id).collect();
        for client in gone {
            self.forget(client);
        }
    }

    fn forget_longest_silent(&mut self) {
        let longest = self.clients.iter().min_by_key(|(_, client)| client.heard_at).map(|(id, _)| *id);
        if let Some(client) = longest {
            self.forget(client);
        }
    }

    fn forget(&mut self, client: u64) {
        let Some(client) = self.clients.remove(&client) else { return };
        for index in client.applied.into_values() {
            self.forget_answer(index);
        }
    }

    fn forget_answer(&mut self, index: u64) {
        if let Some(reply) = self.answers.remove(&index) {
            self.bytes = self.bytes.saturating_sub(size(&reply));
        }
    }

    /// Counts what a snapshot does not tell.
    pub(super) fn count(&mut self) {
        self.bytes = self.answers.values().map(size).sum();
    }
}

/// What an answer takes, about.
fn size(reply: &Reply) -> usize {
    let of = |done: &Done| match done {
        Done::Found(Some(found)) => 32 + found.key.len() + found.value.len(),
        Done::Found(None) | Done::Written | Done::Deleted(_) | Done::Handle(_) | Done::HandleGone => 16,
    };
    32 + reply.done.iter().map(of).sum::<usize>()
}
