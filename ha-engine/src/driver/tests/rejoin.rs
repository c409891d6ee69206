//! How a node comes back, and what it throws away on the way; how an agent ends.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{HistoryLine, Lsn, Timeline};
use serde_json::json;

use super::{Cluster, Node, is_leader, settings};
use crate::decide::journal::Rule;
use crate::handle::Command;
use crate::journal::Entry;
use crate::ports::DivergenceFacts;

async fn keep_wal(node: &Node) {
    let config = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "quorate": {"keep_divergent_wal": "/kept"}});
    let config = config.as_object().cloned().expect("an object");
    node.handle.dcs().set_config(&config, None, Deadline::after(Duration::from_secs(5))).await.expect("written");
    tokio::time::sleep(Duration::from_secs(21)).await;
}

fn diverged() -> DivergenceFacts {
    let line = HistoryLine { timeline: 1, lsn: Lsn(900), reason: String::new(), timestamp: None, new_leader: None };
    DivergenceFacts {
        local_timeline: Timeline(1),
        local_lsn: Lsn(1000),
        local_in_recovery: true,
        checkpoint_end: None,
        leader_timeline: Timeline(2),
        leader_history: Some(vec![line]),
    }
}

fn entries(node: &Node, rule: Rule) -> Vec<Entry> {
    node.handle.snapshot().journal.entries().filter(|entry| entry.record.rule == rule).cloned().collect()
}

fn fact<'e>(entry: &'e Entry, name: &str) -> Option<&'e str> {
    entry.record.facts.iter().find(|fact| fact.name == name).map(|fact| fact.value.as_str())
}

#[tokio::test(start_paused = true)]
async fn a_node_is_not_built_anew_while_the_wal_that_should_be_kept_cannot_be() {
    let cluster = Cluster::new();
    let [a, b, _c] = cluster.of_three().await;
    keep_wal(&a).await;
    let before = cluster.world.change("b", |server| {
        server.disk_full = true;
        server.rebuilt
    });
    assert_eq!(b.handle.reinitialize(false, false).await.expect("it runs"), None);
    cluster.until(Duration::from_secs(5), "it says so", || !entries(&b, Rule::WalNotKept).is_empty()).await;
    let server = cluster.world.server("b");
    assert!(server.data && server.kept.is_empty() && server.rebuilt == before, "{server:?}");

    cluster.until(Duration::from_secs(60), "b runs again", || cluster.world.server("b").running).await;
    cluster.world.change("b", |server| server.disk_full = false);
    assert_eq!(b.handle.reinitialize(true, false).await.expect("it runs"), None);
    cluster
        .until(Duration::from_secs(60), "b was built anew", || {
            let b = cluster.world.server("b");
            b.running && b.rebuilt > before
        })
        .await;
    assert_eq!(cluster.world.server("b").kept, [None], "nothing was known about a divergence, so everything was kept");
    assert_eq!(entries(&b, Rule::WalGivenUp).len(), 1);
}

/// Hard case 54, the last part: what a failed rewind has left is not started as if nothing had happened.
#[tokio::test(start_paused = true)]
async fn hard_case_54_a_rewind_tells_what_it_gives_up_and_what_it_leaves_after_a_failure_is_not_started() {
    let cluster = Cluster::new();
    let [a, b, _c] = cluster.of_three().await;
    keep_wal(&a).await;
    let starts = cluster.world.change("b", |server| {
        server.divergence = Some(diverged());
        server.running = false;
        server.starts
    });
    cluster.until(Duration::from_secs(60), "the rewind has failed", || !entries(&b, Rule::RewindFailed).is_empty()).await;
    assert_eq!(cluster.world.server("b").kept, [Some((Timeline(1), Lsn(900)))]);
    let given_up = entries(&b, Rule::WalGivenUp);
    let [given_up] = given_up.as_slice() else { panic!("told once: {given_up:?}") };
    let told = ["from", "up_to", "bytes", "kept"].map(|name| fact(given_up, name));
    assert_eq!(told, [Some("0/384"), Some("0/3E8"), Some("100"), Some("/kept/copy")]);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let server = cluster.world.server("b");
    assert!(!server.running && server.starts == starts && server.data, "{server:?}");
    assert_eq!(entries(&b, Rule::RewindFailed).len(), 1, "told once, and counted");

    assert_eq!(b.handle.reinitialize(false, false).await.expect("it runs"), None);
    cluster.until(Duration::from_secs(60), "b follows again", || cluster.world.server("b").following.as_deref() == Some("a")).await;
    cluster.until(Duration::from_secs(60), "b runs again", || cluster.world.server("b").running).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_takes_long_keeps_the_lock_until_somebody_asks_for_the_end_once_more() {
    let cluster = Cluster::new();
    let [a, b, c] = cluster.of_three().await;
    cluster.world.change("a", |server| server.stop_takes = Duration::from_secs(600));
    a.handle.send(Command::Shutdown).await.expect("it runs");
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!is_leader(&b) && !is_leader(&c), "the lock was lost during the stop");
    }
    a.handle.send(Command::Shutdown).await.expect("it hears");
    let took = cluster.until(Duration::from_secs(60), "somebody else leads", || is_leader(&b) || is_leader(&c)).await;
    assert!(took > Duration::from_secs(5), "the lock is left to expire, not released: {took:?}");
}

/// Hard case 16: a second agent with the same name refuses to start if the first one answers.
#[tokio::test(start_paused = true)]
async fn hard_case_16_a_second_agent_of_the_same_name_refuses_to_start() {
    let cluster = Cluster::new();
    let [_a, _b, _c] = cluster.of_three().await;
    cluster.world.change("b", |server| server.has_namesake = true);
    let mut second = cluster.agent(settings("b"), "b").engine;
    assert_eq!(second.start().await, Err("Can't start; there is already a node named 'b' running".to_owned()));
    cluster.world.change("b", |server| server.has_namesake = false);
    let mut again = cluster.agent(settings("b"), "b").engine;
    assert_eq!(again.start().await, Ok(()), "a published address alone is nobody");
}

/// Must hold: ha-engine.md 14.2, with hardening rule X19.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_postgresql_does_not_stop_ends_without_giving_the_lock_back() {
    let cluster = Cluster::new();
    let [a, b, c] = cluster.of_three().await;
    cluster.world.change("a", |server| server.unstoppable = true);
    a.handle.send(Command::Shutdown).await.expect("it runs");
    a.task.await.expect("it ends");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let view = b.handle.dcs().load(Deadline::after(Duration::from_secs(5))).await.expect("loaded");
    assert_eq!(view.leader_name().map(ToString::to_string).as_deref(), Some("a"));
    assert!(!is_leader(&b) && !is_leader(&c));
}
