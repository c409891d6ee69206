//! Waiting for changes: one long poll on the prefix, shared by all waits.
//!
//! ```text
//!   wait ──► is the newest view another than the caller's? ──yes──► what differs
//!              │ no
//!              ▼
//!            the poll that runs from that view, or a new one ──► records a view, and the question is asked again
//! ```
//!
//! The poll goes on between waits: a wait that ends without a change costs no request, and a change between two waits is
//! there for the next. It belongs to one view. If a load meanwhile has shown another one, the poll should have ended and has
//! not, perhaps because its connection is dead; it is given up, and a new one starts from what was loaded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::{Changes, Cursor, Deadline, Error, ErrorKind, Fate};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::client::Client;
use crate::config::Mode;
use crate::error::STORE;
use crate::views::{Since, Views};

/// What Consul is told to wait at most. It allows ten minutes. Proxies allow less, and end it with an error; so be it.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Polls do not begin sooner after each other than this, so that a busy cluster costs ten answers a second at most.
const LEAST_BETWEEN: Duration = Duration::from_millis(100);

/// The same after one that ended without a change: writes of strangers end polls of a prefix without keys.
const LEAST_AFTER_NOTHING: Duration = Duration::from_millis(500);

const OPERATION: &str = "wait for a change";

/// Runs the poll.
#[derive(Debug)]
pub(crate) struct Watcher {
    client: Client,
    views: Arc<Views>,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    running: Option<Running>,
    /// When the last poll began.
    begun: Option<Instant>,
}

/// A poll. Ends when this is dropped.
#[derive(Debug)]
struct Running {
    prefix: String,
    from: Cursor,
    outcome: watch::Receiver<Option<Outcome>>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone, Debug)]
enum Outcome {
    /// There is a view other than that from which it began.
    Changed,
    Failed(String),
}

impl Watcher {
    pub(crate) fn new(client: Client, views: Arc<Views>) -> Self {
        Self { client, views, slot: Mutex::default() }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something under `prefix` differs from the view `after`, or the deadline passes.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the poll to the next wait.
    pub(crate) async fn wait(&self, prefix: &str, after: Cursor, deadline: Deadline) -> Result<Changes, Error> {
        loop {
            let index = match self.views.since(prefix, after) {
                Since::Changed(keys, cursor) => return Ok(Changes { keys, unnamed: false, cursor }),
                Since::Unknown(cursor) => return Ok(Changes { keys: Vec::new(), unnamed: true, cursor }),
                Since::Nothing(index) => index,
            };
            let mut outcome = self.poll(prefix, after, index);
            let ended = async { outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()) };
            match deadline.bound(OPERATION, ended).await {
                Err(_) => return Ok(Changes { cursor: after, ..Changes::default() }),
                Ok(Some(Outcome::Changed)) => {}
                Ok(ended) => {
                    self.slot().running = None;
                    let why = match ended {
                        Some(Outcome::Failed(why)) => why,
                        _ => "the poll was given up".to_owned(),
                    };
                    return Err(Error::new(STORE, OPERATION, ErrorKind::Unavailable, Fate::Unknown).because(why));
                }
            }
        }
    }

    /// The poll for a change of the view `from`: the one that runs, if it began there and has not ended.
    fn poll(&self, prefix: &str, from: Cursor, index: u64) -> watch::Receiver<Option<Outcome>> {
        let mut slot = self.slot();
        if let Some(running) = &slot.running
            && running.from == from
            && running.prefix == prefix
            && !matches!(&*running.outcome.borrow(), Some(Outcome::Changed))
        {
            return running.outcome.clone();
        }
        let now = Instant::now();
        let start = slot.begun.map_or(now, |begun| (begun + LEAST_BETWEEN).max(now));
        slot.begun = Some(start);
        let (sender, outcome) = watch::channel(None);
        let poll = Poll { client: self.client.clone(), views: Arc::clone(&self.views), prefix: prefix.to_owned(), from, index };
        let task = tokio::spawn(async move {
            sleep_until(start).await;
            let outcome = poll.run().await;
            sender.send_replace(Some(outcome));
        });
        slot.running = Some(Running { prefix: prefix.to_owned(), from, outcome: outcome.clone(), task: task.abort_handle() });
        outcome
    }
}

struct Poll {
    client: Client,
    views: Arc<Views>,
    prefix: String,
    from: Cursor,
    index: u64,
}

impl Poll {
    async fn run(mut self) -> Outcome {
        loop {
            let begun = Instant::now();
            // Whoever is woken reads again; a leader need not prove itself for that.
            let mode = if self.client.mode() == Mode::Stale { Mode::Stale } else { Mode::Default };
            let limit = Deadline::after(LONGEST_WAIT * 2);
            let listing = match self.client.list_after(&self.prefix, mode, self.index, LONGEST_WAIT, limit).await {
                Ok(listing) => listing,
                Err(failure) => return Outcome::Failed(failure.into_error(OPERATION).chain()),
            };
            if self.views.record(&self.prefix, &listing) != self.from {
                return Outcome::Changed;
            }
            if listing.index == 0 {
                return Outcome::Failed("the answer has no `X-Consul-Index`, so that changes cannot be waited for".to_owned());
            }
            // The same index again: the time is over, or Consul is being restored from a backup, and this answer is still that of
            // before. Indexes may be lower now, and a poll from here would sleep through all that comes: the next asks what is
            // there at once.
            self.index = if listing.index == self.index { 0 } else { listing.index };
            sleep_until(begun + LEAST_AFTER_NOTHING).await;
        }
    }
}
