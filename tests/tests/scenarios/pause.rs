//! Maintenance mode: the agent keeps its hands off.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Loss, StoreKind};

on_every_store! {
    etcd_and_raft: [
        in_pause_a_dead_postgresql_stays_dead_and_nobody_is_promoted_until_it_is_resumed,
        in_pause_an_agent_comes_and_goes_without_touching_postgresql,
        in_pause_a_switchover_needs_a_candidate,
    ]
}

async fn pause(cluster: &Cluster) -> Result<()> {
    let output = cluster.ctl(&["pause", &cluster.scope, "--wait"]).await?.success()?;
    ensure!(output.contains("Success: cluster management is paused"), "{output}");
    for node in cluster.nodes() {
        poll::until(&format!("{} knows of the pause", node.name), PATIENCE, async || {
            let status: Value = node.status().await?;
            ensure!(status["pause"] == true, "{status}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn resume(cluster: &Cluster) -> Result<()> {
    let output = cluster.ctl(&["resume", &cluster.scope, "--wait"]).await?.success()?;
    ensure!(output.contains("Success: cluster management is resumed"), "{output}");
    Ok(())
}

async fn in_pause_a_dead_postgresql_stays_dead_and_nobody_is_promoted_until_it_is_resumed(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    pause(&cluster).await?;
    let listed = cluster.ctl(&["list"]).await?.success()?;
    ensure!(listed.contains("Maintenance mode: on"), "{listed}");

    leader.signal_postmaster(Signal::SIGKILL)?;
    // The holder gives its lock up, and then everybody has a free lock before them and may not take it.
    poll::until("the lock is free", PATIENCE, async || {
        let owner = cluster.store.get(&cluster.key("leader")).await?;
        ensure!(owner.is_none(), "{owner:?} has it");
        Ok(())
    })
    .await?;
    for node in cluster.nodes() {
        let seen = node.status().await?["dcs_last_seen"].as_u64();
        poll::until(&format!("{} has looked twice", node.name), PATIENCE, async || {
            let now = node.status().await?["dcs_last_seen"].as_u64();
            ensure!(now > seen.map(|seen| seen + 2 * cluster.times.loop_wait.as_secs()), "{now:?} after {seen:?}");
            Ok(())
        })
        .await?;
    }
    ensure!(leader.postmaster().is_none(), "the agent started PostgreSQL in pause");
    for replica in cluster.others(leader) {
        ensure!(replica.ask("SELECT pg_is_in_recovery()").await? == "t", "{} was promoted in pause", replica.name);
    }

    resume(&cluster).await?;
    cluster.eventually_settled().await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

async fn in_pause_an_agent_comes_and_goes_without_touching_postgresql(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let postmaster = leader.postmaster();
    pause(&cluster).await?;

    let status = leader.stop().await?;
    ensure!(status == Some(0), "the agent ended with status {status:?}");
    ensure!(leader.postmaster() == postmaster, "PostgreSQL did not stay");
    cluster.eventually_writes().await?;

    leader.start()?;
    cluster.eventually_leads(leader).await?;
    resume(&cluster).await?;
    cluster.eventually_settled().await?;
    ensure!(leader.postmaster() == postmaster, "PostgreSQL was restarted");
    cluster.finish(Loss::None).await
}

async fn in_pause_a_switchover_needs_a_candidate(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let candidate = cluster.another(leader)?;
    pause(&cluster).await?;

    let refused = cluster.switchover(leader, &leader.name, None).await?;
    let reason = "Switchover is possible only to a specific candidate in a paused state";
    ensure!((refused.status, refused.body.as_str()) == (400, reason), "{refused:?}");

    let answer = cluster.switchover(leader, &leader.name, Some(&candidate.name)).await?;
    ensure!(answer.status == 200, "{answer:?}");
    cluster.eventually_leads(candidate).await?;
    resume(&cluster).await?;
    cluster.eventually_settled().await?;
    cluster.finish(Loss::None).await
}
