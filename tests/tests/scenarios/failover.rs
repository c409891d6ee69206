//! Sudden deaths, stalls, and the orderly end of a primary.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::poll::{self, PATIENCE};
use tests::{Agent, Cluster, Loss, StoreKind};
use tokio::time::Instant;

on_every_store! {
    every_store: [
        when_the_primary_node_dies_a_replica_takes_over_soon_after_the_lock_expires,
        when_only_the_postmaster_dies_the_primary_recovers_in_place,
        when_the_agent_of_the_primary_is_frozen_another_takes_over_and_it_follows_when_it_wakes,
        a_cluster_killed_as_a_whole_comes_back,
    ]
    etcd_and_raft: [
        an_agent_that_dies_and_returns_within_the_ttl_leaves_its_primary_alone,
        when_the_agent_of_the_primary_dies_for_good_another_takes_over_and_the_old_primary_follows_once_its_agent_is_back,
        a_frozen_postmaster_never_leads_to_two_primaries,
        an_agent_told_to_end_hands_over_at_once_and_loses_nothing,
        the_cluster_survives_one_death_after_the_other,
    ]
}

async fn when_the_primary_node_dies_a_replica_takes_over_soon_after_the_lock_expires(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let old = cluster.leader().await?;

    let died = Instant::now();
    old.kill().await?;

    let new = cluster.eventually_leader_other_than(old).await?;
    cluster.eventually_writes().await?;
    let gap = cluster.history()?.longest_gap_since(died);
    // Detection, poll and promotion; a busy machine gets as much again.
    let allowed = cluster.times.ttl + Duration::from_secs(10);
    ensure!(gap < allowed, "no writes for {gap:?}, {allowed:?} were allowed");
    ensure!(new.timeline().await? == 2);

    old.start()?;
    cluster.eventually_follows(old, new).await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

async fn when_only_the_postmaster_dies_the_primary_recovers_in_place(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let before = leader.postmaster().context("a postmaster")?;

    leader.signal_postmaster(Signal::SIGKILL)?;

    poll::until("another postmaster runs", PATIENCE, async || {
        let now = leader.postmaster().context("none")?;
        ensure!(now != before, "the same one");
        Ok(())
    })
    .await?;
    cluster.eventually_leads(leader).await?;
    ensure!(leader.timeline().await? == 1, "{} was promoted anew", leader.name);
    cluster.finish(Loss::None).await
}

async fn an_agent_that_dies_and_returns_within_the_ttl_leaves_its_primary_alone(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let postmaster = leader.postmaster();

    leader.kill_agent().await?;
    leader.start()?;

    cluster.eventually_leads(leader).await?;
    cluster.eventually_settled().await?;
    ensure!(leader.postmaster() == postmaster, "PostgreSQL was restarted");
    ensure!(leader.timeline().await? == 1);
    cluster.finish(Loss::None).await
}

async fn when_the_agent_of_the_primary_dies_for_good_another_takes_over_and_the_old_primary_follows_once_its_agent_is_back(
    store: StoreKind,
) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let old = cluster.leader().await?;
    let timeline = old.timeline().await?;

    old.kill_agent().await?;

    let new = cluster.eventually_leader_other_than(old).await?;
    old.start()?;
    cluster.eventually_follows(old, new).await?;
    finish(cluster, timeline).await
}

async fn when_the_agent_of_the_primary_is_frozen_another_takes_over_and_it_follows_when_it_wakes(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let old = cluster.leader().await?;
    let timeline = old.timeline().await?;

    old.signal_agent(Signal::SIGSTOP)?;

    let new = cluster.eventually_leader_other_than(old).await?;
    old.signal_agent(Signal::SIGCONT)?;
    cluster.eventually_follows(old, new).await?;
    finish(cluster, timeline).await
}

/// The end of a scenario in which an agent was away for longer than its lock lives. Quorate's has a guard; Patroni's has none.
async fn finish(cluster: Cluster, timeline: u32) -> Result<()> {
    match cluster.agent {
        Agent::Quorate => cluster.finish(Loss::SUDDEN_DEATH).await,
        Agent::Patroni => cluster.finish_after_an_unguarded_primary(timeline).await,
    }
}

async fn a_frozen_postmaster_never_leads_to_two_primaries(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let started = Instant::now();

    leader.signal_postmaster(Signal::SIGSTOP)?;
    // Sessions that exist go on, new ones hang. Whatever the agent makes of that, it must be harmless for longer than a lock lives.
    let span = cluster.times.ttl + Duration::from_secs(4);
    poll::until("a lock's life has passed", span * 2, async || {
        ensure!(started.elapsed() >= span, "{:?} of {span:?}", started.elapsed());
        Ok(())
    })
    .await?;
    if leader.postmaster().is_some() {
        // It may have been killed meanwhile, which is one way to deal with it.
        let _ = leader.signal_postmaster(Signal::SIGCONT);
    }

    cluster.eventually_settled().await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

async fn an_agent_told_to_end_hands_over_at_once_and_loses_nothing(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let old = cluster.leader().await?;
    let born = old.data_born()?;

    let told = Instant::now();
    let status = old.stop().await?;

    ensure!(status == Some(0), "the agent ended with status {status:?}");
    ensure!(old.postmaster().is_none(), "the agent left PostgreSQL running");
    let new = cluster.eventually_leader_other_than(old).await?;
    cluster.eventually_writes().await?;
    let gap = cluster.history()?.longest_gap_since(told);
    ensure!(gap < cluster.times.ttl, "no writes for {gap:?}: nobody noticed that the lock was given up");

    old.start()?;
    cluster.eventually_follows(old, new).await?;
    ensure!(old.data_born()? == born, "{} was copied anew after a clean end", old.name);
    cluster.finish(Loss::None).await
}

// The embedded store would have lost its majority with them.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_loses_all_its_replicas_goes_on_with_a_store_of_its_own() -> Result<()> {
    let cluster = Cluster::builder().store(StoreKind::Etcd).start().await?;
    let leader = cluster.leader().await?;

    for replica in cluster.others(leader) {
        replica.kill().await?;
    }
    cluster.eventually_writes().await?;
    ensure!(cluster.leader().await?.name == leader.name);

    cluster.start_all()?;
    cluster.eventually_settled().await?;
    ensure!(leader.timeline().await? == 1);
    cluster.finish(Loss::None).await
}

async fn a_cluster_killed_as_a_whole_comes_back(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;

    cluster.kill_all().await?;
    cluster.start_all()?;

    cluster.eventually_settled().await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

async fn the_cluster_survives_one_death_after_the_other(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    // Patroni's lock cannot be made as short; two rounds show what three do.
    let rounds = if cluster.agent == Agent::Quorate { 3 } else { 2 };
    for _ in 0..rounds {
        let old = cluster.eventually_settled().await?;
        old.kill().await?;
        let new = cluster.eventually_leader_other_than(old).await?;
        old.start()?;
        cluster.eventually_follows(old, new).await?;
    }
    cluster.finish(Loss::SUDDEN_DEATH).await
}
