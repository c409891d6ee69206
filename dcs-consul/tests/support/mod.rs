//! What the tests on real Consul share.

pub(crate) mod gate;

use std::net::SocketAddr;

use serde_json::Value;
use store_servers::consul::{MASTER_TOKEN, consul};
use store_servers::{Servers, report_not_run};

/// Whether there is a Consul to run `test` on; says so if not.
pub(crate) fn can_run(test: &str) -> bool {
    match consul() {
        Ok(_) => true,
        Err(lacking) => {
            report_not_run(test, &lacking.to_string());
            false
        }
    }
}

/// Somebody else's requests, past the crate under test, with the token that may do everything.
#[derive(Clone, Debug)]
pub(crate) struct Hand {
    http: reqwest::Client,
    endpoint: SocketAddr,
}

impl Hand {
    pub(crate) fn at(servers: &Servers, index: usize) -> Self {
        Self { http: reqwest::Client::new(), endpoint: servers.plan(index).address }
    }

    async fn send(&self, method: reqwest::Method, path: &str, body: Vec<u8>) -> (u16, String) {
        let url = format!("http://{}/v1/{path}", self.endpoint);
        let request = self.http.request(method, url).header("X-Consul-Token", MASTER_TOKEN).body(body);
        let answer = request.send().await.expect("Consul answers");
        (answer.status().as_u16(), answer.text().await.expect("all of the answer comes"))
    }

    /// The answer as JSON; null if it is an error.
    pub(crate) async fn get(&self, path: &str) -> Value {
        match self.send(reqwest::Method::GET, path, Vec::new()).await {
            (200, text) => serde_json::from_str(&text).expect("JSON"),
            _ => Value::Null,
        }
    }

    pub(crate) async fn put(&self, path: &str, body: impl Into<Vec<u8>>) -> Value {
        let (status, text) = self.send(reqwest::Method::PUT, path, body.into()).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    pub(crate) async fn delete(&self, path: &str) {
        let (status, text) = self.send(reqwest::Method::DELETE, path, Vec::new()).await;
        assert_eq!(status, 200, "{path}: {text}");
    }

    /// A backup of everything.
    pub(crate) async fn save(&self) -> Vec<u8> {
        let url = format!("http://{}/v1/snapshot", self.endpoint);
        let answer = self.http.get(url).header("X-Consul-Token", MASTER_TOKEN).send().await.expect("Consul answers");
        assert_eq!(answer.status().as_u16(), 200);
        answer.bytes().await.expect("all of it comes").to_vec()
    }
}
