//! What is done for standbys by event: nobody waits for a period to be over.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{Member, ServerState};

use super::{Cluster, Node};

/// What `name` publishes, as `reader` sees it.
async fn published(reader: &Node, name: &str) -> Member {
    let view = reader.handle.dcs().load(Deadline::after(Duration::from_secs(5))).await.expect("loaded");
    view.members.into_iter().find(|member| member.name == name).expect("it is a member")
}

#[tokio::test(start_paused = true)]
async fn a_leader_writes_a_record_as_soon_as_a_member_begins_to_wait() {
    let cluster = Cluster::new();
    let [_a, b, _c] = cluster.of_three().await;
    let before = cluster.world.server("a").records;
    b.handle.postgres().set_state(ServerState::Starting);
    let took = cluster.until(Duration::from_secs(30), "a record", || cluster.world.server("a").records > before).await;
    assert!(took < Duration::from_millis(500), "woken by the member key and not by the period: {took:?}");
    assert_eq!(published(&b, "b").await.record.state.as_deref(), Some("starting"));

    b.handle.postgres().set_state(ServerState::Running);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let after = cluster.world.server("a").records;
    assert!(after - before <= 2, "nobody waits any more: {} records", after - before);
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_lost_its_upstream_is_nudged_as_soon_as_that_is_back() {
    let cluster = Cluster::new();
    let [a, _b, _c] = cluster.of_three().await;
    let nudges = || cluster.world.server("b").nudges;
    let before = nudges();
    cluster.world.change("b", |server| server.disconnected = true);
    a.handle.postgres().set_state(ServerState::Restarting);
    // Somewhere within a period, and not at its end.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(nudges(), before, "there is nobody to stream from");
    a.handle.postgres().set_state(ServerState::Running);
    let took = cluster.until(Duration::from_secs(30), "a nudge", || nudges() > before).await;
    assert!(took < Duration::from_millis(500), "woken by the member key and not by the period: {took:?}");

    cluster.world.change("b", |server| server.disconnected = false);
    let streaming = nudges();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(nudges() - streaming <= 1, "it streams: {} nudges", nudges() - streaming);
}
