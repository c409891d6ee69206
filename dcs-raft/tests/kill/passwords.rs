//! Nodes and clients that know another password.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_raft::RemoteCluster;
use dcs_raft::cluster::ClusterError;
use dcs_raft::message::Request;
use serde_json::{Map, Value};

use crate::support::load::{put, read_from};
use crate::support::nodes::{Nodes, Options, takes_part};

const WRONG: &str = "the other side has another password";

fn protected() -> Options {
    Options { password: Some("secret"), ..Options::quick(3) }
}

fn with_password(nodes: &Nodes, node: usize, password: &str) -> Map<String, Value> {
    nodes.section(node).into_iter().chain([("password".to_owned(), password.into())]).collect()
}

pub(crate) async fn a_new_node_with_another_password_does_not_join() {
    let nodes = Nodes::start(protected()).await;
    put(&nodes, "/a", b"1").await;
    nodes.kill(2);
    nodes.wipe(2);
    nodes.start_node_with(2, &with_password(&nodes, 2, "guess"));
    // On both sides.
    nodes.says(2, WRONG).await;
    for node in 0..2 {
        nodes.says(node, WRONG).await;
    }
    put(&nodes, "/a", b"2").await;
    let outsider = RemoteCluster::new(&nodes.client_config_with(Some("guess")));
    // It reaches the one that knows no more than itself, which has no cluster; the others do not even talk to it.
    let at_outsider = outsider.request_of(&address(&nodes, 2), &Request::Discover, patience()).await;
    assert!(matches!(&at_outsider, Ok(dcs_raft::message::Response::Identity(who)) if who.cluster.is_none()), "{at_outsider:?}");
    for node in 0..2 {
        let answer = outsider.request_of(&address(&nodes, node), &Request::Discover, patience()).await;
        assert!(matches!(answer, Err(ClusterError::Denied(_))), "{answer:?}");
    }
    nodes.kill(2);
    nodes.start_node(2);
    nodes.serve().await;
    assert_eq!(read_from(&nodes, 2, "/a").await.as_deref(), Some(&b"2"[..]));
}

pub(crate) async fn a_member_is_left_out() {
    let nodes = Nodes::start(protected()).await;
    put(&nodes, "/a", b"1").await;
    nodes.kill(2);
    let said_before = [nodes.log(0), nodes.log(1)];
    assert!(said_before.iter().all(|log| !log.contains(WRONG)), "{said_before:?}");
    nodes.start_node_with(2, &with_password(&nodes, 2, "guess"));
    for node in 0..3 {
        nodes.says(node, WRONG).await;
    }
    put(&nodes, "/a", b"2").await;
    // The member has its files, and hears of nobody: it must not serve what it has.
    let alone = RemoteCluster::new(&nodes.client_config_with(Some("guess")));
    let read = alone.cluster().read("/a", Deadline::after(Duration::from_secs(1))).await;
    assert!(read.is_err(), "{read:?}");
    nodes.kill(2);
    nodes.start_node(2);
    nodes.until("all take part again", |statuses| statuses.iter().all(|status| takes_part(status, 3))).await;
    assert_eq!(read_from(&nodes, 2, "/a").await.as_deref(), Some(&b"2"[..]));
}

fn address(nodes: &Nodes, node: usize) -> dcs_raft::transport::Address {
    nodes.address(node).to_string().parse().expect("an address")
}

fn patience() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}
