//! The store is lost, and the agents reach each other.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::fault::Connection;
use dcs_core::model::{FailoverRequest, MemberName};
use serde_json::json;

use super::{Cluster, Node, is_leader};

/// A cluster of three in failsafe mode; `a` leads.
async fn of_three(mode: bool) -> (Cluster, [Node; 3]) {
    let cluster = Cluster::new();
    let nodes = cluster.of_three().await;
    let document = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "failsafe_mode": mode});
    let document = document.as_object().cloned().expect("an object");
    nodes[0].handle.dcs().set_config(&document, None, Deadline::after(Duration::from_secs(5))).await.expect("written");
    // Everybody knows of it, and the map is written.
    tokio::time::sleep(Duration::from_secs(21)).await;
    (cluster, nodes)
}

fn cut(nodes: &[Node], connection: Connection) {
    nodes.iter().for_each(|node| node.plan.set_connection(connection));
}

fn is_active(node: &Node) -> bool {
    node.handle.failsafe_is_active()
}

/// Row 93, the first part.
#[tokio::test(start_paused = true)]
async fn hard_case_93_a_primary_that_everybody_agrees_to_outlives_the_store() {
    let (cluster, nodes) = of_three(true).await;
    let [a, b, c] = &nodes;
    let view = a.handle.dcs().load(Deadline::after(Duration::from_secs(5))).await.expect("loaded");
    let url = |name: &str| format!("http://{name}:8008/patroni");
    assert_eq!(view.failsafe, Some(json!({"a": url("a"), "b": url("b"), "c": url("c")})));
    let starts = |name: &str| cluster.world.server(name).starts;
    let before = ["a", "b", "c"].map(starts);

    cut(&nodes, Connection::Silent);

    for _ in 0..300 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cluster.world.writable(), ["a"]);
        assert!(is_leader(a), "its lease never ends");
    }
    assert!(is_active(a) && is_active(b) && is_active(c));

    cut(&nodes, Connection::Up);

    cluster.until(Duration::from_secs(30), "the store counts again", || !is_active(a)).await;
    for _ in 0..90 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cluster.world.writable(), ["a"]);
    }
    assert!(!is_active(b) && !is_active(c));
    assert_eq!(["a", "b", "c"].map(starts), before, "nothing was restarted");
}

/// Row 93, the second part.
#[tokio::test(start_paused = true)]
async fn hard_case_93_one_replica_that_does_not_answer_ends_it() {
    let (cluster, nodes) = of_three(true).await;
    cut(&nodes, Connection::Silent);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.world.writable(), ["a"]);

    cluster.world.set_reachable("c", false);

    let took = cluster.until(Duration::from_secs(30), "a has stopped", || cluster.world.writable().is_empty()).await;
    assert!(took <= Duration::from_secs(20), "in the next cycle: {took:?}");
    assert!(!is_active(&nodes[0]));
}

/// Row 94: only the leader is cut off from the store, whose lock expires.
#[tokio::test(start_paused = true)]
async fn hard_case_94_replicas_that_see_the_store_do_not_race_while_the_leader_asks_them() {
    let (cluster, nodes) = of_three(true).await;
    let [a, b, c] = &nodes;
    let timeline = cluster.world.server("a").timeline;
    a.plan.set_connection(Connection::Silent);
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cluster.world.writable(), ["a"]);
    }
    let view = b.handle.dcs().load(Deadline::after(Duration::from_secs(5))).await.expect("loaded");
    assert!(view.is_unlocked(), "the lock has expired");
    for name in ["b", "c"] {
        assert_eq!(cluster.world.server(name).following.as_deref(), Some("a"), "{name} keeps following");
    }
    a.plan.set_connection(Connection::Up);
    cluster.until(Duration::from_secs(30), "a has the lock again", || !is_active(a) && is_leader(a)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((cluster.world.writable(), cluster.world.server("a").timeline), (vec!["a".to_owned()], timeline));
    assert!(!is_active(b) && !is_active(c));
}

