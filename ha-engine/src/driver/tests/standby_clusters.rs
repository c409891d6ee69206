//! A cluster that becomes a standby of another one, and stands alone again.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{ClusterView, Role};
use serde_json::{Value, json};

use super::{Cluster, Node};

const REMOTE: &str = "remote_member:elsewhere";
const PATIENCE: Duration = Duration::from_secs(60);

async fn configure(node: &Node, standby_cluster: &Value) {
    let document = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "standby_cluster": standby_cluster});
    let document = document.as_object().cloned().expect("an object");
    node.handle.dcs().set_config(&document, None, Deadline::after(Duration::from_secs(5))).await.expect("written");
    node.handle.wake();
}

async fn view(node: &Node) -> ClusterView {
    node.handle.dcs().load(Deadline::after(Duration::from_secs(5))).await.expect("loaded")
}

fn role(node: &Node) -> Role {
    node.handle.postgres().local().role
}

impl Cluster {
    fn follows(&self, name: &str, upstream: &str) -> bool {
        let server = self.world.server(name);
        server.running && !server.primary && server.following.as_deref() == Some(upstream)
    }
}

/// Hard case 91.
#[tokio::test(start_paused = true)]
async fn hard_case_91_without_an_archive_a_member_that_has_everything_becomes_the_standby_leader() {
    let cluster = Cluster::new();
    let [a, b, c] = cluster.of_three().await;
    configure(&a, &json!({"host": "elsewhere"})).await;
    let settled = || {
        let leads = [&b, &c].into_iter().filter(|node| role(node) == Role::StandbyLeader).count() == 1;
        let follows = ["b", "c"].into_iter().any(|leader| cluster.follows(leader, REMOTE) && cluster.follows("a", leader));
        leads && follows && role(&a) == Role::Replica
    };
    let took = cluster.until(PATIENCE, "b or c leads, and the others follow", settled).await;
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(cluster.world.writable().is_empty());
    let view = view(&a).await;
    assert_eq!(view.status.last_lsn.0, 1000, "what is left behind is the shutdown checkpoint");
    assert_eq!(cluster.world.server("a").archived, 0);
}

/// Hard case 91.
#[tokio::test(start_paused = true)]
async fn hard_case_91_with_an_archive_the_lock_stays_and_the_end_is_archived_before_the_server_follows() {
    let cluster = Cluster::new();
    let [a, b, _c] = cluster.of_three().await;
    cluster.world.change("a", |server| server.archives = true);
    configure(&a, &json!({"restore_command": "fetch %f %p", "host": "elsewhere"})).await;
    cluster.until(PATIENCE, "a is the standby leader", || role(&a) == Role::StandbyLeader && cluster.follows("a", REMOTE)).await;
    assert_eq!(cluster.world.server("a").archived, 1);
    assert_eq!(view(&b).await.leader_name().map(ToString::to_string).as_deref(), Some("a"));
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(role(&a) == Role::StandbyLeader && cluster.world.writable().is_empty());
        assert!(cluster.follows("b", "a"), "the members cascade from it");
    }

    configure(&a, &Value::Null).await;
    cluster.until(PATIENCE, "a is the primary again", || cluster.world.writable() == ["a"] && role(&a) == Role::Primary).await;
    assert_eq!(cluster.world.server("a").timeline, 2);
}

#[tokio::test(start_paused = true)]
async fn a_standby_leader_that_dies_is_replaced_and_nobody_is_promoted() {
    let cluster = Cluster::new();
    let [a, b, c] = cluster.of_three().await;
    cluster.world.change("a", |server| server.archives = true);
    configure(&a, &json!({"host": "elsewhere"})).await;
    cluster.until(PATIENCE, "a is the standby leader", || role(&a) == Role::StandbyLeader).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    a.task.abort();
    cluster.world.change("a", |server| server.running = false);
    let replaced = || {
        let leaders: Vec<&str> =
            [("b", &b), ("c", &c)].into_iter().filter(|(_, node)| role(node) == Role::StandbyLeader).map(|(name, _)| name).collect();
        matches!(leaders.as_slice(), [leader] if cluster.follows(leader, REMOTE))
    };
    cluster.until(PATIENCE, "b or c is the standby leader", replaced).await;
    assert!(cluster.world.writable().is_empty());
}
