//! What an answer of the API server, or the lack of one, means.
//!
//! One table maps HTTP status codes to a [`Class`], which says what to do next, and a [`Fate`], which says what became of a
//! write. The server's reasons (`Conflict`, `AlreadyExists`, ...) say nothing beyond their codes that matters here, and
//! proxies in front of it answer with codes only.

use std::fmt;
use std::time::Duration;

use dcs_core::{BoxError, Error, ErrorKind, Fate};
use serde::Deserialize;

/// The store's name in the configuration, in errors and in logs.
pub(crate) const STORE: &str = "kubernetes";

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// This server is of no use now: ask another.
    NextServer,
    /// The server cannot do it now: pause, ask again.
    Busy,
    /// The object is not what the request expected, or exists already.
    Conflict,
    /// The object does not exist.
    Absent,
    /// The resource version is too old to go on from.
    Expired,
    /// The server does not know us (any more): read the credentials again.
    Unknown,
    /// The server knows us and refuses.
    Denied,
    /// The server will never take this request.
    Refused,
    /// Local settings are wrong.
    Misconfigured,
    /// Not what an API server says.
    Strange,
}

/// A request, or the attempt to connect, failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(crate) fate: Fate,
    /// How long the server asked us to wait.
    pub(crate) pause: Option<Duration>,
    pub(crate) cause: BoxError,
}

/// From this code to that one, what to do, what became of a write.
type Row = (u16, u16, Class, Fate);

/// The first row that fits counts.
const TABLE: &[Row] = &[
    (400, 400, Class::Refused, Fate::NotApplied),
    (401, 401, Class::Unknown, Fate::NotApplied),
    (403, 403, Class::Denied, Fate::NotApplied),
    (404, 404, Class::Absent, Fate::NotApplied),
    (405, 406, Class::Refused, Fate::NotApplied),
    // A proxy gave up waiting for our request, or says so.
    (408, 408, Class::Busy, Fate::Unknown),
    (409, 409, Class::Conflict, Fate::NotApplied),
    (410, 410, Class::Expired, Fate::NotApplied),
    (413, 413, Class::Refused, Fate::NotApplied),
    (415, 415, Class::Refused, Fate::NotApplied),
    (422, 422, Class::Refused, Fate::NotApplied),
    // Turned away before it was looked at.
    (429, 429, Class::Busy, Fate::NotApplied),
    // etcd's time ran out, a webhook failed, a proxy lost its server: it may have been written before that.
    (500, 500, Class::Busy, Fate::Unknown),
    (501, 501, Class::Refused, Fate::NotApplied),
    (502, 599, Class::Busy, Fate::Unknown),
    (400, 499, Class::Strange, Fate::NotApplied),
    (0, u16::MAX, Class::Strange, Fate::Unknown),
];

/// What `code` means.
pub(crate) fn classify(code: u16) -> (Class, Fate) {
    let row = TABLE.iter().find(|(from, to, ..)| (*from..=*to).contains(&code));
    row.map_or((Class::Strange, Fate::Unknown), |(_, _, class, fate)| (*class, *fate))
}

/// What an API server says in the body of an answer that is not a success, and in a watch.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) message: String,
    pub(crate) reason: String,
    pub(crate) code: u16,
}

