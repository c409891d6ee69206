//! The store goes away, in part or as a whole, and comes back.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use tests::poll::{self, PATIENCE};
use tests::settings::Times;
use tests::{Cluster, Loss, Node, StoreKind, settings, skip};
use tokio::time::Instant;

on_every_outside_store! {
    when_the_whole_store_hangs_the_primary_steps_down_before_its_lock_can_expire_and_comes_back,
    each_of_three_servers_dies_hangs_and_restarts_in_turn_and_every_role_stays,
}

/// What etcd says to whom it does not let in.
const WRONG_PASSWORD: &str = "invalid user ID or password";

async fn eventually_nobody_takes_writes(cluster: &Cluster) -> Result<()> {
    poll::until("nobody takes writes", PATIENCE, async || {
        for node in cluster.nodes() {
            // One that does not answer takes none either.
            let recovering = node.ask("SELECT pg_is_in_recovery()").await.unwrap_or_else(|_| "t".to_owned());
            ensure!(recovering == "t", "{} does", node.name);
        }
        Ok(())
    })
    .await
}

/// Waits until the agent has read the store often enough after now to have reacted to what is there.
async fn eventually_has_read_the_store_for(node: &Node, seconds: u64) -> Result<()> {
    let began = node.status().await?["dcs_last_seen"].as_u64();
    poll::until(&format!("{} has read the store for {seconds} s", node.name), PATIENCE, async || {
        let seen = node.status().await?["dcs_last_seen"].as_u64();
        ensure!(seen >= began.map(|began| began + seconds), "last at {seen:?}, began at {began:?}");
        Ok(())
    })
    .await
}

async fn when_the_whole_store_hangs_the_primary_steps_down_before_its_lock_can_expire_and_comes_back(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;

    let silent = Instant::now();
    cluster.store.signal_all(Signal::SIGSTOP)?;
    eventually_nobody_takes_writes(&cluster).await?;
    let last = cluster.history()?.rows().last().map(|row| row.write.acknowledged);
    let lasted = last.map(|last| last.duration_since(silent)).unwrap_or_default();
    // The last renewal came before the silence, so the lock's life had begun before it.
    ensure!(lasted < cluster.times.ttl, "a write was acknowledged {lasted:?} after the store fell silent");

    cluster.store.signal_all(Signal::SIGCONT)?;
    cluster.eventually_settled().await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_server_of_the_store_is_killed_and_restarted_the_cluster_comes_back() -> Result<()> {
    let cluster = Cluster::builder().store_servers(3).start().await?;

    cluster.store.signal_all(Signal::SIGKILL)?;
    eventually_nobody_takes_writes(&cluster).await?;
    for server in 0..3 {
        cluster.store.resurrect(server).await?;
    }

    cluster.eventually_settled().await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

async fn each_of_three_servers_dies_hangs_and_restarts_in_turn_and_every_role_stays(store: StoreKind) -> Result<()> {
    const SERVERS: u8 = 3;
    if skip::unless_there(store, SERVERS)? {
        return Ok(());
    }
    // A store that has lost its own leader needs seconds for the next one, and on a busy machine more of them than the shortest times allow.
    let times = Times { ttl: Duration::from_secs(15), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(6) };
    let cluster = Cluster::builder().store(store).store_servers(SERVERS).times(times).start().await?;
    let leader = cluster.leader().await?;
    let postmasters: Vec<_> = cluster.nodes().iter().map(Node::postmaster).collect();
    // Who could not renew the lock for as long as this has given up.
    let patience = (times.retry_timeout + times.loop_wait * 2).as_secs();

    for server in 0..3 {
        cluster.store.signal(server, Signal::SIGKILL)?;
        eventually_has_read_the_store_for(leader, patience).await?;
        cluster.store.resurrect(server).await?;
        cluster.store.eventually_all_healthy().await?;
        cluster.store.signal(server, Signal::SIGSTOP)?;
        eventually_has_read_the_store_for(leader, patience).await?;
        cluster.store.signal(server, Signal::SIGCONT)?;
        cluster.store.eventually_all_healthy().await?;
    }
    // One after the other, each as soon as the one before is back, as an upgrade does.
    for server in 0..3 {
        cluster.store.signal(server, Signal::SIGKILL)?;
        cluster.store.resurrect(server).await?;
        cluster.store.eventually_all_healthy().await?;
    }

    ensure!(cluster.eventually_settled().await?.name == leader.name, "another node leads");
    ensure!(leader.timeline().await? == 1, "somebody was promoted");
    let after: Vec<_> = cluster.nodes().iter().map(Node::postmaster).collect();
    ensure!(after == postmasters, "a PostgreSQL was restarted");
    cluster.finish(Loss::None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_of_the_store_takes_effect_with_a_reload() -> Result<()> {
    let section = |password: &str| json!({"etcd3": {"username": "patroni", "password": password}});
    let cluster = Cluster::builder().members(1).local(&section("first")).start().await?;
    cluster.store.etcd()?.admit_only("patroni", "first").await?;
    let node = cluster.leader().await?;
    eventually_has_read_the_store_for(node, 2 * cluster.times.loop_wait.as_secs()).await?;
    ensure!(!node.read_log().contains(WRONG_PASSWORD), "the first password is not accepted");

    cluster.store.etcd()?.change_password("patroni", "second").await?;
    poll::until("the agent is told that its password is wrong", PATIENCE, async || {
        ensure!(node.read_log().contains(WRONG_PASSWORD));
        Ok(())
    })
    .await?;
    node.change_file(|settings| settings::merge(settings, &section("second")))?;
    node.signal_agent(Signal::SIGHUP)?;

    eventually_has_read_the_store_for(node, 2 * cluster.times.loop_wait.as_secs()).await?;
    cluster.finish(Loss::None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_while_the_store_is_silent_is_replaced_when_it_speaks_again() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let old = cluster.leader().await?;

    cluster.store.signal_all(Signal::SIGSTOP)?;
    old.kill().await?;
    cluster.store.signal_all(Signal::SIGCONT)?;

    let new = cluster.eventually_leader_other_than(old).await?;
    old.start()?;
    cluster.eventually_follows(old, new).await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}
