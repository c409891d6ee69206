//! The decision journal: what this node changed, refused or found out, and why. The newest few hundred records, in memory.
//!
//! A cycle that comes to the same as the one before is not recorded again: the record is counted, and tells when that was
//! the case for the last time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::decide::journal::Record;

/// How many entries are kept.
pub const CAPACITY: usize = 512;
/// How many entries back a repetition is looked for: something that is tried again and again leaves a few records each time.
const LOOK_BACK: usize = 8;
/// How long ago the last one may be.
const REPEATED_WITHIN: Duration = Duration::from_secs(60);

/// A record with its place in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number: one more than that of the entry before.
    pub number: u64,
    /// When it was first the case.
    pub first: Timestamp,
    /// When it was last the case.
    pub last: Timestamp,
    /// How often it was the case.
    pub count: u64,
    /// The record, with the facts of the last time.
    pub record: Record,
}

/// The journal of one node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    entries: Arc<VecDeque<Arc<Entry>>>,
    next: u64,
    /// The entries that the last cycle with records left or repeated.
    current: Vec<u64>,
}

impl Journal {
    /// All entries, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter().map(AsRef::as_ref)
    }

    /// How many older entries are not there any more.
    pub fn forgotten(&self) -> u64 {
        self.next - u64::try_from(self.entries.len()).unwrap_or_default()
    }

    /// Takes what one cycle, or one event between cycles, has left.
    pub(crate) fn take(&mut self, records: Vec<Record>, at: Timestamp) {
        if records.is_empty() {
            return;
        }
        let entries = Arc::make_mut(&mut self.entries);
        let mut current = Vec::with_capacity(records.len());
        for record in records {
            let record = record.bounded();
            let recent = |entry: &Entry| {
                let since = at.duration_since(entry.last);
                self.current.contains(&entry.number) || since <= jiff::SignedDuration::try_from(REPEATED_WITHIN).unwrap_or_default()
            };
            let same = entries
                .iter_mut()
                .rev()
                .take(LOOK_BACK)
                .find(|entry| !current.contains(&entry.number) && entry.record.says_the_same_as(&record) && recent(entry));
            let number = match same {
                Some(entry) => {
                    let entry = Arc::make_mut(entry);
                    (entry.last, entry.count, entry.record) = (at, entry.count + 1, record);
                    entry.number
                }
                None => {
                    let number = self.next;
                    self.next += 1;
                    entries.push_back(Arc::new(Entry { number, first: at, last: at, count: 1, record }));
                    number
                }
            };
            current.push(number);
        }
        while entries.len() > CAPACITY {
            entries.pop_front();
        }
        self.current = current;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::journal::Rule;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("in range")
    }

    fn behind(position: u64) -> Record {
        Record::new(Rule::RaceBehind, "b is ahead").fact("my_position", position)
    }

    fn counts(journal: &Journal) -> Vec<(&'static str, u64)> {
        journal.entries().map(|entry| (entry.record.rule.name(), entry.count)).collect()
    }

    #[test]
    fn idle_cycles_count_and_leave_the_newest_facts() {
        let mut journal = Journal::default();
        for cycle in 0..1000 {
            // Longer than anything else is remembered: cycles may be far apart.
            journal.take(vec![Record::new(Rule::LockFree, "free"), behind(cycle)], at(i64::try_from(cycle).expect("small") * 600));
        }
        assert_eq!(counts(&journal), [("lock.free", 1000), ("race.behind", 1000)]);
        let entry = journal.entries().last().expect("one");
        assert_eq!((entry.first, entry.last), (at(0), at(999 * 600)));
        assert_eq!(entry.record.facts[0].value, "999");
    }

    #[test]
    fn what_comes_again_after_something_else_is_a_new_entry() {
        let mut journal = Journal::default();
        journal.take(vec![behind(1)], at(0));
        journal.take(vec![Record::new(Rule::RaceWon, "won")], at(10));
        journal.take(vec![behind(1)], at(100));
        assert_eq!(counts(&journal), [("race.behind", 1), ("race.won", 1), ("race.behind", 1)]);
    }

    #[test]
    fn what_is_tried_again_and_again_does_not_push_out_everything_else() {
        let mut journal = Journal::default();
        for attempt in 0..100 {
            journal.take(vec![Record::new(Rule::Clone, "copying")], at(attempt * 10));
            journal.take(vec![Record::new(Rule::TaskEnded, "the copy failed")], at(attempt * 10 + 3));
        }
        assert_eq!(counts(&journal), [("clone", 100), ("task.ended", 100)]);
    }

    #[test]
    fn the_journal_is_bounded_and_tells_how_much_it_has_forgotten() {
        let mut journal = Journal::default();
        for number in 0..CAPACITY + 10 {
            journal.take(vec![Record::new(Rule::RaceBehind, format!("b{number} is ahead"))], at(0));
        }
        assert_eq!(journal.entries().count(), CAPACITY);
        assert_eq!(journal.forgotten(), 10);
        assert_eq!(journal.entries().next().map(|entry| entry.number), Some(10));
    }

    #[test]
    fn who_has_read_it_keeps_what_was_read() {
        let mut journal = Journal::default();
        journal.take(vec![behind(1)], at(0));
        let read = journal.clone();
        journal.take(vec![behind(2)], at(1));
        assert_eq!(counts(&read), [("race.behind", 1)]);
        assert_eq!(counts(&journal), [("race.behind", 2)]);
    }
}
