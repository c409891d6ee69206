//! Requests: which server, how long, with which credentials, and what came back.
//!
//! One server is used as long as it works. One call is one attempt for a write, because only the caller knows what repeating
//! it would mean; reads, and what certainly reached no server, go on to the next server inside the call. A request that misses
//! its time takes its connection along, and all that are idle: HTTP/1 has no other way to say that an answer is not wanted any
//! more, and where one connection hangs the others do too.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dcs_core::{Clock, Deadline, Moment, Timing};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT, WARNING};
use http::{HeaderValue, Method, Request, Response, Uri};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::TokioExecutor;
use kube::client::Body;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::access::Entrance;
use crate::config::Access;
use crate::connect::Connector;
use crate::error::{Class, Failure};
use crate::object::Object;

/// The least time worth giving to an attempt.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);
/// Credentials and certificates are not read anew more often than this, whatever fails.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// More than any list of pods has. Whatever answers so much is no API server.
const LARGEST_ANSWER: usize = 256 << 20;
/// The object that names the API servers themselves.
const API_SERVERS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";

/// What a request changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: it may go to another server in the same call.
    None,
    /// Something.
    Write,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    /// Media type and text.
    pub(crate) body: Option<(&'static str, Bytes)>,
}

impl Ask {
    pub(crate) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: None }
    }

    fn effect(&self) -> Effect {
        if self.method == Method::GET { Effect::None } else { Effect::Write }
    }
}

/// How much of an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// All of it, within the deadline.
    Everything,
    /// That it begins; it does not end.
    Beginning,
}

/// An answer of success.
enum Got {
    Everything(Vec<u8>),
    Beginning(Incoming),
}

/// Talks to the API servers.
pub(crate) struct Client {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Changes whenever another server is used, so that whoever listens to the former one can follow.
    switched: watch::Sender<u64>,
    /// Held by whoever reads the first list of API servers.
    reading: tokio::sync::Mutex<()>,
    /// Warnings of servers that were passed on already.
    warned: Mutex<HashSet<String>>,
}

struct State {
    access: Access,
    retriable: Vec<u16>,
    bypass: bool,
    timing: Timing,
    opened: Option<Opened>,
    /// The addresses of the API servers, if they are used instead of the configured one, which comes last then.
    direct: Vec<String>,
    direct_read_at: Option<Moment>,
    /// Of the direct ones and the configured one, in this order.
    current: usize,
}

/// What was read, and the connections made with it.
struct Opened {
    entrance: Arc<Entrance>,
    read_at: Moment,
    by_name: Pool<Connector, Body>,
    by_address: Pool<Connector, Body>,
}

/// One attempt's server.
struct Target {
    uri: Uri,
    index: usize,
    pool: Pool<Connector, Body>,
    entrance: Arc<Entrance>,
}

impl Client {
    pub(crate) fn new(access: Access, bypass: bool, retriable: Vec<u16>, timing: Timing, clock: Arc<dyn Clock>) -> Self {
        let state = State { access, retriable, bypass, timing, opened: None, direct: Vec::new(), direct_read_at: None, current: 0 };
        Self {
            clock,
            state: Mutex::new(state),
            switched: watch::Sender::new(0),
            reading: tokio::sync::Mutex::default(),
            warned: Mutex::default(),
        }
    }

    pub(crate) fn set_timing(&self, timing: Timing) {
        self.state().timing = timing;
    }

    /// Takes over what may have changed in the configuration. Connections that work stay until they are needed no more.
    pub(crate) fn set_access(&self, access: Access, bypass: bool, retriable: Vec<u16>) {
        let mut state = self.state();
        if state.access != access {
            state.access = access;
            state.opened = None;
        }
        state.retriable = retriable;
        if state.bypass != bypass {
            state.bypass = bypass;
            state.direct.clear();
            state.direct_read_at = None;
            state.current = 0;
        }
    }

    /// The `host:port` that is used now, once something has been sent.
    pub(crate) fn server(&self) -> Option<String> {
        let state = self.state();
        match state.direct.get(state.current) {
            Some(address) => Some(address.clone()),
            None => state.opened.as_ref()?.entrance.server.authority().map(ToString::to_string),
        }
    }

    /// Tells when another server is used.
    pub(crate) fn switches(&self) -> watch::Receiver<u64> {
        self.switched.subscribe()
    }

