//! The endpoints of Consul's HTTP API that are used, typed.
//!
//! Rules that this module enforces, because breaking them loses data or the lock:
//!
//! - An absent key is 404 *with* `X-Consul-Index`. Without it somebody else answered, and an empty cluster must not be
//!   concluded from a proxy's error page.
//! - A session that is gone is 404 with Consul's own words. Any other 404 is an error.
//! - `recurse` is there or not; `recurse=false` would mean true.
//! - A transaction that was carried out shows the result of every step, and only those prove it: a proxy's JSON with the
//!   status 200 must not be taken for a lock that was won.
//! - A transaction that was not carried out says why; only a condition that did not hold is an answer.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dcs_core::model::{HandleId, Revision};
use dcs_core::{Deadline, Entry};
use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Request, Response, part, without_slash};
use crate::config::Mode;
use crate::error::{Class, Failure};

/// What Consul takes as the body of a transaction by default (`limits.txn_max_req_len`).
const LARGEST_TRANSACTION: usize = 512 << 10;

/// One key, as Consul shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
    key: String,
    /// Base64; null if empty.
    value: Option<String>,
    modify_index: u64,
    session: Option<String>,
}

impl Pair {
    fn entry(self) -> Result<Entry, Failure> {
        let value = BASE64.decode(self.value.unwrap_or_default()).map_err(Failure::malformed)?;
        Ok(Entry {
            key: format!("/{}", self.key),
            value,
            revision: Revision::from(self.modify_index),
            handle: self.session.filter(|session| !session.is_empty()).map(HandleId::new),
        })
    }
}

/// Everything under a prefix.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) entries: Vec<Entry>,
    /// Zero if Consul did not tell.
    pub(crate) index: u64,
    /// The server that answered does not know the leader.
    pub(crate) leaderless: bool,
}

/// One step of a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    /// Goes on only if the key does not exist.
    Absent(&'a str),
    /// Goes on only if the key exists with this index.
    Unchanged(&'a str, u64),
    /// Goes on only if the key exists.
    Exists(&'a str),
    /// Writes a key, whatever is there.
    Set(&'a str, &'a [u8]),
    /// Writes a key that has this index. Consul leaves the index alone when nothing changes, so the key's flags, which nobody
    /// else uses, change in any case: a write that is made for an index is refused once another one has been made for it.
    Replace(&'a str, &'a [u8], u64),
    /// Deletes a key, if it is there.
    Delete(&'a str),
    /// Writes a key bound to a session: goes on only if no other session holds it.
    Lock(&'a str, &'a [u8], &'a str),
}

#[derive(Serialize)]
struct Operation<'a> {
    #[serde(rename = "KV")]
    kv: Verb<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Verb<'a> {
    verb: &'static str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
}

impl<'a> From<&Step<'a>> for Operation<'a> {
    fn from(step: &Step<'a>) -> Self {
        let plain = |verb, key| Verb { verb, key: without_slash(key), value: None, index: None, flags: None, session: None };
        let encoded = |value| Some(BASE64.encode(value));
        let kv = match *step {
            Step::Absent(key) => plain("check-not-exists", key),
            Step::Unchanged(key, index) => Verb { index: Some(index), ..plain("check-index", key) },
            Step::Exists(key) => plain("get", key),
            Step::Set(key, value) => Verb { value: encoded(value), ..plain("set", key) },
            Step::Replace(key, value, index) => Verb { value: encoded(value), flags: Some(index), ..plain("set", key) },
            Step::Delete(key) => plain("delete", key),
            Step::Lock(key, value, session) => Verb { value: encoded(value), session: Some(session), ..plain("lock", key) },
        };
        Self { kv }
    }
}

/// What Consul shows of a step that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proof {
    key: String,
    /// The session that must hold the key then, if the step was to bind it.
    session: Option<String>,
}

impl Proof {
    /// Nothing for the steps of which Consul shows no result, because no key is there when they were carried out.
    fn of(step: &Step<'_>) -> Option<Self> {
        let (key, session) = match *step {
            Step::Absent(_) | Step::Delete(_) => return None,
            Step::Unchanged(key, _) | Step::Exists(key) | Step::Set(key, _) | Step::Replace(key, ..) => (key, None),
            Step::Lock(key, _, session) => (key, Some(session.to_owned())),
        };
        Some(Self { key: without_slash(key).to_owned(), session })
    }

    fn is_given_by(&self, shown: &Pair) -> bool {
        let bound = self.session.is_none() || self.session == shown.session;
        bound && self.key == shown.key && shown.modify_index > 0
    }
}

/// Steps of which all are carried out or none, as they are sent.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    body: Vec<u8>,
    deletes: bool,
    /// In the order of the steps.
    proofs: Vec<Proof>,
}

