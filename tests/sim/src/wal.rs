//! The write-ahead log of one data directory: records with positions, timelines, and what of it is safe on disk.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Where every new cluster's log begins.
pub const FIRST_POSITION: u64 = 0x0100_0000;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A client's row, by its number.
    Row(u64),
    /// Nothing that a client would miss.
    Noop,
    /// A checkpoint of a server that shut down.
    ShutdownCheckpoint,
    /// The first record of a timeline.
    EndOfRecovery,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The position behind it.
    pub end: u64,
    /// Its timeline.
    pub timeline: u32,
    /// What it is about.
    pub kind: Kind,
    /// Stands for everything up to and including this record.
    pub hash: u64,
}

/// The log of one data directory.
#[derive(Clone, Debug, Default)]
pub struct Wal {
    /// All records, oldest first.
    pub records: Vec<Record>,
    /// The timeline of the last record, or the one that was switched to behind it.
    pub timeline: u32,
    /// The timelines that this log left behind, with the position where it left them.
    pub history: Vec<(u32, u64)>,
    /// What survives a power failure.
    pub flushed: u64,
    /// What has been applied.
    pub replayed: u64,
}

impl Wal {
    /// The log of a new cluster.
    pub fn new() -> Self {
        let mut wal = Self { timeline: 1, flushed: FIRST_POSITION, replayed: FIRST_POSITION, ..Self::default() };
        wal.append(Kind::Noop, 100);
        wal.flush();
        wal
    }

    /// The position behind the last record.
    pub fn end(&self) -> u64 {
        self.records.last().map_or(FIRST_POSITION, |record| record.end)
    }

    /// Appends a record; the position behind it.
    pub fn append(&mut self, kind: Kind, length: u64) -> u64 {
        let end = self.end() + length;
        let mut hasher = DefaultHasher::new();
        (self.records.last().map(|record| record.hash), end, self.timeline, kind).hash(&mut hasher);
        self.records.push(Record { end, timeline: self.timeline, kind, hash: hasher.finish() });
        end
    }

    /// Makes all of it safe and applied.
    pub fn flush(&mut self) {
        self.flushed = self.end();
        self.replayed = self.flushed;
    }

    /// Everything behind `position` is gone.
    pub fn truncate(&mut self, position: u64) {
        self.records.retain(|record| record.end <= position);
        self.flushed = self.flushed.min(self.end());
        self.replayed = self.replayed.min(self.end());
    }

    /// Leaves the current timeline for `next`, here.
    pub fn switch_to(&mut self, next: u32) {
        self.history.push((self.timeline, self.end()));
        self.timeline = next;
        self.append(Kind::EndOfRecovery, 50);
    }

    /// Stands for everything up to `position`; nothing if no record ends there.
    pub fn hash_at(&self, position: u64) -> Option<u64> {
        let index = self.records.binary_search_by_key(&position, |record| record.end).ok()?;
        Some(self.records[index].hash)
    }

    /// Whether the two have the same content up to the end of the shorter one.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let (short, long) = if self.end() <= other.end() { (self, other) } else { (other, self) };
        long.hash_at(short.end()) == short.hash_at(short.end())
    }

    /// The position where this log left `timeline`.
    pub fn left_at(&self, timeline: u32) -> Option<u64> {
        self.history.iter().find(|(left, _)| *left == timeline).map(|(_, at)| *at)
    }

    /// Takes over what `source` has up to `limit`, as a WAL receiver writes it.
    pub fn receive(&mut self, source: &Self, limit: u64) {
        let from = self.end();
        let first = source.records.partition_point(|record| record.end <= from);
        self.records.extend(source.records[first..].iter().take_while(|record| record.end <= limit));
        if let Some(last) = self.records.last()
            && last.timeline > self.timeline
        {
            self.timeline = last.timeline;
            self.history = source.history.iter().copied().filter(|(left, _)| *left < last.timeline).collect();
        }
    }

    /// Where the timelines of the two part, by their histories alone, as `pg_rewind` judges; nothing if they are on the
    /// same timeline.
    pub fn fork_by_history(&self, other: &Self) -> Option<u64> {
        if self.timeline == other.timeline {
            return None;
        }
        let line = |wal: &Self| {
            let mut line = wal.history.clone();
            line.push((wal.timeline, u64::MAX));
            line
        };
        let (own, theirs) = (line(self), line(other));
        let mut fork = FIRST_POSITION;
        for (mine, other) in own.iter().zip(&theirs) {
            if mine.0 != other.0 {
                break;
            }
            fork = mine.1.min(other.1);
            if mine.1 != other.1 {
                break;
            }
        }
        Some(fork)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_that_received_everything_agrees_and_one_that_went_on_alone_does_not() {
        let mut primary = Wal::new();
        primary.append(Kind::Row(1), 100);
        let mut standby = Wal::new();
        standby.receive(&primary, primary.end());
        assert!(standby.agrees_with(&primary));
        let shared = standby.end();
        standby.switch_to(2);
        primary.append(Kind::Row(2), 50);
        assert!(!standby.agrees_with(&primary));
        assert_eq!(primary.fork_by_history(&standby), Some(shared));
        primary.truncate(shared);
        primary.receive(&standby, standby.end());
        assert!(primary.agrees_with(&standby));
        assert_eq!((primary.timeline, primary.history), (2, standby.history));
    }
}
