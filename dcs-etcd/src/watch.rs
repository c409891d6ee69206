//! Wake-ups: one watch on the prefix, running in the background, and a log of what it saw.
//!
//! ```text
//!   task:  connection in use ─► watch from the next unseen revision ─► log ─► whoever waits
//!             ▲                          │ switched, cancelled, compacted, broken
//!             └──────────────────────────┘
//! ```
//!
//! Nothing is lost when a stream ends: the next one begins at the revision after the last one that was seen, and etcd
//! plays back what happened in between. Only if that was compacted away, or if the cluster's history went back, the log
//! says that something unnamed may have changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::model::Revision;
use dcs_core::{Change, ChangeKind, Changes, Cursor, Deadline};
use etcd_client::{EventType, WatchOptions, WatchResponse};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::Client;
use crate::connect::Connection;
use crate::error::{Class, Failure};
use crate::history::{Header, Proof, Standing};

/// A watch that breaks at once is not begun again before this.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

/// Names kept in the log. Clusters have a few dozen keys; the limit is against a prefix that is somebody's dump.
const LONGEST_LOG: usize = 4096;

/// The watch of one client.
#[derive(Debug)]
pub(crate) struct Watcher {
    client: Client,
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

impl Watcher {
    pub(crate) fn new(client: Client) -> Self {
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

    /// The log of the running watch on `prefix`; begun at `after` if there is none. A client watches one prefix; asking
    /// for another one ends the first.
    fn log(&self, prefix: &str, after: Cursor) -> Arc<Log> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*running
            && running.prefix == prefix
            && !running.task.is_finished()
        {
            return Arc::clone(&running.log);
        }
        let log = Arc::new(Log::beginning_at(after));
        let task = tokio::spawn(follow(self.client.clone(), prefix.to_owned(), Arc::clone(&log)));
        *running = Some(Running { prefix: prefix.to_owned(), log: Arc::clone(&log), task });
        log
    }
}

/// What the watch has seen.
#[derive(Debug)]
struct Log {
    entries: Mutex<Entries>,
    /// Counts the additions.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Entries {
    /// The last change of each key.
    changes: BTreeMap<String, (Cursor, Change)>,
    /// Whatever happened up to here and after `named_after` is in `changes`.
    seen: Cursor,
    /// What happened up to here cannot be named.
    named_after: Cursor,
}

impl Log {
    fn beginning_at(cursor: Cursor) -> Self {
        let entries = Entries { changes: BTreeMap::new(), seen: cursor, named_after: cursor };
        Self { entries: Mutex::new(entries), changed: watch::Sender::new(0) }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since(&self, after: Cursor) -> Option<Changes> {
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

    fn nothing_since(&self, after: Cursor) -> Changes {
        Changes { cursor: self.entries().seen.max(after), ..Changes::default() }
    }

    /// The changes of one message were seen. They are added together: etcd never spreads one revision over two messages,
    /// and whoever is told of a part of one must not take it for all of it.
    fn add(&self, changes: Vec<(Cursor, Change)>) {
        let mut entries = self.entries();
        for (at, change) in changes {
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
    fn advance(&self, at: Cursor) {
        let mut entries = self.entries();
        entries.seen = entries.seen.max(at);
    }

    /// What happened up to `at` is not known.
    fn skip_to(&self, at: Cursor) {
        let mut entries = self.entries();
        entries.seen = entries.seen.max(at);
        entries.named_after = entries.named_after.max(at);
        drop(entries);
        self.changed.send_modify(|count| *count += 1);
    }
}

/// Why a stream ended.
enum Ended {
    /// To be begun again at once: compacted, or another server is in use.
    Again,
    /// For a reason that may last.
    Broken,
}

async fn follow(client: Client, prefix: String, log: Arc<Log>) {
    loop {
        let begun = Instant::now();
        let deadline = Deadline::after(client.share());
        let ended = match client.connection(deadline).await {
            Ok(connection) => stream(&client, &connection, &prefix, &log).await,
            // The client has turned to the next server and told the log of this program why.
            Err(_) => Ended::Broken,
        };
        if matches!(ended, Ended::Broken) {
            tokio::time::sleep(LEAST_INTERVAL.saturating_sub(begun.elapsed())).await;
        }
    }
}

/// Watches on `connection` as long as that is the one in use.
async fn stream(client: &Client, connection: &Arc<Connection>, prefix: &str, log: &Log) -> Ended {
    let mut in_use = client.in_use();
    let seen = log.entries().seen;
    let from = client.revision(seen);
    let start = from.and_then(|revision| i64::try_from(revision).ok()).map_or(0, |revision| revision + 1);
    let options = WatchOptions::new().with_prefix().with_progress_notify().with_start_revision(start);

    // Opening the stream and the first answer on it together get one server's share of time.
    let deadline = Deadline::after(client.share());
    let opening = async {
        let mut stream = connection.watch().watch(prefix, Some(options)).await?;
        let first = stream.message().await?;
        Ok::<_, etcd_client::Error>((stream, first))
    };
    let (mut stream, mut next) = match deadline.bound("open a watch", opening).await {
        Ok(Ok((stream, first))) => (stream, first),
        Ok(Err(error)) => return give_up(client, connection, error.into()),
        Err(expired) => return give_up(client, connection, Failure::lost(expired)),
    };
    if from.is_none() {
        // The cluster has begun another history. This watch begins now; what was before has no name.
        let now = next.as_ref().and_then(WatchResponse::header).map(Header::from).unwrap_or_default();
        log.skip_to(client.cursor(now.revision));
    }
    loop {
        let Some(response) = next else { return give_up(client, connection, Failure::lost("the watch has ended")) };
        if let Some(ended) = take_in(client, connection, &response, log) {
            return ended;
        }
        next = tokio::select! {
            message = stream.message() => match message {
                Ok(message) => message,
                Err(error) => return give_up(client, connection, error.into()),
            },
            () = switched(&mut in_use, connection.serial) => return Ended::Again,
        };
    }
}

/// Comes back when another connection than `serial` is in use.
async fn switched(in_use: &mut watch::Receiver<u64>, serial: u64) {
    // An error would mean that the client is gone; this task holds it.
    let _ = in_use.wait_for(|current| *current != serial).await;
}

fn give_up(client: &Client, connection: &Connection, failure: Failure) -> Ended {
    match failure.class {
        Class::NextServer | Class::Broken => client.set_aside(connection, &failure),
        // Lasting: an operator has to give permissions, or the next request brings a new token.
        Class::Token | Class::Denied => tracing::warn!(cause = %failure.cause, "etcd does not let us watch"),
        _ => tracing::debug!(cause = %failure.cause, "the watch on etcd broke"),
    }
    Ended::Broken
}

fn take_in(client: &Client, connection: &Connection, response: &WatchResponse, log: &Log) -> Option<Ended> {
    let header = response.header().map(Header::from).unwrap_or_default();
    if client.observe(header, Proof::OneServer { floor: 0 }) == Standing::Behind {
        return Some(give_up(client, connection, Failure::lost("it is behind the other servers")));
    }
    if response.canceled() {
        if response.compact_revision() > 0 {
            let oldest = u64::try_from(response.compact_revision()).unwrap_or_default();
            tracing::debug!(oldest, "what the watch missed was compacted away");
            log.skip_to(client.cursor(oldest.saturating_sub(1)));
            return Some(Ended::Again);
        }
        let status = tonic::Status::unknown(response.cancel_reason());
        return Some(give_up(client, connection, etcd_client::Error::GRpcStatus(status).into()));
    }
    let mut changes = Vec::new();
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        let kind = match event.event_type() {
            EventType::Delete => ChangeKind::Deleted,
            EventType::Put if kv.create_revision() == kv.mod_revision() => ChangeKind::Created,
            EventType::Put => ChangeKind::Changed,
        };
        // A key that is not valid UTF-8 is somebody else's; that something happened is told all the same.
        let key = String::from_utf8_lossy(kv.key()).into_owned();
        let at = client.cursor(u64::try_from(kv.mod_revision()).unwrap_or_default());
        changes.push((at, Change { key, kind, revision: Some(Revision::from(kv.mod_revision())) }));
    }
    if !changes.is_empty() {
        log.add(changes);
    }
    // Only a message without events says how far the server has come: one with events may be followed by older ones than
    // its header.
    if response.events().is_empty() && !response.created() {
        log.advance(client.cursor(header.revision));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str) -> Change {
        Change { key: key.to_owned(), kind: ChangeKind::Changed, revision: None }
    }

    fn names(changes: &Changes) -> Vec<&str> {
        changes.keys.iter().map(|change| change.key.as_str()).collect()
    }

    #[test]
    fn changes_are_reported_once_in_order_and_with_the_position_to_go_on_from() {
        let log = Log::beginning_at(Cursor(10));
        assert_eq!(log.since(Cursor(10)), None);
        log.add(vec![(Cursor(12), change("b")), (Cursor(13), change("a"))]);
        log.add(vec![(Cursor(14), change("b"))]);
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
        log.add(vec![(Cursor(12), change("a")), (Cursor(12), change("b"))]);
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
            log.add(vec![(Cursor(number as u64 + 1), change(&number.to_string()))]);
        }
        assert!(log.since(Cursor(5)).unwrap().unnamed);
    }
}