    /// Asks, and reads the answer as JSON.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes its connection; a write may have happened.
    pub(crate) async fn call<T: DeserializeOwned>(&self, ask: &Ask, deadline: Deadline) -> Result<T, Failure> {
        match self.ask(ask, deadline, Want::Everything).await? {
            Got::Everything(body) => serde_json::from_slice(&body).map_err(Failure::strange),
            Got::Beginning(_) => Err(Failure::strange("the answer has only begun")),
        }
    }

    /// Asks for something that does not end, and returns as soon as it begins.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes its connection.
    pub(crate) async fn open(&self, ask: &Ask, deadline: Deadline) -> Result<Incoming, Failure> {
        match self.ask(ask, deadline, Want::Beginning).await? {
            Got::Beginning(body) => Ok(body),
            Got::Everything(_) => Err(Failure::strange("the answer has ended")),
        }
    }

    /// Goes through the servers until one answers, or the answer is one that another server would give as well.
    async fn ask(&self, ask: &Ask, deadline: Deadline, want: Want) -> Result<Got, Failure> {
        self.know_servers(deadline).await?;
        let servers = self.servers();
        let mut tried = 0;
        let mut asked_anew = false;
        loop {
            let target = self.target(deadline).await?;
            let bounds = deadline.at_most(self.share());
            let failure = match self.attempt(ask, &target, bounds, want).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            tried += 1;
            match failure.class {
                Class::Unknown if !asked_anew && target.entrance.forget_credentials() => {
                    // The token was exchanged. Nothing was applied.
                    asked_anew = true;
                    tried -= 1;
                    self.read_again();
                }
                Class::NextServer => {
                    self.give_up(&target);
                    let may_repeat = ask.effect() == Effect::None || failure.fate == dcs_core::Fate::NotApplied;
                    if !may_repeat || tried >= servers || deadline.has_passed() {
                        return Err(failure);
                    }
                    tracing::debug!(server = %target.uri, error = %failure.cause, "the API server does not answer; trying the next one");
                }
                Class::Busy => {
                    self.next_after(target.index);
                    return Err(failure);
                }
                _ => return Err(failure),
            }
        }
    }

