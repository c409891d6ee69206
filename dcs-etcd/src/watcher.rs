//! Wake-ups: one watch on the prefix, running in the background, and a log of what it saw.
//!
//! ```text
//!   task:  connection in use ─► watch from the next unseen revision ─► log ─► whoever waits
//!             ▲                          │ switched, cancelled, compacted, broken
//!             └──────────────────────────┘
//! ```
//!
//! Nothing is lost when a watch ends: the next one begins at the revision after the last one that was seen, and etcd
//! plays back what happened in between. Only if that is not there any more, or if the cluster's history went back, the log
//! says that something unnamed may have changed. How one watch is done is the protocol's: [`Watches`].
//!
//! A watch that tells values keeps a [`Mirror`] of the prefix besides, which relaxed reads are served from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::{Change, Changes, Cursor, Deadline, Snapshot};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::Client;
use crate::failure::{Class, Failure};
use crate::mirror::Mirror;
use crate::wire::Wire;

/// A watch that breaks at once is not begun again before this.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

/// Names kept in the log. Clusters have a few dozen keys; the limit is against a prefix that is somebody's dump.
const LONGEST_LOG: usize = 4096;

/// Why a watch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// To be begun again at once: over, compacted, or another server is in use.
    Again,
    /// For a reason that may last.
    Broken,
    /// etcd does not let us: an operator has to give permissions, or the next request brings a new token.
    Denied(String),
}

/// How a protocol watches.
#[async_trait]
pub(crate) trait Watches: Wire {
    /// Watches `prefix` on `connection`, as long as that is the one in use, and adds what it sees to `log`.
    async fn watch(client: &Client<Self>, connection: &Arc<Self>, prefix: &str, log: &Log) -> Ended;
}

