//! Asking the other agents over HTTP.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::Deadline;
use dcs_core::model::{Lsn, MemberName, Tags, Timeline};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use ha_engine::decide::failsafe::exclusion::FailsafeCall;
use ha_engine::decide::observation::{PeerAnswer, PeerStatus, PeerTarget};
use ha_engine::ports::Peers;
use serde_json::{Map, Value, json};

use crate::http_client::{endpoint_url, explain};

/// How long one agent may take to tell its state.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// How long one agent has at least to give its word, the first time that it is asked.
const WORD_LIMIT: Duration = Duration::from_secs(2);

/// How long one agent may take to show that it is alive.
const LIVENESS_LIMIT: Duration = Duration::from_secs(3);

/// More than this is not a status.
const MAX_BODY: usize = 4 << 20;

/// The other agents, reached by their published URLs.
#[derive(Debug)]
pub struct HttpPeers {
    client: RwLock<reqwest::Client>,
}

impl HttpPeers {
    /// Asks with `client`.
    pub fn new(client: reqwest::Client) -> Self {
        Self { client: RwLock::new(client) }
    }

    /// Asks with `client` from now on.
    pub fn replace(&self, client: reqwest::Client) {
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn client(&self) -> reqwest::Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Peers for HttpPeers {
    async fn poll(&self, targets: &[PeerTarget], deadline: Deadline) -> Vec<(MemberName, PeerAnswer)> {
        let client = self.client();
        let mut asked: FuturesUnordered<_> = targets.iter().map(|target| ask(&client, target, deadline)).collect();
        let mut answers = Vec::with_capacity(targets.len());
        while let Some(answer) = asked.next().await {
            answers.push(answer);
        }
        answers
    }

    async fn ask_for_word(&self, targets: &[PeerTarget], call: &FailsafeCall, deadline: Deadline) -> Option<BTreeMap<MemberName, Lsn>> {
        let client = self.client();
        let mut body = json!({"name": call.name, "conn_url": call.conn_url, "api_url": call.api_url});
        if let Some(slots) = &call.slots {
            body["slots"] = json!(slots);
        }
        let body = body.to_string();
        let mut asked: FuturesUnordered<_> = targets.iter().map(|target| ask_one_for_word(&client, target, &body, deadline)).collect();
        let mut positions = BTreeMap::new();
        // One "no" is enough: who has not answered yet need not any more.
        while let Some((name, word)) = asked.next().await {
            positions.extend(word?.map(|position| (name, position)));
        }
        Some(positions)
    }

    async fn is_alive(&self, api_url: &str, deadline: Deadline) -> bool {
        let Some(url) = endpoint_url(api_url, "liveness") else { return false };
        let limit = LIVENESS_LIMIT.min(deadline.remaining());
        self.client().get(url).timeout(limit).send().await.is_ok()
    }
}

/// Whether one member gives its word; if so, with its position, if it told that. Who cannot be reached is asked again, with
/// what time there is: a link may be slow, and nothing is left to do with the time otherwise.
async fn ask_one_for_word(
    client: &reqwest::Client,
    target: &PeerTarget,
    body: &str,
    deadline: Deadline,
) -> (MemberName, Option<Option<Lsn>>) {
    let PeerTarget { name, api_url } = target;
    let Some(url) = endpoint_url(api_url, "failsafe") else {
        tracing::warn!("Request failed to {name}: POST {api_url} (not a URL)");
        return (name.clone(), None);
    };
    let first = WORD_LIMIT.max(deadline.remaining() / 2);
    let mut answer = post(client, &url, body, first.min(deadline.remaining())).await;
    if answer.is_err() && !deadline.has_passed() {
        answer = post(client, &url, body, deadline.remaining()).await;
    }
    match answer {
        Ok((accepted, position, text)) => {
            tracing::info!("Got response from {name} {url}: {text}");
            (name.clone(), accepted.then_some(position))
        }
        Err(problem) => {
            tracing::warn!("Request failed to {name}: POST {url} ({problem})");
            (name.clone(), None)
        }
    }
}

/// Whether the answer is a clear yes, the position in it, and what it says.
async fn post(client: &reqwest::Client, url: &str, body: &str, limit: Duration) -> Result<(bool, Option<Lsn>, String), String> {
    let request = client.post(url).header(http::header::CONTENT_TYPE, "application/json").body(body.to_owned());
    let mut response = request.timeout(limit).send().await.map_err(explain)?;
    let position = response.headers().get("lsn").and_then(|lsn| lsn.to_str().ok()?.trim().parse().ok()).map(Lsn);
    let text = read(&mut response).await?;
    Ok((response.status() == http::StatusCode::OK && text == b"Accepted", position, String::from_utf8_lossy(&text).into_owned()))
}

async fn ask(client: &reqwest::Client, target: &PeerTarget, deadline: Deadline) -> (MemberName, PeerAnswer) {
    let PeerTarget { name, api_url } = target;
    let answer = match fetch(client, api_url, STATUS_LIMIT.min(deadline.remaining())).await {
        Ok(body) => {
            tracing::info!("Got response from {name} {api_url}: {}", String::from_utf8_lossy(&body));
            parse_status(&body).map_or(PeerAnswer::Unreachable, PeerAnswer::Status)
        }
        Err(problem) => {
            tracing::warn!("Request failed to {name}: GET {api_url} ({problem})");
            PeerAnswer::Unreachable
        }
    };
    (name.clone(), answer)
}

async fn fetch(client: &reqwest::Client, url: &str, limit: Duration) -> Result<Vec<u8>, String> {
    let mut response = client.get(url).timeout(limit).send().await.map_err(explain)?;
    read(&mut response).await
}

async fn read(response: &mut reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(explain)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(format!("the answer has more than {MAX_BODY} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Reads what `GET /patroni` answers. Nothing if it is of no use: not JSON, or without positions, as of a node that is
/// being cloned or stopped.
fn parse_status(body: &[u8]) -> Option<PeerStatus> {
    let Value::Object(document) = serde_json::from_slice(body).ok()? else { return None };
    // `wal` is what some versions called it.
    let positions = ["wal", "xlog"].iter().find_map(|key| document.get(*key).filter(|value| !is_empty(value)))?;
    let positions = positions.as_object()?;
    let writes = position(positions, "location")? > Lsn::ZERO;
    let role = document.get("role").and_then(Value::as_str);
    let in_recovery = !writes && !matches!(role, Some("primary" | "master"));
    let position =
        if in_recovery { position(positions, "received_location")?.max(position(positions, "replayed_location")?) } else { Lsn::ZERO };
    let about = document.get("patroni");
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    Some(PeerStatus {
        in_recovery,
        position,
        timeline: document.get("timeline").and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok()).and_then(Timeline::known),
        tags: Tags(document.get("tags").and_then(Value::as_object).cloned().unwrap_or_default()),
        watchdog_failed: document.get("watchdog_failed").and_then(Value::as_bool).unwrap_or(false),
        scope: text(about.and_then(|about| about.get("scope"))),
        system_id: text(document.get("database_system_identifier")),
    })
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

/// A position in bytes; 0 if there is none, nothing if it cannot be understood.
fn position(positions: &Map<String, Value>, key: &str) -> Option<Lsn> {
    match positions.get(key) {
        None | Some(Value::Null) => Some(Lsn::ZERO),
        Some(value) => value.as_u64().map(Lsn),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::http_client::HttpClientSettings;

    fn parse(document: &Value) -> Option<PeerStatus> {
        parse_status(document.to_string().as_bytes())
    }

    #[test]
    fn a_replica_stands_at_the_larger_of_its_positions() {
        let status = parse(&json!({
            "state": "running", "role": "replica", "timeline": 3, "tags": {"nofailover": true},
            "xlog": {"received_location": 20, "replayed_location": 10, "replayed_timestamp": null, "paused": false},
            "database_system_identifier": "7000000000000000001", "watchdog_failed": true,
            "patroni": {"version": "4.1.4", "scope": "batman", "name": "b"},
        }));
        let expected = PeerStatus {
            in_recovery: true,
            position: Lsn(20),
            timeline: Some(Timeline(3)),
            tags: Tags(json!({"nofailover": true}).as_object().unwrap().clone()),
            watchdog_failed: true,
            scope: Some("batman".to_owned()),
            system_id: Some("7000000000000000001".to_owned()),
        };
        assert_eq!(status, Some(expected));
    }

    #[test]
    fn a_writable_server_is_known_by_its_location_or_its_role() {
        for document in [
            json!({"role": "replica", "xlog": {"location": 7}}),
            json!({"role": "primary", "xlog": {"location": 0}}),
            json!({"role": "master", "xlog": {"received_location": 7}}),
        ] {
            let status = parse(&document).unwrap();
            assert_eq!((status.in_recovery, status.position), (false, Lsn::ZERO), "{document}");
        }
        assert!(parse(&json!({"role": "replica", "xlog": {"location": 0, "replayed_location": 1}})).unwrap().in_recovery);
    }

    #[test]
    fn what_has_no_positions_is_not_reachable() {
        for document in [
            json!({"state": "stopped", "role": "replica"}),
            json!({"xlog": {}}),
            json!({"xlog": null}),
            json!({"xlog": [1]}),
            json!({"xlog": {"received_location": "far"}}),
            json!([]),
        ] {
            assert_eq!(parse(&document), None, "{document}");
        }
        assert_eq!(parse_status(b"<html>"), None);
        assert_eq!(parse_status(b"\xff"), None);
    }

    /// A server that answers every connection with `answer`, or never if there is none.
    async fn server(answer: Option<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/patroni", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                if let Some(answer) = answer {
                    let _ = stream.write_all(answer.as_bytes()).await;
                } else {
                    kept.push(stream);
                }
            }
        });
        url
    }

    fn target(name: &str, api_url: String) -> PeerTarget {
        PeerTarget { name: MemberName::from(name), api_url }
    }

    #[tokio::test]
    async fn everybody_is_in_the_result_in_order_of_arrival() {
        let silent = server(None).await;
        let good = server(Some("HTTP/1.0 503 x\r\n\r\n{\"xlog\": {\"replayed_location\": 5}}")).await;
        let peers = HttpPeers::new(HttpClientSettings::default().client().unwrap());
        let targets = [target("silent", silent), target("bad", "nonsense".to_owned()), target("good", good)];
        let answers = peers.poll(&targets, Deadline::after(Duration::from_millis(300))).await;
        let names: Vec<_> = answers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["bad", "good", "silent"]);
        assert!(matches!(&answers[1].1, PeerAnswer::Status(status) if status.position == Lsn(5)));
        assert_eq!(answers[2].1, PeerAnswer::Unreachable);
    }

    const ACCEPTED: &str = "HTTP/1.0 200 OK\r\nlsn: 5\r\n\r\nAccepted";

    fn call() -> FailsafeCall {
        let slots = Some(BTreeMap::from([("a".to_owned(), Lsn(7))]));
        FailsafeCall {
            name: "a".into(),
            conn_url: "postgres://a:5432/postgres".to_owned(),
            api_url: "http://a:8008/patroni".to_owned(),
            slots,
        }
    }

    async fn ask_for_word(targets: &[PeerTarget], limit: Duration) -> Option<BTreeMap<MemberName, Lsn>> {
        let peers = HttpPeers::new(HttpClientSettings::default().client().unwrap());
        let deadline = Deadline::after(limit);
        // Whoever is silent must not be waited for after a "no".
        tokio::time::timeout(Duration::from_secs(60), peers.ask_for_word(targets, &call(), deadline)).await.unwrap()
    }

    #[tokio::test]
    async fn only_a_clear_yes_of_everybody_counts() {
        let long = Duration::from_secs(600);
        let yes = target("yes", server(Some(ACCEPTED)).await);
        let without_position = target("brief", server(Some("HTTP/1.0 200 OK\r\n\r\nAccepted")).await);
        let both = [yes.clone(), without_position];
        assert_eq!(ask_for_word(&both, long).await, Some(BTreeMap::from([("yes".into(), Lsn(5))])));
        assert_eq!(ask_for_word(&[], long).await, Some(BTreeMap::new()), "who is alone needs nobody's word");
        let silent = target("silent", server(None).await);
        for no in [
            "HTTP/1.0 500 x\r\n\r\nRunning as a leader",
            "HTTP/1.0 502 x\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nAccepted, I think",
            "HTTP/1.0 201 x\r\n\r\nAccepted",
        ] {
            let no = target("no", server(Some(no)).await);
            assert_eq!(ask_for_word(&[silent.clone(), yes.clone(), no], long).await, None);
        }
        assert_eq!(ask_for_word(&[silent, yes.clone()], Duration::from_millis(500)).await, None);
        assert_eq!(ask_for_word(&[yes, target("bad", "nonsense".to_owned())], long).await, None);
    }

    /// What it says is what Patroni's agents read.
    #[tokio::test]
    async fn the_question_is_a_document_with_the_names_that_patroni_knows() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let asked = target("b", format!("http://{}/patroni", listener.local_addr().unwrap()));
        let heard = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut text, mut part) = (String::new(), [0; 1024]);
            while !text.ends_with('}') {
                let length = stream.read(&mut part).await.unwrap();
                text.push_str(std::str::from_utf8(&part[..length]).unwrap());
            }
            stream.write_all(ACCEPTED.as_bytes()).await.unwrap();
            text
        });
        assert!(ask_for_word(&[asked], Duration::from_secs(10)).await.is_some());
        let heard = heard.await.unwrap();
        let (head, body) = heard.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /failsafe HTTP/1.1\r\n") && head.to_lowercase().contains("content-length: "), "{head}");
        let expected = json!({
            "name": "a", "conn_url": "postgres://a:5432/postgres", "api_url": "http://a:8008/patroni", "slots": {"a": 7},
        });
        assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected);
    }

    /// Must hold: X7.
    #[tokio::test]
    async fn hard_case_97_a_slow_link_is_given_the_time_that_is_left_and_a_broken_one_a_second_chance() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let slow = target("slow", format!("http://{}/patroni", listener.local_addr().unwrap()));
        tokio::spawn(async move {
            // The first connection breaks.
            drop(listener.accept().await);
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                tokio::time::sleep(WORD_LIMIT + Duration::from_millis(500)).await;
                let _ = stream.write_all(ACCEPTED.as_bytes()).await;
            }
        });
        assert!(ask_for_word(&[slow], Duration::from_secs(30)).await.is_some());
    }

    #[tokio::test]
    async fn any_answer_is_a_sign_of_life_and_silence_is_none() {
        let peers = HttpPeers::new(HttpClientSettings::default().client().unwrap());
        let deadline = || Deadline::after(Duration::from_millis(300));
        assert!(peers.is_alive(&server(Some("HTTP/1.0 503 no\r\n\r\n")).await, deadline()).await);
        assert!(!peers.is_alive(&server(None).await, deadline()).await);
        assert!(!peers.is_alive("", deadline()).await);
    }
}
