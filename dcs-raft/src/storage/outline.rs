//! What a batch may do to what is there. Every storage asks here, so that what the simulation writes to memory is
//! refused or accepted as on a disk, and nothing is written that could not be opened again.

use crate::storage::{Batch, HardState};

/// A batch that a node must not write. Nothing of it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Entries are missing between the log and the batch, or inside the batch.
    #[error("entry {found} does not follow entry {previous}")]
    Gap {
        /// The entry before.
        previous: u64,
        /// The entry that was to follow.
        found: u64,
    },
    /// An entry that is already in the snapshot would be replaced.
    #[error("entry {index} is in the snapshot up to entry {snapshot}")]
    Settled {
        /// The entry.
        index: u64,
        /// The last entry in the snapshot.
        snapshot: u64,
    },
    /// The terms of the log would go back.
    #[error("entry {index} of term {term} comes after one of term {previous}")]
    TermGoesBack {
        /// The entry.
        index: u64,
        /// Its term.
        term: u64,
        /// The term of the entry before.
        previous: u64,
    },
    /// A snapshot that is older than the one that is there.
    #[error("a snapshot up to entry {found} after one up to entry {previous}")]
    SnapshotGoesBack {
        /// The one that is there.
        previous: u64,
        /// The one of the batch.
        found: u64,
    },
    /// The log would begin behind the entry after the snapshot.
    #[error("entries up to {through} cannot be forgotten: the snapshot ends at {snapshot}")]
    Needed {
        /// What was to be forgotten.
        through: u64,
        /// The last entry in the snapshot.
        snapshot: u64,
    },
    /// Another term, or another vote in the same term, than was promised.
    #[error("{found:?} takes back the promise {promised:?}")]
    PromiseBroken {
        /// What is there.
        promised: HardState,
        /// What the batch says.
        found: HardState,
    },
    /// More would be committed than is in the log.
    #[error("entry {commit} cannot be committed: the log ends at {last}")]
    CommitBeyondLog {
        /// The commit.
        commit: u64,
        /// The last entry.
        last: u64,
    },
    /// The node belongs to another cluster already.
    #[error("the node belongs to another cluster already")]
    FoundedBefore,
}

/// What is in a storage, without the contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    pub(crate) hard_state: HardState,
    pub(crate) snapshot_index: u64,
    pub(crate) snapshot_term: u64,
    pub(crate) last_index: u64,
    pub(crate) last_term: u64,
}

/// What a batch does to the log, and what is there afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Entries up to here go.
    pub(crate) forget_through: u64,
    /// Entries from here on go, before those of the batch come.
    pub(crate) replace_from: u64,
    pub(crate) outline: Outline,
}

impl Outline {
    /// What is there after a batch. Writing the same batch twice is the same as writing it once.
    ///
    /// `term_of` answers with the term of an entry that is in the log.
    pub(crate) fn after<E: From<BatchError>>(
        &self,
        batch: &Batch,
        mut term_of: impl FnMut(u64) -> Result<Option<u64>, E>,
    ) -> Result<Change, E> {
        let mut next = *self;
        // The log up to here is gone, and from `replace_from` on.
        let mut forget_through = self.snapshot_index;
        let mut replace_from = self.last_index + 1;

        if let Some(snapshot) = &batch.snapshot {
            if snapshot.index < self.snapshot_index {
                return Err(BatchError::SnapshotGoesBack { previous: self.snapshot_index, found: snapshot.index }.into());
            }
            next.snapshot_index = snapshot.index;
            next.snapshot_term = snapshot.term;
            forget_through = snapshot.index;
            // A log that does not have the snapshot's last entry, or another one in its place, does not go on from it.
            if self.term_at(snapshot.index, &mut term_of)? != Some(snapshot.term) {
                replace_from = snapshot.index + 1;
            }
        }
        if let Some(through) = batch.forget_through
            && through > next.snapshot_index
        {
            if batch.snapshot.is_none() || through < self.last_index {
                return Err(BatchError::Needed { through, snapshot: next.snapshot_index }.into());
            }
            replace_from = next.snapshot_index + 1;
        }
        if let Some(first) = batch.entries.first() {
            if first.index <= next.snapshot_index {
                return Err(BatchError::Settled { index: first.index, snapshot: next.snapshot_index }.into());
            }
            let end = replace_from.max(next.snapshot_index + 1);
            if first.index > end {
                return Err(BatchError::Gap { previous: end - 1, found: first.index }.into());
            }
            replace_from = first.index;
        }
        replace_from = replace_from.max(next.snapshot_index + 1);

        next.last_index = replace_from - 1;
        next.last_term = if next.last_index == next.snapshot_index {
            next.snapshot_term
        } else {
            self.term_at(next.last_index, &mut term_of)?.unwrap_or_default()
        };
        for entry in &batch.entries {
            if entry.index != next.last_index + 1 {
                return Err(BatchError::Gap { previous: next.last_index, found: entry.index }.into());
            }
            if entry.term < next.last_term {
                return Err(BatchError::TermGoesBack { index: entry.index, term: entry.term, previous: next.last_term }.into());
            }
            next.last_index = entry.index;
            next.last_term = entry.term;
        }

        if let Some(state) = batch.hard_state {
            let promised = self.hard_state;
            let other_vote = state.term == promised.term && promised.vote != 0 && state.vote != promised.vote;
            if state.term < promised.term || other_vote {
                return Err(BatchError::PromiseBroken { promised, found: state }.into());
            }
            next.hard_state = state;
        }
        // What is in a snapshot is committed, whether that was written by itself or not.
        next.hard_state.commit = next.hard_state.commit.max(next.snapshot_index);
        if next.hard_state.commit > next.last_index {
            return Err(BatchError::CommitBeyondLog { commit: next.hard_state.commit, last: next.last_index }.into());
        }
        Ok(Change { forget_through, replace_from, outline: next })
    }