/// The leader and its answers are gone for good: the promise ends with the leader's lease, and somebody takes over.
#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_during_failsafe_is_replaced_once_the_promises_have_ended() {
    let (cluster, nodes) = of_three(true).await;
    let [a, ..] = &nodes;
    a.plan.set_connection(Connection::Silent);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.world.writable(), ["a"]);
    let lease = a.handle.snapshot().lease.expect("extended");
    a.task.abort();
    // Nothing guards this PostgreSQL any more; it happens to die just before it would have to be stopped.
    cluster.world.set_reachable("a", false);
    cluster.world.change("a", |server| server.running = false);
    cluster
        .until(Duration::from_secs(60), "somebody else leads", || matches!(cluster.world.writable().as_slice(), [name] if name != "a"))
        .await;
    assert!(cluster.clock.now() >= lease.valid_until(), "nobody raced while the leader could still count on the promises");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_restarted_after_its_promise_does_not_take_over_from_a_leader_that_it_cannot_reach() {
    let (cluster, nodes) = of_three(true).await;
    let [a, b, _c] = nodes;
    a.plan.set_connection(Connection::Silent);
    tokio::time::sleep(Duration::from_secs(60)).await;
    // Nobody reaches `a`, and `a` reaches everybody.
    cluster.world.set_reachable("a", false);
    b.task.abort();
    let b = cluster.node("b").await;
    for _ in 0..100 {
        assert_eq!(cluster.world.writable(), ["a"]);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(is_active(&a) && is_active(&b));
}

/// Row 95.
#[tokio::test(start_paused = true)]
async fn hard_case_95_a_switchover_after_failsafe_mode_and_the_new_leader_outlives_the_store_too() {
    let (cluster, nodes) = of_three(true).await;
    let [a, b, _c] = &nodes;
    cut(&nodes, Connection::Silent);
    tokio::time::sleep(Duration::from_secs(60)).await;
    cut(&nodes, Connection::Up);
    cluster.until(Duration::from_secs(30), "the store counts again", || !is_active(a)).await;
    let request = FailoverRequest { leader: Some(MemberName::from("a")), candidate: Some(MemberName::from("b")), scheduled_at: None };
    a.handle.dcs().set_failover(&request, None, Deadline::after(Duration::from_secs(5))).await.expect("written");
    a.handle.wake();
    // The word that was given to `a` has to end first.
    cluster.until(Duration::from_secs(60), "b leads", || cluster.world.writable() == ["b"] && is_leader(b)).await;

    cut(&nodes, Connection::Silent);

    for _ in 0..120 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cluster.world.writable(), ["b"]);
    }
    assert!(is_active(b));
}

/// Must hold: hard case 106, on the side of the one that acquires.
#[tokio::test(start_paused = true)]
async fn hard_case_106_a_new_leader_that_is_still_promoting_refuses_the_old_one() {
    let (cluster, nodes) = of_three(true).await;
    let [a, b, _c] = &nodes;
    // The old leader is cut off from everybody, and its requests come too late.
    for name in ["b", "c"] {
        cluster.world.set_reachable(name, false);
    }
    a.plan.set_connection(Connection::Silent);
    cluster.until(Duration::from_secs(90), "somebody has the lock", || nodes[1..].iter().any(is_leader)).await;
    let winner = nodes[1..].iter().find(|node| is_leader(node)).unwrap_or(b);
    for name in ["b", "c"] {
        cluster.world.set_reachable(name, true);
    }
    let call = crate::decide::failsafe::exclusion::FailsafeCall {
        name: MemberName::from("a"),
        conn_url: "postgres://a:5432/postgres".to_owned(),
        api_url: "http://a:8008/patroni".to_owned(),
        slots: None,
    };
    assert_eq!(winner.handle.give_word(call), Err(crate::handle::NoWord::RunningAsLeader));
}

/// Must hold: hard case 3.
#[tokio::test(start_paused = true)]
async fn hard_case_3_a_renewal_that_times_out_is_a_lost_store_and_the_others_are_asked() {
    let (cluster, nodes) = of_three(true).await;
    let [a, ..] = &nodes;
    // Everything but the first request of each cycle is lost.
    a.plan.set_connection(Connection::Silent);
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(cluster.world.writable(), ["a"]);
    assert!(is_active(a));
}

#[tokio::test(start_paused = true)]
async fn without_the_mode_a_lost_store_stops_the_primary() {
    let (cluster, nodes) = of_three(false).await;
    cut(&nodes, Connection::Silent);
    cluster.until(Duration::from_secs(30), "a has stopped", || cluster.world.writable().is_empty()).await;
    let view = nodes[0].handle.snapshot().failsafe.map.clone();
    assert_eq!(view, None, "no map was written");
}

/// The answer does not wait for the loop, whatever that waits for.
#[tokio::test(start_paused = true)]
async fn a_word_is_given_while_the_loop_waits_for_the_store() {
    let (cluster, nodes) = of_three(true).await;
    let b = &nodes[1];
    b.plan.set_connection(Connection::Silent);
    b.handle.wake();
    // In the middle of a load that nobody answers.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let call = crate::decide::failsafe::exclusion::FailsafeCall {
        name: MemberName::from("a"),
        conn_url: "postgres://a:5432/postgres".to_owned(),
        api_url: "http://a:8008/patroni".to_owned(),
        slots: None,
    };
    let before = cluster.clock.now();
    let position = b.handle.give_word(call).expect("it stands back");
    assert_eq!(position.map(|lsn| lsn.0), Some(cluster.world.server("b").lsn));
    assert_eq!(cluster.clock.now(), before);
    assert!(is_active(b));
}
