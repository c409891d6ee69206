//! The log as the Raft protocol reads it: what has been written, in memory. It is short, because snapshots take the place
//! of its beginning.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Ready, Result, Storage, StorageError};

use super::convert;
use crate::message::{Configuration, SnapshotData};
use crate::storage::{HardState, Remembered};

pub(super) struct Log {
    hard_state: HardState,
    configuration: ConfState,
    /// In place of everything up to its index. Index 0 without state if nothing was ever forgotten.
    snapshot: Snapshot,
    /// The entry at the front follows the snapshot.
    entries: VecDeque<Entry>,
}

impl Log {
    pub(super) fn new(remembered: &Remembered, configuration: &Configuration) -> Self {
        let snapshot = remembered.snapshot.as_ref().map(convert::snapshot_to_raft).unwrap_or_default();
        let behind = snapshot.get_metadata().index;
        let entries = remembered.entries.iter().filter(|entry| entry.index > behind).cloned().filter_map(convert::entry_to_raft).collect();
        let commit = remembered.hard_state.commit.max(behind);
        let hard_state = HardState { commit, ..remembered.hard_state };
        Self { hard_state, configuration: convert::configuration_to_raft(configuration), snapshot, entries }
    }

    pub(super) fn snapshot_index(&self) -> u64 {
        self.snapshot.get_metadata().index
    }

    /// Whom the snapshot names; nothing if there is none.
    pub(super) fn snapshot_configuration(&self) -> Option<&ConfState> {
        (self.snapshot_index() > 0).then(|| self.snapshot.get_metadata().get_conf_state())
    }

    fn last(&self) -> u64 {
        self.snapshot_index() + self.entries.len() as u64
    }

    /// Takes over what has just been written.
    pub(super) fn take(&mut self, ready: &Ready) {
        if !ready.snapshot().is_empty() {
            self.snapshot = ready.snapshot().clone();
            self.configuration = self.snapshot.get_metadata().get_conf_state().clone();
            self.entries.clear();
            self.hard_state.commit = self.hard_state.commit.max(self.snapshot_index());
        }
        if let Some(state) = ready.hs() {
            self.hard_state = convert::hard_state_from_raft(state);
        }
        if let Some(first) = ready.entries().first() {
            let kept = first.index.saturating_sub(self.snapshot_index() + 1);
            self.entries.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
            self.entries.extend(ready.entries().iter().cloned());
        }
    }

    pub(super) fn set_commit(&mut self, commit: u64) {
        self.hard_state.commit = commit;
    }

    pub(super) fn set_configuration(&mut self, configuration: ConfState) {
        self.configuration = configuration;
    }

    /// Forgets everything that is in a snapshot of the own state.
    pub(super) fn compact(&mut self, snapshot: &SnapshotData) {
        let forgotten = snapshot.index.saturating_sub(self.snapshot_index());
        let forgotten = usize::try_from(forgotten).unwrap_or(usize::MAX).min(self.entries.len());
        self.entries.drain(..forgotten);
        self.snapshot = convert::snapshot_to_raft(snapshot);
    }

    fn position(&self, index: u64) -> Option<usize> {
        index.checked_sub(self.snapshot_index() + 1).and_then(|position| usize::try_from(position).ok())
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(convert::hard_state_to_raft(self.hard_state), self.configuration.clone()))
    }

    fn entries(&self, low: u64, high: u64, max_size: impl Into<Option<u64>>, _: GetEntriesContext) -> Result<Vec<Entry>> {
        let (Some(from), Some(to)) = (self.position(low), self.position(high)) else {
            return Err(Error::Store(StorageError::Compacted));
        };
        if to > self.entries.len() {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let mut entries: Vec<Entry> = self.entries.range(from..to).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.snapshot_index() {
            return Ok(self.snapshot.get_metadata().term);
        }
        let position = self.position(index).ok_or(Error::Store(StorageError::Compacted))?;
        self.entries.get(position).map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.snapshot_index() + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _: u64) -> Result<Snapshot> {
        // A follower needs one if it lacks what was forgotten, and what was forgotten is in this one.
        if self.snapshot_index() == 0 || self.snapshot_index() < request_index {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(self.snapshot.clone())
    }
}
