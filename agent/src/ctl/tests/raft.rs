//! `raft`, against real nodes.

use crate::ctl::raft_nodes::configured;
use crate::ctl::testing::{Outcome, Tool};
use crate::raft_testing::Nodes;

async fn tool(nodes: &Nodes, position: usize, partners: usize) -> Tool {
    let mut tool = Tool::with(&[]).await;
    tool.raft = configured(&nodes.config(position, partners));
    tool
}

fn succeeded(outcome: &Outcome) -> bool {
    outcome.failure.is_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_looked_at_and_the_leader_hands_over() {
    let nodes = Nodes::start(3).await;
    let leader = nodes.until_complete(3).await;
    // A tool that knows one node finds the others.
    let mut tool = tool(&nodes, 0, 0).await;
    let outcome = tool.run(&["raft", "status"]).await;
    assert!(succeeded(&outcome), "{}", outcome.whole());
    for address in &nodes.addresses {
        assert!(outcome.printed.contains(&format!("| {address} ")), "{}", outcome.printed);
    }
    assert_eq!(
        (outcome.printed.matches("| leader ").count(), outcome.printed.matches("| follower ").count()),
        (1, 2),
        "{}",
        outcome.printed
    );

    let outcome = tool.run(&["raft", "status", "-f", "syncobj", "--node", &nodes.addresses[1]]).await;
    for line in [format!("self: {}\n", nodes.addresses[1]), format!("leader: {leader}\n"), "has_quorum: True\n".to_owned()] {
        assert!(outcome.printed.contains(&line), "{}", outcome.printed);
    }

    let other = nodes.addresses.iter().find(|address| **address != leader).unwrap();
    let outcome = tool.run(&["raft", "transfer", other]).await;
    assert_eq!(outcome.printed, format!("Success: {other} leads the Raft cluster\n"), "{}", outcome.whole());
    let outcome = tool.run(&["raft", "transfer", other]).await;
    assert_eq!(outcome.printed, format!("{other} leads the Raft cluster already\n"));
    let outcome = tool.run(&["raft", "transfer"]).await;
    assert!(succeeded(&outcome) && !outcome.printed.contains(other), "{}", outcome.whole());
    let outcome = tool.run(&["raft", "transfer", "127.0.0.1:1"]).await;
    assert!(outcome.error().starts_with("127.0.0.1:1 is not a member of the Raft cluster"), "{}", outcome.error());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_another_one_goes_and_one_takes_the_place_of_another() {
    let mut nodes = Nodes::prepare(5);
    for position in 0..3 {
        nodes.start_node(position, 3).await;
    }
    nodes.until_complete(3).await;
    let (fourth, fifth) = (nodes.addresses[3].clone(), nodes.addresses[4].clone());
    let mut tool = tool(&nodes, 0, 3).await;

    let outcome = tool.run(&["raft", "add", &fourth]).await;
    assert!(outcome.error().starts_with(&format!("Nobody answers at {fourth}: ")), "{}", outcome.error());
    assert!(outcome.error().contains("nodes join by themselves"), "{}", outcome.error());

    nodes.start_node(3, 3).await;
    let outcome = tool.run(&["raft", "add", &fourth]).await;
    let already = format!("{fourth} is a member of the Raft cluster already, and votes\n");
    // A node that joins by itself may be faster than the tool.
    let added = outcome.printed.ends_with(&format!("Success: {fourth} votes in the Raft cluster\n")) || outcome.printed == already;
    assert!(added, "{}", outcome.whole());
    let outcome = tool.run(&["raft", "add", &fourth]).await;
    assert_eq!(outcome.printed, already);

    let mut declined = tool.answering(&["n"]);
    let outcome = declined.run(&["raft", "remove", &fourth]).await;
    assert_eq!(outcome.error(), "Aborted remove");
    let mut tool = declined.answering(&["y"]);
    let outcome = tool.run(&["raft", "remove", &fourth]).await;
    assert!(outcome.printed.ends_with(&format!("Success: {fourth} is removed from the Raft cluster\n")), "{}", outcome.whole());
    let outcome = tool.run(&["raft", "remove", "--force", &fourth]).await;
    assert!(outcome.error().starts_with(&format!("{fourth} is not a member of the Raft cluster")), "{}", outcome.error());
    nodes.stop_node(3).await;

    // The one that goes may be the leader, which hands over before it goes.
    let leader = nodes.until_complete(3).await;
    nodes.start_node(4, 3).await;
    let outcome = tool.run(&["raft", "replace", "--force", &leader, &fifth]).await;
    assert!(outcome.printed.contains(&format!("Success: {fifth} votes in the Raft cluster\n")), "{}", outcome.whole());
    assert!(outcome.printed.ends_with(&format!("Success: {leader} is removed from the Raft cluster\n")), "{}", outcome.whole());
    let outcome = tool.run(&["raft", "replace", "--force", &fifth, &fifth]).await;
    assert!(outcome.error().contains("takes its own place by itself"), "{}", outcome.error());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_cluster_refuses_is_told_in_its_words() {
    let mut nodes = Nodes::start(3).await;
    let leader = nodes.until_complete(3).await;
    let followers: Vec<usize> = (0..3).filter(|position| nodes.addresses[*position] != leader).collect();
    nodes.stop_node(followers[0]).await;
    let mut tool = tool(&nodes, followers[1], 3).await;
    // Of the two that would be left, one is there.
    let gone_quiet = |statuses: &[dcs_raft::status::Status]| {
        let quiet = &nodes.addresses[followers[0]];
        let peer =
            statuses.iter().filter(|status| status.address == leader).flat_map(|status| &status.peers).find(|peer| peer.address == *quiet);
        peer.is_some_and(|peer| !peer.connected && peer.last_contact_ms.is_some_and(|silent| silent > 3_000))
    };
    nodes.until("the leader misses the node", gone_quiet).await;
    let outcome = tool.run(&["raft", "remove", "--force", &nodes.addresses[followers[1]]]).await;
    assert!(outcome.error().contains("which is no majority"), "{}", outcome.whole());

    let outcome = tool.run(&["raft", "status"]).await;
    assert!(succeeded(&outcome));
    assert!(outcome.printed.contains(&format!(" {} does not say how it is: ", nodes.addresses[followers[0]])), "{}", outcome.printed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_not_waited_for() {
    let mut nodes = Nodes::prepare(3);
    nodes.start_node(0, 1).await;
    nodes.until_complete(1).await;
    let foreign = nodes.addresses[1].clone();
    // It knows itself only, and founds a cluster of its own.
    let path = nodes.file(1, 0);
    let local = crate::config::LocalConfig::load(Some(&path), crate::config::Environment::empty()).unwrap();
    nodes.running[1] = Some(crate::raft_controller::RaftController::start(local).await.unwrap());
    nodes.until("both lead", |statuses| statuses.len() == 2 && statuses.iter().all(|status| status.leader.is_some())).await;
    let mut tool = tool(&nodes, 0, 1).await;
    let outcome = tool.run(&["raft", "add", &foreign]).await;
    assert!(outcome.error().starts_with(&format!("{foreign} belongs to another Raft cluster, ")), "{}", outcome.error());
    assert!(outcome.error().contains("move its `raft.data_dir` away"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nodes_there_is_an_error_that_says_what_is_missing() {
    let mut tool = Tool::with(&[]).await;
    tool.raft = configured(&crate::config::LocalConfig::load_unchecked(None, crate::config::Environment::empty()).unwrap());
    let outcome = tool.run(&["raft", "status"]).await;
    assert!(outcome.error().contains("there is no section `raft`"), "{}", outcome.error());
    let nodes = Nodes::prepare(1);
    tool.raft = configured(&nodes.config(0, 1));
    let outcome = tool.run(&["raft", "status"]).await;
    assert!(outcome.error().starts_with(&format!("No node of the Raft cluster answers: {}: ", nodes.addresses[0])), "{}", outcome.error());
    let outcome = tool.run(&["raft", "add", "nonsense"]).await;
    assert!(outcome.whole().contains("Invalid value for 'HOST:PORT'") && outcome.whole().contains("exit 2"), "{}", outcome.whole());
}
