//! Several servers as one: which to ask, for how long, and what to do when it does not answer.
//!
//! ```text
//!   run(request) ─► the connection in use ──ok──► note the header ─► answer
//!                        │ none, or broken
//!                        ▼
//!                   next server in order, within this attempt's share of the deadline
//! ```
//!
//! One client per server, one server at a time, kept while it works. The order is the one in the configuration, then
//! that of the members that etcd itself names. A connection that missed its deadline is thrown away: the server may
//! still be busy with the old question, and the next one would queue behind it.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use dcs_core::{Cursor, Deadline, Error, ErrorKind, Fate, Timing};
use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::config::{Access, Config};
use crate::connect::{Connection, Target};
use crate::endpoint::Endpoint;
use crate::error::{Class, Failure, STORE};
use crate::history::{Header, Memory, Proof, Standing};
use crate::members;
use crate::tries::Tries;

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

/// A response that carries etcd's header.
pub(crate) trait Headed {
    fn header(&self) -> Option<&etcd_client::ResponseHeader>;
}

macro_rules! headed {
    ($($response:ident),+) => {
        $(impl Headed for etcd_client::$response {
            fn header(&self) -> Option<&etcd_client::ResponseHeader> {
                self.header()
            }
        })+
    };
}

headed!(GetResponse, PutResponse, DeleteResponse, TxnResponse, LeaseGrantResponse);

/// The way to the servers.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    state: Mutex<State>,
    /// The serial of the connection in use; zero if there is none.
    in_use: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    timing: Timing,
    access: Access,
    /// In the order in which they are tried. Empty until names have been looked up.
    targets: Vec<Target>,
    /// The one to connect to next.
    next: usize,
    /// How many servers there probably are: names and addresses of one may both be among the targets.
    servers: usize,
    /// Answers of DNS, kept so that its outage is not ours.
    addresses: HashMap<Endpoint, Vec<SocketAddr>>,
    connection: Option<Arc<Connection>>,
    last_serial: u64,
    memory: Memory,
    asked_for_members: Option<Instant>,
    discovery: Option<AbortHandle>,
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(discovery) = &self.discovery {
            discovery.abort();
        }
    }
}

