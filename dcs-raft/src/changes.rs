//! Which keys changed lately, for those who wait.
//!
//! ```text
//!   the thread that applies ── append, reset ──► ChangeLog ◄── since, wait ── any number of readers
//! ```
//!
//! A reader keeps its own position, the index of the last entry that it knows of, and asks what came after it. So nothing
//! is lost when it comes late, goes away in between, or moves on to another node.

use std::collections::VecDeque;
use std::fmt;

use dcs_core::Deadline;
use tokio::sync::watch;

use crate::message::{ChangedKey, ChangedKeys};

/// How many changes are kept.
const KEPT: usize = 4096;

/// The latest changes, shared by the one who applies entries and those who wait for them.
///
/// They are in the channel itself, so that nothing can change between a look and the sleep that follows it.
#[derive(Clone)]
pub struct ChangeLog(watch::Sender<Log>);

struct Log {
    /// In the order of their entries.
    changes: VecDeque<ChangedKey>,
    /// Changes up to this entry may be missing.
    forgotten: u64,
    /// The last entry that was applied.
    applied: u64,
}

impl Log {
    fn starting_at(applied: u64) -> Self {
        Self { changes: VecDeque::new(), forgotten: applied, applied }
    }

    fn since<'a>(&'a self, prefix: &'a str, after: u64) -> impl Iterator<Item = &'a ChangedKey> {
        let known = self.changes.partition_point(|change| change.index <= after);
        self.changes.range(known..).filter(move |change| change.key.starts_with(prefix))
    }
}

impl ChangeLog {
    /// The log of a state that is as of entry `applied`. What changed up to there is not known.
    pub fn new(applied: u64) -> Self {
        Self(watch::Sender::new(Log::starting_at(applied)))
    }

    /// The entry at `index` was applied, and changed these keys.
    pub fn append(&self, index: u64, keys: Vec<ChangedKey>) {
        self.0.send_if_modified(|log| {
            log.applied = log.applied.max(index);
            let changed = !keys.is_empty();
            log.changes.extend(keys);
            while log.changes.len() > KEPT {
                log.forgotten = log.changes.pop_front().map_or(log.forgotten, |oldest| oldest.index);
            }
            // Who waits for a change is not woken by an entry without one.
            changed
        });
    }

    /// A snapshot as of entry `applied` took the place of the state: any key may have changed.
    pub fn reset(&self, applied: u64) {
        self.0.send_replace(Log::starting_at(applied));
    }

    /// Which keys under `prefix` changed after entry `after`.
    ///
    /// A position that is ahead of this node, because it comes from another one, is answered with itself: it never goes
    /// back.
    pub fn since(&self, prefix: &str, after: u64) -> ChangedKeys {
        let log = self.0.borrow();
        let keys = log.since(prefix, after).cloned().collect();
        ChangedKeys { keys, incomplete: after < log.forgotten, index: log.applied.max(after) }
    }

    /// Sleeps until a key under `prefix` has changed after entry `after`, or more may have than can be named, or the
    /// deadline passes. Then nothing is named, and the next wait goes on from the index in the answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the position is the caller's.
    pub async fn wait(&self, prefix: &str, after: u64, deadline: Deadline) -> ChangedKeys {
        let mut log = self.0.subscribe();
        let news = async {
            let news = log.wait_for(|log| after < log.forgotten || log.since(prefix, after).next().is_some());
            drop(news.await);
        };
        // Whatever ended it, the answer is what there is now.
        let _ = deadline.bound("wait for a change", news).await;
        self.since(prefix, after)
    }
}

