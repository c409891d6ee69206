//! Patroni's agents in the same cluster: what they are told, so that they elect whom we would elect.

use std::time::Duration;

use dcs_core::{Acquisition, Deadline};

use super::Cluster;

/// Hardening rule X2. `c` stands for an agent of Patroni: it answers, and compares bare positions.
#[tokio::test(start_paused = true)]
async fn a_node_behind_a_newer_timeline_makes_patroni_skip_it_until_somebody_leads() {
    let soon = || Deadline::after(Duration::from_secs(5));
    let cluster = Cluster::new();
    let [a, b, c] = cluster.of_three().await;
    c.task.abort();
    cluster.world.change("c", |server| (server.timeline, server.lsn) = (2, 1100));
    cluster.world.change("b", |server| server.lsn = 5000);
    a.task.abort();
    cluster.world.change("a", |server| server.running = false);
    let told = || b.handle.snapshot().tags.nofailover();
    assert!(!told());
    cluster.until(Duration::from_secs(60), "b says that it must be skipped", told).await;

    let view = b.handle.dcs().load(soon()).await.expect("loaded");
    let key = view.member(&"b".into()).expect("b is a member");
    assert!(view.is_unlocked() && !key.record.tags.nofailover(), "agents that compare timelines go by the member key");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(told(), "as long as nobody leads");
    assert!(cluster.world.writable().is_empty(), "b lacks what was written on timeline 2");

    let won = c.handle.dcs().attempt_to_acquire_leader(soon()).await.expect("the store works");
    assert!(matches!(won, Acquisition::Won(_)));
    cluster.until(Duration::from_secs(5), "b takes it back", || !told()).await;
}
