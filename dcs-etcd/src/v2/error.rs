//! What an answer of the v2 API, or the lack of one, means: one table for its codes, one for answers that are not its own.

use dcs_core::{BoxError, Fate};

use super::answer::{Event, Problem, Reply, code};
use crate::failure::{Chain, Class, Failure, text_of};
use crate::history::Header;

/// Codes of etcd (`v2error`): from, to, what to do, what became of a write.
const CODES: &[(u32, u32, Class, Fate)] = &[
    // Not a file, not a directory, the root, a directory that is not empty: foreign keys stand where ours should be.
    (102, 108, Class::Refused, Fate::NotApplied),
    (110, 110, Class::Denied, Fate::NotApplied),
    // A request that etcd cannot read. All are checked before anything is proposed.
    (200, 299, Class::Refused, Fate::NotApplied),
    // "Raft internal error": timed out, no leader, stopping. "During leader election". Another server may do better.
    (300, 301, Class::NextServer, Fate::Unknown),
    // A watch that the server has ended.
    (400, 400, Class::Busy, Fate::Unknown),
];

/// Answers that are not in etcd's form: status from, to, what to do, what became of a write.
const STATUSES: &[(u16, u16, Class, Fate)] = &[
    (200, 299, Class::Malformed, Fate::Unknown),
    // Nobody redirects these requests but a proxy that is none for etcd.
    (300, 399, Class::Misconfigured, Fate::NotApplied),
    (401, 401, Class::Denied, Fate::NotApplied),
    (403, 403, Class::Denied, Fate::NotApplied),
    // Started without the API. The others may have it.
    (404, 405, Class::NextServer, Fate::NotApplied),
    (408, 408, Class::NextServer, Fate::Unknown),
    (413, 413, Class::TooLarge, Fate::NotApplied),
    (429, 429, Class::Busy, Fate::NotApplied),
    // Also what a server that speaks TLS says to one who does not.
    (400, 499, Class::NextServer, Fate::NotApplied),
    (500, 599, Class::NextServer, Fate::Unknown),
];

/// An answer that no etcd gives.
#[derive(Debug, thiserror::Error)]
#[error("HTTP status {status}{}{text}{hint}", if text.is_empty() { "" } else { ": " })]
struct Foreign {
    status: u16,
    text: String,
    hint: &'static str,
}

/// What is said about an answer that only servers without the API give.
const WITHOUT_V2: &str = "\n\nhint: etcd serves its API version 2 only with `--enable-v2`, and from version 3.6 on not at all; \
                          the section for version 3 is `etcd3`";

/// Makes sense of a whole answer.
pub(super) fn read(status: u16, header: Header, body: &[u8]) -> Result<Reply, Failure> {
    if let Ok(event) = serde_json::from_slice::<Event>(body) {
        return Ok(Reply { header, outcome: Ok(event) });
    }
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else { return Err(foreign(status, body)) };
    match problem.error_code {
        code::KEY_NOT_FOUND | code::COMPARE_FAILED | code::KEY_EXISTS | code::INDEX_CLEARED => Ok(Reply { header, outcome: Err(problem) }),
        _ => Err(failure(problem)),
    }
}

/// The meaning of a code that is a failure where it came.
pub(super) fn failure(problem: Problem) -> Failure {
    let row = CODES.iter().find(|(from, to, ..)| (*from..=*to).contains(&problem.error_code));
    let (class, fate) = row.map_or((Class::NextServer, Fate::Unknown), |(_, _, class, fate)| (*class, *fate));
    Failure { class, fate, cause: Box::new(problem) }
}

fn foreign(status: u16, body: &[u8]) -> Failure {
    let row = STATUSES.iter().find(|(from, to, ..)| (*from..=*to).contains(&status));
    let (class, fate) = row.map_or((Class::NextServer, Fate::Unknown), |(_, _, class, fate)| (*class, *fate));
    let text: String = String::from_utf8_lossy(body).lines().next().unwrap_or_default().chars().take(200).collect();
    let hint = if matches!(status, 404 | 405) { WITHOUT_V2 } else { "" };
    Failure { class, fate, cause: Box::new(Foreign { status, text, hint }) }
}

/// The meaning of an error of the HTTP client. A request that found no connection certainly did nothing.
impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        // The address is in the server's name already, and may be long.
        let error = error.without_url();
        let (class, fate) = match () {
            () if error.is_builder() => (Class::Misconfigured, Fate::NotApplied),
            () if error.is_connect() => (Class::NextServer, Fate::NotApplied),
            () => (Class::Broken, Fate::Unknown),
        };
        let cause: BoxError = Box::new(Chain(text_of(&error)));
        Self { class, fate, cause }
    }
}