impl Transaction {
    pub(crate) fn of(steps: &[Step<'_>]) -> Result<Self, Failure> {
        let operations: Vec<Operation<'_>> = steps.iter().map(Operation::from).collect();
        let body = serde_json::to_vec(&operations).map_err(Failure::settings)?;
        let proofs = steps.iter().filter_map(Proof::of).collect();
        Ok(Self { body, deletes: matches!(steps.last(), Some(Step::Delete(_))), proofs })
    }

    /// Whether it deletes a key in the end.
    pub(crate) fn deletes(&self) -> bool {
        self.deletes
    }

    /// Values travel as base64 in it, so that not every value that Consul takes fits.
    pub(crate) fn is_too_large(&self) -> bool {
        self.body.len() > LARGEST_TRANSACTION
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transacted {
    /// All of it was carried out. The index of the key that was written; before a deletion, the one that it had.
    Applied(u64),
    /// A key was there that must not be, or differed, or is held by another session. Nothing was carried out.
    Differs,
    /// A key was not there. Nothing was carried out.
    Missing,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TransactionAnswer {
    results: Option<Vec<TransactionResult>>,
    errors: Option<Vec<TransactionError>>,
}

#[derive(Deserialize)]
struct TransactionResult {
    #[serde(rename = "KV")]
    kv: Option<Pair>,
}

impl TransactionAnswer {
    /// Whether the results are those of the steps in `proofs`, and no others; the index that the last of them shows.
    fn proven(&self, proofs: &[Proof]) -> Option<u64> {
        let results = self.results.as_deref().unwrap_or_default();
        let errors = self.errors.as_deref().unwrap_or_default();
        let proven = |(proof, result): (&Proof, &TransactionResult)| result.kv.as_ref().is_some_and(|shown| proof.is_given_by(shown));
        if !errors.is_empty() || results.len() != proofs.len() || !proofs.iter().zip(results).all(proven) {
            return None;
        }
        Some(results.last()?.kv.as_ref()?.modify_index)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TransactionError {
    what: String,
}

/// The words for a condition that did not hold, as they are since Consul 0.7.
const CONDITIONS: &[(&str, Transacted)] = &[
    ("failed index check for key", Transacted::Differs),
    ("lock is already held", Transacted::Differs),
    ("doesn't exist", Transacted::Missing),
    ("exists", Transacted::Differs),
];

fn judge_refusal(what: &str) -> Result<Transacted, Failure> {
    // Everything that follows a key's name is Consul's; the name itself may be anything.
    let tail = what.rsplit('"').next().unwrap_or_default();
    let condition = CONDITIONS.iter().find(|(words, _)| tail.contains(words) || what.starts_with(words));
    condition.map_or_else(|| Err(Failure::undone(what)), |(_, outcome)| Ok(*outcome))
}

/// What became of the transaction whose steps, had they been carried out, would have given `proofs`.
fn judge_transaction(answer: &Response, proofs: &[Proof]) -> Result<Transacted, Failure> {
    match answer.status {
        200 => {
            let proven = answer.json::<TransactionAnswer>()?.proven(proofs);
            let unproven = || Failure::malformed(format!("the answer does not show what was carried out: `{}`", answer.excerpt()));
            proven.map(Transacted::Applied).ok_or_else(unproven)
        }
        409 => {
            let refused = answer.json::<TransactionAnswer>().ok().and_then(|answer| answer.errors).unwrap_or_default();
            // Consul names every step that it could not carry out. Conditions stand in front, so that the first tells why.
            refused.first().map_or_else(|| Err(answer.failure()), |error| judge_refusal(&error.what))
        }
        _ => Err(answer.failure()),
    }
}

/// What the session endpoint said about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    Alive,
    Gone,
}

/// A session to be made.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NewSession<'a> {
    pub(crate) name: &'a str,
    /// Always sent: without it the session would hang on the health of the node.
    pub(crate) checks: &'a [String],
    pub(crate) lock_delay: &'static str,
    pub(crate) behavior: &'static str,
    #[serde(rename = "TTL")]
    pub(crate) ttl: String,
}

#[derive(Deserialize)]
struct SessionId {
    #[serde(rename = "ID")]
    id: String,
}

/// A service to be registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Service {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    pub(crate) tags: Vec<String>,
    pub(crate) enable_tag_override: bool,
    pub(crate) check: HealthCheck,
}

/// How Consul finds out whether a service is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HealthCheck {
    #[serde(rename = "HTTP")]
    pub(crate) http: String,
    pub(crate) interval: String,
    pub(crate) deregister_critical_service_after: String,
    #[serde(rename = "TLSServerName", skip_serializing_if = "Option::is_none")]
    pub(crate) tls_server_name: Option<String>,
}

fn ok(answer: Response) -> Result<Response, Failure> {
    if answer.status == 200 { Ok(answer) } else { Err(answer.failure()) }
}

/// The pairs in an answer; none if the key or prefix is absent.
fn pairs(answer: &Response) -> Result<Vec<Entry>, Failure> {
    match answer.status {
        200 => answer.json::<Vec<Pair>>()?.into_iter().map(Pair::entry).collect(),
        404 if answer.index.is_some() => Ok(Vec::new()),
        _ => Err(answer.failure()),
    }
}

impl Client {
    /// Reads everything under `prefix`.
    pub(crate) async fn list(&self, prefix: &str, mode: Mode, deadline: Deadline) -> Result<Listing, Failure> {
        let request = Request::of_key(Method::GET, prefix).flag("recurse").mode(mode);
        self.listing(request, deadline).await
    }

    /// The same once something under `prefix` has changed after `index`, or after `wait`.
    pub(crate) async fn list_after(
        &self,
        prefix: &str,
        mode: Mode,
        index: u64,
        wait: Duration,
        deadline: Deadline,
    ) -> Result<Listing, Failure> {
        let request = Request::of_key(Method::GET, prefix).flag("recurse").mode(mode);
        self.listing(request.blocking(index, wait), deadline).await
    }

    async fn listing(&self, request: Request, deadline: Deadline) -> Result<Listing, Failure> {
        let answer = self.ask(request, deadline).await?;
        let entries = pairs(&answer)?;
        Ok(Listing { entries, index: answer.index.unwrap_or_default(), leaderless: answer.leaderless })
    }

    /// Reads one key.
    pub(crate) async fn key(&self, key: &str, mode: Mode, deadline: Deadline) -> Result<Option<Entry>, Failure> {
        let answer = self.ask(Request::of_key(Method::GET, key).mode(mode), deadline).await?;
        Ok(pairs(&answer)?.into_iter().next())
    }

    /// Carries out all steps or none.
    pub(crate) async fn transact(&self, transaction: Transaction, deadline: Deadline) -> Result<Transacted, Failure> {
        let answer = self.ask(Request::put("txn").with_body(transaction.body), deadline).await?;
        judge_transaction(&answer, &transaction.proofs)
    }

    /// Writes a key too large for a transaction. With `expected` only if it has that index; zero means that it must not exist.
    pub(crate) async fn put(&self, key: &str, value: &[u8], expected: Option<u64>, deadline: Deadline) -> Result<bool, Failure> {
        let request = Request::of_key(Method::PUT, key).with_body(value.to_vec());
        let request = match expected.map(|index| index.to_string()) {
            Some(index) => request.parameter("cas", &index).parameter("flags", &index),
            None => request,
        };
        ok(self.ask(request, deadline).await?)?.json()
    }

    /// Deletes everything under `prefix`.
    pub(crate) async fn delete_under(&self, prefix: &str, deadline: Deadline) -> Result<(), Failure> {
        let answer = ok(self.ask(Request::of_key(Method::DELETE, prefix).flag("recurse"), deadline).await?)?;
        match answer.json()? {
            true => Ok(()),
            false => Err(answer.failure()),
        }
    }

    /// Makes a session; its id.
    pub(crate) async fn create_session(&self, session: &NewSession<'_>, deadline: Deadline) -> Result<String, Failure> {
        let body = serde_json::to_vec(session).map_err(Failure::settings)?;
        let answer = ok(self.ask(Request::put("session/create").with_body(body), deadline).await?)?;
        Ok(answer.json::<SessionId>()?.id)
    }

    /// Refreshes a session.
    pub(crate) async fn renew_session(&self, id: &str, deadline: Deadline) -> Result<Pulse, Failure> {
        let answer = self.ask(Request::put(&format!("session/renew/{}", part(id))), deadline).await?;
        match answer.status {
            200 => match answer.json::<Vec<SessionId>>()?.first() {
                Some(session) if session.id == id => Ok(Pulse::Alive),
                _ => Err(Failure::malformed(format!("a renewal of session {id} was answered without it"))),
            },
            404 if answer.text().contains(&format!("Session id '{id}' not found")) => Ok(Pulse::Gone),
            _ => Err(answer.failure()),
        }
    }

    /// The smallest time to live of a session that the agent knows of, as text or nanoseconds.
    pub(crate) async fn least_session_ttl(&self, deadline: Deadline) -> Result<serde_json::Value, Failure> {
        let answer = ok(self.ask_agent(Request::get("agent/self"), deadline).await?)?.json::<serde_json::Value>()?;
        let of = |section: &str| answer.get(section)?.get("SessionTTLMin").cloned();
        Ok(of("Config").or_else(|| of("DebugConfig")).unwrap_or_default())
    }

    /// Registers a service with the agent, or updates it.
    pub(crate) async fn register(&self, service: &Service, deadline: Deadline) -> Result<(), Failure> {
        let body = serde_json::to_vec(service).map_err(Failure::settings)?;
        ok(self.ask_agent(Request::put("agent/service/register").with_body(body), deadline).await?).map(drop)
    }

    /// Removes a service from the agent, if it is there.
    pub(crate) async fn deregister(&self, id: &str, deadline: Deadline) -> Result<(), Failure> {
        let answer = self.ask_agent(Request::put(&format!("agent/service/deregister/{}", part(id))), deadline).await?;
        // With ACLs switched on the agent has to know the service to tell whether we may.
        if answer.status != 200 && answer.text().contains("Unknown service") {
            return Ok(());
        }
        ok(answer).map(drop)
    }
}

/// Whether a session turned out to be gone.
pub(crate) fn says_gone(failure: &Failure) -> bool {
    failure.class == Class::SessionGone
}

#[cfg(test)]
mod tests {
    use dcs_core::Fate;

    use super::*;

    /// Answers of Consul 1.8.7.
    #[test]
    fn a_condition_that_does_not_hold_is_told_from_other_reasons() {
        let cases = [
            (r#"key "service/demo/leader" exists"#, Some(Transacted::Differs)),
            (r#"failed index check for key "service/demo/leader", current modify index 8 != 5"#, Some(Transacted::Differs)),
            (r#"failed to lock key "service/demo/leader", lock is already held"#, Some(Transacted::Differs)),
            (r#"failed to check index, key "service/demo/leader" doesn't exist"#, Some(Transacted::Missing)),
            (r#"key "service/demo/leader" doesn't exist"#, Some(Transacted::Missing)),
            (r#"failed to lock key "service/demo/leader" due to lock delay"#, None),
            (r#"invalid session "aaaaaaaa-0000-0000-0000-000000000000""#, None),
            ("Permission denied", None),
            (r#"failed to write key "what exists", disk full"#, None),
        ];
        for (what, expected) in cases {
            match (judge_refusal(what), expected) {
                (Ok(outcome), Some(expected)) => assert_eq!(outcome, expected, "{what}"),
                (Err(failure), None) => assert_eq!(failure.fate, Fate::NotApplied, "{what}"),
                (outcome, _) => panic!("{what}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn a_transaction_is_written_as_consul_reads_it() {
        let steps = [Step::Unchanged("/a/leader", 7), Step::Delete("/a/leader"), Step::Lock("/a/leader", b"x", "id")];
        let text = String::from_utf8(Transaction::of(&steps).unwrap().body).unwrap();
        let expected = r#"[{"KV":{"Verb":"check-index","Key":"a/leader","Index":7}},{"KV":{"Verb":"delete","Key":"a/leader"}},{"KV":{"Verb":"lock","Key":"a/leader","Value":"eA==","Session":"id"}}]"#;
        assert_eq!(text, expected);
    }

    fn answer(status: u16, index: Option<u64>, body: &str) -> Response {
        Response { status, index, leaderless: false, body: body.into() }
    }

    /// The result of a step, as Consul 1.8.7 shows it.
    fn shown(key: &str, index: u64, session: &str) -> String {
        let session = if session.is_empty() { String::new() } else { format!(r#""Session":"{session}","#) };
        format!(r#"{{"KV":{{"LockIndex":1,"Key":"{key}","Flags":0,"Value":null,{session}"CreateIndex":3,"ModifyIndex":{index}}}}}"#)
    }

    fn judge(steps: &[Step<'_>], results: &[String]) -> Result<Transacted, Failure> {
        let body = format!(r#"{{"Results":[{}],"Errors":null}}"#, results.join(","));
        judge_transaction(&answer(200, None, &body), &Transaction::of(steps).unwrap().proofs)
    }

    #[test]
    fn a_transaction_was_carried_out_if_the_result_of_every_step_is_there() {
        const KEY: &str = "/a/leader";
        let lock = Step::Lock(KEY, b"x", "ours");
        let (plain, bound) = (|index| shown("a/leader", index, ""), |index| shown("a/leader", index, "ours"));
        let cases: [(&[Step<'_>], Vec<String>, u64); 8] = [
            (&[Step::Set(KEY, b"x")], vec![plain(9)], 9),
            (&[Step::Absent(KEY), Step::Set(KEY, b"x")], vec![plain(9)], 9),
            (&[Step::Unchanged(KEY, 7), Step::Set(KEY, b"x")], vec![plain(7), plain(9)], 9),
            (&[Step::Absent(KEY), lock], vec![bound(9)], 9),
            (&[Step::Unchanged(KEY, 7), lock], vec![bound(7), bound(7)], 7),
            (&[Step::Unchanged(KEY, 7), Step::Delete(KEY), lock], vec![shown("a/leader", 7, "theirs"), bound(9)], 9),
            (&[Step::Unchanged(KEY, 7), Step::Delete(KEY)], vec![plain(7)], 7),
            (&[Step::Exists(KEY), Step::Delete(KEY)], vec![plain(7)], 7),
        ];
        for (steps, results, index) in cases {
            assert_eq!(judge(steps, &results).unwrap(), Transacted::Applied(index), "{steps:?}");
            for fewer in 0..results.len() {
                let failure = judge(steps, &results[..fewer]).unwrap_err();
                assert_eq!((failure.class, failure.fate), (Class::Malformed, Fate::Unknown), "{steps:?}, {fewer} results");
            }
        }
    }

    /// It used to be one that was carried out.
    #[test]
    fn an_answer_with_status_200_that_proves_nothing_is_malformed() {
        let steps = [Step::Unchanged("/a/leader", 7), Step::Lock("/a/leader", b"x", "ours")];
        let ours = shown("a/leader", 7, "ours");
        let answers = [
            "{}".to_owned(),
            r#"{"error":"blocked"}"#.to_owned(),
            r#"{"Results":null,"Errors":null}"#.to_owned(),
            r#"{"Results":[{},{}],"Errors":null}"#.to_owned(),
            format!(r#"{{"Results":[{ours},{}],"Errors":null}}"#, shown("a/leader", 7, "theirs")),
            format!(r#"{{"Results":[{ours},{}],"Errors":null}}"#, shown("a/leader", 7, "")),
            format!(r#"{{"Results":[{ours},{}],"Errors":null}}"#, shown("a/other", 7, "ours")),
            format!(r#"{{"Results":[{ours},{}],"Errors":null}}"#, shown("a/leader", 0, "ours")),
            format!(r#"{{"Results":[{ours},{ours},{ours}],"Errors":null}}"#),
            format!(r#"{{"Results":[{ours},{ours}],"Errors":[{{"OpIndex":0,"What":"something new"}}]}}"#),
        ];
        let proofs = Transaction::of(&steps).unwrap().proofs;
        for body in answers {
            let failure = judge_transaction(&answer(200, Some(9), &body), &proofs).unwrap_err();
            assert_eq!((failure.class, failure.fate), (Class::Malformed, Fate::Unknown), "{body}");
            assert!(failure.cause.to_string().contains("does not show"), "{body}: {}", failure.cause);
        }
        assert!(judge(&[Step::Delete("/a/leader")], &[]).is_err(), "nothing shows that it was carried out");
    }

    #[test]
    fn an_error_page_is_no_absent_key() {
        assert_eq!(pairs(&answer(404, Some(9), "")).unwrap(), []);
        assert!(pairs(&answer(404, None, "<html>Not Found</html>")).is_err());
        assert!(pairs(&answer(200, None, "<html>Log in</html>")).is_err());
        let body = r#"[{"LockIndex":0,"Key":"t/a","Flags":0,"Value":null,"CreateIndex":26,"ModifyIndex":26}]"#;
        let entry = Entry { key: "/t/a".to_owned(), value: Vec::new(), revision: 26_u64.into(), handle: None };
        assert_eq!(pairs(&answer(200, Some(26), body)).unwrap(), [entry]);
    }
}
