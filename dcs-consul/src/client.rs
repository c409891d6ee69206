//! Requests to the one endpoint: the connection, its time limits, the token and TLS.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::tls::{ClientTls, TlsError, Verify};
use dcs_core::{Deadline, Timing};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use crate::config::{Access, Config, Mode};
use crate::error::{Failure, in_one_line};

/// Everything but what may stand in a path as it is. Slashes separate the parts of a key.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// Everything but what may stand in a value of a query, or in one part of a path.
const IN_PARTS: &AsciiSet = &IN_PATHS.add(b'/');

/// The least that one attempt gets, if there is as much.
const LEAST_SHARE: Duration = Duration::from_secs(1);

/// A handle to the endpoint; clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endpoint: String,
    dc: Option<String>,
    timing: Mutex<Timing>,
    access: Mutex<Access>,
    /// Made when it is needed, out of the access and the timing of then.
    http: Mutex<Option<reqwest::Client>>,
}

/// One question.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: Method,
    /// Behind `/v1/`, with a query if it ends with one.
    path: String,
    body: Option<Vec<u8>>,
    limit: Limit,
}

/// How long an answer is awaited, at most.
#[derive(Clone, Copy, Debug)]
enum Limit {
    /// A share of the time that an operation has.
    Share,
    /// Consul answers no sooner than something happens, or this much later.
    Long(Duration),
}

/// One answer, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// `X-Consul-Index`; nothing if it is not there, which means that something other than Consul may have answered.
    pub(crate) index: Option<u64>,
    /// `X-Consul-KnownLeader: false`: the server has lost its leader and may be behind.
    pub(crate) leaderless: bool,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The text of an answer that was not hoped for, as a failure.
    pub(crate) fn failure(&self) -> Failure {
        Failure::answered(self.status, &self.text())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|problem| {
            let text: String = self.text().split_whitespace().collect::<Vec<_>>().join(" ").chars().take(100).collect();
            Failure::malformed(format!("{problem} in `{text}`"))
        })
    }
}

/// A key or prefix as Consul spells it: without a slash in front.
pub(crate) fn without_slash(key: &str) -> &str {
    key.strip_prefix('/').unwrap_or(key)
}

/// One part of a path.
pub(crate) fn part(text: &str) -> String {
    utf8_percent_encode(text, IN_PARTS).to_string()
}

impl Request {
    pub(crate) fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn put(path: &str) -> Self {
        Self::new(Method::PUT, path)
    }

    /// `path` is written already as it stands in a URL.
    pub(crate) fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), body: None, limit: Limit::Share }
    }

    /// A request about a key, which is encoded.
    pub(crate) fn of_key(method: Method, key: &str) -> Self {
        Self::new(method, &format!("kv/{}", utf8_percent_encode(without_slash(key), IN_PATHS)))
    }

    pub(crate) fn with_body(mut self, body: Vec<u8>) -> Self {
        self.body = Some(body);
        self
    }

    /// Adds `name` to the query. For Consul such a thing is true by being there, whatever its value.
    pub(crate) fn flag(mut self, name: &str) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(name);
        self
    }

    pub(crate) fn parameter(self, name: &str, value: &str) -> Self {
        self.flag(&format!("{name}={}", utf8_percent_encode(value, IN_PARTS)))
    }

    pub(crate) fn mode(self, mode: Mode) -> Self {
        match mode {
            Mode::Default => self,
            Mode::Consistent => self.flag("consistent"),
            Mode::Stale => self.flag("stale"),
        }
    }

    /// Awaits a change after `index`, `wait` at most. Consul adds up to a sixteenth of that by chance.
    pub(crate) fn blocking(self, index: u64, wait: Duration) -> Self {
        let request = self.parameter("index", &index.to_string()).parameter("wait", &format!("{}ms", wait.as_millis()));
        Self { limit: Limit::Long(wait + (wait / 15).max(Duration::from_secs(1))), ..request }
    }
}

