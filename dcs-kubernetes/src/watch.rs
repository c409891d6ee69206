//! Two background tasks, one for the objects and one for the pods: list, then watch.
//!
//! ```text
//!   list ──► watch from its version ──► events, bookmarks ──► (end, silence, another server) ──► watch from there
//!    ▲                                        │
//!    └──────── 410, any other error ◄─────────┘
//! ```
//!
//! A watch that says nothing for longer than servers send bookmarks is given up, and goes on where it was: whoever froze
//! keeps its connections alive. No event is lost that way, and if the server does not remember that far back, the list has
//! what is left of it.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::{Deadline, ErrorKind, Moment};
use serde::Deserialize;
use serde_json::Value;

use crate::cache::Kind;
use crate::client::{Ask, next_chunk};
use crate::error::{Class, Failure, Status, classify};
use crate::object::{Metadata, Object, version_number};
use crate::store::Shared;

/// Servers send a bookmark every minute.
const LONGEST_SILENCE: Duration = Duration::from_secs(90);
/// How long the server is asked to let one watch live.
const LIFE: Duration = Duration::from_secs(300);
/// The pause after a failure; up to twice as long, so that clients that failed together do not come back together.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause between two watches that ended without having said anything.
const SHORT_PAUSE: Duration = Duration::from_millis(200);
/// The longest line. An object in etcd has 1.5 MiB at most.
const LONGEST_LINE: usize = 16 << 20;

/// One line of a watch.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

/// What a bookmark tells.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Bookmark {
    metadata: Metadata,
}

/// How a watch ended.
enum End {
    /// Go on from this version.
    At { version: String, said_something: bool },
    /// The version is too old, or somebody does not trust what the cache has: list again.
    ListAgain,
}

/// Keeps the cache fresh until it is aborted.
pub(crate) async fn run(shared: Arc<Shared>, kind: Kind) {
    // Since when nothing has come in, and whether that has been said.
    let mut failing: Option<(Moment, bool)> = None;
    loop {
        let listed = shared.cache.times_listed(kind);
        let outcome = list_and_watch(&shared, kind).await;
        if shared.cache.times_listed(kind) != listed {
            failing = None;
        }
        if let Err(failure) = outcome {
            let now = shared.clock.now();
            let (since, said) = *failing.get_or_insert((now, false));
            if !said && now - since > shared.timing().ttl {
                tracing::warn!(error = %failure.cause, ?kind, "the cluster cannot be watched any more; what is known of it may be old");
                failing = Some((since, true));
            }
            // Whoever asks for more than a cycle is asked once in each: what is here decides over the lock.
            let pause = failure.pause.unwrap_or_default().min(shared.timing().loop_wait).max(PAUSE + shared.jitter.upto(PAUSE));
            let denied = failure.class == Class::Denied;
            let error = failure.into_error("watch the cluster");
            tracing::debug!(error = error.chain(), ?kind, "the watch failed; listing again");
            if !denied || shared.cache.is_listed() != Ok(true) {
                let words = error.source.as_deref().map_or_else(String::new, |cause| dcs_core::chain(cause));
                shared.cache.cannot_list(kind, error.kind, words);
            }
            rest(&shared, pause).await;
        }
    }
}

/// Sleeps, until somebody finds out that what the cache has is not so.
async fn rest(shared: &Shared, pause: Duration) {
    let mut distrust = shared.distrust.subscribe();
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        _ = distrust.changed() => {}
    }
}