#[cfg(test)]
mod tests {
    use dcs_core::ErrorKind;

    use super::*;

    fn meaning(status: u16, body: &str) -> (ErrorKind, Class, Fate) {
        let failure = read(status, Header::default(), body.as_bytes()).unwrap_err();
        (failure.class.kind(), failure.class, failure.fate)
    }

    /// Bodies as etcd 3.4 and 3.5 send them.
    #[test]
    fn the_answers_of_etcd_mean_what_the_tables_say() {
        use Class::{Busy, Denied, Malformed, Misconfigured, NextServer, Refused, TooLarge};
        use Fate::{NotApplied, Unknown};
        let no =
            |code: u32, message: &str, cause: &str| format!(r#"{{"errorCode":{code},"message":"{message}","cause":"{cause}","index":7}}"#);
        let cases = [
            (403, no(102, "Not a file", "/service/demo/leader"), ErrorKind::Unavailable, Refused, NotApplied),
            (400, no(104, "Not a directory", "/service"), ErrorKind::Unavailable, Refused, NotApplied),
            (403, no(107, "Root is read only", "/"), ErrorKind::Unavailable, Refused, NotApplied),
            (403, no(108, "Directory not empty", "/service"), ErrorKind::Unavailable, Refused, NotApplied),
            (401, no(110, "The request requires user authentication", "Insufficient credentials"), ErrorKind::Denied, Denied, NotApplied),
            (400, no(202, "The given TTL in POST form is not a number", "x"), ErrorKind::Unavailable, Refused, NotApplied),
            (400, no(209, "Invalid field", "x"), ErrorKind::Unavailable, Refused, NotApplied),
            (500, no(300, "Raft Internal Error", "etcdserver: request timed out"), ErrorKind::Unavailable, NextServer, Unknown),
            (500, no(300, "Raft Internal Error", "etcdserver: no leader"), ErrorKind::Unavailable, NextServer, Unknown),
            (500, no(301, "During Leader Election", ""), ErrorKind::Unavailable, NextServer, Unknown),
            (400, no(400, "watcher is cleared due to etcd recovery", ""), ErrorKind::Unavailable, Busy, Unknown),
            (500, no(999, "a code of the future", ""), ErrorKind::Unavailable, NextServer, Unknown),
            (404, "404 page not found\n".to_owned(), ErrorKind::Unavailable, NextServer, NotApplied),
            (405, "Method Not Allowed".to_owned(), ErrorKind::Unavailable, NextServer, NotApplied),
            (400, "Client sent an HTTP request to an HTTPS server.\n".to_owned(), ErrorKind::Unavailable, NextServer, NotApplied),
            (401, String::new(), ErrorKind::Denied, Denied, NotApplied),
            (403, "<html>no</html>".to_owned(), ErrorKind::Denied, Denied, NotApplied),
            (301, String::new(), ErrorKind::Misconfigured, Misconfigured, NotApplied),
            (408, String::new(), ErrorKind::Unavailable, NextServer, Unknown),
            (413, "http: request body too large".to_owned(), ErrorKind::Misconfigured, TooLarge, NotApplied),
            (429, String::new(), ErrorKind::Unavailable, Busy, NotApplied),
            (500, "boom".to_owned(), ErrorKind::Unavailable, NextServer, Unknown),
            (502, "<html>bad gateway</html>".to_owned(), ErrorKind::Unavailable, NextServer, Unknown),
            (503, String::new(), ErrorKind::Unavailable, NextServer, Unknown),
            (200, "<html>welcome</html>".to_owned(), ErrorKind::Malformed, Malformed, Unknown),
            (200, r#"{"action":"set","no"#.to_owned(), ErrorKind::Malformed, Malformed, Unknown),
        ];
        for (status, body, kind, class, fate) in cases {
            assert_eq!(meaning(status, &body), (kind, class, fate), "{status} {body}");
        }
    }

    #[test]
    fn a_no_to_a_condition_is_an_answer() {
        for code in [100, 101, 105, 401] {
            let body = format!(r#"{{"errorCode":{code},"message":"no","index":7}}"#);
            let reply = read(412, Header::default(), body.as_bytes()).unwrap();
            assert_eq!(reply.outcome.unwrap_err().error_code, code);
        }
    }

    #[test]
    fn a_server_without_the_api_is_told_from_a_missing_key() {
        let failure = read(404, Header::default(), b"404 page not found\n").unwrap_err();
        let text = failure.cause.to_string();
        assert!(text.contains("--enable-v2") && text.contains("`etcd3`"), "{text}");
    }
}
