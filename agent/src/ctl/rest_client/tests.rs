use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::RestClient;
use crate::config::{Environment, LocalConfig};
use crate::ctl::agents::Agents;

/// An agent that answers every request with 409 `busy`, and remembers what it was asked.
struct Agent {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Agent {
    async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/reload", listener.local_addr()?);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !is_complete(&request) && connection.read_buf(&mut request).await.is_ok_and(|length| length > 0) {}
                let text = String::from_utf8_lossy(&request).into_owned();
                requests.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                let answer = b"HTTP/1.1 409 Conflict\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy";
                let _ = connection.write_all(answer).await;
            }
        });
        Ok(Self { url, seen })
    }

    fn last_request(&self) -> String {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }
}

fn is_complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    body.len() >= length
}

fn client(yaml: &str) -> RestClient {
    // The whole configuration may stand in one variable.
    let environment = Environment::read([("PATRONI_CONFIGURATION", yaml)]);
    let config = LocalConfig::load_unchecked(None, environment).expect("it can be read");
    RestClient::new(&config, false).expect("usable settings")
}

#[tokio::test]
async fn credentials_of_the_tool_win_over_those_of_the_api() {
    let agent = Agent::start().await.expect("a free port");
    let restapi = "restapi: {authentication: {username: c, password: d}}\n";
    for (yaml, header) in [
        (format!("{restapi}ctl: {{authentication: {{username: a, password: b}}}}\n"), Some("authorization: basic ytpi")),
        (restapi.to_owned(), Some("authorization: basic yzpk")),
        ("scope: demo\n".to_owned(), None),
    ] {
        let answer = client(&yaml).call(Method::POST, &agent.url, None).await.expect("it answers");
        assert_eq!((answer.status, answer.text.as_str()), (409, "busy"), "a refusal is an answer");
        let request = agent.last_request().to_lowercase();
        assert_eq!(request.contains("authorization:"), header.is_some(), "{request}");
        assert!(header.is_none_or(|header| request.contains(header)), "{request}");
    }
}

#[tokio::test]
async fn a_body_is_sent_as_json() {
    let agent = Agent::start().await.expect("a free port");
    let body = json!({"pause": null});
    client("scope: demo\n").call(Method::PATCH, &agent.url, Some(&body)).await.expect("it answers");
    let request = agent.last_request();
    assert!(request.starts_with("PATCH /reload HTTP/1.1\r\n") && request.ends_with("\r\n\r\n{\"pause\":null}"), "{request}");
}

#[tokio::test]
async fn nobody_there_is_told_with_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let unreachable = client("scope: demo\n").call(Method::GET, &format!("http://{address}/patroni"), None).await;
    let reason = unreachable.expect_err("nobody listens").to_string();
    assert!(reason.starts_with(&format!("http://{address}/patroni: ")) && reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn unusable_certificates_only_matter_when_an_agent_is_called() {
    let unusable = client("ctl: {cacert: /nowhere/ca.crt}\n");
    let reason = unusable.call(Method::GET, "http://127.0.0.1:1/", None).await.expect_err("no client can be made").to_string();
    assert!(reason.contains("/nowhere/ca.crt"), "{reason}");
}
