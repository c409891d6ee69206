//! The connection in use, and the way to another one.
//!
//! ```text
//!   whoever asks ──► connection in use ── lost, silent, other credentials ──► dial: the next server, the same session
//!                          │                                                        │ "session expired"
//!                          └── another ttl ──► sync, then dial ◄────────────────────┘ a new session
//! ```
//!
//! One connection at a time. Dialing goes through the servers once, beginning after the one that failed, and goes on when
//! nobody waits for it any more, so that cancelled callers do not leave half-made sessions behind.

mod dialing;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use dcs_core::{Clock, Deadline, Moment, Timing};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::watch;
use tokio::time::Instant;
use zookeeper_client as zk;

use crate::config::{Access, Config, Source};
use crate::connection::{Connection, Loss};
use crate::error::Failure;
use crate::exhibitor::Exhibitor;
use crate::host::Host;
use crate::session::Session;

/// The longest path that every server has.
const ROOT: &str = "/";

/// One store's way to ZooKeeper.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    hosts: Hosts,
    settings: Mutex<Settings>,
    slot: Mutex<Slot>,
    /// The serial of the connection in use.
    in_use: watch::Sender<u64>,
    /// How many requests and waits are under way.
    users: watch::Sender<usize>,
    /// When the last of them ended.
    used: Mutex<Instant>,
}

enum Hosts {
    Fixed(Vec<Host>),
    Exhibitor(Exhibitor),
}

#[derive(Clone)]
struct Settings {
    timing: Timing,
    access: Arc<Access>,
    /// Counts the changes of the access that need another connection.
    version: u64,
}

#[derive(Default)]
struct Slot {
    connection: Option<Arc<Connection>>,
    /// Lives as long as no server says that it does not.
    session: Option<Arc<Session>>,
    dialing: Option<Dialing>,
    /// Why the last dial failed.
    problem: Option<String>,
    serial: u64,
    /// The server that is dialed first; set when the first one is.
    first: Option<usize>,
    /// Sessions that we have left because the lock's node, although ours by name, may have replaced somebody else's.
    disowned: Vec<i64>,
}

type Dialing = Shared<BoxFuture<'static, Result<(), Failure>>>;