impl Client {
    pub(crate) fn new(config: Config, timing: Timing) -> Self {
        let state = State {
            timing,
            access: config.access.clone(),
            targets: Vec::new(),
            next: 0,
            servers: config.endpoints.len(),
            addresses: HashMap::new(),
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

    /// How servers let us in.
    pub(crate) fn access(&self) -> Access {
        self.shared.lock().access.clone()
    }

    /// From now on this user and these certificates. The connection in use has the former ones and is given up.
    pub(crate) fn set_access(&self, access: Access) {
        let mut state = self.shared.lock();
        if state.access != access {
            state.access = access;
            state.connection = None;
            self.shared.in_use.send_replace(0);
        }
    }

    /// The server in use.
    pub(crate) fn server(&self) -> Option<String> {
        self.shared.lock().connection.as_ref().map(|connection| connection.target.address.to_string())
    }

    /// The serial of the connection in use, whenever it changes.
    pub(crate) fn in_use(&self) -> watch::Receiver<u64> {
        self.shared.in_use.subscribe()
    }

    /// How long one server may take: a fair part of `retry_timeout`.
    pub(crate) fn share(&self) -> Duration {
        let state = self.shared.lock();
        let attempts = u32::try_from(state.servers).unwrap_or(u32::MAX).max(LEAST_ATTEMPTS);
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
    pub(crate) async fn run<T, F, Fut>(&self, call: Call, deadline: Deadline, request: F) -> Result<Answer<T>, Error>
    where
        T: Headed,
        F: Fn(Arc<Connection>) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let convert = |connection| {
            let answer = request(connection);
            async move { answer.await.map_err(Failure::from) }
        };
        self.run_fallible(call, deadline, convert).await
    }

    /// [`Client::run`] for requests that consist of several and judge their failures themselves.
    pub(crate) async fn run_fallible<T, F, Fut>(&self, call: Call, deadline: Deadline, request: F) -> Result<Answer<T>, Error>
    where
        T: Headed,
        F: Fn(Arc<Connection>) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let mut tries = Tries::new(call.operation);
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
                        let header = value.header().map(Header::from).unwrap_or_default();
                        let standing = self.observe(header, proof);
                        self.find_members_if_due(&connection);
                        return Ok(Answer { value, header, standing });
                    }
                    outcome => {
                        let failure = match outcome {
                            Ok(Err(failure)) => connection.explain(failure),
                            _ => Failure::lost("it did not answer in time"),
                        };
                        tries.note(Some(&connection.target), failure.fate, &failure.cause);
                        (Some(connection), failure)
                    }
                },
            };
            let pause = match failure.class {
                Class::NextServer | Class::Broken => {
                    if let Some(connection) = &connection {
                        self.set_aside(connection, &failure);
                    }
                    tries.pause_after_round(self.shared.lock().targets.len())
                }
                Class::Busy => Some(tries.pause()),
                // A new connection gets a new token, or goes on without one.
                Class::Token | Class::AuthOff => {
                    let retry = self.renew_token(connection.as_ref());
                    if !retry || tries.tokens_used_up() {
                        return Err(failure.into_error(call.operation));
                    }
                    None
                }
                _ => return Err(failure.into_error(call.operation)),
            };
            if call.repeat == Repeat::IfNotApplied && failure.fate == Fate::Unknown {
                break;
            }
            if let Some(pause) = pause {
                if deadline.remaining() <= pause {
                    break;
                }
                // Everything known has failed: addresses may have changed. If they cannot be told, the old ones stay.
                let _ = self.shared.look_up(None, deadline.at_most(self.share())).await;
                tokio::time::sleep(pause).await;
            }
        }
        Err(tries.into_error())
    }

    /// Learns from a majority of the servers what term and revision they are at.
    pub(crate) async fn ask_majority(&self, deadline: Deadline) -> Result<(), Error> {
        let call = Call { operation: "ask a majority", repeat: Repeat::Freely, backing: Backing::Majority };
        let ask = |connection: Arc<Connection>| async move {
            connection.kv().get("/", Some(etcd_client::GetOptions::new().with_count_only())).await
        };
        self.run(call, deadline, ask).await.map(drop)
    }

    /// The connection in use, or a new one to the next server.
    pub(crate) async fn connection(&self, deadline: Deadline) -> Result<Arc<Connection>, (Option<Target>, Failure)> {
        if self.shared.lock().targets.is_empty() {
            self.shared.look_up(None, deadline).await.map_err(|failure| (None, failure))?;
        }
        let (target, serial, access, timing) = {
            let mut state = self.shared.lock();
            if let Some(connection) = &state.connection {
                return Ok(Arc::clone(connection));
            }
            let Some(target) = state.targets.get(state.next).or(state.targets.first()).cloned() else {
                return Err((None, Failure::unreachable("no server is known")));
            };
            state.last_serial += 1;
            (target, state.last_serial, state.access.clone(), state.timing)
        };
        let patience = (self.share() / 2).max(LEAST_SHARE);
        let opening = Connection::open(target.clone(), serial, access.clone(), timing);
        let opened = match deadline.at_most(patience).bound("connect", opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure::unreachable("no connection in time")),
        };
        match opened {
            Ok(connection) => Ok(self.put_to_use(connection, &access)),
            Err(failure) => {
                self.shared.lock().skip(&target);
                tracing::debug!(server = %target, cause = %failure.cause, "cannot connect to etcd");
                Err((Some(target), failure))
            }
        }
    }

    /// Makes `connection` the one in use, unless somebody else was faster.
    fn put_to_use(&self, connection: Connection, access: &Access) -> Arc<Connection> {
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
            self.shared.in_use.send_replace(connection.serial);
            connection
        };
        tracing::info!(server = %connection.target, "connected to etcd");
        connection
    }

    /// Gives `connection` up for good and turns to the next server.
    pub(crate) fn set_aside(&self, connection: &Connection, failure: &Failure) {
        let mut state = self.shared.lock();
        if state.connection.as_ref().is_some_and(|current| current.serial == connection.serial) {
            state.connection = None;
            state.skip(&connection.target);
            self.shared.in_use.send_replace(0);
            tracing::info!(server = %connection.target, cause = %failure.cause, "lost etcd, trying the next server");
        }
    }

    /// Gives `connection` up to get a new token from the same server. `false` if we have nothing to get one with.
    fn renew_token(&self, connection: Option<&Arc<Connection>>) -> bool {
        let mut state = self.shared.lock();
        if let (Some(ours), Some(current)) = (connection, &state.connection)
            && ours.serial == current.serial
        {
            state.connection = None;
            self.shared.in_use.send_replace(0);
        }
        state.access.credentials.is_some()
    }

    /// Asks for the list of members if that was not done on this connection, or long ago.
    fn find_members_if_due(&self, connection: &Arc<Connection>) {
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

async fn find_members(shared: Weak<Shared>, connection: Arc<Connection>) {
    let Some((timing, scheme)) = shared.upgrade().map(|shared| {
        let scheme = connection.target.endpoint.scheme;
        (shared.lock().timing, scheme)
    }) else {
        return;
    };
    let deadline = Deadline::after(timing.retry_timeout);
    let endpoints = match deadline.bound("ask for members", members::ask(&connection, scheme)).await {
        Ok(Ok(endpoints)) => endpoints,
        Ok(Err(cause)) => return tracing::debug!(%cause, "etcd's members are unknown"),
        Err(cause) => return tracing::debug!(%cause, "etcd's members are unknown"),
    };
    if let Some(shared) = shared.upgrade() {
        // Members whose names cannot be resolved are left out; the configured servers are known already.
        let _ = shared.look_up(Some(endpoints), deadline).await;
    }
}

impl Shared {
    /// State changes are complete before the guard is dropped, so that a poisoned lock is still a good one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves configured servers and `members`; without new members those known stay. A name that cannot be resolved
    /// keeps its last addresses. Fails if no server has an address.
    async fn look_up(&self, members: Option<Vec<Endpoint>>, deadline: Deadline) -> Result<(), Failure> {
        let mut endpoints = self.config.endpoints.clone();
        let mut servers = endpoints.len();
        match members {
            Some(members) => {
                servers = servers.max(members.len());
                endpoints.extend(members);
            }
            None => {
                let state = self.lock();
                servers = state.servers;
                endpoints.extend(state.targets.iter().map(|target| target.endpoint.clone()));
            }
        }
        let mut unique: Vec<Endpoint> = Vec::new();
        for endpoint in endpoints {
            if !unique.contains(&endpoint) {
                unique.push(endpoint);
            }
        }
        let found = join_all(unique.iter().map(|endpoint| resolve(endpoint, deadline))).await;
        let mut state = self.lock();
        let mut targets: Vec<Target> = Vec::new();
        let mut problems: Vec<String> = Vec::new();
        for (endpoint, found) in unique.into_iter().zip(found) {
            match found {
                Ok(found) => drop(state.addresses.insert(endpoint.clone(), found)),
                Err(problem) => problems.push(problem),
            }
            for &address in state.addresses.get(&endpoint).into_iter().flatten() {
                let known = |t: &Target| t.address == address && t.endpoint.scheme == endpoint.scheme;
                if !targets.iter().any(known) {
                    targets.push(Target { endpoint: endpoint.clone(), address });
                }
            }
        }
        // Where the rotation stands is kept.
        let at = state.connection.as_ref().map(|c| c.target.clone()).or(state.targets.get(state.next).cloned());
        state.next = at.and_then(|at| targets.iter().position(|target| *target == at)).unwrap_or_default();
        state.servers = servers;
        state.targets = targets;
        let listed: Vec<Endpoint> = state.targets.iter().map(|target| target.endpoint.clone()).collect();
        state.addresses.retain(|endpoint, _| listed.contains(endpoint));
        if state.targets.is_empty() { Err(Failure::unreachable(problems.join("; "))) } else { Ok(()) }
    }
}

async fn resolve(endpoint: &Endpoint, deadline: Deadline) -> Result<Vec<SocketAddr>, String> {
    if let Some(address) = endpoint.address() {
        return Ok(vec![SocketAddr::new(address, endpoint.port)]);
    }
    let host = endpoint.host.as_str();
    let problem = match deadline.bound("the name server did not answer", tokio::net::lookup_host((host, endpoint.port))).await {
        Ok(Ok(found)) => match found.collect::<Vec<_>>() {
            found if found.is_empty() => "it has no address".to_owned(),
            found => return Ok(found),
        },
        Ok(Err(error)) => error.to_string(),
        Err(expired) => expired.to_string(),
    };
    tracing::debug!(host, problem, "cannot resolve the name of an etcd server");
    Err(format!("cannot resolve `{host}`: {problem}"))
}

impl State {
    /// Turns to the server after `target`, if that is the one whose turn it is.
    fn skip(&mut self, target: &Target) {
        if self.targets.get(self.next) == Some(target) {
            self.next = (self.next + 1) % self.targets.len();
        }
    }
}

/// No time was left to try anything.
pub(crate) fn too_late(operation: &'static str) -> Error {
    Error::new(STORE, operation, ErrorKind::Unavailable, Fate::NotApplied).because("the deadline had passed before")
}