    async fn attempt(&self, ask: &Ask, target: &Target, deadline: Deadline, want: Want) -> Result<Got, Failure> {
        let header = target.entrance.authorization(&*self.clock);
        let header = deadline.bound("read the credentials", header).await.map_err(Failure::not_sent)?;
        // It may be being exchanged just now, so that there is nothing for a moment.
        let request = request(ask, &target.uri, header.map_err(Failure::not_sent)?)?;
        let response = match deadline.bound("an answer of the API server", target.pool.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_connect() => return Err(Failure::not_sent(error)),
            Ok(Err(error)) => return Err(Failure::no_answer(error)),
            Err(expired) => return Err(Failure::no_answer(expired)),
        };
        self.pass_warnings_on(&response);
        let code = response.status().as_u16();
        if response.status().is_success() {
            let body = response.into_body();
            return match want {
                Want::Beginning => Ok(Got::Beginning(body)),
                Want::Everything => collect(body, deadline).await.map(Got::Everything),
            };
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // The code says enough, if the words get lost.
        let body = collect(response.into_body(), deadline).await.unwrap_or_default();
        let mut failure = Failure::from_answer(code, retry_after.as_deref(), &body);
        // What the answer means for the caller comes first: no code of these can be made one to wait for.
        let means_something = matches!(failure.class, Class::Conflict | Class::Absent | Class::Expired);
        if !means_something && self.state().retriable.contains(&code) {
            failure.class = Class::Busy;
        }
        Err(failure)
    }

    /// Where the next attempt goes.
    async fn target(&self, deadline: Deadline) -> Result<Target, Failure> {
        if let Some(target) = self.state().target()? {
            return Ok(target);
        }
        let access = self.state().access.clone();
        let read = access.clone();
        // A credential program may take its time.
        let entrance = tokio::task::spawn_blocking(move || Entrance::open(&read));
        let entrance = deadline.bound("read the credentials", entrance).await.map_err(Failure::not_sent)?;
        let entrance = entrance.map_err(Failure::misconfigured)?;
        let mut state = self.state();
        match entrance {
            Ok(entrance) => state.opened = Some(state.connections(entrance, self.clock.now())),
            Err(error) => return Err(Failure::misconfigured(error)),
        }
        state.target()?.ok_or_else(|| Failure::misconfigured("the settings changed meanwhile"))
    }

    /// The share of one attempt: with several servers each gets its part of the time, one alone gets two tries.
    fn share(&self) -> Duration {
        let state = self.state();
        let parts = u32::try_from(state.direct.len().max(2)).unwrap_or(u32::MAX);
        (state.timing.retry_timeout / parts).max(SHORTEST_ATTEMPT)
    }

    fn servers(&self) -> usize {
        self.state().direct.len() + 1
    }

    /// A server did not answer: the next one is used from now on, and nothing that was open before.
    fn give_up(&self, target: &Target) {
        {
            let mut state = self.state();
            let now = self.clock.now();
            // Its certificate, or ours, may have been exchanged.
            if state.opened.as_ref().is_some_and(|opened| now - opened.read_at > READ_AGAIN_AFTER) {
                state.opened = None;
            } else if let Some(opened) = state.opened.take() {
                let read_at = opened.read_at;
                state.opened = Some(state.connections_with(opened.entrance, read_at));
            }
        }
        self.next_after(target.index);
        self.switched.send_modify(|switches| *switches += 1);
    }

    fn next_after(&self, index: usize) {
        let mut state = self.state();
        if state.current == index {
            state.current = (index + 1) % (state.direct.len() + 1);
        }
    }

    /// Credentials and certificates are read anew for the next attempt.
    fn read_again(&self) {
        let mut state = self.state();
        let read_at = state.opened.as_ref().map(|opened| opened.read_at);
        if read_at.is_some_and(|read_at| self.clock.now() - read_at > READ_AGAIN_AFTER) {
            state.opened = None;
        }
    }

    /// With `bypass_api_service` the servers must be known before anything is asked.
    async fn know_servers(&self, deadline: Deadline) -> Result<(), Failure> {
        let unknown = || {
            let state = self.state();
            state.bypass && state.direct.is_empty()
        };
        if !unknown() {
            return Ok(());
        }
        // Both watches begin at the same time.
        let _one = deadline.bound("read the list of API servers", self.reading.lock()).await.map_err(Failure::not_sent)?;
        if unknown() { self.read_servers(deadline).await } else { Ok(()) }
    }

    /// Reads the list of API servers if it is `loop_wait` old. What goes wrong with that is not the caller's concern: the
    /// servers that are known stay.
    pub(crate) async fn refresh_servers(&self, deadline: Deadline) {
        let due = {
            let state = self.state();
            let age = state.direct_read_at.map(|read_at| self.clock.now() - read_at);
            state.bypass && !state.direct.is_empty() && age.is_none_or(|age| age > state.timing.loop_wait)
        };
        if due && let Err(failure) = self.read_servers(deadline).await {
            tracing::debug!(error = %failure.cause, "the list of API servers could not be read; those that are known stay in use");
        }
    }

    async fn read_servers(&self, deadline: Deadline) -> Result<(), Failure> {
        let ask = Ask::get(API_SERVERS.to_owned());
        let target = self.target(deadline).await?;
        let bounds = deadline.at_most(self.share());
        let object = match self.attempt(&ask, &target, bounds, Want::Everything).await {
            Ok(Got::Everything(body)) => serde_json::from_slice::<Object>(&body).map_err(Failure::strange),
            Ok(Got::Beginning(_)) => Err(Failure::strange("the answer has only begun")),
            Err(failure) => Err(failure),
        };
        match object {
            Ok(object) => {
                let mut found = object.addresses_of("https");
                let mut state = self.state();
                state.direct_read_at = Some(self.clock.now());
                found.sort();
                let mut known = state.direct.clone();
                known.sort();
                if found != known && !found.is_empty() {
                    let in_use = state.direct.get(state.current).cloned();
                    fastrand::shuffle(&mut found);
                    tracing::info!(servers = ?found, "talking to the API servers themselves");
                    state.current = found.iter().position(|address| Some(address) == in_use.as_ref()).unwrap_or(0);
                    state.direct = found;
                } else if state.current >= state.direct.len() {
                    // The Service helped out while none of them answered.
                    state.current = 0;
                }
                Ok(())
            }
            Err(failure) if matches!(failure.class, Class::Denied) => {
                tracing::warn!(
                    error = %failure.cause,
                    "`kubernetes.bypass_api_service` is on, but reading the endpoints `kubernetes` in the namespace `default` is forbidden; going on without it"
                );
                let mut state = self.state();
                state.bypass = false;
                state.direct.clear();
                state.current = 0;
                Ok(())
            }
            Err(failure) => {
                if failure.class == Class::NextServer {
                    self.give_up(&target);
                }
                Err(failure)
            }
        }
    }

    /// Servers warn of what will stop working. Once is enough.
    fn pass_warnings_on(&self, response: &Response<Incoming>) {
        /// Nobody has more to say.
        const MOST: usize = 100;
        for warning in response.headers().get_all(WARNING) {
            let text = String::from_utf8_lossy(warning.as_bytes()).into_owned();
            let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
            if warned.len() < MOST && warned.insert(text.clone()) {
                tracing::info!(warning = text, "the API server warns");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn target(&self) -> Result<Option<Target>, Failure> {
        let Some(opened) = &self.opened else { return Ok(None) };
        let (uri, pool) = match self.direct.get(self.current) {
            Some(address) => (format!("https://{address}").parse().map_err(Failure::misconfigured)?, &opened.by_address),
            None => (opened.entrance.server.clone(), &opened.by_name),
        };
        Ok(Some(Target { uri, index: self.current, pool: pool.clone(), entrance: Arc::clone(&opened.entrance) }))
    }

    fn connections(&self, entrance: Entrance, read_at: Moment) -> Opened {
        self.connections_with(Arc::new(entrance), read_at)
    }

    fn connections_with(&self, entrance: Arc<Entrance>, read_at: Moment) -> Opened {
        let parts = u32::try_from(self.direct.len().max(2)).unwrap_or(u32::MAX);
        let patience = (self.timing.retry_timeout / parts / 2).max(SHORTEST_ATTEMPT);
        let pool = |tls: &Arc<rustls::ClientConfig>, server_name| {
            let connector = Connector { tls: Arc::clone(tls), server_name, timing: self.timing, patience };
            Pool::builder(TokioExecutor::new()).build(connector)
        };
        let by_name = pool(&entrance.tls, entrance.server_name.clone());
        let by_address = pool(&entrance.tls_by_address, None);
        Opened { by_name, by_address, read_at, entrance }
    }
}

fn request(ask: &Ask, server: &Uri, authorization: Option<HeaderValue>) -> Result<Request<Body>, Failure> {
    // The server may be behind a path of a proxy.
    let base = server.path().trim_end_matches('/');
    let authority = server.authority().ok_or_else(|| Failure::misconfigured("the server's address has no host"))?;
    let scheme = server.scheme_str().unwrap_or("https");
    let uri = format!("{scheme}://{authority}{base}{}", ask.path);
    let mut builder = Request::builder()
        .method(ask.method.clone())
        .uri(uri)
        .header(HOST, authority.as_str())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("quorate/", env!("CARGO_PKG_VERSION")));
    if let Some(authorization) = authorization {
        builder = builder.header(AUTHORIZATION, authorization);
    }
    let body = match &ask.body {
        Some((media, text)) => {
            builder = builder.header(CONTENT_TYPE, *media);
            Body::from(text.clone())
        }
        None => Body::empty(),
    };
    builder.body(body).map_err(Failure::misconfigured)
}

/// A whole body.
async fn collect(body: Incoming, deadline: Deadline) -> Result<Vec<u8>, Failure> {
    let mut body = body;
    let mut collected = Vec::new();
    loop {
        let chunk = deadline.bound("the rest of an answer", next_chunk(&mut body)).await.map_err(Failure::no_answer)?;
        match chunk {
            Some(Ok(chunk)) => collected.extend_from_slice(&chunk),
            Some(Err(error)) => return Err(Failure::no_answer(error)),
            None => return Ok(collected),
        }
        if collected.len() > LARGEST_ANSWER {
            return Err(Failure::strange("the answer is too long"));
        }
    }
}

/// The next piece of a body; nothing at its end.
pub(crate) async fn next_chunk(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    loop {
        match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await? {
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Some(Ok(data));
                }
            }
            Err(error) => return Some(Err(error)),
        }
    }
}