/// Which session a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Any will do.
    Any,
    /// The one with the ttl that is wanted now: keys are bound to it.
    CurrentTtl,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("connection", &self.slot().connection).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(config: &Config, timing: Timing, clock: Arc<dyn Clock>) -> Self {
        let hosts = match &config.source {
            Source::Hosts(hosts) => Hosts::Fixed(hosts.clone()),
            Source::Exhibitor(config) => Hosts::Exhibitor(Exhibitor::new(config.clone())),
        };
        let settings = Mutex::new(Settings { timing, access: Arc::new(config.access.clone()), version: 0 });
        Self(Arc::new(Inner {
            clock,
            hosts,
            settings,
            slot: Mutex::default(),
            in_use: watch::Sender::new(0),
            users: watch::Sender::new(0),
            used: Mutex::new(Instant::now()),
        }))
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.0.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Moment {
        self.0.clock.now()
    }

    pub(crate) fn timing(&self) -> Timing {
        self.settings().timing
    }

    pub(crate) fn set_timing(&self, timing: Timing) {
        self.settings().timing = timing;
    }

    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.settings().access)
    }

    pub(crate) fn set_access(&self, access: Access) {
        let mut settings = self.settings();
        let before = &settings.access;
        if before.tls != access.tls || before.auth != access.auth {
            settings.version += 1;
        }
        settings.access = Arc::new(access);
    }

    /// The session, if there is one that no server has called gone.
    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        self.slot().session()
    }

    /// The server in use.
    pub(crate) fn server(&self) -> Option<String> {
        let slot = self.slot();
        slot.connection.as_ref().filter(|connection| connection.lost().is_none()).map(|connection| connection.server.clone())
    }

    /// The session of `connection` is left to expire. What is bound to it is not to be taken for ours again.
    pub(crate) fn disown(&self, connection: &Connection) {
        let mut slot = self.slot();
        let id = connection.session.id;
        tracing::warn!(
            session = format!("{id:#x}"),
            "the leader key was replaced without an answer that tells whose it was; leaving the session until it expires"
        );
        slot.disowned.push(id);
        if slot.session.as_ref().is_some_and(|session| session.id == id) {
            slot.session = None;
        }
        connection.give_up(&"its session is left");
    }

    pub(crate) fn is_disowned(&self, session: i64) -> bool {
        self.slot().disowned.contains(&session)
    }

    /// How long one server may take for one answer.
    pub(crate) fn share(&self) -> Duration {
        let servers = match &self.0.hosts {
            Hosts::Fixed(hosts) => hosts.len(),
            Hosts::Exhibitor(_) => 3,
        };
        let parts = u32::try_from(servers.max(3)).unwrap_or(u32::MAX);
        (self.timing().retry_timeout / parts).max(Duration::from_secs(1))
    }

    /// Something was loaded: a time to ask who the servers are.
    pub(crate) fn loads(&self) {
        if let Hosts::Exhibitor(exhibitor) = &self.0.hosts {
            exhibitor.refresh();
        }
    }

    /// The client is used until this is dropped.
    pub(crate) fn uses(&self) -> Use {
        self.0.users.send_modify(|count| *count += 1);
        Use(self.clone())
    }

    /// Comes back when somebody uses the client, or a connection after `serial` is in use.
    pub(crate) async fn is_wanted(&self, serial: u64) {
        let (mut users, mut in_use) = (self.0.users.subscribe(), self.0.in_use.subscribe());
        // Errors would mean that the client is gone; this function holds it.
        tokio::select! {
            _ = users.wait_for(|count| *count > 0) => {}
            _ = in_use.wait_for(|current| *current > serial) => {}
        }
    }

    /// One request, or several at once, on the connection in use; see [`Connection::ask`].
    pub(crate) async fn ask_on<T, F>(
        &self,
        connection: &Connection,
        deadline: Deadline,
        request: impl FnOnce(zk::Client) -> F,
    ) -> Result<(T, Moment), Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let _use = self.uses();
        connection.ask(&*self.0.clock, self.share(), deadline, request).await
    }

    /// A request that may be sent again: taken to the next server as long as there is time.
    /// Returns the connection that answered beside the answer, for what has to be asked in the same session.
    pub(crate) async fn read<T, F>(&self, deadline: Deadline, request: impl Fn(zk::Client) -> F) -> Result<(T, Arc<Connection>), Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        loop {
            let connection = self.connection(Need::Any, deadline).await?;
            match self.ask_on(&connection, deadline, &request).await {
                Ok((answer, _)) => return Ok((answer, connection)),
                Err(failure) if failure.is_answer() || deadline.has_passed() => return Err(failure),
                Err(failure) if connection.lost().is_none() => return Err(failure),
                Err(failure) => tracing::debug!("asking the next server of ZooKeeper: {failure}"),
            }
        }
    }

    /// The connection in use; another one if there is none, if it was lost, or if it is not what is needed.
    ///
    /// # Cancel safety
    ///
    /// A dial that was begun goes on.
    pub(crate) async fn connection(&self, need: Need, deadline: Deadline) -> Result<Arc<Connection>, Failure> {
        loop {
            let Settings { timing, version, .. } = self.settings().clone();
            let current = self.slot().usable(version);
            if let Some(connection) = current {
                if need == Need::Any || connection.session.asked == timing.ttl {
                    return Ok(connection);
                }
                self.leave(&connection, deadline).await?;
            }
            let dialing = self.dial();
            let Ok(dialed) = deadline.bound("connect to ZooKeeper", dialing).await else {
                // Nothing was sent. What is known of the servers is from an earlier dial.
                let problem = self.slot().problem.clone();
                return Err(Failure::Unreachable(problem.unwrap_or_else(|| "they do not answer in time".to_owned())));
            };
            dialed?;
        }
    }

    /// Leaves a session whose ttl is not wanted any more. What was sent for it comes first: nothing may happen in its name once
    /// its keys are bound to the next one.
    async fn leave(&self, connection: &Connection, deadline: Deadline) -> Result<(), Failure> {
        self.ask_on(connection, deadline, |client| async move { Ok(client.sync(ROOT).await?) }).await?;
        tracing::info!(was = ?connection.session.asked, now = ?self.timing().ttl, "the ttl has changed: a new session of ZooKeeper");
        let mut slot = self.slot();
        if slot.session.as_ref().is_some_and(|session| session.id == connection.session.id) {
            slot.session = None;
        }
        drop(slot);
        connection.give_up(&"the ttl has changed");
        Ok(())
    }

    /// The dial that is under way, or a new one.
    fn dial(&self) -> Dialing {
        let mut slot = self.slot();
        if let Some(dialing) = slot.dialing.as_ref().filter(|dialing| dialing.peek().is_none()) {
            return dialing.clone();
        }
        let client = self.clone();
        let dialed = tokio::spawn(async move {
            let outcome = client.go_through_servers().await;
            let mut slot = client.slot();
            slot.dialing = None;
            slot.problem = outcome.as_ref().err().map(|failure| match failure {
                Failure::Unreachable(cause) => cause.clone(),
                failure => failure.to_string(),
            });
            drop(slot);
            outcome
        });
        let dialing = dialed.map(|ended| ended.unwrap_or_else(|error| Err(Failure::Unreachable(error.to_string())))).boxed().shared();
        slot.dialing = Some(dialing.clone());
        dialing
    }

    /// Tells when another connection is in use.
    pub(crate) fn switches(&self) -> watch::Receiver<u64> {
        self.0.in_use.subscribe()
    }
}

