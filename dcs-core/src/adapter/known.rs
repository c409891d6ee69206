//! What a client knows from its last read and its own writes since.
//!
//! It serves three purposes: not to write what is there already, not to be woken by one's own writes, and to find out
//! what changed when the store cannot say. It never decides about the lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::codec;
use crate::keys::{ClusterPath, Key};
use crate::model::{HandleId, MemberName, Revision};
use crate::{Change, ChangeKind, Cursor, Entry, Interest, MemberInterest, Snapshot};

/// How many own writes are remembered, over all keys. Forgetting one costs a spurious wake-up.
const REMEMBERED_WRITES: usize = 64;

#[derive(Default)]
pub(super) struct Known {
    /// By absolute key.
    entries: BTreeMap<String, Entry>,
    /// Where the next wait starts; nothing before the first read.
    cursor: Option<Cursor>,
    own_writes: VecDeque<(String, Revision)>,
    /// Counts own writes, so that a read that began before one does not undo it.
    written: u64,
    written_at: HashMap<String, u64>,
}

impl Known {
    /// Marks the beginning of a read.
    pub(super) fn begin_read(&self) -> u64 {
        self.written
    }

    /// Takes in what a read returned that began at `begun`.
    pub(super) fn absorb(&mut self, begun: u64, snapshot: Snapshot) {
        let mut entries: BTreeMap<_, _> = snapshot.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        for (key, _) in self.written_at.iter().filter(|(_, at)| **at > begun) {
            match self.entries.remove(key) {
                Some(entry) => drop(entries.insert(key.clone(), entry)),
                None => drop(entries.remove(key)),
            }
        }
        self.written_at.retain(|_, at| *at > begun);
        self.entries = entries;
        self.cursor = Some(self.cursor.map_or(snapshot.cursor, |cursor| cursor.max(snapshot.cursor)));
    }

    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// Everything up to `cursor` was reported.
    pub(super) fn reported(&mut self, cursor: Cursor) {
        self.cursor = self.cursor.map(|before| before.max(cursor));
    }

    /// One key was read on its own.
    pub(super) fn saw(&mut self, entry: Entry) {
        self.entries.insert(entry.key.clone(), entry);
    }

    /// An own write was confirmed.
    pub(super) fn wrote(&mut self, key: &str, value: &[u8], revision: &Revision, handle: Option<HandleId>) {
        let entry = Entry { key: key.to_owned(), value: value.to_vec(), revision: revision.clone(), handle };
        self.entries.insert(key.to_owned(), entry);
        self.own(key, Some(revision));
    }

    /// An own deletion was confirmed.
    pub(super) fn deleted(&mut self, key: &str, revision: Option<&Revision>) {
        self.entries.remove(key);
        self.own(key, revision);
    }

    /// What is stored under `key` is not known any more. Said before every write is sent: whether the answer gets lost or
    /// the call is cancelled, nothing is left that claims to know.
    pub(super) fn forget(&mut self, key: &str) {
        self.entries.remove(key);
        self.own(key, None);
    }

    fn own(&mut self, key: &str, revision: Option<&Revision>) {
        self.written += 1;
        self.written_at.insert(key.to_owned(), self.written);
        if let Some(revision) = revision {
            self.own_writes.push_back((key.to_owned(), revision.clone()));
            if self.own_writes.len() > REMEMBERED_WRITES {
                self.own_writes.pop_front();
            }
        }
    }

    /// What `changes` are worth to `watcher`. A change of a key whose content decides is judged by what is there now.
    pub(super) fn worth(&self, changes: &[Change], watcher: &Watcher<'_>) -> Worth {
        let mut to_read = BTreeSet::new();
        for change in changes {
            if change.revision.as_ref().is_some_and(|revision| self.is_own(&change.key, revision)) {
                continue;
            }
            // A store that cannot tell a new key from a changed one says "changed".
            let appeared =
                change.kind == ChangeKind::Created || (change.kind == ChangeKind::Changed && !self.entries.contains_key(&change.key));
            match watcher.wants(&change.key, appeared) {
                Wanted::Yes => return Worth::Waking,
                Wanted::IfStateChanged if change.kind == ChangeKind::Changed => match &change.entry {
                    Some(now) if self.tells_another_state(now) => return Worth::Waking,
                    Some(_) => {}
                    None => drop(to_read.insert(change.key.clone())),
                },
                Wanted::IfStateChanged | Wanted::No => {}
            }
        }
        if to_read.is_empty() { Worth::Nothing } else { Worth::Reading(to_read) }
    }

    /// Whether a member's key says another state than when it was loaded.
    pub(super) fn tells_another_state(&self, now: &Entry) -> bool {
        self.entries.get(&now.key).is_none_or(|before| state_of(before) != state_of(now))
    }

    /// Whether `snapshot` differs from what is known in something worth waking for.
    pub(super) fn differs(&self, snapshot: &Snapshot, watcher: &Watcher<'_>) -> bool {
        let new: BTreeMap<&str, &Entry> = snapshot.entries.iter().map(|entry| (entry.key.as_str(), entry)).collect();
        let gone = self.entries.keys().filter(|key| !new.contains_key(key.as_str()));
        let changed = new.values().filter(|entry| {
            // A re-created node may start at the same revision, but not with the same handle and value.
            self.entries.get(&entry.key) != Some(**entry) && !self.is_own(&entry.key, &entry.revision)
        });
        gone.into_iter().any(|key| watcher.wants(key, false) == Wanted::Yes)
            || changed.into_iter().any(|entry| match watcher.wants(&entry.key, !self.entries.contains_key(&entry.key)) {
                Wanted::Yes => true,
                Wanted::IfStateChanged => self.tells_another_state(entry),
                Wanted::No => false,
            })
    }

    fn is_own(&self, key: &str, revision: &Revision) -> bool {
        self.own_writes.iter().any(|(own_key, own)| own == revision && own_key == key)
    }
}

/// What others have to react to in a member's key: its state, and whether it may be a synchronous standby.
fn state_of(entry: &Entry) -> (Option<String>, bool) {
    let record = codec::decode_member(&entry.value).value;
    (record.state, record.tags.nosync())
}

/// What changes are worth.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// Somebody should look.
    Waking,
    /// What is in these keys decides, and the watch has not told it.
    Reading(BTreeSet<String>),
    /// Nobody asked for them.
    Nothing,
}

/// Whether somebody wants to know of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Yes,
    IfStateChanged,
    No,
}

impl From<bool> for Wanted {
    fn from(wanted: bool) -> Self {
        if wanted { Self::Yes } else { Self::No }
    }
}

/// Who waits, and for what.
pub(super) struct Watcher<'a> {
    pub(super) path: &'a ClusterPath,
    pub(super) name: &'a MemberName,
    pub(super) interest: Interest,
}

impl Watcher<'_> {
    fn wants(&self, key: &str, appeared: bool) -> Wanted {
        match self.path.parse(key) {
            Some(Key::Leader | Key::Config | Key::Failover) => Wanted::Yes,
            Some(Key::Status | Key::LegacyOptime) => self.interest.status.into(),
            Some(Key::Sync) => self.interest.sync.into(),
            Some(Key::Member(name)) if *self.name == *name => Wanted::No,
            Some(Key::Member(_)) => match self.interest.members {
                MemberInterest::None => Wanted::No,
                MemberInterest::States if appeared => Wanted::Yes,
                MemberInterest::States => Wanted::IfStateChanged,
                MemberInterest::Any => Wanted::Yes,
            },
            Some(Key::Initialize | Key::History | Key::Failsafe) | None => Wanted::No,
        }
    }
}
