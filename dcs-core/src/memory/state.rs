//! What the server remembers: a plain state machine without time of its own.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use crate::model::{HandleId, Revision};
use crate::{Change, ChangeKind, Cursor, Deletion, Entry, Expect, Moment, Write};

/// How many changes are remembered for those who wait.
const REMEMBERED_CHANGES: usize = 4_096;

/// Keys, handles and changes. Whoever has a clock and a way to reach it makes a store of it: [`Server`](super::Server), or a
/// simulation with a network of its own.
#[derive(Default)]
pub struct State {
    revision: u64,
    keys: BTreeMap<String, Stored>,
    handles: HashMap<u64, Life>,
    granted: u64,
    changes: VecDeque<(u64, String, ChangeKind)>,
    /// Changes up to this revision are forgotten.
    compacted: u64,
}

struct Stored {
    value: Vec<u8>,
    revision: u64,
    handle: Option<u64>,
}

struct Life {
    ttl: Duration,
    expires_at: Moment,
}

impl State {
    /// The revision of the last change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Every key that begins with `prefix`, in order.
    pub fn entries(&self, prefix: &str) -> Vec<Entry> {
        let from = self.keys.range(prefix.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, stored)| stored.entry(key)).collect()
    }

    /// One key.
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.keys.get(key).map(|stored| stored.entry(key))
    }

    /// Writes a permanent key, if `expect` holds.
    pub fn put(&mut self, key: &str, value: &[u8], expect: Expect<'_>) -> Write {
        if !self.holds(key, expect) {
            return Write::Refused;
        }
        Write::Applied(self.write(key, value, None))
    }

    /// Deletes a key, if `expect` holds.
    pub fn delete(&mut self, key: &str, expect: Expect<'_>) -> Deletion {
        if !self.keys.contains_key(key) {
            return Deletion::Absent;
        }
        if !self.holds(key, expect) {
            return Deletion::Refused;
        }
        Deletion::Deleted(Some(self.remove(key)))
    }

    /// Deletes every key that begins with `prefix`.
    pub fn delete_prefix(&mut self, prefix: &str) {
        for entry in self.entries(prefix) {
            self.remove(&entry.key);
        }
    }

    /// Writes a key bound to `handle`; nothing if that is gone.
    pub fn put_bound(&mut self, key: &str, value: &[u8], handle: u64) -> Option<Revision> {
        self.handles.contains_key(&handle).then(|| self.write(key, value, Some(handle)))
    }

    /// Makes a new handle; its number.
    pub fn grant(&mut self, ttl: Duration, now: Moment) -> u64 {
        self.granted += 1;
        self.handles.insert(self.granted, Life { ttl, expires_at: now + ttl });
        self.granted
    }

    /// Refreshes a handle. Returns whether it was still there.
    pub fn refresh(&mut self, handle: u64, now: Moment) -> bool {
        let life = self.handles.get_mut(&handle);
        let found = life.is_some();
        if let Some(life) = life {
            life.expires_at = now + life.ttl;
        }
        found
    }

    /// Ends a handle with all its keys. Returns whether it was still there.
    pub fn revoke(&mut self, handle: &HandleId) -> bool {
        let Ok(handle) = handle.as_str().parse::<u64>() else { return false };
        let existed = self.handles.remove(&handle).is_some();
        let bound: Vec<_> = self.keys.iter().filter(|(_, stored)| stored.handle == Some(handle)).map(|(key, _)| key.clone()).collect();
        for key in bound {
            self.remove(&key);
        }
        existed
    }

    /// Ends every handle that is due.
    pub fn expire(&mut self, now: Moment) {
        let mut due: Vec<_> =
            self.handles.iter().filter(|(_, life)| life.expires_at <= now).map(|(id, life)| (life.expires_at, *id)).collect();
        // In the order of their ends, so that one seed is one history.
        due.sort_unstable();
        for (_, handle) in due {
            self.revoke(&handle_id(handle));
        }
    }

    /// When the next handle ends.
    pub fn next_expiry(&self) -> Option<Moment> {
        self.handles.values().map(|life| life.expires_at).min()
    }

    /// Forgets the changes.
    pub fn compact(&mut self) {
        self.changes.clear();
        self.compacted = self.revision;
    }

    /// The changes under `prefix` after `after`, or nothing if they are forgotten.
    pub fn changes_after(&self, prefix: &str, after: Cursor) -> Option<Vec<Change>> {
        if after.0 < self.compacted {
            return None;
        }
        let new = self.changes.iter().filter(|(revision, key, _)| *revision > after.0 && key.starts_with(prefix));
        let change = |(revision, key, kind): &(u64, String, ChangeKind)| Change {
            key: key.clone(),
            kind: *kind,
            revision: Some(Revision::from(*revision)),
            entry: None,
        };
        Some(new.map(change).collect())
    }

    fn holds(&self, key: &str, expect: Expect<'_>) -> bool {
        let stored = self.keys.get(key);
        match expect {
            Expect::Any => true,
            Expect::Absent => stored.is_none(),
            Expect::Revision(expected) => stored.is_some_and(|stored| Revision::from(stored.revision) == *expected),
        }
    }

    fn write(&mut self, key: &str, value: &[u8], handle: Option<u64>) -> Revision {
        let revision = self.next_revision();
        let stored = Stored { value: value.to_vec(), revision, handle };
        let before = self.keys.insert(key.to_owned(), stored);
        self.remember(key, if before.is_some() { ChangeKind::Changed } else { ChangeKind::Created });
        Revision::from(revision)
    }

    fn remove(&mut self, key: &str) -> Revision {
        let revision = self.next_revision();
        self.keys.remove(key);
        self.remember(key, ChangeKind::Deleted);
        Revision::from(revision)
    }

    fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    fn remember(&mut self, key: &str, kind: ChangeKind) {
        self.changes.push_back((self.revision, key.to_owned(), kind));
        while self.changes.len() > REMEMBERED_CHANGES {
            self.compacted = self.changes.pop_front().map_or(self.compacted, |(revision, ..)| revision);
        }
    }
}

impl Stored {
    fn entry(&self, key: &str) -> Entry {
        Entry {
            key: key.to_owned(),
            value: self.value.clone(),
            revision: Revision::from(self.revision),
            handle: self.handle.map(handle_id),
        }
    }
}

/// The identity of a handle, by its number.
pub fn handle_id(handle: u64) -> HandleId {
    HandleId::new(handle.to_string())
}
