//! Nodes whose files are gone, full, or somebody else's.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_raft::identity::NodeId;
use dcs_raft::message::Request;
use dcs_raft::status::{NodeRole, Status};
use serde_json::{Map, Value};

use crate::support::load::{put, read_from};
use crate::support::nodes::{Nodes, Options, soon, takes_part};
use crate::support::{PATIENCE, eventually};

pub(crate) async fn a_node_without_room_comes_back() {
    let nodes = Nodes::start(Options::quick(3)).await;
    put(&nodes, "/a", b"1").await;
    // The one whose silence matters most.
    let full = nodes.leader().await;
    // It has room for a little more. Its log is a file as well, and must have some all the time.
    let size = std::fs::metadata(nodes.data(full).join("raft.db")).expect("its file").len();
    nodes.limit_files(full, Some(size));
    let others: Vec<usize> = (0..nodes.len()).filter(|node| *node != full).collect();
    for number in 0..size >> 17 {
        put(&nodes, &format!("/large/{number}"), &vec![b'x'; 1 << 18]).await;
    }
    let statuses = nodes
        .until("the node says that it cannot write, and the others go on", |statuses| {
            let problem = statuses[full].as_ref().and_then(|status| status.storage_problem.as_deref());
            let led = |node: &usize| {
                let leader = statuses[*node].as_ref().filter(|status| status.has_quorum).and_then(|status| status.leader.clone());
                leader.is_some_and(|leader| leader != nodes.address(full).to_string())
            };
            problem.is_some() && others.iter().all(led)
        })
        .await;
    let problem = statuses[full].as_ref().and_then(|status| status.storage_problem.clone()).unwrap_or_default();
    assert!(problem.contains("raft.db") && problem.contains("File too large"), "{problem}");
    nodes.says(full, "this node takes no part until it can write again").await;
    put(&nodes, "/a", b"3").await;
    for node in &others {
        assert_eq!(read_from(&nodes, *node, "/a").await.as_deref(), Some(&b"3"[..]));
    }
    // It must not pretend to know.
    let stale = nodes.client_of(full).cluster().read("/a", Deadline::after(Duration::from_millis(500))).await;
    assert!(stale.is_err(), "{stale:?}");

    nodes.limit_files(full, None);
    let statuses = nodes.serve().await;
    assert_eq!(statuses[full].as_ref().and_then(|status| status.storage_problem.clone()), None);
    assert_eq!(read_from(&nodes, full, "/a").await.as_deref(), Some(&b"3"[..]));
    // It counts again: with one of the others gone, nothing goes without it.
    nodes.kill(others[0]);
    put(&nodes, "/a", b"4").await;
    assert_eq!(read_from(&nodes, full, "/a").await.as_deref(), Some(&b"4"[..]));
}

pub(crate) async fn a_node_without_files_comes_back() {
    let nodes = Nodes::start(Options::quick(3)).await;
    put(&nodes, "/a", b"1").await;
    let mut newest = None;
    for lost in [0, 1, 2, 0] {
        // Who comes back does not know it by its new name, and still has to answer it.
        if let Some(newest) = newest {
            leads(&nodes, newest).await;
        }
        let before = id_of(&nodes, lost).await;
        nodes.kill(lost);
        nodes.wipe(lost);
        nodes.start_node(lost);
        nodes
            .until("three voters, without the one that is gone", |statuses| {
                let without = |status: &Status| status.id != before && status.peers.iter().all(|peer| peer.id != before);
                statuses.iter().all(|status| takes_part(status, 3) && status.as_ref().is_some_and(without))
            })
            .await;
        assert_eq!(read_from(&nodes, lost, "/a").await.as_deref(), Some(&b"1"[..]));
        newest = Some(lost);
    }
    nodes.assert_no_complaint();
}

/// Makes a node the leader.
async fn leads(nodes: &Nodes, node: usize) {
    let to = Some(id_of(nodes, node).await);
    eventually("the node leads", PATIENCE, || async {
        match nodes.status(node).await {
            Some(status) if status.role == NodeRole::Leader => Ok(()),
            seen => {
                let asked = nodes.client().request(&Request::Transfer { to }, soon()).await;
                Err(format!("{seen:?}; the leader says {asked:?}"))
            }
        }
    })
    .await;
}

async fn id_of(nodes: &Nodes, node: usize) -> NodeId {
    nodes.status(node).await.expect("a running node").id
}

pub(crate) async fn a_node_with_the_files_of_another_cluster_is_refused() {
    let (nodes, others) = (Nodes::start(Options::quick(3)).await, Nodes::start(Options::quick(1)).await);
    put(&nodes, "/a", b"ours").await;
    put(&others, "/a", b"theirs").await;
    let theirs = others.status(0).await.expect("a running node").cluster;
    others.kill(0);
    nodes.kill(2);
    nodes.wipe(2);
    std::fs::rename(others.data(0), nodes.data(2)).expect("its files");
    nodes.start_node(2);
    // It says so, and so do those who connect to it.
    let why = format!("its files are those of another cluster, {theirs}");
    nodes.says(2, &why).await;
    for node in 0..2 {
        nodes.says(node, &why).await;
    }
    // Nobody is served by the wrong cluster, whomever they ask.
    let answer = nodes.client_of(2).cluster().read("/a", Deadline::after(Duration::from_millis(500))).await;
    assert!(answer.is_err(), "{answer:?}");
    put(&nodes, "/a", b"ours still").await;
    for node in 0..2 {
        let status = nodes.status(node).await.expect("a running node");
        assert!(status.has_quorum && status.cluster != theirs, "{status:?}");
    }
    // With files of its own it comes back.
    nodes.kill(2);
    nodes.wipe(2);
    nodes.start_node(2);
    nodes.serve().await;
    assert_eq!(read_from(&nodes, 2, "/a").await.as_deref(), Some(&b"ours still"[..]));
}

pub(crate) async fn a_second_node_on_the_same_files_does_not_start() {
    let nodes = Nodes::start(Options::quick(1)).await;
    let second = Nodes::prepare(Options::quick(1));
    let data_dir = Value::from(nodes.data(0).display().to_string());
    let section: Map<String, Value> = second.section(0).into_iter().chain([("data_dir".to_owned(), data_dir)]).collect();
    second.start_node_with(0, &section);
    let status = second.ended(0).await;
    assert_eq!(status.code(), Some(1));
    second.says(0, "is in use by another process").await;
    second.says(0, "give each of them a `raft.data_dir` of its own").await;
    put(&nodes, "/a", b"1").await;
    // When the first one is gone, so is its claim.
    nodes.kill(0);
    second.start_node_with(0, &section);
    eventually("the second one serves", PATIENCE, || async {
        let read = second.client().request(&Request::Read { prefix: "/a".to_owned() }, soon()).await;
        match read {
            Ok(dcs_raft::message::Response::Keys { keys, .. }) if keys.len() == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