/// The watch of one client.
#[derive(Debug)]
pub(crate) struct Watcher<W> {
    client: Client<W>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    prefix: String,
    log: Arc<Log>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<W: Watches> Watcher<W> {
    pub(crate) fn new(client: Client<W>) -> Self {
        Self { client, running: Mutex::new(None) }
    }

    /// Waits until something under `prefix` has changed after `after`.
    ///
    /// # Cancel safety
    ///
    /// The watch goes on without whoever waited; the caller keeps the position.
    pub(crate) async fn wait(&self, prefix: &str, after: Cursor, deadline: Deadline) -> Changes {
        let log = self.log(prefix, after);
        let mut changed = log.changed.subscribe();
        loop {
            if let Some(changes) = log.since(after) {
                return changes;
            }
            // An error would mean that the log is gone; this function holds it.
            if deadline.bound("a change", changed.changed()).await.is_err() {
                return log.since(after).unwrap_or_else(|| log.nothing_since(after));
            }
        }
    }

    /// Everything under `prefix` as the watch knows it; nothing if it does not run, is not known to see what the server in
    /// use sees, or has not seen everything yet.
    pub(crate) fn mirrored(&self, prefix: &str) -> Option<Snapshot> {
        let log = self.running(prefix)?;
        let (serial, term) = (self.client.serial_in_use()?, self.client.term());
        let entries = log.entries();
        match entries.stream {
            Some(stream) if stream.serial == serial && stream.term >= term => {}
            Some(stream) if stream.serial == serial => {
                // Another answer came from a newer leader of etcd. If the watch is served by the same server, beginning
                // it anew shows that.
                log.renew.notify_one();
                return None;
            }
            _ => return None,
        }
        let snapshot = entries.mirror.snapshot(entries.seen)?;
        // One of a history that is over shows nothing.
        self.client.revision(snapshot.cursor).map(|_| snapshot)
    }

    /// Everything under `prefix` was read.
    pub(crate) fn has_read(&self, prefix: &str, snapshot: &Snapshot) {
        if let Some(log) = self.running(prefix) {
            let mut entries = log.entries();
            let seen = entries.seen;
            entries.mirror.replace(snapshot, seen);
        }
    }

    /// A key has changed at `revision`: the next read has to show it.
    pub(crate) fn must_show(&self, revision: u64) {
        let at = self.client.cursor(revision);
        if let Some(running) = &*self.lock() {
            running.log.entries().mirror.must_show(at);
        }
    }

    /// The store has something else than was read from here.
    pub(crate) fn forget_entries(&self) {
        if let Some(running) = &*self.lock() {
            running.log.entries().mirror.forget();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log of the watch on `prefix`, if that is running.
    fn running(&self, prefix: &str) -> Option<Arc<Log>> {
        let running = self.lock();
        let running = running.as_ref().filter(|running| running.prefix == prefix && !running.task.is_finished())?;
        Some(Arc::clone(&running.log))
    }

    /// The log of the running watch on `prefix`; begun at `after` if there is none. A client watches one prefix; asking
    /// for another one ends the first.
    fn log(&self, prefix: &str, after: Cursor) -> Arc<Log> {
        if let Some(log) = self.running(prefix) {
            return log;
        }
        let mut running = self.lock();
        let log = Arc::new(Log::beginning_at(after));
        let task = tokio::spawn(follow(self.client.clone(), prefix.to_owned(), Arc::clone(&log)));
        *running = Some(Running { prefix: prefix.to_owned(), log: Arc::clone(&log), task });
        log
    }
}

/// What the watch has seen.
#[derive(Debug)]
pub(crate) struct Log {
    entries: Mutex<Entries>,
    /// Counts the additions.
    changed: watch::Sender<u64>,
    /// Tells the stream to begin anew.
    renew: Notify,
}

/// The stream that the log is written from, while it is open.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// The serial of its connection.
    serial: u64,
    /// The raft term of the server when it last said something.
    term: u64,
}

#[derive(Debug)]
struct Entries {
    mirror: Mirror,
    stream: Option<Stream>,
    /// The last change of each key.
    changes: BTreeMap<String, (Cursor, Change)>,
    /// Whatever happened up to here and after `named_after` is in `changes`.
    seen: Cursor,
    /// What happened up to here cannot be named.
    named_after: Cursor,
}

impl Log {
    /// An empty one.
    pub(crate) fn beginning_at(cursor: Cursor) -> Self {
        let (mirror, changes) = (Mirror::default(), BTreeMap::new());
        let entries = Entries { mirror, stream: None, changes, seen: cursor, named_after: cursor };
        Self { entries: Mutex::new(entries), changed: watch::Sender::new(0), renew: Notify::new() }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The position up to which everything was seen.
    pub(crate) fn seen(&self) -> Cursor {
        self.entries().seen
    }

    /// What happened after `after`; nothing if nothing did.
    pub(crate) fn since(&self, after: Cursor) -> Option<Changes> {
        let entries = self.entries();
        let mut found: Vec<&(Cursor, Change)> = entries.changes.values().filter(|(at, _)| *at > after).collect();
        let unnamed = after < entries.named_after;
        if found.is_empty() && !unnamed {
            return None;
        }
        found.sort_by_key(|(at, _)| *at);
        let keys = found.into_iter().map(|(_, change)| change.clone()).collect();
        Some(Changes { keys, unnamed, cursor: entries.seen.max(after) })
    }

    /// The answer to who waited in vain.
    pub(crate) fn nothing_since(&self, after: Cursor) -> Changes {
        Changes { cursor: self.entries().seen.max(after), ..Changes::default() }
    }

    /// The changes of one message were seen. They are added together: etcd never spreads one revision over two messages,
    /// and whoever is told of a part of one must not take it for all of it.
    pub(crate) fn add(&self, changes: Vec<(Cursor, Change)>) {
        let mut entries = self.entries();
        let before = entries.seen;
        for (at, change) in changes {
            if at > before {
                entries.mirror.apply(at, &change);
            }
            entries.seen = entries.seen.max(at);
            entries.changes.insert(change.key.clone(), (at, change));
        }
        if entries.changes.len() > LONGEST_LOG {
            entries.changes.clear();
            entries.named_after = entries.seen;
        }
        drop(entries);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Nothing happened up to `at` beside what was added.
    pub(crate) fn advance(&self, at: Cursor) {
        let mut entries = self.entries();
        entries.seen = entries.seen.max(at);
    }

    /// What happened up to `at` is not known.
    pub(crate) fn skip_to(&self, at: Cursor) {
        let mut entries = self.entries();
        entries.seen = entries.seen.max(at);
        entries.named_after = entries.named_after.max(at);
        entries.mirror.missed(at);
        drop(entries);
        self.changed.send_modify(|count| *count += 1);
    }

    /// The stream on connection `serial` is open, and its server at `term`.
    pub(crate) fn hears(&self, serial: u64, term: u64) {
        self.entries().stream = Some(Stream { serial, term });
    }

    /// The stream is over.
    pub(crate) fn hears_nothing(&self) {
        self.entries().stream = None;
    }

    /// Completes when the stream has to begin anew.
    pub(crate) async fn has_to_renew(&self) {
        self.renew.notified().await;
    }
}

async fn follow<W: Watches>(client: Client<W>, prefix: String, log: Arc<Log>) {
    // Said once, and not every second.
    let mut told = None;
    loop {
        let begun = Instant::now();
        let deadline = Deadline::after(client.share());
        let ended = match client.connection(deadline).await {
            Ok(connection) => W::watch(&client, &connection, &prefix, &log).await,
            // The client has turned to the next server and told the log of this program why.
            Err(_) => Ended::Broken,
        };
        match &ended {
            Ended::Again => {
                told = None;
                continue;
            }
            Ended::Broken => {}
            Ended::Denied(cause) if told.as_ref() == Some(cause) => {}
            Ended::Denied(cause) => {
                tracing::warn!(cause, "etcd does not let us watch");
                told = Some(cause.clone());
            }
        }
        tokio::time::sleep(LEAST_INTERVAL.saturating_sub(begun.elapsed())).await;
    }
}

/// Comes back when another connection than `serial` is in use.
pub(crate) async fn switched(in_use: &mut watch::Receiver<u64>, serial: u64) {
    // An error would mean that the client is gone; the task that asks holds it.
    let _ = in_use.wait_for(|current| *current != serial).await;
}

/// Tells why a watch failed, and turns to the next server if it is this one's fault.
pub(crate) fn give_up<W: Watches>(client: &Client<W>, connection: &W, failure: Failure) -> Ended {
    match failure.class {
        Class::NextServer | Class::Broken => client.set_aside(connection, &failure),
        Class::Token | Class::Denied => return Ended::Denied(failure.cause.to_string()),
        _ => tracing::debug!(cause = %failure.cause, "the watch on etcd broke"),
    }
    Ended::Broken
}

#[cfg(test)]
mod tests {
    use dcs_core::ChangeKind;

    use super::*;

    fn change(at: u64, key: &str) -> (Cursor, Change) {
        (Cursor(at), Change { key: key.to_owned(), kind: ChangeKind::Changed, revision: None, entry: None })
    }

    fn names(changes: &Changes) -> Vec<&str> {
        changes.keys.iter().map(|change| change.key.as_str()).collect()
    }

    #[test]
    fn changes_are_reported_once_in_order_and_with_the_position_to_go_on_from() {
        let log = Log::beginning_at(Cursor(10));
        assert_eq!(log.since(Cursor(10)), None);
        log.add(vec![change(12, "b"), change(13, "a")]);
        log.add(vec![change(14, "b")]);
        let changes = log.since(Cursor(10)).unwrap();
        assert_eq!((names(&changes), changes.unnamed, changes.cursor), (vec!["a", "b"], false, Cursor(14)));
        assert_eq!(names(&log.since(Cursor(13)).unwrap()), ["b"]);
        assert_eq!(log.since(Cursor(14)), None);
        assert_eq!(log.since(Cursor(20)), None, "a later read has seen more than the watch");
        assert_eq!(log.nothing_since(Cursor(20)).cursor, Cursor(20));
    }

    #[test]
    fn several_keys_of_one_transaction_are_all_reported() {
        let log = Log::beginning_at(Cursor(10));
        log.add(vec![change(12, "a"), change(12, "b")]);
        assert_eq!(names(&log.since(Cursor(10)).unwrap()), ["a", "b"]);
    }

    #[test]
    fn what_was_compacted_away_has_no_name() {
        let log = Log::beginning_at(Cursor(10));
        log.skip_to(Cursor(30));
        let changes = log.since(Cursor(10)).unwrap();
        assert_eq!((changes.unnamed, changes.cursor), (true, Cursor(30)));
        assert_eq!(log.since(Cursor(30)), None);
        assert!(log.since(Cursor(29)).unwrap().unnamed);
    }

    #[test]
    fn a_log_that_grows_too_long_forgets_names_but_not_that_something_happened() {
        let log = Log::beginning_at(Cursor(0));
        for number in 0..=LONGEST_LOG {
            log.add(vec![change(number as u64 + 1, &number.to_string())]);
        }
        assert!(log.since(Cursor(5)).unwrap().unnamed);
    }
}
