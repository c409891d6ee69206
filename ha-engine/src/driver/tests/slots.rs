//! Permanent logical slots, from the configuration to a failover.

use std::time::Duration;

use dcs_core::Deadline;
use serde_json::json;

use super::{Cluster, Node, is_leader};

const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of three with the logical slot `ls`, which the leader has created.
async fn with_a_slot() -> (Cluster, [Node; 3]) {
    let cluster = Cluster::new();
    let nodes = cluster.of_three().await;
    let slots = json!({"ls": {"type": "logical", "database": "postgres", "plugin": "pgoutput"}});
    let document = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "slots": slots});
    let document = document.as_object().cloned().expect("an object");
    nodes[0].handle.dcs().set_config(&document, None, Deadline::after(Duration::from_secs(5))).await.expect("written");
    cluster.until(PATIENCE, "the leader has it", || position(&cluster, "a").is_some()).await;
    (cluster, nodes)
}

fn position(cluster: &Cluster, name: &str) -> Option<u64> {
    cluster.world.server(name).logical_slots.get("ls").copied()
}

fn starts(cluster: &Cluster) -> [u32; 3] {
    ["a", "b", "c"].map(|name| cluster.world.server(name).starts)
}

/// Must hold: postgresql.md 14 (6)
#[tokio::test(start_paused = true)]
async fn a_logical_slot_is_copied_with_one_restart_follows_its_consumer_and_outlives_the_leader() {
    let (cluster, [a, b, c]) = with_a_slot().await;
    let before = starts(&cluster);
    let copied = |name| cluster.world.server(name).running && position(&cluster, name).is_some();
    cluster.until(PATIENCE, "the replicas have it", || copied("b") && copied("c")).await;
    for name in ["a", "b", "c"] {
        assert!(cluster.world.server(name).feeds_back, "{name} gives feedback");
    }
    for name in ["a", "b", "c"] {
        cluster.world.change(name, |server| server.lsn += 1000);
    }
    cluster.world.change("a", |server| server.logical_slots.insert("ls".to_owned(), server.lsn - 100));
    let consumed = position(&cluster, "a");
    cluster.until(PATIENCE, "they go with the consumer", || ["b", "c"].map(|name| position(&cluster, name)) == [consumed; 2]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(starts(&cluster), [before[0], before[1] + 1, before[2] + 1]);

    a.task.abort();
    cluster.world.change("a", |server| server.running = false);
    cluster.until(PATIENCE, "another leads", || is_leader(&b) || is_leader(&c)).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(["b", "c"].map(|name| position(&cluster, name)), [consumed; 2]);
    assert_eq!(starts(&cluster)[1..], [before[1] + 1, before[2] + 1]);
}

/// Hard case 103: an invalidated slot.
#[tokio::test(start_paused = true)]
async fn hard_case_103_a_slot_that_cannot_be_moved_is_copied_again_at_once_and_then_seldom() {
    let (cluster, _nodes) = with_a_slot().await;
    let copied = |name| cluster.world.server(name).running && position(&cluster, name).is_some();
    cluster.until(PATIENCE, "the replicas have it", || copied("b") && copied("c")).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let before = starts(&cluster);
    cluster.world.change("b", |server| {
        server.slots_are_broken = true;
        server.logical_slots.insert("ls".to_owned(), 1);
    });
    cluster
        .until(PATIENCE, "it is copied again", || starts(&cluster)[1] > before[1] && position(&cluster, "b") == position(&cluster, "a"))
        .await;
    // Its consumer goes on, and it is as broken as before.
    for _ in 0..360 {
        cluster.world.change("b", |server| server.logical_slots.insert("ls".to_owned(), 1));
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let restarts = starts(&cluster)[1] - before[1];
    assert!((2..=14).contains(&restarts), "{restarts} restarts in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_vanished_everywhere_is_made_again_and_copied_with_one_restart() {
    let (cluster, _nodes) = with_a_slot().await;
    let copied = |name| cluster.world.server(name).running && position(&cluster, name).is_some();
    cluster.until(PATIENCE, "the replicas have it", || copied("b") && copied("c")).await;
    let before = starts(&cluster);
    // What the leader told of it stands in the store until it tells again: there is nothing to copy before that.
    cluster.world.change("b", |server| server.logical_slots.clear());
    cluster.world.change("a", |server| server.logical_slots.clear());
    cluster.until(PATIENCE, "the leader has made it again", || position(&cluster, "a").is_some()).await;
    cluster.until(PATIENCE, "b has it again", || copied("b")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(starts(&cluster), [before[0], before[1] + 1, before[2]]);
}
