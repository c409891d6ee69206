use super::*;

use crate::ctl::testing::{Captured, console};
use crate::raft_testing::Nodes;

/// Runs the recovery of a node with these answers: what it printed, and how it ended.
async fn recover(nodes: &Nodes, position: usize, force: bool, answers: &[&str]) -> (String, Result<(), String>) {
    let printed = Captured::default();
    let ended = run(&nodes.config(position, nodes.addresses.len()), force, &mut console(&printed, answers)).await;
    (printed.text(), ended.map_err(|failure| failure.to_string()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_on_alone_only_when_it_is_stopped_nobody_leads_and_the_id_is_typed() {
    let mut nodes = Nodes::start(3).await;
    let cluster = nodes.status(0).await.unwrap().cluster;

    let (_, ended) = recover(&nodes, 0, true, &[]).await;
    assert!(ended.is_err_and(|problem| problem.contains("in use")), "it is running");

    nodes.stop_node(0).await;
    nodes.until("the others have a leader", |statuses| statuses.len() == 2 && statuses.iter().all(|status| status.leader.is_some())).await;
    let (printed, ended) = recover(&nodes, 0, true, &[]).await;
    assert!(ended.is_err_and(|problem| problem.contains("the majority is not lost")), "{printed}");

    nodes.stop_node(1).await;
    nodes.until("the last one misses the others", |statuses| statuses.iter().all(|status| status.leader.is_none())).await;
    let (printed, ended) = recover(&nodes, 0, false, &["yes"]).await;
    assert!(printed.contains(&cluster.to_string()) && printed.contains("is running without a leader"), "{printed}");
    assert!(ended.is_err_and(|problem| problem.ends_with("nothing was changed")));
    nodes.stop_node(2).await;

    let (printed, ended) = recover(&nodes, 0, false, &[&cluster.to_string()]).await;
    assert_eq!(ended, Ok(()), "{printed}");
    assert!(
        printed.contains("everything after entry") && printed.contains("is the only member of a new Raft cluster; the former files"),
        "{printed}"
    );

    nodes.start_node(0, 3).await;
    let statuses = nodes.until("it leads alone", |statuses| statuses.len() == 1 && statuses[0].leader.is_some()).await;
    assert_ne!(statuses[0].cluster, cluster);
    assert!(statuses[0].peers.is_empty() && statuses[0].has_quorum);

    // Whoever comes too late with old files is told so.
    let (_, ended) = recover(&nodes, 1, true, &[]).await;
    assert!(ended.is_err_and(|problem| problem.contains("there is another cluster already")));
}

#[tokio::test]
async fn there_must_be_something_to_recover() {
    let nodes = Nodes::prepare(1);
    let (_, ended) = recover(&nodes, 0, true, &[]).await;
    assert!(ended.as_ref().is_err_and(|problem| problem.contains("there is no Raft storage")), "{ended:?}");
    assert!(!nodes.data_dir(0).exists(), "looking creates nothing");
}
