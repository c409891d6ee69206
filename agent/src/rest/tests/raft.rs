//! `/raft`, and what the embedded store adds to `/metrics`.

use dcs_raft::status::NodeRole;
use serde_json::{Value, json};

use crate::raft_testing::Nodes;
use crate::rest::testing::{Node, settings};

#[tokio::test]
async fn an_agent_that_is_not_a_node_says_so() {
    let node = Node::start().await;
    assert_eq!(node.get("/raft").await.said(), (404, "this agent is not a node of the embedded store (raft)"));
    assert!(!node.get("/metrics").await.body.contains("quorate_raft"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_a_node_shows_how_it_is() {
    let nodes = Nodes::start(3).await;
    let leader = nodes.until_complete(3).await;
    let position = nodes.addresses.iter().position(|address| *address == leader).unwrap();
    let api = Node::with_raft(&settings(), Some(nodes.node(position).handle())).await;
    let status = nodes.status(position).await.unwrap();

    let answer = api.get("/raft").await;
    assert_eq!(answer.status, 200);
    let shown = answer.json();
    assert_eq!(shown["id"], Value::String(status.id.to_string()), "text: no reader rounds it");
    assert_eq!(shown["cluster"], Value::String(format!("{:032x}", status.cluster.0)));
    assert_eq!((&shown["role"], &shown["leader"]), (&json!("leader"), &json!(leader)));
    assert_eq!(shown["has_quorum"], json!(true));
    let peers: Vec<&str> = shown["peers"].as_array().unwrap().iter().map(|peer| peer["address"].as_str().unwrap()).collect();
    assert_eq!(peers.len(), 2);

    let metrics = api.get("/metrics").await.body;
    for line in [
        "# TYPE quorate_raft_is_leader gauge".to_owned(),
        r#"quorate_raft_is_leader{scope="batman",name="a"} 1"#.to_owned(),
        r#"quorate_raft_has_quorum{scope="batman",name="a"} 1"#.to_owned(),
        format!(r#"quorate_raft_term{{scope="batman",name="a"}} {}"#, status.term),
        format!(r#"quorate_raft_peer_connected{{scope="batman",name="a",peer="{}"}} 1"#, peers[0]),
        format!(r#"quorate_raft_peer_connected{{scope="batman",name="a",peer="{}"}} 1"#, peers[1]),
    ] {
        assert!(metrics.lines().any(|shown| shown == line), "{line} is missing in\n{metrics}");
    }
    for name in ["commit_index", "applied_index", "log_entries", "peer_match_index", "peer_last_contact_seconds"] {
        assert!(
            metrics.contains(&format!("# HELP quorate_raft_{name} ")) && metrics.contains(&format!("\nquorate_raft_{name}{{")),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_cluster_says_what_it_waits_for() {
    let mut nodes = Nodes::prepare(3);
    nodes.start_node(0, 3).await;
    let api = Node::with_raft(&settings(), Some(nodes.node(0).handle())).await;
    let answer = api.get("/raft").await;
    assert_eq!(answer.status, 503);
    assert!(answer.json()["problem"].is_string(), "{}", answer.body);
    let metrics = api.get("/metrics").await.body;
    assert!(metrics.contains("quorate_raft_has_quorum{scope=\"batman\",name=\"a\"} 0\n"), "{metrics}");
    assert!(!metrics.contains("quorate_raft_term"));
    nodes.stop_node(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_ended_does_not_hold_up_the_answer() {
    let mut nodes = Nodes::start(1).await;
    assert_eq!(nodes.status(0).await.unwrap().role, NodeRole::Leader);
    let api = Node::with_raft(&settings(), Some(nodes.node(0).handle())).await;
    nodes.stop_node(0).await;
    let answer = api.get("/raft").await;
    assert_eq!(answer.status, 503);
    assert!(answer.json()["problem"].as_str().unwrap().contains("the Raft node has ended"), "{}", answer.body);
}
