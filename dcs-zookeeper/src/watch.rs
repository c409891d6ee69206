//! Wake-ups: one persistent recursive watch on the prefix, running in the background, and a log of what it saw.
//!
//! ```text
//!   task:  connection in use ─► addWatch ─► "something may have happened" ─► events ─► log ─► whoever waits
//!             ▲                                                                │ another connection
//!             └────────────────────────────────────────────────────────────────┘
//! ```
//!
//! One request sets the watch, and then nothing is sent until the connection ends. ZooKeeper does not play back what such
//! a watch missed, so every new one begins with "something unnamed may have changed", and whoever waits reads and compares.
//! An event says which node, and neither who nor what. Our own writes are told apart by counting: as many events of a node
//! as writes of ours that were answered, since the watch was set, are ours, whatever their order.
//!
//! Positions are counted here: ZooKeeper before 3.9 does not tell at which transaction an event happened. They are good
//! for reads because the server tells of a change before it answers a read that shows a later state.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::model::Revision;
use dcs_core::own_writes::{OwnWrite, OwnWrites};
use dcs_core::{Change, ChangeKind, Changes, Cursor, Deadline};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use zookeeper_client as zk;

use crate::client::{Client, Need};
use crate::connection::Connection;
use crate::error::Failure;

/// A watch that breaks at once is not begun again before this.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

/// Names kept in the log. Clusters have a few dozen keys; the limit is against a prefix that is somebody's dump.
const LONGEST_LOG: usize = 4096;

/// The watch of one store.
#[derive(Debug)]
pub(crate) struct Watcher {
    client: Client,
    /// In front of every key.
    root: String,
    running: Mutex<Option<Running>>,
    own_writes: OwnWrites,
}

/// A write of our own, from before it is sent.
pub(crate) struct Writing<'a> {
    key: String,
    /// The log, if the watch was there already on the same connection, so that there will be events.
    seen_by: Option<(Arc<Log>, u64)>,
    _pending: OwnWrite<'a>,
}

impl Writing<'_> {
    /// It was answered: it causes so many events, and left this revision.
    pub(crate) fn applied(self, events: u64, revision: Option<Revision>) {
        if let Some((log, installed)) = &self.seen_by {
            log.count_own(&self.key, *installed, events, revision);
        }
    }
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

impl Watcher {
    pub(crate) fn new(client: Client, root: String) -> Self {
        Self { client, root, running: Mutex::new(None), own_writes: OwnWrites::default() }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The position of a read that is sent now: it shows everything that has been seen.
    pub(crate) fn position(&self) -> Cursor {
        self.running().as_ref().map(|running| Cursor(running.log.entries().seen)).unwrap_or_default()
    }

    /// The node at `path` is about to be written on `connection`.
    pub(crate) fn writes(&self, connection: &Connection, path: &str) -> Writing<'_> {
        let key = path.strip_prefix(&self.root).unwrap_or(path).to_owned();
        let pending = self.own_writes.begin(&key);
        let log = self.running().as_ref().map(|running| Arc::clone(&running.log));
        let seen_by = log.filter(|log| log.entries().installed == Some(connection.serial)).map(|log| (log, connection.serial));
        Writing { key, seen_by, _pending: pending }
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
            if let Some(changes) = log.since(after.0) {
                // Events come before the answers to the writes that caused them.
                if self.own_writes.settle(&changes, deadline.at_most(self.client.share())).await {
                    continue;
                }
                return changes;
            }
            // An error would mean that the log is gone; this function holds it.
            if deadline.bound("a change", changed.changed()).await.is_err() {
                return log.since(after.0).unwrap_or(Changes { cursor: after, ..Changes::default() });
            }
        }
    }

    /// The log of the running watch on `prefix`; a new one after `after` if there is none. A store watches one prefix; asking
    /// for another one ends the first.
    fn log(&self, prefix: &str, after: Cursor) -> Arc<Log> {
        let mut running = self.running();
        if let Some(running) = &*running
            && running.prefix == prefix
            && !running.task.is_finished()
        {
            return Arc::clone(&running.log);
        }
        let seen = running.as_ref().map(|running| running.log.entries().seen).unwrap_or_default().max(after.0);
        let log = Arc::new(Log::beginning_at(seen));
        let path = format!("{}{}", self.root, prefix.trim_end_matches('/'));
        let task = tokio::spawn(follow(self.client.clone(), path, self.root.clone(), Arc::clone(&log)));
        *running = Some(Running { prefix: prefix.to_owned(), log: Arc::clone(&log), task });
        log
    }
}

