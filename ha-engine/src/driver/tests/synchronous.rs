//! Synchronous modes in the loop: events instead of periods, and both places in the right order.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{ClusterView, FailoverRequest, MemberName, Role};
use serde_json::{Value, json};

use super::{Cluster, Node, is_leader};
use crate::handle::{Command, RestartAnswer, RestartRequest};

async fn configure(node: &Node, changes: Value) {
    let mut document = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10}).as_object().cloned().expect("an object");
    document.extend(changes.as_object().cloned().expect("an object"));
    node.handle.dcs().set_config(&document, None, Deadline::after(Duration::from_secs(5))).await.expect("written");
    node.handle.wake();
}

async fn view(reader: &Node) -> ClusterView {
    reader.handle.dcs().load(Deadline::after(Duration::from_secs(5))).await.expect("loaded")
}

/// `/sync` as `leader/quorum/standbys`.
async fn key(reader: &Node) -> String {
    let record = view(reader).await.sync.record;
    let standbys: Vec<String> = record.standbys.iter().map(ToString::to_string).collect();
    format!("{}/{}/{}", record.leader.map(|leader| leader.to_string()).unwrap_or_default(), record.quorum, standbys.join(""))
}

/// Waits until `/sync` is `expected`; how long it took.
async fn until_key(cluster: &Cluster, reader: &Node, limit: Duration, expected: &str) -> Duration {
    let begin = cluster.clock.now();
    loop {
        let found = key(reader).await;
        let waited = cluster.clock.now() - begin;
        if found == expected {
            return waited;
        }
        assert!(waited < limit, "{found} and not {expected} after {waited:?}; the servers: {:?}", cluster.world.servers());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const SOON: Duration = Duration::from_secs(2);

/// A cluster of three in this mode, `b` synchronous if standbys are named.
async fn cluster_in(mode: Value) -> (Cluster, [Node; 3]) {
    let cluster = Cluster::new();
    let nodes = cluster.of_three().await;
    let expected = if mode == json!("quorum") { "a/1/bc" } else { "a/0/b" };
    configure(&nodes[0], json!({"synchronous_mode": mode})).await;
    until_key(&cluster, &nodes[0], SOON, expected).await;
    (cluster, nodes)
}

#[tokio::test(start_paused = true)]
async fn the_modes_follow_each_other_and_the_configured_text_comes_back_last() {
    let (cluster, [a, _b, _c]) = cluster_in(json!(true)).await;
    assert_eq!(cluster.world.server("a").names, "b");
    configure(&a, json!({"synchronous_mode": "quorum"})).await;
    until_key(&cluster, &a, SOON, "a/1/bc").await;
    cluster.until(SOON, "the text of a quorum", || cluster.world.server("a").names == "ANY 1 (b,c)").await;
    configure(&a, json!({"synchronous_mode": "off"})).await;
    until_key(&cluster, &a, SOON, "/0/").await;
    cluster.until(SOON, "the configured text", || cluster.world.server("a").names.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_catches_up_is_listed_by_event() {
    let (cluster, [a, _b, _c]) = cluster_in(json!(true)).await;
    // The primary has written something that neither has.
    cluster.world.change("a", |server| server.lsn = 2000);
    configure(&a, json!({"synchronous_mode": true, "synchronous_node_count": 2})).await;
    cluster.until(SOON, "both are waited for", || cluster.world.server("a").names == "2 (b,c)").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(key(&a).await, "a/0/b", "c is behind the barrier");
    cluster.world.change("c", |server| server.lsn = 2000);
    let took = until_key(&cluster, &a, Duration::from_secs(10), "a/0/bc").await;
    assert!(took < SOON, "noticed by a look and not by the period: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_is_gone_while_commits_wait_is_replaced_within_seconds() {
    let (cluster, [a, _b, _c]) = cluster_in(json!(true)).await;
    // Just after a cycle, so that the next one is far away.
    a.handle.wake();
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.world.change("b", |server| server.disconnected = true);
    cluster.world.change("a", |server| server.commits_wait = true);
    let took = until_key(&cluster, &a, Duration::from_secs(10), "a/0/c").await;
    assert!(took >= Duration::from_secs(2), "a flapping link shrinks nothing: {took:?}");
    assert!(took < Duration::from_secs(10) / 2, "noticed by a look and not by the period: {took:?}");
    assert_eq!(cluster.world.server("a").names, "c");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_standby_is_released_first_and_its_duty_goes_to_another() {
    let (cluster, [a, b, _c]) = cluster_in(json!(true)).await;
    let starts = cluster.world.server("b").starts;
    let restart = b.handle.restart(RestartRequest::default());
    // The leader does not hear of it at first.
    a.plan.set_connection(dcs_core::fault::Connection::Silent);
    let released = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((cluster.world.server("b").starts, key(&b).await.as_str()), (starts, "a/0/b"), "it has waited");
        a.plan.set_connection(dcs_core::fault::Connection::Up);
        a.handle.wake();
        until_key(&cluster, &b, Duration::from_secs(15), "a/0/c").await;
    };
    let (answer, ()) = tokio::join!(restart, released);
    assert_eq!(answer.expect("it runs"), RestartAnswer::Restarted);
    assert_eq!(cluster.world.server("b").starts, starts + 1);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let members = view(&a).await.members;
    assert!(members.iter().all(|member| !member.record.tags.nosync()), "it is fit for duty again");
    assert_eq!(key(&a).await, "a/0/c", "who has the duty keeps it");
}

/// Must hold: ha-engine.md 10, with hardening rule X16.
#[tokio::test(start_paused = true)]
async fn x16_a_synchronous_standby_that_is_built_anew_hands_its_duty_over_first() {
    let (cluster, [a, b, _c]) = cluster_in(json!(true)).await;
    let before = cluster.world.server("b").rebuilt;
    // The leader does not hear of it at first.
    a.plan.set_connection(dcs_core::fault::Connection::Silent);
    assert_eq!(b.handle.reinitialize(false, false).await.expect("it runs"), None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let waiting = cluster.world.server("b");
    assert!(waiting.running && waiting.rebuilt == before, "it has waited: {waiting:?}");
    a.plan.set_connection(dcs_core::fault::Connection::Up);
    a.handle.wake();
    until_key(&cluster, &b, Duration::from_secs(15), "a/0/c").await;
    cluster.until(Duration::from_secs(15), "b was built anew", || cluster.world.server("b").rebuilt == before + 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_standby_whose_agent_ends_is_released_by_its_tag_and_not_by_the_period() {
    let (cluster, [a, b, _c]) = cluster_in(json!(true)).await;
    b.handle.send(Command::Shutdown).await.expect("it runs");
    let took = until_key(&cluster, &a, SOON, "a/0/c").await;
    assert!(took < Duration::from_millis(500), "{took:?}");
    cluster.until(SOON, "b has stopped", || !cluster.world.server("b").running).await;
}

#[tokio::test(start_paused = true)]
async fn a_standby_is_not_kept_from_going_by_a_leader_that_does_not_hear() {
    let (cluster, [a, b, _c]) = cluster_in(json!(true)).await;
    a.plan.set_connection(dcs_core::fault::Connection::Silent);
    b.handle.send(Command::Shutdown).await.expect("it runs");
    let took = cluster.until(Duration::from_secs(40), "b has stopped", || !cluster.world.server("b").running).await;
    assert!(took <= Duration::from_secs(21), "two periods at most: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_of_the_primary_leaves_both_places_alone() {
    let (cluster, [a, b, _c]) = cluster_in(json!(true)).await;
    let before = cluster.world.server("a").former_names.len();
    a.task.abort();
    let restarted = cluster.node("a").await;
    cluster.until(SOON, "it leads again", || is_leader(&restarted)).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((key(&b).await.as_str(), cluster.world.server("a").names.as_str()), ("a/0/b", "b"));
    let since: Vec<String> = cluster.world.server("a").former_names.split_off(before);
    assert!(since.iter().all(|text| text == "b"), "{since:?}");
}

#[tokio::test(start_paused = true)]
async fn when_the_primary_dies_only_its_synchronous_standby_takes_over() {
    let (cluster, [a, _b, c]) = cluster_in(json!(true)).await;
    // `c` claims to be further, and nobody waited for it.
    cluster.world.change("c", |server| server.lsn = 9000);
    a.task.abort();
    cluster.world.change("a", |server| server.running = false);
    cluster.until(Duration::from_secs(40), "b leads", || cluster.world.writable() == ["b"]).await;
    until_key(&cluster, &c, Duration::from_secs(30), "b/0/c").await;
}

#[tokio::test(start_paused = true)]
async fn a_quorum_moves_to_the_new_leader_before_that_is_promoted() {
    let (cluster, [a, b, c]) = cluster_in(json!("quorum")).await;
    let request = FailoverRequest { leader: Some(MemberName::from("a")), candidate: Some(MemberName::from("b")), scheduled_at: None };
    a.handle.dcs().set_failover(&request, None, Deadline::after(Duration::from_secs(5))).await.expect("written");
    a.handle.wake();
    let becomes = |role| matches!(role, Role::Promoted | Role::Primary);
    cluster.until(Duration::from_secs(60), "b is asked to promote", || becomes(b.handle.postgres().local().role)).await;
    assert_eq!((key(&c).await.as_str(), cluster.world.writable()), ("b/1/ac", Vec::new()));
    cluster.until(SOON, "b leads", || cluster.world.writable() == ["b"]).await;
    until_key(&cluster, &c, Duration::from_secs(60), "b/1/ac").await;
    cluster.until(SOON, "the text", || cluster.world.server("b").names == "ANY 1 (a,c)").await;
}

#[tokio::test(start_paused = true)]
async fn strict_mode_on_a_lone_node_waits_for_somebody_to_come() {
    let cluster = Cluster::new();
    let a = cluster.node("a").await;
    cluster.until(Duration::from_secs(30), "it leads", || is_leader(&a)).await;
    configure(&a, json!({"synchronous_mode": true, "synchronous_mode_strict": true})).await;
    until_key(&cluster, &a, SOON, "a/0/").await;
    cluster.until(SOON, "it waits for anybody", || cluster.world.server("a").names == "*").await;
    let _b = cluster.node("b").await;
    until_key(&cluster, &a, Duration::from_secs(30), "a/0/b").await;
}
