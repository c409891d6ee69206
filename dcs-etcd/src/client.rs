//! Several servers as one: which to ask, for how long, and what to do when it does not answer.
//!
//! ```text
//!   run(request) ─► the connection in use ──ok──► note the header ─► answer
//!                        │ none, or broken
//!                        ▼
//!                   next server in order, within this attempt's share of the deadline
//! ```
//!
//! One client per server, one server at a time, kept while it works (`servers.rs` has the order). A connection that missed
//! its deadline is thrown away: the server may still be busy with the old question, and the next one would queue behind it.
//!
//! The same for both protocols; what differs between them is the [`Wire`].

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use dcs_core::tls::TlsError;
use dcs_core::{Cursor, Deadline, Error, Fate, Timing};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::config::{Access, Config};
use crate::connect::Target;
use crate::failure::{Class, Failure};
use crate::history::{Header, Memory, Proof, Standing};
use crate::servers::{Occasion, Servers};
use crate::tries::Tries;
use crate::wire::{Headed, Wire};

/// No attempt gets less than this, unless the deadline is nearer.
const LEAST_SHARE: Duration = Duration::from_secs(1);

/// A single server gets this many attempts, as do all of up to that many together.
const LEAST_ATTEMPTS: u32 = 3;

/// What may be done about a request whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Ask again, elsewhere: asking twice is the same as asking once.
    Freely,
    /// Ask again only if it certainly had no effect; otherwise tell the caller.
    IfNotApplied,
}

/// How a request is to be treated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// For errors, e.g. `renew the leader lock`.
    pub(crate) operation: &'static str,
    pub(crate) repeat: Repeat,
    pub(crate) backing: Backing,
}

/// Who stands behind the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// A majority of the servers.
    Majority,
    /// The server alone, which must know what we know.
    OneServer,
    /// The server alone, whose view of the keys does not matter.
    OneServerAnyRevision,
}

/// An answer, and what it came with.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    pub(crate) header: Header,
    pub(crate) standing: Standing,
}

/// The way to the servers.
#[derive(Debug)]
pub(crate) struct Client<W> {
    shared: Arc<Shared<W>>,
}

impl<W> Clone for Client<W> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[derive(Debug)]
struct Shared<W> {
    config: Config,
    state: Mutex<State<W>>,
    /// The serial of the connection in use; zero if there is none.
    in_use: watch::Sender<u64>,
}

#[derive(Debug)]
struct State<W> {
    timing: Timing,
    access: Access,
    servers: Servers,
    connection: Option<Arc<W>>,
    last_serial: u64,
    memory: Memory,
    asked_for_members: Option<Instant>,
    discovery: Option<AbortHandle>,
}

impl<W> Drop for State<W> {
    fn drop(&mut self) {
        if let Some(discovery) = &self.discovery {
            discovery.abort();
        }
    }
}

impl<W: Wire> Client<W> {
    pub(crate) fn new(config: Config, timing: Timing) -> Self {
        let state = State {
            timing,
            access: config.access.clone(),
            servers: Servers::new(&config),
            connection: None,
            last_serial: 0,
            memory: Memory::default(),
            asked_for_members: None,
            discovery: None,
        };
        Self { shared: Arc::new(Shared { config, state: Mutex::new(state), in_use: watch::Sender::new(0) }) }
    }

    pub(crate) fn timing(&self) -> Timing {
        self.shared.lock().timing
    }

    pub(crate) fn set_timing(&self, timing: Timing) {
        self.shared.lock().timing = timing;
    }

    /// From now on this user and these certificates. The connection in use has the former ones and is given up.
    pub(crate) async fn set_access(&self, access: &Access) -> Result<(), TlsError> {
        if self.shared.lock().access.tls != access.tls {
            let settings = access.tls.clone();
            // A broken file must not cost a connection that works. What cannot be judged now shows at the next connection.
            let made = tokio::task::spawn_blocking(move || settings.config()).await;
            made.map_or(Ok(()), |made| made.map(drop))?;
        }
        let mut state = self.shared.lock();
        if state.access != *access {
            state.access = access.clone();
            state.connection = None;
            self.shared.in_use.send_replace(0);
        }
        Ok(())
    }

    /// The server in use.
    pub(crate) fn server(&self) -> Option<String> {
        self.shared.lock().connection.as_ref().map(|connection| connection.target().address.to_string())
    }

    /// The serial of the connection in use, whenever it changes.
    pub(crate) fn in_use(&self) -> watch::Receiver<u64> {
        self.shared.in_use.subscribe()
    }