/// What the watch has seen, counted.
#[derive(Debug)]
struct Log {
    entries: Mutex<Entries>,
    /// Counts the additions.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Entries {
    /// The last change of each key.
    changes: BTreeMap<String, (u64, Change)>,
    /// Whatever happened up to here and after `named_after` is in `changes`.
    seen: u64,
    /// What happened up to here cannot be named.
    named_after: u64,
    /// The serial of the connection that the watch was set on.
    installed: Option<u64>,
    /// Since then, by key.
    tallies: HashMap<String, Tally>,
}

/// What happened to one node.
#[derive(Clone, Debug, Default)]
struct Tally {
    events: u64,
    /// How many of them are due to our own writes.
    own: u64,
    /// What the last one of these left.
    revision: Option<Revision>,
}

impl Log {
    fn beginning_at(position: u64) -> Self {
        let entries = Entries { changes: BTreeMap::new(), seen: position, named_after: position, installed: None, tallies: HashMap::new() };
        Self { entries: Mutex::new(entries), changed: watch::Sender::new(0) }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since(&self, after: u64) -> Option<Changes> {
        let entries = self.entries();
        let mut found: Vec<&(u64, Change)> = entries.changes.values().filter(|(at, _)| *at > after).collect();
        let unnamed = after < entries.named_after;
        if found.is_empty() && !unnamed {
            return None;
        }
        found.sort_by_key(|(at, _)| *at);
        let keys = found.into_iter().map(|(_, change)| Change { revision: entries.own_revision(&change.key), ..change.clone() });
        let keys = keys.collect();
        Some(Changes { keys, unnamed, cursor: Cursor(entries.seen.max(after)) })
    }

    fn add(&self, change: Change) {
        let mut entries = self.entries();
        entries.seen += 1;
        let at = entries.seen;
        entries.tallies.entry(change.key.clone()).or_default().events += 1;
        entries.changes.insert(change.key.clone(), (at, change));
        if entries.changes.len() > LONGEST_LOG {
            entries.changes.clear();
            entries.tallies.clear();
            entries.installed = None;
            entries.named_after = at;
        }
        drop(entries);
        self.changed.send_modify(|count| *count += 1);
    }

    /// A write of our own was answered, which a watch that was set on connection `installed` sees.
    fn count_own(&self, key: &str, installed: u64, events: u64, revision: Option<Revision>) {
        let mut entries = self.entries();
        if entries.installed == Some(installed) {
            let tally = entries.tallies.entry(key.to_owned()).or_default();
            tally.own += events;
            tally.revision = revision;
        }
    }

    /// The watch was set on connection `serial`. Something may have happened before that has no name.
    fn begin_on(&self, serial: u64) {
        let mut entries = self.entries();
        entries.installed = Some(serial);
        entries.tallies.clear();
        entries.seen += 1;
        entries.named_after = entries.seen;
        drop(entries);
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Entries {
    /// The revision that our own last write of `key` left, if nobody else has written it since the watch was set.
    fn own_revision(&self, key: &str) -> Option<Revision> {
        let tally = self.tallies.get(key)?;
        if tally.events <= tally.own { tally.revision.clone() } else { None }
    }
}

async fn follow(client: Client, path: String, root: String, log: Arc<Log>) {
    let mut serial = 0;
    loop {
        // A connection that nobody uses was ended, and is not to be made again for its own sake.
        client.is_wanted(serial).await;
        let begun = Instant::now();
        let deadline = Deadline::after(client.share());
        let stream = async {
            let connection = client.connection(Need::Any, deadline).await?;
            serial = connection.serial;
            stream(&client, &connection, &path, &root, &log).await
        };
        if let Err(failure) = stream.await {
            if failure.judge().0 == dcs_core::ErrorKind::Unavailable {
                tracing::debug!("the watch on ZooKeeper broke: {failure}");
            } else {
                tracing::warn!("ZooKeeper does not let us watch: {failure}");
            }
        }
        tokio::time::sleep(LEAST_INTERVAL.saturating_sub(begun.elapsed())).await;
    }
}

/// Watches on `connection` as long as that is the one in use.
async fn stream(client: &Client, connection: &Connection, path: &str, root: &str, log: &Log) -> Result<(), Failure> {
    let mut switches = client.switches();
    let deadline = Deadline::after(client.share());
    let watch =
        client.ask_on(connection, deadline, |client| async move { Ok(client.watch(path, zk::AddWatchMode::PersistentRecursive).await?) });
    let (mut watch, _) = watch.await?;
    log.begin_on(connection.serial);
    loop {
        let event = tokio::select! {
            biased;
            _ = switches.wait_for(|serial| *serial > connection.serial) => return Ok(()),
            // The library panics if it is asked after its task was aborted, which happens only once the end is noted.
            event = connection.until_it_ends(watch.changed()) => event,
        };
        let Ok(event) = event else { return Ok(()) };
        let kind = match event.event_type {
            zk::EventType::NodeCreated => ChangeKind::Created,
            zk::EventType::NodeDeleted => ChangeKind::Deleted,
            zk::EventType::NodeDataChanged => ChangeKind::Changed,
            // Children are told of by themselves.
            zk::EventType::NodeChildrenChanged => continue,
            zk::EventType::Session => return Ok(()),
        };
        let key = event.path.strip_prefix(root).unwrap_or(&event.path).to_owned();
        log.add(Change { key, kind, revision: None, entry: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str) -> Change {
        Change { key: key.to_owned(), kind: ChangeKind::Changed, revision: None, entry: None }
    }

    fn names(changes: &Changes) -> Vec<&str> {
        changes.keys.iter().map(|change| change.key.as_str()).collect()
    }

    #[test]
    fn changes_are_reported_once_in_order_and_with_the_position_to_go_on_from() {
        let log = Log::beginning_at(10);
        assert_eq!(log.since(10), None);
        for key in ["b", "a", "b"] {
            log.add(change(key));
        }
        let changes = log.since(10).unwrap();
        assert_eq!((names(&changes), changes.unnamed, changes.cursor), (vec!["a", "b"], false, Cursor(13)));
        assert_eq!(names(&log.since(12).unwrap()), ["b"]);
        assert_eq!(log.since(13), None);
    }

    #[test]
    fn a_new_watch_may_have_missed_something() {
        let log = Log::beginning_at(10);
        log.begin_on(1);
        let changes = log.since(10).unwrap();
        assert_eq!((changes.unnamed, changes.cursor), (true, Cursor(11)));
        assert_eq!(log.since(11), None);
    }

    #[test]
    fn as_many_events_as_answered_writes_are_our_own() {
        let log = Log::beginning_at(0);
        let own = |number: u64| Some(Revision::from(number));
        let told = |log: &Log| log.since(1).unwrap().keys[0].revision.clone();
        log.begin_on(1);
        log.add(change("a"));
        assert_eq!(told(&log), None, "not answered yet, or somebody else's");
        log.count_own("a", 1, 1, own(7));
        assert_eq!(told(&log), own(7));
        log.add(change("a"));
        assert_eq!(told(&log), None);
        log.count_own("a", 1, 1, own(8));
        assert_eq!(told(&log), own(8));
        log.begin_on(2);
        log.count_own("a", 1, 1, own(9));
        log.add(change("a"));
        let before = log.entries().seen - 1;
        assert_eq!(log.since(before).unwrap().keys[0].revision, None, "a write that the new watch has not seen counts nothing");
    }

    #[test]
    fn a_log_that_grows_too_long_forgets_names_but_not_that_something_happened() {
        let log = Log::beginning_at(0);
        for number in 0..=LONGEST_LOG {
            log.add(change(&number.to_string()));
        }
        assert!(log.since(5).unwrap().unnamed);
    }
}