impl Slot {
    /// The session, unless it is left to expire.
    fn session(&self) -> Option<Arc<Session>> {
        self.session.clone().filter(|session| !self.disowned.contains(&session.id))
    }

    /// The connection in use, if it is still good; takes note of how it ended if not.
    fn usable(&mut self, version: u64) -> Option<Arc<Connection>> {
        let connection = self.connection.take()?;
        match connection.lost() {
            None if connection.access == version => {
                self.connection = Some(Arc::clone(&connection));
                return Some(connection);
            }
            None => connection.give_up(&"the credentials have changed"),
            Some(Loss::Connection) => tracing::debug!(server = connection.server, "the connection to ZooKeeper was lost"),
            Some(Loss::Session) => {
                tracing::info!(session = format!("{:#x}", connection.session.id), "our session is gone from ZooKeeper");
                if self.session.as_ref().is_some_and(|session| session.id == connection.session.id) {
                    self.session = None;
                }
            }
        }
        None
    }
}

/// A request or a wait that is under way.
pub(crate) struct Use(Client);

impl Drop for Use {
    fn drop(&mut self) {
        *self.0.0.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.0.users.send_modify(|count| *count -= 1);
    }
}

/// Gives the connection up once nobody has used the store for a cycle. Its pings would keep the session, and with it the lock,
/// of an agent that does nothing any more.
async fn end_when_idle(client: Weak<Inner>, connection: Weak<Connection>) {
    let mut users = match client.upgrade() {
        Some(client) => client.users.subscribe(),
        None => return,
    };
    loop {
        // An error means that the client is gone.
        if users.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
        let (Some(inner), Some(current)) = (client.upgrade(), connection.upgrade()) else { return };
        if current.lost().is_some() {
            return;
        }
        let end = {
            let limit = Client(Arc::clone(&inner)).timing().loop_wait;
            *inner.used.lock().unwrap_or_else(PoisonError::into_inner) + limit
        };
        if end <= Instant::now() {
            current.give_up(&"nobody has used it for a cycle");
            return;
        }
        drop((inner, current));
        tokio::time::sleep_until(end).await;
    }
}
