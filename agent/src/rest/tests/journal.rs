//! The journal, and what the REST API adds to it.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::config::{BasicAuth, RestApiSettings};
use crate::rest::testing::{Node, settings};
use ha_engine::settings::Secret;

#[tokio::test]
async fn an_empty_journal_is_told_to_everybody() {
    let protected =
        RestApiSettings { authentication: Some(BasicAuth { username: "admin".to_owned(), password: Secret::new("secret") }), ..settings() };
    let node = Node::with(&protected).await;
    let answer = node.get("/journal").await;
    assert_eq!(answer.status, 200, "reading needs no password");
    let journal: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(journal, json!({"name": "a", "scope": "batman", "forgotten": 0, "entries": []}));
    assert_eq!(node.send(Method::POST.as_str(), "/journal", None).await.status, 501, "it cannot be written");
}

#[tokio::test]
async fn bad_questions_about_the_journal_are_refused() {
    let node = Node::start().await;
    for target in ["/journal?since=yesterday", "/journal?since=2030-01-01T00:00:00", "/journal?limit=many"] {
        assert_eq!(node.get(target).await.status, 400, "{target}");
    }
    assert_eq!(node.get("/journal?since=2030-01-01T00:00:00Z&limit=5").await.status, 200);
}

#[tokio::test]
async fn refused_requests_are_left_for_the_journal() {
    let node = Node::start().await;
    node.send("POST", "/switchover", Some(r#"{"leader": "b"}"#)).await;
    node.send("POST", "/failover", Some(r#"{"foo": "bar"}"#)).await;
    // They go through the engine's mailbox, behind the answers.
    let told = async {
        while node.script.lock().unwrap().notes.len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), told).await.expect("both are told");
    let notes = node.script.lock().unwrap().notes.clone();
    assert_eq!(
        notes,
        [
            "request.refused: a switchover was asked for and refused: leader name does not match",
            "request.refused: a failover was asked for and refused: Failover could be performed only to a specific candidate",
        ]
    );
}
