//! One server, by HTTP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::{BoxError, Fate, Timing};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use tokio::net::TcpStream;

use super::STORE;
use super::answer::Reply;
use super::error;
use crate::config::{Access, Credentials};
use crate::connect::Target;
use crate::endpoint::Scheme;
use crate::failure::{Chain, Class, Failure, text_of};
use crate::history::Header;
use crate::members;
use crate::wire::Wire;

/// A whole cluster has to fit into one answer.
const LARGEST_ANSWER: usize = 64 << 20;

/// What stands for itself in a path or a form.
const LITERAL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A way to one server.
#[derive(Debug)]
pub(super) struct Connection {
    target: Target,
    serial: u64,
    answered: AtomicBool,
    certified: bool,
    http: reqwest::Client,
    credentials: Option<Credentials>,
}

/// One request on a key.
#[derive(Clone, Debug)]
pub(super) struct Request<'a> {
    method: Method,
    key: &'a str,
    parameters: Vec<(&'static str, Vec<u8>)>,
}

impl<'a> Request<'a> {
    pub(super) fn get(key: &'a str) -> Self {
        Self { method: Method::GET, key, parameters: Vec::new() }
    }

    pub(super) fn put(key: &'a str, value: &[u8]) -> Self {
        Self { method: Method::PUT, key, parameters: vec![("value", value.to_vec())] }
    }

    pub(super) fn delete(key: &'a str) -> Self {
        Self { method: Method::DELETE, key, parameters: Vec::new() }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.parameters.push((name, value.to_string().into_bytes()));
        self
    }

    fn path(&self) -> String {
        let parts = self.key.split('/').filter(|part| !part.is_empty());
        parts.fold("/v2/keys".to_owned(), |path, part| format!("{path}/{}", encoded(part.as_bytes())))
    }

    fn form(&self) -> String {
        let pairs: Vec<String> = self.parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        pairs.join("&")
    }
}

fn encoded(bytes: &[u8]) -> String {
    percent_encode(bytes, LITERAL).to_string()
}

#[async_trait]
impl Wire for Connection {
    const STORE: &'static str = STORE;

    async fn open(target: Target, serial: u64, access: Access, timing: Timing) -> Result<Self, Failure> {
        let Access { credentials, tls } = access;
        let certified = tls.cert.is_some();
        // Read anew for every connection, so that renewed certificates are used without a restart. Small local files.
        let builder = match tokio::task::spawn_blocking(move || crate::http::builder(&tls)).await {
            Ok(Ok(builder)) => builder,
            Ok(Err(error)) => {
                return Err(Failure { class: Class::Misconfigured, fate: Fate::NotApplied, cause: Box::new(error) });
            }
            Err(error) => return Err(Failure::unreachable(error)),
        };
        // The client connects when it is first asked for something. Whether anybody listens is seen before.
        let reached = TcpStream::connect(target.address).await;
        reached.map_err(|error| Failure::unreachable(Chain(format!("cannot connect to {target}: {error}"))))?;
        // A dead peer is noticed within the ttl, as for the other protocol.
        let idle = timing.loop_wait + timing.retry_timeout;
        let builder = builder
            .tcp_keepalive(idle)
            .tcp_keepalive_interval((timing.ttl.saturating_sub(idle) / 3).max(Duration::from_secs(1)))
            .tcp_keepalive_retries(3)
            .tcp_user_timeout(timing.ttl);
        let builder = if target.endpoint.address().is_some() { builder } else { builder.resolve(&target.endpoint.host, target.address) };
        Ok(Self { serial, answered: AtomicBool::new(false), certified, http: builder.build()?, credentials, target })
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn serial(&self) -> u64 {
        self.serial
    }

    fn has_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    fn explain(&self, failure: Failure) -> Failure {
        if self.answered.load(Ordering::Relaxed) || failure.class != Class::Broken {
            return failure;
        }
        failure.perhaps(match (self.target.endpoint.scheme, self.certified) {
            (Scheme::Http, _) => "perhaps it speaks TLS",
            (Scheme::Https, true) => "perhaps the server does not accept our client certificate",
            (Scheme::Https, false) => "perhaps the server asks for a client certificate (`cert` and `key`)",
        })
    }

    async fn members(&self) -> Result<Vec<crate::endpoint::Endpoint>, BoxError> {
        let response = self.request(Method::GET, "/v2/machines", "").await.map_err(|failure| failure.cause)?;
        let text = response.error_for_status()?.text().await?;
        Ok(members::usable(text.split(',').map(str::trim), self.target.endpoint.scheme))
    }
}

impl Connection {
    /// Does `request` and makes sense of the answer. One about another key is none, whoever gave it.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let response = self.begin(request).await?;
        let reply = self.finish(response).await?;
        match &reply.outcome {
            Ok(event) if event.node.key != request.key.trim_end_matches('/') || event.node.modified_index == 0 => {
                let cause = format!("the answer is about `{}`, not `{}`", event.node.key, request.key);
                Err(Failure { class: Class::Malformed, fate: Fate::Unknown, cause: cause.into() })
            }
            _ => Ok(reply),
        }
    }

