//! What all nodes agree on: keys, handles, members, and which proposals were applied already.
//!
//! ```text
//!   entries of the log, one after the other          the same on every node
//!   ─────────────────────────────────────── apply ──► keys, handles, log clock, members
//!                                            │
//!                                            └──────► the answer, and which keys changed
//! ```
//!
//! No clock, no chance, no I/O: the time is that of the entries, and nothing depends on the order of a hash map. So the
//! same entries lead to the same bytes, on every node and in every version that reads them.
//!
//! A handle is what keys live and die with. It is counted on the *log clock*, the latest time of any entry so far, and
//! ends when an entry with its time or a later one is applied: before that entry does anything else.

mod recent;
mod snapshot;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use self::recent::Recent;
pub use self::snapshot::DecodeError;
use crate::command::{Command, Condition, Done, Foundation, Member, MembershipChange, Operation, Record, Reply, StoredKey, Transaction};
use crate::identity::{ClusterId, NodeId, ProposalId};
use crate::message::{ChangedHow, ChangedKey};

/// The replicated state as of one entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    cluster: ClusterId,
    /// The last entry that is in it.
    applied: u64,
    /// The log clock, in milliseconds.
    clock_ms: u64,
    keys: BTreeMap<String, Stored>,
    handles: BTreeMap<u64, Life>,
    members: BTreeMap<NodeId, Member>,
    /// Who was removed or replaced, the latest at the end: it does not come back under its id.
    removed: VecDeque<NodeId>,
    recent: Recent,
}

/// How many removed nodes are remembered.
const REMOVED: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    value: Vec<u8>,
    /// The entry that wrote it.
    revision: u64,
    /// An entry of `handles`, always.
    handle: Option<u64>,
}

/// The life of a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Life {
    ttl_ms: u64,
    expires_at_ms: u64,
}

/// What an entry did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The answer to its command. None for a mere tick, and for a repeated proposal whose first answer is forgotten: it
    /// was not applied again, and nobody can say what came of it.
    pub reply: Option<Reply>,
    /// The keys that changed, in the order in which they did. Those of handles that ended come first.
    pub changes: Vec<ChangedKey>,
}

impl State {
    /// The state of a cluster whose log is empty.
    pub fn founded(foundation: &Foundation) -> Self {
        Self {
            cluster: foundation.cluster,
            applied: 0,
            clock_ms: 0,
            keys: BTreeMap::new(),
            handles: BTreeMap::new(),
            members: foundation.members.iter().map(|member| (member.id, member.clone())).collect(),
            removed: VecDeque::new(),
            recent: Recent::default(),
        }
    }

    /// This state as the beginning of another cluster, as of entry `index`. Keys, handles and answers stay; the members are
    /// those of the foundation. Every handle lives its whole time from here on: whoever refreshed it last, and was told so,
    /// may count on it until then, even if that refreshment is not in this state.
    pub fn founded_anew(self, foundation: &Foundation, index: u64) -> Self {
        let clock_ms = self.clock_ms;
        let handles = self.handles.into_iter().map(|(handle, life)| (handle, Life::new(life.ttl_ms, clock_ms))).collect();
        Self { handles, applied: index, ..Self { keys: self.keys, recent: self.recent, clock_ms, ..Self::founded(foundation) } }
    }

    /// Does what the entry at `index` says: first what is due at its time expires, then its command.
    ///
    /// An entry that is in the state already does nothing.
    pub fn apply(&mut self, index: u64, record: &Record) -> Applied {
        if index <= self.applied {
            return Applied::default();
        }
        self.applied = index;
        self.clock_ms = self.clock_ms.max(record.time_ms);
        let mut changes = Vec::new();
        self.expire(&mut changes);
        self.recent.forget_silent(self.clock_ms);
        if let Some(proposal) = record.proposal
            && !self.recent.is_new(proposal, index, self.clock_ms)
        {
            return Applied { reply: self.recall(proposal), changes };
        }
        let reply = match &record.command {
            Command::Tick => None,
            Command::Transaction(transaction) => Some(self.transact(transaction, &mut changes)),
            Command::Membership(change) => {
                self.change_members(change);
                Some(Reply { index, held: true, done: Vec::new() })
            }
        };
        if let Some(reply) = reply.as_ref().filter(|_| record.proposal.is_some()) {
            self.recent.remember(reply);
        }
        Applied { reply, changes }
    }

    /// The entry at `index` has no record: it says nothing about keys or members, and has no time.
    pub fn skip(&mut self, index: u64) {
        self.applied = self.applied.max(index);
    }

    /// What was answered to a proposal that was applied already, if that is remembered.
    pub fn recall(&self, proposal: ProposalId) -> Option<Reply> {
        self.recent.recall(proposal).cloned()
    }

    /// The last entry that is in the state.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The log clock, in milliseconds.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// The cluster whose state this is.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The members.
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// Whether the node was a member once, and was removed or replaced.
    pub fn was_removed(&self, id: NodeId) -> bool {
        self.removed.contains(&id)
    }

    /// When the next handle ends on the log clock, if it is not refreshed.
    pub fn due_ms(&self) -> Option<u64> {
        self.handles.values().map(|life| life.expires_at_ms).min()
    }