impl fmt::Debug for ChangeLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = self.0.borrow();
        f.debug_struct("ChangeLog").field("applied", &log.applied).field("forgotten", &log.forgotten).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::message::ChangedHow;

    fn change(key: &str, index: u64) -> ChangedKey {
        ChangedKey { key: key.to_owned(), index, kind: ChangedHow::Written }
    }

    fn append(log: &ChangeLog, key: &str, index: u64) {
        log.append(index, vec![change(key, index)]);
    }

    fn answer(keys: Vec<ChangedKey>, index: u64) -> ChangedKeys {
        ChangedKeys { keys, incomplete: false, index }
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(10))
    }

    #[test]
    fn changes_after_a_position_under_a_prefix_are_named_in_their_order() {
        let log = ChangeLog::new(10);
        log.append(11, vec![change("/a/x", 11), change("/b", 11), change("/a/x", 11)]);
        log.append(12, vec![]);
        append(&log, "/a/y", 13);
        assert_eq!(log.since("/a/", 10), answer(vec![change("/a/x", 11), change("/a/x", 11), change("/a/y", 13)], 13));
        assert_eq!(log.since("/a/", 11), answer(vec![change("/a/y", 13)], 13));
        assert_eq!(log.since("/b", 12), answer(vec![], 13));
        assert_eq!(log.since("/a/", 13), answer(vec![], 13));
    }

    #[test]
    fn a_position_ahead_of_this_node_stays() {
        let log = ChangeLog::new(10);
        append(&log, "/a", 11);
        assert_eq!(log.since("/", 20), answer(vec![], 20));
        append(&log, "/a", 20);
        assert_eq!(log.since("/", 20), answer(vec![], 20));
        append(&log, "/a", 21);
        assert_eq!(log.since("/", 20), answer(vec![change("/a", 21)], 21));
    }

    #[test]
    fn a_position_that_is_too_far_back_is_told_so() {
        let log = ChangeLog::new(10);
        assert!(log.since("/", 9).incomplete, "from before this node started");
        assert!(!log.since("/", 10).incomplete);
        // Two changes in each entry; the oldest entry loses one of them.
        let last = 10 + KEPT as u64 / 2 + 1;
        for index in 11..last {
            log.append(index, vec![change("/a", index), change("/b", index)]);
        }
        assert!(!log.since("/", 10).incomplete);
        append(&log, "/a", last);
        let far = log.since("/", 10);
        assert_eq!((far.incomplete, far.index, far.keys.len()), (true, last, KEPT));
        assert!(!log.since("/", 11).incomplete, "it knows of both changes of the entry that lost one");
    }

    #[test]
    fn after_a_snapshot_nothing_before_it_can_be_named() {
        let log = ChangeLog::new(0);
        append(&log, "/a", 1);
        log.reset(50);
        assert_eq!(log.since("/", 49), ChangedKeys { keys: vec![], incomplete: true, index: 50 });
        append(&log, "/a", 51);
        assert_eq!(log.since("/", 50), answer(vec![change("/a", 51)], 51));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_before_the_wait_ends_it_at_once() {
        let log = ChangeLog::new(0);
        append(&log, "/a", 1);
        let begun = Instant::now();
        assert_eq!(log.wait("/a", 0, soon()).await, answer(vec![change("/a", 1)], 1));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_the_first_change_under_its_prefix() {
        let log = ChangeLog::new(0);
        let begun = Instant::now();
        let write = async {
            for (index, key) in (1..).zip(["/b", "/b", "/a/x", "/b"]) {
                tokio::time::sleep(Duration::from_secs(1)).await;
                append(&log, key, index);
            }
        };
        let wait = async {
            let changes = log.wait("/a/", 0, soon()).await;
            assert_eq!(begun.elapsed(), Duration::from_secs(3));
            changes
        };
        let ((), changes) = tokio::join!(write, wait);
        assert_eq!(changes, answer(vec![change("/a/x", 3)], 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_without_changes_ends_at_its_deadline_with_the_position_to_go_on_from() {
        let log = ChangeLog::new(0);
        let begun = Instant::now();
        let write = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            append(&log, "/b", 1);
            log.append(2, vec![]);
        };
        let (changes, ()) = tokio::join!(log.wait("/a", 0, soon()), write);
        assert_eq!(changes, answer(vec![], 2));
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_ends_a_wait() {
        let log = ChangeLog::new(0);
        let (changes, ()) = tokio::join!(log.wait("/a", 0, soon()), async { log.reset(7) });
        assert_eq!(changes, ChangedKeys { keys: vec![], incomplete: true, index: 7 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_wait_loses_nothing() {
        let log = ChangeLog::new(0);
        let short = Duration::from_millis(1);
        assert!(tokio::time::timeout(short, log.wait("/", 0, soon())).await.is_err());
        append(&log, "/a", 1);
        assert_eq!(log.wait("/", 0, soon()).await, answer(vec![change("/a", 1)], 1));
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_who_waits_is_woken() {
        let log = ChangeLog::new(0);
        let waits = futures::future::join_all((0..10).map(|_| log.wait("/", 0, soon())));
        let (answers, ()) = tokio::join!(waits, async { append(&log, "/a", 1) });
        assert!(answers.iter().all(|found| *found == answer(vec![change("/a", 1)], 1)));
    }

    /// With real threads, for what a single one cannot show.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_up_is_lost_between_looking_and_sleeping() {
        const CHANGES: u64 = 2_000;
        let log = ChangeLog::new(0);
        let writer = log.clone();
        let (read, mut reads) = watch::channel(0);
        // Each change is written only after the one before was read, so that a lost wake-up stops everything.
        let writing = tokio::spawn(async move {
            for index in 1..=CHANGES {
                append(&writer, "/a", index);
                reads.wait_for(|seen| *seen >= index).await.expect("the reader is there");
            }
        });
        let mut after = 0;
        while after < CHANGES {
            let changes = log.wait("/", after, Deadline::after(Duration::from_secs(60))).await;
            assert!(!changes.keys.is_empty(), "a wake-up was lost after entry {after}");
            after = changes.index;
            read.send_replace(after);
        }
        writing.await.expect("the writer ends");
    }
}