    /// Sends `request`, and comes back when the beginning of the answer is there.
    pub(super) async fn begin(&self, request: &Request<'_>) -> Result<reqwest::Response, Failure> {
        self.request(request.method.clone(), &request.path(), &request.form()).await
    }

    /// Reads the rest of an answer.
    pub(super) async fn finish(&self, mut response: reqwest::Response) -> Result<Reply, Failure> {
        let (status, header) = (response.status().as_u16(), header_of(response.headers()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > LARGEST_ANSWER {
                let cause = format!("an answer of more than {LARGEST_ANSWER} bytes");
                return Err(Failure { class: Class::Malformed, fate: Fate::Unknown, cause: cause.into() });
            }
        }
        error::read(status, header, &body)
    }

    async fn request(&self, method: Method, path: &str, form: &str) -> Result<reqwest::Response, Failure> {
        let in_body = method == Method::PUT;
        let question_mark = if in_body || form.is_empty() { "" } else { "?" };
        let query = if in_body { "" } else { form };
        let url = format!("{}{path}{question_mark}{query}", self.target.endpoint.url());
        let url = Url::parse(&url).map_err(|error| Failure {
            class: Class::Misconfigured,
            fate: Fate::NotApplied,
            cause: Box::new(Chain(text_of(&error))),
        })?;
        let mut request = self.http.request(method, url);
        if let Some(Credentials { username, password }) = &self.credentials {
            request = request.basic_auth(username, Some(password));
        }
        if in_body {
            let kind = "application/x-www-form-urlencoded";
            request = request.header(reqwest::header::CONTENT_TYPE, kind).body(form.to_owned());
        }
        Ok(request.send().await?)
    }
}

/// What an answer says about its server.
pub(super) fn header_of(headers: &HeaderMap) -> Header {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let number = |name: &str| text(name).and_then(|text| text.parse().ok()).unwrap_or_default();
    Header {
        cluster: text("x-etcd-cluster-id").and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or_default(),
        term: number("x-raft-term"),
        revision: number("x-etcd-index"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_encoded_whatever_is_in_them() {
        let request = Request::put("/service/demo/members/a b?c#d%ä", b"x=1&y=\xff\n").with("ttl", 30).with("prevExist", false);
        assert_eq!(request.path(), "/v2/keys/service/demo/members/a%20b%3Fc%23d%25%C3%A4");
        assert_eq!(request.form(), "value=x%3D1%26y%3D%FF%0A&ttl=30&prevExist=false");
        assert_eq!(Request::get("/service/demo/").path(), "/v2/keys/service/demo");
    }

    #[test]
    fn headers_say_where_the_server_stands() {
        let mut headers = HeaderMap::new();
        assert_eq!(header_of(&headers), Header::default());
        for (name, value) in [("X-Etcd-Cluster-Id", "e11dcd81b3a2a8b"), ("X-Etcd-Index", "7"), ("X-Raft-Term", "2")] {
            headers.insert(name, value.parse().unwrap());
        }
        assert_eq!(header_of(&headers), Header { cluster: 0x0e11_dcd8_1b3a_2a8b, term: 2, revision: 7 });
    }
}