    fn term_at<E>(&self, index: u64, term_of: &mut impl FnMut(u64) -> Result<Option<u64>, E>) -> Result<Option<u64>, E> {
        if index > self.last_index {
            Ok(None)
        } else if index == self.last_index {
            Ok(Some(self.last_term))
        } else if index == self.snapshot_index {
            Ok(Some(self.snapshot_term))
        } else {
            term_of(index)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{LogEntry, SnapshotData};

    /// A snapshot up to entry 10 of term 2, and entries 11 to 20 of term 3.
    const THERE: Outline = Outline {
        hard_state: HardState { term: 4, vote: 7, commit: 15 },
        snapshot_index: 10,
        snapshot_term: 2,
        last_index: 20,
        last_term: 3,
    };

    fn after(batch: &Batch) -> Result<Change, BatchError> {
        THERE.after(batch, |_| Ok(Some(3)))
    }

    fn entry(index: u64, term: u64) -> LogEntry {
        LogEntry { index, term, ..LogEntry::default() }
    }

    fn snapshot(index: u64, term: u64) -> Option<SnapshotData> {
        Some(SnapshotData { index, term, ..SnapshotData::default() })
    }

    #[test]
    fn entries_replace_everything_from_their_first_on() {
        let change = after(&Batch { entries: vec![entry(16, 4)], ..Batch::default() }).unwrap();
        assert_eq!((change.replace_from, change.outline.last_index, change.outline.last_term), (16, 16, 4));
    }

    #[test]
    fn the_nodes_own_snapshot_keeps_the_log_behind_it() {
        let change = after(&Batch { snapshot: snapshot(14, 3), ..Batch::default() }).unwrap();
        assert_eq!((change.forget_through, change.replace_from), (14, 21));
        assert_eq!((change.outline.snapshot_index, change.outline.last_index), (14, 20));
    }

    #[test]
    fn a_snapshot_of_another_history_drops_the_whole_log() {
        let other_term = after(&Batch { snapshot: snapshot(15, 5), ..Batch::default() }).unwrap();
        assert_eq!((other_term.replace_from, other_term.outline.last_index, other_term.outline.last_term), (16, 15, 5));
        let ahead = after(&Batch { snapshot: snapshot(30, 3), ..Batch::default() }).unwrap();
        assert_eq!((ahead.replace_from, ahead.outline.last_index, ahead.outline.hard_state.commit), (31, 30, 30));
        let said = Batch { snapshot: snapshot(15, 3), forget_through: Some(u64::MAX), entries: vec![entry(16, 3)], ..Batch::default() };
        assert_eq!(after(&said).unwrap().outline.last_index, 16);
    }

    #[test]
    fn what_could_not_be_opened_again_is_refused() {
        let refused = |batch: Batch| after(&batch).unwrap_err();
        assert_eq!(refused(Batch { entries: vec![entry(22, 3)], ..Batch::default() }), BatchError::Gap { previous: 20, found: 22 });
        assert_eq!(
            refused(Batch { entries: vec![entry(21, 3), entry(23, 3)], ..Batch::default() }),
            BatchError::Gap { previous: 21, found: 23 }
        );
        assert_eq!(refused(Batch { entries: vec![entry(10, 3)], ..Batch::default() }), BatchError::Settled { index: 10, snapshot: 10 });
        assert_eq!(
            refused(Batch { entries: vec![entry(21, 2)], ..Batch::default() }),
            BatchError::TermGoesBack { index: 21, term: 2, previous: 3 }
        );
        assert_eq!(
            refused(Batch { snapshot: snapshot(9, 2), ..Batch::default() }),
            BatchError::SnapshotGoesBack { previous: 10, found: 9 }
        );
        assert_eq!(refused(Batch { forget_through: Some(11), ..Batch::default() }), BatchError::Needed { through: 11, snapshot: 10 });
        assert_eq!(
            refused(Batch { forget_through: Some(16), snapshot: snapshot(15, 3), ..Batch::default() }),
            BatchError::Needed { through: 16, snapshot: 15 }
        );
        let state = |term, vote, commit| Batch { hard_state: Some(HardState { term, vote, commit }), ..Batch::default() };
        assert!(matches!(refused(state(3, 7, 15)), BatchError::PromiseBroken { .. }));
        assert!(matches!(refused(state(4, 8, 15)), BatchError::PromiseBroken { .. }));
        assert_eq!(refused(state(4, 7, 21)), BatchError::CommitBeyondLog { commit: 21, last: 20 });
        assert_eq!(
            refused(Batch { entries: vec![entry(14, 3)], ..Batch::default() }),
            BatchError::CommitBeyondLog { commit: 15, last: 14 }
        );
    }
}