    /// The serial of the connection in use, if there is one.
    pub(crate) fn serial_in_use(&self) -> Option<u64> {
        self.shared.lock().connection.as_ref().map(|connection| connection.serial())
    }

    /// The newest raft term that an answer has told.
    pub(crate) fn term(&self) -> u64 {
        self.shared.lock().memory.term()
    }

    /// How long one server may take: a fair part of `retry_timeout`.
    pub(crate) fn share(&self) -> Duration {
        let state = self.shared.lock();
        let attempts = u32::try_from(state.servers.count()).unwrap_or(u32::MAX).max(LEAST_ATTEMPTS);
        (state.timing.retry_timeout / attempts).max(LEAST_SHARE)
    }

    /// Where `revision` stands in the stream of changes.
    pub(crate) fn cursor(&self, revision: u64) -> Cursor {
        self.shared.lock().memory.cursor(revision)
    }

    /// The revision at `cursor`; nothing if that history is over.
    pub(crate) fn revision(&self, cursor: Cursor) -> Option<u64> {
        self.shared.lock().memory.revision(cursor)
    }

    /// Takes note of an answer that came outside of [`Client::run`].
    pub(crate) fn observe(&self, header: Header, proof: Proof) -> Standing {
        self.shared.lock().memory.observe(header, proof)
    }

    /// Does `request`, with as many servers as the deadline allows.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the request; the connection stays usable.
    pub(crate) async fn run<T, E, F, Fut>(&self, call: Call, deadline: Deadline, request: F) -> Result<Answer<T>, Error>
    where
        T: Headed,
        E: Into<Failure>,
        F: Fn(Arc<W>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut tries = Tries::new(W::STORE, call.operation);
        while !deadline.has_passed() {
            let floor = self.shared.lock().memory.floor();
            let proof = match call.backing {
                Backing::Majority => Proof::Majority { floor },
                Backing::OneServer => Proof::OneServer { floor },
                Backing::OneServerAnyRevision => Proof::OneServer { floor: 0 },
            };
            let attempt = deadline.at_most(self.share());
            let (connection, failure) = match self.connection(attempt).await {
                Err((target, failure)) => {
                    tries.note(target.as_ref(), failure.fate, &failure.cause);
                    (None, failure)
                }
                Ok(connection) => match attempt.bound("no answer in time", request(Arc::clone(&connection))).await {
                    Ok(Ok(value)) => {
                        connection.has_answered();
                        let header = value.header().unwrap_or_default();
                        let standing = self.observe(header, proof);
                        self.find_members_if_due(&connection);
                        return Ok(Answer { value, header, standing });
                    }
                    outcome => {
                        let failure = match outcome {
                            Ok(Err(error)) => connection.explain(error.into()),
                            _ => Failure::lost("it did not answer in time"),
                        };
                        tries.note(Some(connection.target()), failure.fate, &failure.cause);
                        (Some(connection), failure)
                    }
                },
            };
            let pause = match failure.class {
                Class::NextServer | Class::Broken => {
                    if let Some(connection) = &connection {
                        self.set_aside(&**connection, &failure);
                    }
                    tries.pause_after_round(self.shared.lock().servers.targets())
                }
                Class::Busy => Some(tries.pause()),
                // A new connection gets a new token, or goes on without one.
                Class::Token | Class::AuthOff => {
                    let retry = self.renew_token(connection.as_ref());
                    if !retry || tries.tokens_used_up() {
                        return Err(failure.into_error(W::STORE, call.operation));
                    }
                    None
                }
                _ => return Err(failure.into_error(W::STORE, call.operation)),
            };
            if call.repeat == Repeat::IfNotApplied && failure.fate == Fate::Unknown {
                break;
            }
            if let Some(pause) = pause {
                if deadline.remaining() <= pause {
                    break;
                }
                // Everything known has failed: addresses may have changed. If they cannot be told, the old ones stay.
                let _ = self.shared.look_up(Occasion::AllFailed, deadline.at_most(self.share())).await;
                tokio::time::sleep(pause).await;
            }
        }
        Err(tries.into_error())
    }