async fn list_and_watch(shared: &Shared, kind: Kind) -> Result<(), Failure> {
    let mut version = list(shared, kind, Deadline::after(shared.timing().retry_timeout)).await?;
    loop {
        match watch(shared, kind, &version).await {
            Ok(End::At { version: at, said_something }) => {
                version = at;
                if !said_something {
                    tokio::time::sleep(SHORT_PAUSE).await;
                }
            }
            Ok(End::ListAgain) => return Ok(()),
            Err(failure) if failure.class == Class::Denied => {
                // Whoever may list but not watch looks again once in a cycle.
                shared.once.say("watch", || {
                    tracing::warn!(error = %failure.cause, ?kind, "watching is forbidden; listing again and again instead, which costs the API server more");
                });
                rest(shared, shared.timing().loop_wait).await;
                return Ok(());
            }
            // Nothing was lost if the connection was: go on at another server.
            Err(failure) if failure.class == Class::NextServer => {
                tracing::debug!(error = %failure.cause, ?kind, "the watch could not be begun; trying again");
                tokio::time::sleep(SHORT_PAUSE + shared.jitter.upto(PAUSE)).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Lists everything, as it is now, into the cache. Returns the version to watch from.
pub(crate) async fn list(shared: &Shared, kind: Kind, deadline: Deadline) -> Result<String, Failure> {
    let asked = shared.clock.now();
    let ask = Ask::get(shared.paths.list(kind));
    let list: crate::object::List = shared.client.call(&ask, deadline).await?;
    let version = list.metadata.resource_version.clone();
    shared.cache.replace(kind, list, asked);
    Ok(version)
}

async fn watch(shared: &Shared, kind: Kind, from: &str) -> Result<End, Failure> {
    let mut switches = shared.client.switches();
    let mut distrust = shared.distrust.subscribe();
    let timing = shared.timing();
    let life = LIFE + shared.jitter.upto(LIFE);
    let ask = Ask::get(format!(
        "{}&watch=true&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={}",
        shared.paths.list(kind),
        life.as_secs()
    ));
    let opening = shared.client.open(&ask, Deadline::after(timing.retry_timeout));
    let mut body = tokio::select! {
        body = opening => body?,
        _ = distrust.changed() => return Ok(End::ListAgain),
    };
    let _following = shared.cache.follow(kind);
    let mut reader = Reader { shared, kind, version: from.to_owned(), said_something: false, line: Vec::new() };
    loop {
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(LONGEST_SILENCE, next_chunk(&mut body)) => chunk,
            // A server that does not answer others will not report anything either.
            _ = switches.changed() => return Ok(reader.end()),
            _ = distrust.changed() => return Ok(End::ListAgain),
        };
        match chunk {
            Ok(Some(Ok(chunk))) => {
                if let Some(end) = reader.take(&chunk)? {
                    return Ok(end);
                }
            }
            // An end, a broken connection, silence: all the same.
            Ok(Some(Err(_)) | None) | Err(_) => return Ok(reader.end()),
        }
    }
}

/// Cuts what comes into lines, and puts them into the cache.
struct Reader<'a> {
    shared: &'a Shared,
    kind: Kind,
    version: String,
    said_something: bool,
    line: Vec<u8>,
}

impl Reader<'_> {
    fn end(self) -> End {
        End::At { version: self.version, said_something: self.said_something }
    }

    fn take(&mut self, chunk: &[u8]) -> Result<Option<End>, Failure> {
        self.line.extend_from_slice(chunk);
        while let Some(length) = self.line.iter().position(|byte| *byte == b'\n') {
            let rest = self.line.split_off(length + 1);
            let line = std::mem::replace(&mut self.line, rest);
            if let Some(end) = self.event(&line)? {
                return Ok(Some(end));
            }
        }
        if self.line.len() > LONGEST_LINE {
            return Err(Failure::strange("a line of the watch is too long"));
        }
        Ok(None)
    }

    fn event(&mut self, line: &[u8]) -> Result<Option<End>, Failure> {
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let event: Event = serde_json::from_slice(line).map_err(Failure::strange)?;
        self.said_something = true;
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => {
                let (object, version) = object(event.object)?;
                self.shared.cache.apply(self.kind, object);
                self.reached(&version);
            }
            "DELETED" => {
                let (object, version) = object(event.object)?;
                self.shared.cache.remove(self.kind, &object);
                self.reached(&version);
            }
            "BOOKMARK" => {
                let bookmark: Bookmark = serde_json::from_value(event.object).map_err(Failure::strange)?;
                self.reached(&bookmark.metadata.resource_version);
            }
            "ERROR" => {
                let words = event.object.to_string();
                let status: Status = serde_json::from_value(event.object).unwrap_or_default();
                tracing::debug!(code = status.code, reason = status.reason, kind = ?self.kind, "the API server ended the watch: {}", status.message);
                return match classify(status.code, &status).0 {
                    Class::Expired => Ok(Some(End::ListAgain)),
                    _ => Err(Failure::from_answer(status.code, None, words.as_bytes())),
                };
            }
            // A kind of event that this version does not know says nothing about what is there.
            _ => {}
        }
        Ok(None)
    }

    /// Everything up to here is in the cache.
    fn reached(&mut self, version: &str) {
        if !version.is_empty() {
            self.version = version.to_owned();
            self.shared.cache.reported(self.kind, version_number(version));
        }
    }
}

/// An object, and its version.
fn object(object: Value) -> Result<(Object, String), Failure> {
    let object: Object = serde_json::from_value(object).map_err(Failure::strange)?;
    let version = object.metadata.resource_version.clone();
    Ok((object, version))
}

/// Waits until both lists have arrived.
///
/// # Errors
///
/// Why they do not, if the server says that it will not be so, or when the time is over.
pub(crate) async fn both_listed(shared: &Shared, deadline: Deadline) -> Result<(), Failure> {
    let mut changes = shared.cache.changes();
    loop {
        changes.borrow_and_update();
        let problem = match shared.cache.is_listed() {
            Ok(true) => return Ok(()),
            Ok(false) => None,
            // Refused for good; anything else may pass.
            Err((ErrorKind::Denied, words)) => return Err(denied(words)),
            Err((ErrorKind::Misconfigured, words)) => return Err(Failure::misconfigured(words)),
            Err((_, words)) => Some(words),
        };
        if deadline.bound("the list of the cluster's objects", changes.changed()).await.is_err() {
            let words = problem.unwrap_or_else(|| "the cluster's objects could not be listed in time".to_owned());
            return Err(Failure::not_sent(words));
        }
    }
}

fn denied(words: String) -> Failure {
    Failure { class: Class::Denied, fate: dcs_core::Fate::NotApplied, pause: None, cause: words.into() }
}