impl Client {
    pub(crate) fn new(config: &Config, timing: Timing) -> Self {
        Self(Arc::new(Shared {
            endpoint: config.endpoint.clone(),
            dc: config.dc.clone(),
            timing: Mutex::new(timing),
            access: Mutex::new(config.access.clone()),
            http: Mutex::default(),
        }))
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    pub(crate) fn timing(&self) -> Timing {
        *lock(&self.0.timing)
    }

    pub(crate) fn set_timing(&self, timing: Timing) {
        let before = std::mem::replace(&mut *lock(&self.0.timing), timing);
        if before != timing {
            // The library takes its limits once and for all.
            lock(&self.0.http).take();
        }
    }

    /// The consistency of relaxed reads.
    pub(crate) fn mode(&self) -> Mode {
        lock(&self.0.access).mode
    }

    /// The current token, only to notice when it changes.
    pub(crate) fn token(&self) -> Option<String> {
        lock(&self.0.access).token.clone()
    }

    /// Goes on with another token and other certificates; those are tried first, and if they are of no use nothing changes.
    pub(crate) async fn set_access(&self, access: Access) -> Result<(), TlsError> {
        if access == *lock(&self.0.access) && self.is_plain() {
            return Ok(());
        }
        if !self.is_plain() {
            let settings = access.tls.clone();
            let made = tokio::task::spawn_blocking(move || settings.config()).await;
            made.map_or(Ok(()), |made| made.map(drop))?;
        }
        *lock(&self.0.access) = access;
        lock(&self.0.http).take();
        Ok(())
    }

    fn is_plain(&self) -> bool {
        self.0.endpoint.starts_with("http:")
    }

    /// The time for one attempt: a third of what an operation may take, but at least a second. There is one endpoint, so an
    /// operation has three attempts.
    pub(crate) fn share(&self, deadline: Deadline) -> Deadline {
        deadline.at_most((self.timing().retry_timeout / 3).max(LEAST_SHARE))
    }

    /// Asks once, in the datacenter of the configuration. Any status is an answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection if an answer was outstanding.
    pub(crate) async fn ask(&self, request: Request, deadline: Deadline) -> Result<Response, Failure> {
        let request = match &self.0.dc {
            Some(dc) => request.parameter("dc", dc),
            None => request,
        };
        self.ask_agent(request, deadline).await
    }

    /// The same, of the endpoint itself: agents have no datacenter to choose.
    pub(crate) async fn ask_agent(&self, request: Request, deadline: Deadline) -> Result<Response, Failure> {
        let limit = match request.limit {
            Limit::Share => self.share(deadline),
            Limit::Long(limit) => deadline.at_most(limit),
        };
        let answer = limit.bound("Consul", async {
            let http = self.http().await?;
            let answer = self.send(&http, request).await;
            if answer.is_err() && !self.is_plain() {
                // Certificates may have been exchanged on disk: the next connection reads them anew.
                lock(&self.0.http).take();
            }
            answer
        });
        answer.await.map_err(Failure::late)?
    }

    async fn send(&self, http: &reqwest::Client, request: Request) -> Result<Response, Failure> {
        let url = format!("{}/v1/{}", self.0.endpoint, request.path);
        let mut headers = HeaderMap::new();
        if let Some(token) = self.token() {
            let mut value =
                HeaderValue::try_from(token).map_err(|_| Failure::settings("`consul.token` cannot be sent in an HTTP header"))?;
            value.set_sensitive(true);
            headers.insert("X-Consul-Token", value);
        }
        let mut builder = http.request(request.method, url).headers(headers);
        if let Some(body) = request.body {
            builder = builder.header(CONTENT_TYPE, "application/json").body(body);
        }
        let answer = builder.send().await.map_err(Failure::transport)?;
        let header = |name: &str| answer.headers().get(name)?.to_str().ok();
        let index = header("X-Consul-Index").and_then(|index| index.parse().ok());
        let leaderless = header("X-Consul-KnownLeader") == Some("false");
        let status = answer.status().as_u16();
        let body = answer.bytes().await.map_err(Failure::transport)?.to_vec();
        Ok(Response { status, index, leaderless, body })
    }

    async fn http(&self) -> Result<reqwest::Client, Failure> {
        if let Some(http) = &*lock(&self.0.http) {
            return Ok(http.clone());
        }
        let tls =
            if self.is_plain() { ClientTls { verify: Verify::Nothing, ..ClientTls::default() } } else { lock(&self.0.access).tls.clone() };
        let timing = self.timing();
        let made = tokio::task::spawn_blocking(move || make(&tls, timing)).await.map_err(Failure::late)??;
        *lock(&self.0.http) = Some(made.clone());
        Ok(made)
    }
}

/// Makes the library's client. Reads files, and blocks while it does.
fn make(tls: &ClientTls, timing: Timing) -> Result<reqwest::Client, Failure> {
    let config = tls.config().map_err(|error| Failure::settings(in_one_line(&error)))?;
    // A connection whose other end is gone is given up before the keys expire, even if nobody uses it but a long poll.
    let idle = timing.loop_wait + timing.retry_timeout;
    let interval = (timing.ttl.saturating_sub(idle) / 3).max(Duration::from_secs(1));
    reqwest::Client::builder()
        .user_agent(concat!("Quorate/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(config)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        // A name may have several addresses, of which the first is dead.
        .connect_timeout((timing.retry_timeout / 6).max(LEAST_SHARE))
        .tcp_keepalive(idle)
        .tcp_keepalive_interval(interval)
        .tcp_keepalive_retries(3)
        .tcp_user_timeout(timing.ttl)
        .build()
        .map_err(|error| Failure::settings(in_one_line(&error)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_and_flags_have_no_value() {
        let request = Request::of_key(Method::GET, "/service/my scope/members/ö?#%/a").flag("recurse").mode(Mode::Stale);
        assert_eq!(request.path, "kv/service/my%20scope/members/%C3%B6%3F%23%25/a?recurse&stale");
        let request = Request::of_key(Method::PUT, "/a").parameter("dc", "x&y/z").blocking(7, Duration::from_secs(30));
        assert_eq!(request.path, "kv/a?dc=x%26y%2Fz&index=7&wait=30000ms");
    }

    #[test]
    fn an_answer_that_is_no_json_is_shown_in_the_error() {
        let answer = Response { status: 200, index: None, leaderless: false, body: b"<html>\n<title>Log in</title>".to_vec() };
        let failure = answer.json::<Vec<u64>>().unwrap_err();
        let text = failure.into_error("load the cluster").chain();
        assert!(text.contains("cannot be understood") && text.contains("`<html> <title>Log in</title>`"), "{text}");
    }
}
