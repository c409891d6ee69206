//! Electing one of several tasks, for programs that have no PostgreSQL.
//!
//! ```text
//!   Election ──campaign()──► one task ──load, acquire, renew, release, wait──► Dcs
//!      │                        │
//!      └─observe()─► Observer   └─► Leadership: lease(), lost(), hold(work), resign()
//! ```
//!
//! - **Who acts as leader holds a value that proves it.** [`Leadership::lease`] is judged by the clock at the moment of
//!   asking, and the [`LeaderLease`](crate::LeaderLease) that it returns says until when the answer is good.
//! - **Leadership ends before the lock can.** From a margin before the end of the lease on the leadership is over, for
//!   good; the work has that margin to stop. Nothing has to run for that but the clock: a store that hangs, a task that is
//!   starved and a machine that was asleep end it all the same.
//! - **What is not known is not leadership.** An attempt or a renewal without an answer proves nothing.
//! - **A lock that nobody here acts upon is let go**: at once by [`Leadership::resign`], otherwise when the lease has ended.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use dcs_core::election::Election;
//! use dcs_core::keys::ClusterPath;
//! use dcs_core::memory::Server;
//! use dcs_core::{BootClock, Clock, Error, Timing};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let seconds = Duration::from_secs;
//! let timing = Timing { ttl: seconds(30), loop_wait: seconds(10), retry_timeout: seconds(10) };
//! let clock: Arc<dyn Clock> = Arc::new(BootClock);
//! let server = Server::new(Arc::clone(&clock));
//!
//! let dcs = server.dcs(ClusterPath::new(None, "reports"), "alice".into(), timing);
//! let election = Election::start(dcs, "alice".into(), clock, timing);
//! let leadership = election.campaign().await?;
//! // Everything in here ends when the leadership does.
//! let sent = leadership.hold(async { "the report" }).await?;
//! leadership.resign().await?;
//! # assert_eq!(sent, "the report");
//! # Ok(())
//! # }
//! ```

mod runner;
mod term;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use self::runner::{Campaign, Runner};
pub use self::term::{Leadership, Lost};
use crate::model::MemberName;
use crate::{Clock, Dcs, Error, ErrorKind, Fate, Timing};

/// Campaigns that wait for their turn. A program has one, or a few by mistake.
const QUEUE: usize = 4;

/// What is known about who leads. For people and for routing: it may be over by the time it is read, and proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The store has not been read yet, or not for longer than the ttl.
    Unknown,
    /// Nobody.
    Nobody,
    /// This candidate.
    Leader(MemberName),
}

/// Takes part in an election: as a candidate, an observer, or both.
///
/// A task does the work. It ends when this value has been dropped and no leadership of it is left, and lets go of the lock
/// before. [`Election::leave`] waits for that.
pub struct Election {
    me: MemberName,
    store: &'static str,
    margin: Duration,
    campaigns: mpsc::Sender<Campaign>,
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Election {
    /// Takes part in the election that `dcs` is the lock of, as the candidate `me`: the name that `dcs` was made with. Must
    /// be called in a tokio runtime.
    ///
    /// A name belongs to one candidate at a time, because that is how a store knows whose its lock is. A host name alone does
    /// if only one process of the host takes part; otherwise add what tells them apart. Before the same program starts another
    /// election under the name it [leaves](Election::leave) the former one. `timing` is that of `dcs`, and `clock` the one
    /// that its leases are counted on. `dcs` is used for nothing else.
    pub fn start(dcs: Arc<dyn Dcs>, me: MemberName, clock: Arc<dyn Clock>, timing: Timing) -> Self {
        let store = dcs.store_name();
        let (campaigns, queue) = mpsc::channel(QUEUE);
        let (runner, seen) = Runner::new(dcs, me.clone(), clock, timing, queue);
        // Not aborted when this is dropped: it still has to let go of the lock then, and ends by itself.
        let task = tokio::spawn(runner.run());
        Self { me, store, margin: timing.ttl / 10, campaigns, seen, task }
    }

    /// The same with another margin: how long before the end of its lease a leadership is over. It has to be long enough for
    /// the work to stop; unless set it is a tenth of the ttl, and never more than half of a lease.
    #[must_use]
    pub fn with_margin(mut self, margin: Duration) -> Self {
        self.margin = margin;
        self
    }

    /// The name of this candidate.
    pub fn me(&self) -> &MemberName {
        &self.me
    }

    /// Waits until this candidate leads, however long that takes; a store that cannot be used for a while is waited for, too.
    /// Woken by the store when the lock becomes free.
    ///
    /// One leadership at a time: a campaign begun while another of this election goes on, or while its leadership lasts, has
    /// its turn afterwards.
    ///
    /// # Errors
    ///
    /// Trying again cannot help: the store refuses access, or its configuration does not allow what is needed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the campaign. A lock that was won at that moment is released.
    pub async fn campaign(&self) -> Result<Leadership, Error> {
        let (reply, outcome) = oneshot::channel();
        let campaign = Campaign { margin: self.margin, reply };
        // Both fail only if the task has gone, with its runtime.
        let ended = || Error::new(self.store, "campaign", ErrorKind::Unavailable, Fate::NotApplied).because("the runtime was shut down");
        self.campaigns.send(campaign).await.map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?
    }

    /// Tells who leads, from now on.
    pub fn observe(&self) -> Observer {
        let mut seen = self.seen.clone();
        seen.mark_changed();
        Observer { seen }
    }

    /// Takes no part any more: waits until nothing is left that could touch the lock. That is at once if the leadership, if
    /// there was one, has been resigned; otherwise its lease has to run out first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is dropping the election.
    pub async fn leave(self) {
        drop(self.campaigns);
        if let Err(error) = self.task.await
            && error.is_panic()
        {
            tracing::error!(%error, "the election of {} ended unexpectedly", self.me);
        }
    }
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election").field("me", &self.me).field("seen", &*self.seen.borrow()).finish_non_exhaustive()
    }
}

/// Who leads, as it changes.
#[derive(Clone, Debug)]
pub struct Observer {
    seen: watch::Receiver<Seen>,
}

impl Observer {
    /// What is known now.
    pub fn now(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits for something new, and returns it; the first call returns at once. What came and went between two calls is left
    /// out. Nothing once the election has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Seen> {
        self.seen.changed().await.ok()?;
        Some(self.seen.borrow_and_update().clone())
    }
}
