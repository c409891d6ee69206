//! What an answer of Consul, or the lack of one, means.
//!
//! One table maps HTTP status and Consul's words to a [`Class`], which says what happened, and a [`Fate`], which says what
//! became of a write. Consul gives the status 500 to very different failures, and 409 to every transaction that it did not
//! carry out, so that its words have to be looked at; those here have been the same from 0.7 to this day.

use dcs_core::{BoxError, Error, ErrorKind, Fate, chain};

/// The store's name in the configuration, in errors and in logs.
pub(crate) const STORE: &str = "consul";

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Consul, or the way to it, is of no use now.
    Unavailable,
    /// The session does not exist.
    SessionGone,
    /// The session's time to live is below or above Consul's limits.
    TtlRefused,
    /// The token does not allow it, or does not exist.
    Denied,
    /// The answer has not the form that it must have.
    Malformed,
    /// Consul will never take this request, or this is no Consul.
    Misconfigured,
}

/// A request failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(crate) fate: Fate,
    pub(crate) cause: BoxError,
}

/// Status (any if absent), a part of the text in lower case, what happened, what became of a write.
type Row = (Option<u16>, &'static str, Class, Fate);

/// The first row that fits counts.
const TABLE: &[Row] = &[
    // In Consul's words, which come with 500, with 4xx since Consul 1.14, or inside a transaction's answer. They are sought
    // with the quote behind them, so that a portal in front of Consul that talks of sessions of its own is not believed.
    (None, "invalid session ttl '", Class::TtlRefused, Fate::NotApplied),
    (None, "invalid session \"", Class::SessionGone, Fate::NotApplied),
    (None, "acl not found", Class::Denied, Fate::NotApplied),
    (None, "permission denied", Class::Denied, Fate::NotApplied),
    // These stand in front of every write.
    (Some(500), "no cluster leader", Class::Unavailable, Fate::NotApplied),
    (Some(500), "no path to datacenter", Class::Misconfigured, Fate::NotApplied),
    (Some(500), "missing check", Class::Unavailable, Fate::NotApplied),
    (Some(500), "missing node registration", Class::Unavailable, Fate::NotApplied),
    (Some(500), "is in critical state", Class::Unavailable, Fate::NotApplied),
    (None, "lock delay", Class::Unavailable, Fate::NotApplied),
    // By status.
    (Some(400), "", Class::Misconfigured, Fate::NotApplied),
    (Some(401), "", Class::Denied, Fate::NotApplied),
    (Some(403), "", Class::Denied, Fate::NotApplied),
    (Some(405), "", Class::Misconfigured, Fate::NotApplied),
    (Some(413), "", Class::Misconfigured, Fate::NotApplied),
    (Some(429), "", Class::Unavailable, Fate::NotApplied),
    // Whatever nobody thought of: proxies, 500 in the middle of an election, 404 from something that is no Consul.
    (None, "", Class::Unavailable, Fate::Unknown),
];

fn look_up(status: u16, text: &str) -> (Class, Fate) {
    let text = text.to_ascii_lowercase();
    TABLE
        .iter()
        .find(|(row, part, ..)| row.is_none_or(|row| row == status) && text.contains(part))
        .map_or((Class::Unavailable, Fate::Unknown), |(_, _, class, fate)| (*class, *fate))
}

/// The most of an answer's text that an error repeats.
const LONGEST_TEXT: usize = 300;

impl Failure {
    /// An answer that is none of those that were hoped for.
    pub(crate) fn answered(status: u16, text: &str) -> Self {
        let (class, fate) = look_up(status, text);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let words: String = words.chars().take(LONGEST_TEXT).collect();
        let hint = match status {
            300..=399 => "; perhaps `consul.url` or `consul.scheme` is not right",
            401 | 403 => "; look at `consul.token`",
            404 => "; perhaps this is not Consul",
            _ => "",
        };
        let separator = if words.is_empty() { "" } else { ": " };
        Self { class, fate, cause: format!("HTTP status {status}{separator}{words}{hint}").into() }
    }

    /// A transaction was undone for this reason.
    pub(crate) fn undone(text: &str) -> Self {
        let (class, _) = look_up(409, text);
        Self { class, fate: Fate::NotApplied, cause: format!("the transaction was undone: {text}").into() }
    }

    /// There was no answer, or only a part of one.
    pub(crate) fn transport(error: reqwest::Error) -> Self {
        // A request that found no connection certainly did nothing.
        let (class, fate) = match (error.is_connect(), error.is_builder()) {
            (true, _) => (Class::Unavailable, Fate::NotApplied),
            (_, true) => (Class::Misconfigured, Fate::NotApplied),
            _ => (Class::Unavailable, Fate::Unknown),
        };
        let text = text_of(&error.without_url());
        let hint = match text.as_str() {
            text if text.contains("CertificateRequired") => "; Consul asks for a client certificate: set `consul.cert` and `consul.key`",
            text if text.contains("fatal alert") => "; perhaps Consul does not accept our certificate",
            text if text.contains("InvalidContentType") => "; perhaps Consul does not speak TLS there",
            _ => "",
        };
        Self { class, fate, cause: format!("{text}{hint}").into() }
    }

    /// No answer in time.
    pub(crate) fn late(cause: impl Into<BoxError>) -> Self {
        Self { class: Class::Unavailable, fate: Fate::Unknown, cause: cause.into() }
    }

    /// Nothing was asked.
    pub(crate) fn never_sent(cause: impl Into<BoxError>) -> Self {
        Self { class: Class::Unavailable, fate: Fate::NotApplied, cause: cause.into() }
    }

    /// Local settings cannot be used.
    pub(crate) fn settings(cause: impl Into<BoxError>) -> Self {
        Self { class: Class::Misconfigured, fate: Fate::NotApplied, cause: cause.into() }
    }

    /// An answer that does not have the form it must have.
    pub(crate) fn malformed(cause: impl Into<BoxError>) -> Self {
        Self { class: Class::Malformed, fate: Fate::Unknown, cause: cause.into() }
    }

    /// The failure as the contract's error.
    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        let kind = match self.class {
            Class::Unavailable => ErrorKind::Unavailable,
            Class::SessionGone => ErrorKind::HandleGone,
            Class::Denied => ErrorKind::Denied,
            Class::Malformed => ErrorKind::Malformed,
            Class::TtlRefused | Class::Misconfigured => ErrorKind::Misconfigured,
        };
        let Self { fate, cause, .. } = self;
        Error { kind, fate, operation, store: STORE, source: Some(cause) }
    }
}

