//! Nodes that die at any moment, under writes.

use std::time::Duration;

use crate::support::load::Load;
use crate::support::nodes::{Nodes, Options};
use crate::support::{PATIENCE, eventually};

/// How often, in each of the two trials, unless the environment says otherwise.
const ROUNDS: usize = 100;

/// What the environment may say.
const ROUNDS_VARIABLE: &str = "QUORATE_KILL_ROUNDS";

/// A node lives this long at most before the next one is killed, in the trial that kills one at a time.
const LONGEST_PEACE: Duration = Duration::from_millis(300);

/// How many writes have to be acknowledged between two deaths of all nodes, at least.
const WRITES: u64 = 4;

fn rounds() -> usize {
    let asked = std::env::var(ROUNDS_VARIABLE).ok();
    asked.map_or(ROUNDS, |text| text.parse().unwrap_or_else(|_| panic!("{ROUNDS_VARIABLE} is no number: {text}")))
}

/// A moment that nothing else decides about.
async fn some_time(longest: Duration) {
    tokio::time::sleep(longest.mul_f64(fastrand::f64())).await;
}

pub(crate) async fn nodes_are_killed_one_at_a_time() {
    let nodes = Nodes::start(Options::quick(3)).await;
    let mut load = Load::start(&nodes, 3, 2);
    for _ in 0..rounds() {
        some_time(LONGEST_PEACE).await;
        let node = fastrand::usize(..nodes.len());
        nodes.kill(node);
        some_time(LONGEST_PEACE / 3).await;
        nodes.start_node(node);
        load.check();
    }
    ends_well(&nodes, load).await;
}

pub(crate) async fn all_nodes_are_killed_at_once() {
    let nodes = Nodes::start(Options::quick(3)).await;
    let mut load = Load::start(&nodes, 3, 2);
    for _ in 0..rounds() {
        let before = load.acknowledged();
        eventually("the cluster takes writes", PATIENCE, || async {
            let acknowledged = load.acknowledged() - before;
            if acknowledged >= WRITES { Ok(()) } else { Err(format!("{acknowledged} were acknowledged")) }
        })
        .await;
        some_time(Duration::from_millis(20)).await;
        nodes.kill_all();
        for node in 0..nodes.len() {
            nodes.start_node(node);
        }
        load.check();
    }
    ends_well(&nodes, load).await;
}

/// The cluster is whole again, agrees, and has everything that it acknowledged.
async fn ends_well(nodes: &Nodes, load: Load) {
    let told = load.end().await;
    nodes.serve().await;
    nodes
        .until("all nodes have applied the same", |statuses| {
            let applied = |node: usize| statuses[node].as_ref().map(|status| (status.applied, status.commit, status.term));
            (0..nodes.len()).all(|node| applied(node).is_some() && applied(node) == applied(0))
        })
        .await;
    told.assert_remembered(nodes).await;
    nodes.assert_no_complaint();
}
