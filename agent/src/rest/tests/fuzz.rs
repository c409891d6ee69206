//! Whatever is sent, the agent answers or hangs up, and goes on.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rest::health::{Node as Health, is_healthy};
use crate::rest::query::Query;
use crate::rest::status::Facts;
use crate::rest::testing::{Node, good_facts};

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:]{0,8}[Z+-]?[0-9:]{0,5}".prop_map(Value::from),
        "[0-9.]{0,9} ?(s|min|h|B|kB|MB|)".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(".{0,4}", inner, 0..4).prop_map(|map| Value::from(Map::from_iter(map))),
        ]
    })
}

fn body() -> impl Strategy<Value = Map<String, Value>> {
    let field = prop_oneof![
        Just("leader"),
        Just("candidate"),
        Just("member"),
        Just("scheduled_at"),
        Just("schedule"),
        Just("role"),
        Just("timeout"),
        Just("postgres_version"),
        Just("restart_pending"),
        Just("force"),
        Just("from_leader"),
    ];
    prop::collection::vec((field, json()), 0..5).prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

proptest! {
    #[test]
    fn health_checks_take_any_path_and_query(path in ".{0,40}", query in ".{0,60}", lag in "-?[0-9]{0,25}[a-zA-Z]{0,3}") {
        let facts: Facts = good_facts();
        let node = Health { facts: &facts, is_leader: false, tags: &Default::default() };
        is_healthy(&path, &Query::parse(Some(&query)), node);
        is_healthy("/replica", &Query::parse(Some(&format!("lag={lag}"))), node);
    }
}

#[tokio::test]
async fn requests_with_any_json_are_answered() {
    let node = Node::start().await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..200 {
        let body = Value::Object(body().new_tree(&mut runner).unwrap().current()).to_string();
        for target in ["/switchover", "/failover", "/restart", "/reinitialize"] {
            let answer = node.send("POST", target, Some(&body)).await;
            assert!(matches!(answer.status, 200 | 202 | 400 | 412 | 422 | 503), "{target} {body}: {}", answer.status);
        }
    }
}

#[tokio::test]
async fn bytes_of_any_kind_do_no_harm() {
    let node = Node::start().await;
    let mut random = fastrand::Rng::with_seed(20_300_101);
    for round in 0..300 {
        let mut request = match round % 3 {
            0 => Vec::new(),
            1 => b"POST /config HTTP/1.1\r\nContent-Length: 5\r\nAuthorization: ".to_vec(),
            _ => b"GET /replica?lag=".to_vec(),
        };
        request.extend((0..random.usize(0..300)).map(|_| random.u8(..)));
        request.extend(b"\r\n\r\n");
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        // The server may hang up before everything is sent.
        let _ = stream.write_all(&request).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    assert_eq!(node.get("/liveness").await.status, 200);
}