/// The chain of `error` in one line. Libraries tend to repeat a cause in the text of what it caused.
fn text_of(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// A local error with its causes, as the cause of a failure.
pub(crate) fn in_one_line(error: &(dyn std::error::Error + 'static)) -> BoxError {
    chain(error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status and body as Consul sends them (1.8.7 where nothing else is said), and what they mean.
    #[test]
    fn the_answers_of_consul_mean_what_the_table_says() {
        use Fate::{NotApplied, Unknown};
        let cases = [
            (500, "Invalid Session TTL '5000000000', must be between [10s=24h0m0s]", Class::TtlRefused, NotApplied),
            // 1.14 and newer
            (400, "Invalid Session TTL '5000000000', must be between [10s=24h0m0s]", Class::TtlRefused, NotApplied),
            (500, "invalid session \"aaaaaaaa-0000-0000-0000-000000000000\"", Class::SessionGone, NotApplied),
            (500, "rpc error making call: invalid session \"aaaaaaaa-0000-0000-0000-000000000000\"", Class::SessionGone, NotApplied),
            (403, "ACL not found", Class::Denied, NotApplied),
            (500, "rpc error making call: ACL not found", Class::Denied, NotApplied),
            (403, "Permission denied", Class::Denied, NotApplied),
            (403, "Permission denied: Missing service:write on demo", Class::Denied, NotApplied),
            (500, "rpc error making call: Permission denied", Class::Denied, NotApplied),
            (500, "No cluster leader", Class::Unavailable, NotApplied),
            (500, "rpc error making call: No cluster leader", Class::Unavailable, NotApplied),
            (500, "No path to datacenter", Class::Misconfigured, NotApplied),
            (500, "Missing check 'nope' registration", Class::Unavailable, NotApplied),
            (500, "Check 'serfHealth' is in critical state", Class::Unavailable, NotApplied),
            (500, "rpc error making call: leadership lost while committing log", Class::Unavailable, Unknown),
            (500, "rpc error making call: EOF", Class::Unavailable, Unknown),
            (500, "rpc error making call: rpc error making call: stream closed", Class::Unavailable, Unknown),
            (400, "Failed to parse body: unexpected EOF", Class::Misconfigured, NotApplied),
            (400, "Client sent an HTTP request to an HTTPS server.", Class::Misconfigured, NotApplied),
            (400, "Request decode failed: json: unknown field \"TLSServerName\"", Class::Misconfigured, NotApplied),
            (405, "method POST not allowed", Class::Misconfigured, NotApplied),
            (
                413,
                "Request body(524289 bytes) too large, max size: 524288 bytes. See https://www.consul.io/docs/agent/options.html#kv_max_value_size.",
                Class::Misconfigured,
                NotApplied,
            ),
            (429, "Your IP is issuing too many concurrent connections, please rate limit your calls", Class::Unavailable, NotApplied),
            (503, "rate limit exceeded, try again later or against a different server", Class::Unavailable, Unknown),
            // Proxies
            (401, "<html><body>Unauthorized</body></html>", Class::Denied, NotApplied),
            (404, "<html><body><h1>404 Not Found</h1>nginx</body></html>", Class::Unavailable, Unknown),
            (409, "<html>Conflict</html>", Class::Unavailable, Unknown),
            (502, "<html><body><h1>502 Bad Gateway</h1></body></html>", Class::Unavailable, Unknown),
            (504, "<html><body><h1>504 Gateway Time-out</h1></body></html>", Class::Unavailable, Unknown),
            (500, "<html>Invalid session. Please log in.</html>", Class::Unavailable, Unknown),
            (301, "", Class::Unavailable, Unknown),
        ];
        for (status, text, class, fate) in cases {
            let failure = Failure::answered(status, text);
            assert_eq!((failure.class, failure.fate), (class, fate), "{status} {text}");
        }
    }

    /// Reasons for which transactions were undone, other than a condition that did not hold.
    #[test]
    fn an_undone_transaction_did_nothing_whatever_the_reason() {
        let cases = [
            ("invalid session \"aaaaaaaa-0000-0000-0000-000000000000\"", Class::SessionGone),
            ("Permission denied", Class::Denied),
            ("failed to lock key \"service/demo/leader\" due to lock delay", Class::Unavailable),
            ("something new", Class::Unavailable),
        ];
        for (text, class) in cases {
            let failure = Failure::undone(text);
            assert_eq!((failure.class, failure.fate), (class, Fate::NotApplied), "{text}");
        }
    }

    #[test]
    fn the_kind_tells_the_caller_what_to_do() {
        let kinds = [
            (Class::Unavailable, ErrorKind::Unavailable),
            (Class::SessionGone, ErrorKind::HandleGone),
            (Class::TtlRefused, ErrorKind::Misconfigured),
            (Class::Denied, ErrorKind::Denied),
            (Class::Malformed, ErrorKind::Malformed),
            (Class::Misconfigured, ErrorKind::Misconfigured),
        ];
        for (class, kind) in kinds {
            let error = Failure { class, fate: Fate::Unknown, cause: "why".into() }.into_error("renew the leader lock");
            assert_eq!((error.kind, error.store), (kind, "consul"));
            assert!(error.chain().ends_with(": why"), "{}", error.chain());
        }
    }

    #[test]
    fn a_page_of_a_proxy_is_repeated_in_one_short_line() {
        let page = format!("<html>\n  <h1>502 Bad Gateway</h1>\n{}</html>", "x".repeat(5000));
        let text = Failure::answered(502, &page).into_error("load the cluster").chain();
        assert!(text.contains("HTTP status 502: <html> <h1>502 Bad Gateway</h1>") && text.len() < 500, "{text}");
    }
}
