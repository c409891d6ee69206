//! The watchdog of a node that leads, and of one that does not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::fault::Connection;
use serde_json::json;

use super::{Cluster, Node, is_leader, settings};
use crate::handle::Command;
use crate::settings::{WatchdogMode, WatchdogSettings};

const SECOND: Duration = Duration::from_secs(1);

impl Cluster {
    async fn watched_node(&self, name: &str, mode: WatchdogMode) -> Node {
        self.node_with(settings(name).with_watchdog(WatchdogSettings { mode, ..WatchdogSettings::default() }), name).await
    }

    async fn watched_leader(&self, mode: WatchdogMode) -> Node {
        let node = self.watched_node("a", mode).await;
        self.until(SECOND * 30, "it leads", || is_leader(&node) && self.world.writable() == ["a"]).await;
        node
    }

    async fn configure(&self, node: &Node, document: serde_json::Value) {
        let document = document.as_object().cloned().expect("an object");
        node.handle.dcs().set_config(&document, None, Deadline::after(SECOND * 5)).await.expect("written");
        node.handle.wake();
    }
}

/// Must hold: postgresql.md 20 (P20-1, P20-6).
#[tokio::test(start_paused = true)]
async fn a_leader_arms_its_watchdog_and_feeds_it_after_every_renewal_and_a_replica_never_opens_it() {
    let cluster = Cluster::new();
    let leader = cluster.watched_leader(WatchdogMode::Automatic).await;
    let replica = cluster.watched_node("b", WatchdogMode::Automatic).await;
    assert_eq!(leader.watchdog.deeds()[..2], ["opened", "timeout 25"]);
    for _ in 0..60 {
        tokio::time::sleep(SECOND).await;
        let fed = leader.watchdog.last_fed().expect("it was fed");
        assert!(cluster.clock.now() - fed <= SECOND * 11, "fed {:?} ago", cluster.clock.now() - fed);
    }
    assert!(cluster.world.server("b").running);
    assert_eq!(replica.watchdog.deeds(), [""; 0]);
}

/// Must hold: postgresql.md 20 (P20-2).
#[tokio::test(start_paused = true)]
async fn hard_case_15_the_watchdog_follows_a_changed_ttl_with_the_next_feed() {
    let cluster = Cluster::new();
    let leader = cluster.watched_leader(WatchdogMode::Required).await;
    for (ttl, timeout) in [(60, "timeout 55"), (20, "timeout 15")] {
        cluster.configure(&leader, json!({"ttl": ttl, "loop_wait": 5, "retry_timeout": 5})).await;
        let followed = || leader.watchdog.deeds().iter().rev().find(|deed| deed.starts_with("timeout")).is_some_and(|deed| deed == timeout);
        cluster.until(SECOND * 12, "it has the new timeout", followed).await;
        assert!(is_leader(&leader));
    }
    assert_eq!(leader.watchdog.deeds().iter().filter(|deed| *deed == "opened").count(), 1, "it was never let go");
}

/// Must hold: postgresql.md 20 (P20-3).
#[tokio::test(start_paused = true)]
async fn a_pause_closes_the_watchdog_and_its_end_opens_it_again() {
    let cluster = Cluster::new();
    let leader = cluster.watched_leader(WatchdogMode::Required).await;
    let is = |deed: &str| leader.watchdog.deeds().last().is_some_and(|last| last == deed);
    let timings = |pause: bool| json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "pause": pause});
    cluster.configure(&leader, timings(true)).await;
    cluster.until(SECOND * 12, "it is closed", || is("closed")).await;
    tokio::time::sleep(SECOND * 60).await;
    assert!(is("closed"));
    cluster.configure(&leader, timings(false)).await;
    cluster.until(SECOND * 25, "it is fed again", || is("fed")).await;
}

/// Must hold: postgresql.md 20 (P20-5). Hard case 33.
#[tokio::test(start_paused = true)]
async fn hard_case_33_a_node_that_requires_a_watchdog_and_has_none_never_leads() {
    let cluster = Cluster::new();
    let leader = cluster.watched_leader(WatchdogMode::Automatic).await;
    let without = cluster.watched_node("b", WatchdogMode::Required).await;
    without.watchdog.there.store(false, Ordering::Relaxed);
    cluster.until(SECOND * 60, "b follows", || cluster.world.server("b").running).await;
    tokio::time::sleep(SECOND * 11).await;
    assert!(without.handle.snapshot().watchdog_failed && !leader.handle.snapshot().watchdog_failed);
    leader.task.abort();
    cluster.world.change("a", |server| server.running = false);
    for _ in 0..120 {
        tokio::time::sleep(SECOND).await;
        assert_eq!(cluster.world.writable(), [""; 0]);
    }
    without.watchdog.there.store(true, Ordering::Relaxed);
    cluster.until(SECOND * 30, "b leads now", || cluster.world.writable() == ["b"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_watchdog_is_missing_leads_without_unless_it_is_required() {
    for (mode, leads) in [(WatchdogMode::Automatic, true), (WatchdogMode::Required, false)] {
        let cluster = Cluster::new();
        let node = cluster.node_with(settings("a").with_watchdog(WatchdogSettings { mode, ..WatchdogSettings::default() }), "a").await;
        node.watchdog.there.store(false, Ordering::Relaxed);
        tokio::time::sleep(SECOND * 60).await;
        assert_eq!(is_leader(&node), leads, "{mode:?}");
    }
}

/// Must hold: postgresql.md 20 (P20-4), its second half; 7 (P7-3).
#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_in_order_closes_its_watchdog() {
    let cluster = Cluster::new();
    let leader = cluster.watched_leader(WatchdogMode::Required).await;
    leader.handle.send(Command::Shutdown).await.expect("it runs");
    leader.task.await.expect("it ends");
    assert_eq!(leader.watchdog.deeds().last().map(String::as_str), Some("closed"));
    assert!(!cluster.world.server("a").running);
}

/// Hardening rule X1: what is not proven feeds nothing.
#[tokio::test(start_paused = true)]
async fn a_leader_without_its_store_does_not_feed_and_lets_go_once_its_server_is_down() {
    let cluster = Cluster::new();
    let leader = cluster.watched_leader(WatchdogMode::Required).await;
    let lease = leader.handle.snapshot().lease.expect("it leads");
    leader.plan.set_connection(Connection::Silent);
    cluster.until(SECOND * 40, "it has stepped down", || leader.watchdog.deeds().last().is_some_and(|deed| deed == "closed")).await;
    assert!(cluster.world.writable().is_empty());
    let fed = leader.watchdog.last_fed().expect("it was fed");
    assert!(fed + SECOND * 25 <= lease.valid_until(), "the device would have fired before the lock could expire");
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_hangs_leaves_its_watchdog_unfed() {
    let cluster = Cluster::new();
    let leader = cluster.watched_leader(WatchdogMode::Required).await;
    let lease = leader.handle.snapshot().lease.expect("it leads");
    leader.task.abort();
    tokio::time::sleep(SECOND * 60).await;
    let fed = leader.watchdog.last_fed().expect("it was fed");
    assert!(fed + SECOND * 25 <= lease.valid_until());
    assert_ne!(leader.watchdog.deeds().last().map(String::as_str), Some("closed"), "it fires");
}
