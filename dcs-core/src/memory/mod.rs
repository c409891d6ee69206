//! A store in memory: one [`Server`], any number of clients.
//!
//! It behaves as a real one would: handles expire by its clock and take their keys along, conditions are checked, a
//! handle that is gone is refused, a value that is too large as well, and a watch that was away for too long is told so.
//! With [`TokioClock`](crate::TokioClock) and paused time, years pass in a moment.
//!
//! ```text
//!   Client "a" ──┐
//!   Client "b" ──┼──► Server: keys, handles, revisions, changes ◄── its clock
//!   Client "c" ──┘
//! ```

mod client;
mod state;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

pub use self::client::Client;
pub use self::state::{State, handle_id};
use crate::adapter::KeyValueDcs;
use crate::keys::ClusterPath;
use crate::model::{HandleId, MemberName};
use crate::{Clock, Entry, Timing};

/// The largest value that is taken, in bytes: what etcd takes by default.
pub const MAX_VALUE: usize = 1_536 * 1024;

/// The one server. Dropped together with its last client.
pub struct Server {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    /// Wakes those who wait, in the order in which they came: so that a simulation repeats itself.
    changes: Notify,
    /// The revision that they were woken for last.
    told: AtomicU64,
    requests: AtomicU64,
}

impl Server {
    /// An empty server whose handles expire by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::default()),
            clock,
            changes: Notify::new(),
            told: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        })
    }

    /// A new client, which has no handle yet.
    pub fn client(self: &Arc<Self>, timing: Timing) -> Arc<Client> {
        Arc::new(Client::new(Arc::clone(self), timing))
    }

    /// The cluster at `path` as the member `name` sees it: a client with the adapter around it.
    pub fn dcs(self: &Arc<Self>, path: ClusterPath, name: MemberName, timing: Timing) -> Arc<KeyValueDcs> {
        Arc::new(KeyValueDcs::new(self.client(timing), Arc::clone(&self.clock), path, name, timing))
    }

    /// The clock by which handles expire.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Everything that is stored, sorted by key.
    pub fn entries(&self) -> Vec<Entry> {
        self.change(|state| state.entries(""))
    }

    /// How many requests its clients have sent, waits not counted.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Ends a handle at once, with all its keys, as an operator can. Returns whether it existed.
    pub fn revoke(&self, handle: &HandleId) -> bool {
        self.change(|state| state.revoke(handle))
    }

    /// Forgets which changes there were, as compaction does. Whoever waits from an older position is told that it missed
    /// something.
    pub fn compact(&self) {
        self.change(State::compact);
    }

    /// Lets everything expire that is due. Happens by itself at every request and while somebody waits; a simulation
    /// with a clock of its own calls it when that clock has moved.
    pub fn expire(&self) {
        self.change(|_| ());
    }

    /// Runs `operation` on the state as it is now, and wakes those who wait if it changed something.
    fn change<T>(&self, operation: impl FnOnce(&mut State) -> T) -> T {
        let (outcome, revision) = {
            let mut state = self.lock();
            state.expire(self.clock.now());
            let outcome = operation(&mut state);
            (outcome, state.revision())
        };
        if self.told.fetch_max(revision, Ordering::Relaxed) < revision {
            self.changes.notify_waiters();
        }
        outcome
    }

    /// How long until the next handle expires.
    fn next_expiry(&self) -> Option<Duration> {
        let next = self.lock().next_expiry()?;
        Some(next.saturating_since(self.clock.now()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if something did, the state is still whole between two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("memory::Server").field("revision", &self.lock().revision()).finish_non_exhaustive()
    }
}
