//! The storages against each other, against a disk that fails, and against damage.

mod crash;
mod damage;
mod directory;
mod format;
mod full;

use crate::command::{Foundation, Member};
use crate::identity::{ClusterId, NodeId};
use crate::message::{Configuration, LogEntry, SnapshotData};
use crate::storage::memory::{MemoryDisk, MemoryStorage};
use crate::storage::sim::SimDisk;
use crate::storage::{Batch, HardState, OpenError, RedbStorage, Remembered, Storage, WriteError};

const NODE: NodeId = NodeId(0x1234_5678_9abc_def0);

fn open(disk: &SimDisk) -> Result<(RedbStorage, Remembered), OpenError> {
    RedbStorage::open_on(Box::new(disk.clone()), NODE)
}

fn foundation() -> Foundation {
    let member = |id, address: &str, absent| Member { id: NodeId(id), address: address.to_owned(), absent };
    Foundation {
        cluster: ClusterId(0xc1_u128 << 100 | 5),
        members: vec![member(NODE.0, "one:2380", false), member(7, "two:2380", false), member(8, "three:2380", true)],
    }
}

fn entry(index: u64, term: u64, size: usize) -> LogEntry {
    LogEntry { index, term, kind: (index % 3) as u8, data: vec![index as u8; size], context: vec![term as u8] }
}

fn hard_state(term: u64, vote: u64, commit: u64) -> Option<HardState> {
    Some(HardState { term, vote, commit })
}

/// Batches as a node may write them, one after the other, and what a node that wrote them all remembers.
struct History {
    chance: fastrand::Rng,
    model: MemoryDisk,
    storage: MemoryStorage,
}

impl History {
    fn new(seed: u64) -> Self {
        let model = MemoryDisk::new(NODE);
        let (storage, _) = model.open();
        Self { chance: fastrand::Rng::with_seed(seed), model, storage }
    }

    fn remembered(&self) -> Remembered {
        self.model.remembered()
    }

    fn acknowledge(&mut self, batch: &Batch) {
        self.storage.write(batch).unwrap();
    }

    fn entries(&mut self, first: u64, term: u64, most: u64) -> Vec<LogEntry> {
        let count = self.chance.u64(0..=most);
        (first..first + count)
            .map(|index| {
                let size = if self.chance.u8(..) == 0 { 20_000 } else { self.chance.usize(0..200) };
                entry(index, term, size)
            })
            .collect()
    }

    /// The next batch. What is committed is never replaced, a vote is never taken back.
    fn next(&mut self) -> Batch {
        let now = self.remembered();
        let HardState { mut term, mut vote, commit } = now.hard_state;
        let (snapshot_index, snapshot_term) = now.snapshot.as_ref().map_or((0, 0), |snapshot| (snapshot.index, snapshot.term));
        let last = now.entries.last().map_or(snapshot_index, |entry| entry.index);
        if self.chance.u8(0..8) == 0 {
            term += self.chance.u64(1..3);
            vote = 0;
        }
        term = term.max(1);
        if vote == 0 {
            vote = self.chance.u64(0..4);
        }
        let mut batch = Batch::default();
        match self.chance.u8(0..20) {
            // A snapshot of its own; most of the time the log goes with it.
            0 if commit > snapshot_index => {
                let index = self.chance.u64(snapshot_index + 1..=commit);
                let of = now.entries.iter().find(|entry| entry.index == index).map_or(snapshot_term, |entry| entry.term);
                batch.snapshot = Some(self.snapshot(index, of));
                batch.forget_through = self.chance.bool().then_some(index);
                batch.hard_state = hard_state(term, vote, commit);
            }
            // A snapshot from a leader that is far ahead.
            1 => {
                let index = last + self.chance.u64(1..50);
                batch.snapshot = Some(self.snapshot(index, term));
                batch.forget_through = Some(u64::MAX);
                batch.entries = self.entries(index + 1, term, 3);
                batch.hard_state = hard_state(term, vote, index);
            }
            // The end of the log is replaced by that of another leader.
            2 if last > commit => {
                term += 1;
                let first = self.chance.u64(commit + 1..=last);
                batch.entries = self.entries(first, term, 4);
                batch.hard_state = hard_state(term, vote, commit);
            }
            3 => batch.hard_state = hard_state(term, vote, commit),
            _ => {
                batch.entries = self.entries(last + 1, term, 4);
                let last = last + batch.entries.len() as u64;
                batch.hard_state = hard_state(term, vote, self.chance.u64(commit..=last));
            }
        }
        batch
    }

    fn snapshot(&mut self, index: u64, term: u64) -> SnapshotData {
        let size = self.chance.usize(0..30_000);
        let configuration = Configuration { voters: vec![NODE.0, 7, 8], ..Configuration::default() };
        SnapshotData { index, term, configuration, state: vec![index as u8; size] }
    }
}

fn refusal(result: Result<(), WriteError>) -> String {
    std::error::Error::source(&result.unwrap_err()).unwrap().to_string()
}
