//! A server whose files cannot be written keeps nobody's loop from turning.

use std::time::Duration;

use dcs_core::Deadline;
use serde_json::json;

use super::{Cluster, Node, is_leader};

/// Writes a configuration that is told apart by `number`.
async fn configure(node: &Node, number: i64) {
    let document = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "maximum_lag_on_failover": number});
    let document = document.as_object().cloned().expect("an object");
    node.handle.dcs().set_config(&document, None, Deadline::after(Duration::from_secs(5))).await.expect("written");
    node.handle.wake();
}

#[tokio::test(start_paused = true)]
async fn a_leader_keeps_its_lock_while_new_settings_cannot_be_taken_into_use() {
    let cluster = Cluster::new();
    let [a, _b, _c] = cluster.of_three().await;
    let applied = || cluster.world.server("a").applied;
    configure(&a, 1).await;
    cluster.until(Duration::from_secs(5), "settings in use", || applied().ends_with(&[1])).await;

    cluster.world.change("a", |server| server.frozen = true);
    configure(&a, 2).await;
    for _ in 0..90 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(is_leader(&a) && cluster.world.writable() == ["a"]);
    }
    configure(&a, 3).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(applied().ends_with(&[1]) && is_leader(&a));

    cluster.world.change("a", |server| server.frozen = false);
    let took = cluster.until(Duration::from_secs(30), "the newest settings in use", || applied().ends_with(&[1, 2, 3])).await;
    assert!(took < Duration::from_secs(1), "the end of the former reload wakes the loop: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_cannot_write_its_files_stays_a_member_and_follows_later() {
    let cluster = Cluster::new();
    let [a, _b, c] = cluster.of_three().await;
    cluster.world.change("b", |server| (server.frozen, server.lsn) = (true, 900));
    a.task.abort();
    cluster.world.change("a", |server| server.running = false);
    cluster.until(Duration::from_secs(60), "c leads", || is_leader(&c)).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    let view = c.handle.dcs().load(Deadline::after(Duration::from_secs(5))).await.expect("loaded");
    assert!(view.member(&"b".into()).is_some(), "the key of an agent whose loop hangs expires");
    let follows_c = || cluster.world.server("b").following.as_deref() == Some("c");
    assert!(!follows_c());
    cluster.world.change("b", |server| server.frozen = false);
    cluster.until(Duration::from_secs(30), "b follows c", follows_c).await;
}
