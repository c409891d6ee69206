//! What the lease guard is told.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::fault::Connection;
use serde_json::json;

use super::{Cluster, Node, is_leader};
use crate::handle::Command;

const SECOND: Duration = Duration::from_secs(1);

async fn configure(node: &Node, more: serde_json::Value) {
    let mut document = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10}).as_object().cloned().expect("an object");
    document.extend(more.as_object().cloned().expect("an object"));
    node.handle.dcs().set_config(&document, None, Deadline::after(SECOND * 5)).await.expect("written");
    node.handle.wake();
}

#[tokio::test(start_paused = true)]
async fn the_guard_holds_the_end_of_every_lease_and_what_it_must_stop() {
    let cluster = Cluster::new();
    let [a, b, c] = cluster.of_three().await;
    for _ in 0..60 {
        tokio::time::sleep(SECOND).await;
        let (hold, lease) = (a.guard.holds().expect("armed"), a.handle.snapshot().lease.expect("it leads"));
        assert_eq!(hold.postmaster, Some((1, 1)));
        assert!(hold.until < lease.valid_until() && hold.until + SECOND >= lease.valid_until());
    }
    assert_eq!((b.guard.holds(), c.guard.holds()), (None, None), "standbys need none");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_nobody_could_replace_is_not_guarded_until_somebody_can() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    cluster.until(SECOND * 30, "it leads", || is_leader(&a)).await;
    tokio::time::sleep(SECOND * 30).await;
    assert_eq!(a.guard.holds(), None);
    let _b = cluster.node("b").await;
    cluster.until(SECOND * 25, "it is guarded", || a.guard.holds().is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn pause_and_the_switch_disarm_the_guard_and_their_end_arms_it_again() {
    let cluster = Cluster::new();
    let [a, _b, _c] = cluster.of_three().await;
    for off in [json!({"pause": true}), json!({"quorate": {"lease_guard": "off"}})] {
        configure(&a, off).await;
        cluster.until(SECOND * 12, "it is disarmed", || a.guard.holds().is_none()).await;
        tokio::time::sleep(SECOND * 25).await;
        assert_eq!(a.guard.holds(), None);
        configure(&a, json!({})).await;
        cluster.until(SECOND * 25, "it is armed again", || a.guard.holds().is_some()).await;
    }
    assert!(is_leader(&a));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_leaves_the_guard_armed_and_the_next_one_takes_it_over() {
    let cluster = Cluster::new();
    let [a, _b, _c] = cluster.of_three().await;
    let left = a.guard.holds().expect("armed");
    a.task.abort();
    tokio::time::sleep(SECOND * 5).await;
    assert_eq!(a.guard.holds(), Some(left));
    let next = cluster.node("a").await;
    cluster.until(SECOND * 2, "it is guarded", || next.guard.holds().is_some_and(|hold| hold.until > left.until)).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_its_server_disarms_the_guard() {
    let cluster = Cluster::new();
    let [a, _b, _c] = cluster.of_three().await;
    a.plan.set_connection(Connection::Silent);
    cluster.until(SECOND * 40, "it has stepped down", || !cluster.world.writable().contains(&"a".to_owned())).await;
    cluster.until(SECOND * 2, "it is disarmed", || a.guard.holds().is_none()).await;

    let cluster = Cluster::new();
    let [a, _b, _c] = cluster.of_three().await;
    a.handle.send(Command::Shutdown).await.expect("it runs");
    a.task.await.expect("it ends");
    assert_eq!(a.guard.holds(), None);
}
