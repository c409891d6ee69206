//! The dynamic configuration.

use std::time::Duration;

use dcs_core::Dcs as _;
use dcs_core::fault::{Call, Fault};
use serde_json::{Value, json};

use crate::rest::testing::{Node, deadline};

impl Node {
    async fn store(&self, config: Value) {
        self.member("observer").set_config(config.as_object().unwrap(), None, deadline()).await.unwrap();
    }

    async fn stored(&self) -> Option<Value> {
        self.load().await.config.map(|config| Value::Object(config.data.unwrap()))
    }

    async fn patch(&self, patch: Value) -> (u16, Value) {
        let answer = self.send("PATCH", "/config", Some(&patch.to_string())).await;
        (answer.status, serde_json::from_str(&answer.body).unwrap_or_default())
    }
}

#[tokio::test]
async fn reading_comes_from_the_view_or_the_store() {
    let node = Node::start().await;
    assert_eq!(node.get("/config").await.status, 502);
    node.store(json!({"ttl": 30})).await;
    assert_eq!(node.get("/config").await.status, 502);
    node.cycle().await;
    assert_eq!(node.get("/config").await.json(), json!({"ttl": 30}));
    node.store(json!({"ttl": 40})).await;
    assert_eq!(node.get("/config").await.json(), json!({"ttl": 30}));
    node.clock.advance(Duration::from_secs(30));
    assert_eq!(node.get("/config").await.json(), json!({"ttl": 40}));
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_wakes_the_loop() {
    let node = Node::start().await;
    node.store(json!({"ttl": 30, "postgresql": {"parameters": {"max_connections": 100}}})).await;
    let (status, config) = node.patch(json!({"postgresql": {"parameters": {"max_connections": null}}, "loop_wait": 5})).await;
    let expected = json!({"ttl": 30, "postgresql": {"parameters": {}}, "loop_wait": 5});
    assert_eq!((status, &config), (200, &expected));
    assert_eq!(node.stored().await, Some(expected));
    // Once for what it wrote, and once for what it found to be newer than the engine's view.
    assert_eq!(node.heard(), ["wake", "wake"]);
}

#[tokio::test]
async fn a_patch_that_changes_nothing_writes_nothing() {
    let node = Node::start().await;
    node.store(json!({"ttl": "30", "pause": "true"})).await;
    let before = node.load().await.config.unwrap().revision;
    assert_eq!(node.patch(json!({"ttl": 30, "absent": null})).await, (200, json!({"ttl": "30", "pause": "true"})));
    assert_eq!(node.load().await.config.unwrap().revision, before);
    assert_eq!(node.patch(json!({"pause": true})).await, (200, json!({"ttl": "30", "pause": true})));
}

#[tokio::test]
async fn without_a_configuration_there_is_nothing_to_patch() {
    let node = Node::start().await;
    assert_eq!(node.patch(json!({"ttl": 30})).await.0, 503);
    assert_eq!(node.stored().await, None);
}

#[tokio::test]
async fn of_two_patches_at_once_both_are_in_or_one_is_told() {
    let node = Node::start().await;
    for round in 0..20 {
        node.store(json!({"ttl": 30})).await;
        let (one, other) = tokio::join!(node.patch(json!({"a": round})), node.patch(json!({"b": round})));
        let stored = node.stored().await.unwrap();
        for (key, (status, _)) in [("a", one), ("b", other)] {
            assert!(matches!(status, 200 | 409), "{status}");
            assert_eq!(stored.get(key).is_some(), status == 200, "{stored}");
        }
        node.heard();
    }
}

#[tokio::test]
async fn a_put_replaces_everything_unless_it_is_the_same() {
    let node = Node::start().await;
    let put = async |body: &str| node.send("PUT", "/config", Some(body)).await;
    assert_eq!(put(r#"{"ttl": 30}"#).await.said(), (200, r#"{"ttl":30}"#));
    assert_eq!(node.stored().await, Some(json!({"ttl": 30})));
    let before = node.load().await.config.unwrap().revision;
    assert_eq!(put(r#"{"ttl": "30"}"#).await.status, 200);
    assert_eq!(node.load().await.config.unwrap().revision, before);
    assert_eq!(put(r#"{"loop_wait": 5, "nothing": null}"#).await.status, 200);
    assert_eq!(node.stored().await, Some(json!({"loop_wait": 5, "nothing": null})));
    assert_eq!(put("{}").await.status, 400);
}

#[tokio::test]
async fn a_lost_answer_of_the_store_does_not_lose_the_patch() {
    let node = Node::start().await;
    node.store(json!({"ttl": 30})).await;
    node.plan.next(Some(Call::Put), Fault::Refuse);
    assert_eq!(node.patch(json!({"ttl": 40})).await.0, 200);
    assert_eq!(node.stored().await, Some(json!({"ttl": 40})));
}