    /// One key.
    pub fn get(&self, key: &str) -> Option<StoredKey> {
        self.keys.get(key).map(|stored| stored.named(key))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Every key that begins with `prefix`, in their order.
    pub fn keys_with_prefix(&self, prefix: &str) -> Vec<StoredKey> {
        self.range(prefix).map(|(key, stored)| stored.named(key)).collect()
    }

    fn range<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Stored)> {
        self.keys.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Ends the handles whose time has come.
    fn expire(&mut self, changes: &mut Vec<ChangedKey>) {
        let now = self.clock_ms;
        let before = self.handles.len();
        self.handles.retain(|_, life| life.expires_at_ms > now);
        if self.handles.len() < before {
            self.delete_unbound(changes);
        }
    }

    /// Deletes every key for which `doomed` holds, in their order. Returns how many.
    fn delete_where(&mut self, changes: &mut Vec<ChangedKey>, doomed: impl Fn(&str, &Stored) -> bool) -> u64 {
        let index = self.applied;
        let before = changes.len();
        self.keys.retain(|key, stored| {
            let kept = !doomed(key, stored);
            if !kept {
                changes.push(ChangedKey { key: key.clone(), index, kind: ChangedHow::Deleted });
            }
            kept
        });
        u64::try_from(changes.len() - before).unwrap_or(u64::MAX)
    }

    /// Deletes the keys whose handle has ended, in their order.
    fn delete_unbound(&mut self, changes: &mut Vec<ChangedKey>) {
        let handles = std::mem::take(&mut self.handles);
        self.delete_where(changes, |_, stored| stored.handle.is_some_and(|handle| !handles.contains_key(&handle)));
        self.handles = handles;
    }

    fn transact(&mut self, transaction: &Transaction, changes: &mut Vec<ChangedKey>) -> Reply {
        let held = transaction.conditions.iter().all(|condition| self.holds(condition));
        let operations = if held { &transaction.then } else { &transaction.otherwise };
        let mut may_grant = true;
        let done = operations.iter().map(|operation| self.perform(operation, &mut may_grant, changes)).collect();
        Reply { index: self.applied, held, done }
    }

    fn holds(&self, condition: &Condition) -> bool {
        let stored = |key: &String| self.keys.get(key);
        match condition {
            Condition::Exists { key } => stored(key).is_some(),
            Condition::Absent { key } => stored(key).is_none(),
            Condition::Value { key, value } => stored(key).is_some_and(|stored| stored.value == *value),
            Condition::Revision { key, revision } => stored(key).is_some_and(|stored| stored.revision == *revision),
            Condition::BoundTo { key, handle } => stored(key).is_some_and(|stored| stored.handle == Some(*handle)),
            Condition::Alive { handle } => self.handles.contains_key(handle),
        }
    }

    fn perform(&mut self, operation: &Operation, may_grant: &mut bool, changes: &mut Vec<ChangedKey>) -> Done {
        match operation {
            Operation::Get { key } => Done::Found(self.get(key)),
            Operation::Put { key, value, handle } => self.put(key, value, *handle, changes),
            Operation::Delete { key } => {
                let found = self.keys.remove(key).is_some();
                if found {
                    changes.push(ChangedKey { key: key.clone(), index: self.applied, kind: ChangedHow::Deleted });
                }
                Done::Deleted(found.into())
            }
            Operation::DeletePrefix { prefix } => Done::Deleted(self.delete_where(changes, |key, _| key.starts_with(prefix))),
            // The name of a handle is the index of its entry, so one entry makes one handle at most.
            Operation::Grant { ttl_ms } if std::mem::take(may_grant) => {
                self.handles.insert(self.applied, Life::new((*ttl_ms).max(1), self.clock_ms));
                Done::Handle(self.applied)
            }
            Operation::Grant { .. } => Done::HandleGone,
            Operation::Refresh { handle } => match self.handles.get_mut(handle) {
                Some(life) => {
                    *life = Life::new(life.ttl_ms, self.clock_ms);
                    Done::Handle(*handle)
                }
                None => Done::HandleGone,
            },
            Operation::Revoke { handle } => match self.handles.remove(handle) {
                Some(_) => {
                    self.delete_unbound(changes);
                    Done::Handle(*handle)
                }
                None => Done::HandleGone,
            },
        }
    }

    fn put(&mut self, key: &str, value: &[u8], handle: Option<u64>, changes: &mut Vec<ChangedKey>) -> Done {
        if handle.is_some_and(|handle| !self.handles.contains_key(&handle)) {
            return Done::HandleGone;
        }
        let index = self.applied;
        let before = self.keys.insert(key.to_owned(), Stored { value: value.to_vec(), revision: index, handle });
        let kind = if before.is_some() { ChangedHow::Written } else { ChangedHow::Created };
        changes.push(ChangedKey { key: key.to_owned(), index, kind });
        Done::Written
    }

    /// Who is not a member is neither promoted nor moved: the change came after the removal.
    fn change_members(&mut self, change: &MembershipChange) {
        match change {
            MembershipChange::Add(member) => drop(self.members.insert(member.id, member.clone())),
            MembershipChange::Promote { id, instead_of } => {
                if let Some(member) = self.members.get_mut(id) {
                    member.absent = false;
                    if let Some(replaced) = instead_of.filter(|replaced| replaced != id) {
                        self.remove_member(replaced);
                    }
                }
            }
            MembershipChange::Remove(id) => self.remove_member(*id),
            MembershipChange::Move { id, address } => {
                if let Some(member) = self.members.get_mut(id) {
                    member.address.clone_from(address);
                }
            }
        }
    }
}

impl State {
    fn remove_member(&mut self, id: NodeId) {
        if self.members.remove(&id).is_some() {
            self.removed.push_back(id);
            while self.removed.len() > REMOVED {
                self.removed.pop_front();
            }
        }
    }
}

impl Stored {
    fn named(&self, key: &str) -> StoredKey {
        StoredKey { key: key.to_owned(), value: self.value.clone(), revision: self.revision, handle: self.handle }
    }
}

impl Life {
    fn new(ttl_ms: u64, now_ms: u64) -> Self {
        Self { ttl_ms, expires_at_ms: now_ms.saturating_add(ttl_ms) }
    }
}