    /// The connection in use, or a new one to the next server.
    pub(crate) async fn connection(&self, deadline: Deadline) -> Result<Arc<W>, (Option<Target>, Failure)> {
        if self.shared.lock().servers.targets() == 0 {
            self.shared.look_up(Occasion::First, deadline).await.map_err(|failure| (None, failure))?;
        }
        let (target, serial, access, timing) = {
            let mut state = self.shared.lock();
            if let Some(connection) = &state.connection {
                return Ok(Arc::clone(connection));
            }
            let Some(target) = state.servers.next().cloned() else {
                return Err((None, Failure::unreachable("no server is known")));
            };
            state.last_serial += 1;
            (target, state.last_serial, state.access.clone(), state.timing)
        };
        let patience = (self.share() / 2).max(LEAST_SHARE);
        let opening = W::open(target.clone(), serial, access.clone(), timing);
        let opened = match deadline.at_most(patience).bound("connect", opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure::unreachable("no connection in time")),
        };
        match opened {
            Ok(connection) => Ok(self.put_to_use(connection, &access)),
            Err(failure) => {
                self.shared.lock().servers.skip(&target);
                tracing::debug!(server = %target, cause = %failure.cause, "cannot connect to etcd");
                Err((Some(target), failure))
            }
        }
    }

    /// Makes `connection` the one in use, unless somebody else was faster.
    fn put_to_use(&self, connection: W, access: &Access) -> Arc<W> {
        let connection = {
            let mut state = self.shared.lock();
            if let Some(other) = &state.connection {
                return Arc::clone(other);
            }
            let connection = Arc::new(connection);
            if state.access != *access {
                // Exchanged in the meantime: this one serves its first request and nothing more.
                return connection;
            }
            state.connection = Some(Arc::clone(&connection));
            state.asked_for_members = None;
            self.shared.in_use.send_replace(connection.serial());
            connection
        };
        tracing::info!(server = %connection.target(), "connected to etcd");
        connection
    }

    /// Gives `connection` up for good and turns to the next server.
    pub(crate) fn set_aside(&self, connection: &W, failure: &Failure) {
        let mut state = self.shared.lock();
        if state.connection.as_ref().is_some_and(|current| current.serial() == connection.serial()) {
            state.connection = None;
            state.servers.skip(connection.target());
            self.shared.in_use.send_replace(0);
            tracing::info!(server = %connection.target(), cause = %failure.cause, "lost etcd, trying the next server");
        }
    }

    /// Gives `connection` up to get a new token from the same server. `false` if we have nothing to get one with.
    fn renew_token(&self, connection: Option<&Arc<W>>) -> bool {
        let mut state = self.shared.lock();
        if let (Some(ours), Some(current)) = (connection, &state.connection)
            && ours.serial() == current.serial()
        {
            state.connection = None;
            self.shared.in_use.send_replace(0);
        }
        state.access.credentials.is_some()
    }

    /// Asks for the list of members if that was not done on this connection, or long ago.
    fn find_members_if_due(&self, connection: &Arc<W>) {
        if !self.shared.config.discover {
            return;
        }
        let mut state = self.shared.lock();
        let interval = state.timing.ttl * 10;
        if state.asked_for_members.is_some_and(|asked| asked.elapsed() < interval) {
            return;
        }
        state.asked_for_members = Some(Instant::now());
        let task = find_members(Arc::downgrade(&self.shared), Arc::clone(connection));
        if let Some(old) = state.discovery.replace(tokio::spawn(task).abort_handle()) {
            old.abort();
        }
    }
}

async fn find_members<W: Wire>(shared: Weak<Shared<W>>, connection: Arc<W>) {
    let Some(timing) = shared.upgrade().map(|shared| shared.lock().timing) else { return };
    let deadline = Deadline::after(timing.retry_timeout);
    let members = match deadline.bound("ask for members", connection.members()).await {
        Ok(Ok(members)) => members,
        Ok(Err(cause)) => return tracing::debug!(%cause, "etcd's members are unknown"),
        Err(cause) => return tracing::debug!(%cause, "etcd's members are unknown"),
    };
    if let Some(shared) = shared.upgrade() {
        // Members whose names cannot be resolved are left out; the configured servers are known already.
        let _ = shared.look_up(Occasion::Members(members), deadline).await;
    }
}

impl<W: Wire> Shared<W> {
    /// State changes are complete before the guard is dropped, so that a poisoned lock is still a good one.
    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks servers up. Fails if none has an address.
    async fn look_up(&self, occasion: Occasion, deadline: Deadline) -> Result<(), Failure> {
        let servers = self.lock().servers.clone();
        let (servers, outcome) = servers.look_up(&self.config, occasion, deadline).await;
        let mut state = self.lock();
        let in_use = state.connection.as_ref().map(|connection| connection.target().clone());
        state.servers.replace(servers, in_use.as_ref());
        outcome
    }
}

#[cfg(test)]
mod tests;