/// A server said no, in its own words.
#[derive(Debug)]
struct Answer {
    code: u16,
    status: Status,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.status.reason.is_empty() {
            write!(f, " {}", self.status.reason)?;
        }
        if !self.status.message.is_empty() {
            write!(f, ": {}", self.status.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Answer {}

/// How much of a body that is no status goes into an error.
const LONGEST_EXCERPT: usize = 200;

impl Failure {
    /// The failure that an answer stands for.
    pub(crate) fn from_answer(code: u16, retry_after: Option<&str>, body: &[u8]) -> Self {
        let status = serde_json::from_slice(body).unwrap_or_else(|_| Status {
            message: String::from_utf8_lossy(body).trim().chars().take(LONGEST_EXCERPT).collect(),
            ..Status::default()
        });
        let (class, fate) = classify(code);
        // A date is possible there too, but no API server writes one.
        let pause = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        Self { class, fate, pause, cause: Box::new(Answer { code, status }) }
    }

    /// No connection could be had.
    pub(crate) fn not_sent(cause: impl Into<BoxError>) -> Self {
        Self { class: Class::NextServer, fate: Fate::NotApplied, pause: None, cause: cause.into() }
    }

    /// The request may have been sent, and no answer came.
    pub(crate) fn no_answer(cause: impl Into<BoxError>) -> Self {
        Self { class: Class::NextServer, fate: Fate::Unknown, pause: None, cause: cause.into() }
    }

    /// The answer cannot be understood. It was one of success, so that what was asked for has been done.
    pub(crate) fn strange(cause: impl Into<BoxError>) -> Self {
        Self { class: Class::Strange, fate: Fate::Unknown, pause: None, cause: cause.into() }
    }

    /// Nothing can be sent with these settings.
    pub(crate) fn misconfigured(cause: impl Into<BoxError>) -> Self {
        Self { class: Class::Misconfigured, fate: Fate::NotApplied, pause: None, cause: cause.into() }
    }

    /// Whether the same request may do better a little later.
    pub(crate) fn may_pass(&self) -> bool {
        self.pause.is_some() || matches!(self.class, Class::NextServer | Class::Busy)
    }

    /// The error of the contract.
    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        let kind = match self.class {
            _ if self.may_pass() => ErrorKind::Unavailable,
            // A conflict or an absent object is a result wherever it can be expected.
            Class::NextServer | Class::Busy | Class::Conflict | Class::Expired => ErrorKind::Unavailable,
            Class::Unknown | Class::Denied => ErrorKind::Denied,
            Class::Absent | Class::Refused | Class::Misconfigured => ErrorKind::Misconfigured,
            Class::Strange => ErrorKind::Malformed,
        };
        Error::new(STORE, operation, kind, self.fate).because(self.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: u16, body: &str) -> Failure {
        Failure::from_answer(code, None, body.as_bytes())
    }

    /// Codes and reasons are those that `tests/specific` gets from a real server, as far as one can be brought to say them.
    #[test]
    fn every_answer_means_what_the_table_says() {
        use dcs_core::ErrorKind as K;
        let status = |code: u16, reason: &str, message: &str| {
            format!(
                r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"{message}","reason":"{reason}","code":{code}}}"#
            )
        };
        let cases = [
            (400, "BadRequest", "the object provided is unrecognized", Class::Refused, K::Misconfigured, Fate::NotApplied),
            (401, "Unauthorized", "Unauthorized", Class::Unknown, K::Denied, Fate::NotApplied),
            (403, "Forbidden", "endpoints is forbidden: User cannot list resource", Class::Denied, K::Denied, Fate::NotApplied),
            (404, "NotFound", "endpoints not found", Class::Absent, K::Misconfigured, Fate::NotApplied),
            (405, "MethodNotAllowed", "the server does not allow this method", Class::Refused, K::Misconfigured, Fate::NotApplied),
            (406, "NotAcceptable", "only the following media types are accepted", Class::Refused, K::Misconfigured, Fate::NotApplied),
            (409, "Conflict", "the object has been modified", Class::Conflict, K::Unavailable, Fate::NotApplied),
            (409, "AlreadyExists", "endpoints already exists", Class::Conflict, K::Unavailable, Fate::NotApplied),
            (410, "Expired", "too old resource version: 1 (2)", Class::Expired, K::Unavailable, Fate::NotApplied),
            (413, "RequestEntityTooLarge", "limit is 3145728", Class::Refused, K::Misconfigured, Fate::NotApplied),
            (415, "UnsupportedMediaType", "the body was in an unknown format", Class::Refused, K::Misconfigured, Fate::NotApplied),
            (422, "Invalid", "metadata.annotations: Too long", Class::Refused, K::Misconfigured, Fate::NotApplied),
            (429, "TooManyRequests", "too many requests", Class::Busy, K::Unavailable, Fate::NotApplied),
            (500, "InternalError", "etcdserver: request timed out", Class::Busy, K::Unavailable, Fate::Unknown),
            (503, "ServiceUnavailable", "apiserver is shutting down", Class::Busy, K::Unavailable, Fate::Unknown),
            (504, "Timeout", "request did not complete within requested timeout", Class::Busy, K::Unavailable, Fate::Unknown),
        ];
        for (code, reason, message, class, kind, fate) in cases {
            let failure = failure(code, &status(code, reason, message));
            assert_eq!((failure.class, failure.fate), (class, fate), "{code}");
            let error = failure.into_error("test");
            assert_eq!((error.kind, error.fate), (kind, fate), "{code}");
            assert!(error.chain().ends_with(&format!("{code} {reason}: {message}")), "{}", error.chain());
        }
    }

    /// What stands between us and an API server answers in HTML, or not at all.
    #[test]
    fn answers_of_proxies_are_understood_by_their_codes() {
        let cases = [
            (302, Class::Strange, Fate::Unknown),
            (407, Class::Strange, Fate::NotApplied),
            (408, Class::Busy, Fate::Unknown),
            (418, Class::Strange, Fate::NotApplied),
            (501, Class::Refused, Fate::NotApplied),
            (502, Class::Busy, Fate::Unknown),
            (599, Class::Busy, Fate::Unknown),
        ];
        for (code, class, fate) in cases {
            let failure = failure(code, "<html><body>Something else</body></html>");
            assert_eq!((failure.class, failure.fate), (class, fate), "{code}");
            assert!(failure.cause.to_string().contains("Something else"));
        }
    }

    #[test]
    fn a_server_that_says_how_long_to_wait_may_be_asked_again_whatever_the_code() {
        let failure = Failure::from_answer(403, Some("7"), b"");
        assert!(failure.may_pass());
        assert_eq!(failure.pause, Some(Duration::from_secs(7)));
        let error = failure.into_error("test");
        assert_eq!((error.kind, error.fate), (ErrorKind::Unavailable, Fate::NotApplied));
        assert!(!Failure::from_answer(403, Some("some day"), b"").may_pass());
    }

    #[test]
    fn what_was_not_sent_was_not_applied() {
        assert_eq!(Failure::not_sent("refused").into_error("test").fate, Fate::NotApplied);
        assert_eq!(Failure::no_answer("reset").into_error("test").fate, Fate::Unknown);
        let error = Failure::strange("not JSON").into_error("test");
        assert_eq!((error.kind, error.fate), (ErrorKind::Malformed, Fate::Unknown));
    }
}
