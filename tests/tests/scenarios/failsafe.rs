//! Failsafe mode: the store is gone, the cluster is not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::agents::Agent;
use tests::poll::{self, PATIENCE};
use tests::settings::Times;
use tests::{Cluster, Link, Loss, Node, skip};
use tokio::time::Instant;

fn failsafe() -> Value {
    json!({"failsafe_mode": true})
}

/// Waits until the leader would ask all members.
async fn eventually_mapped(cluster: &Cluster) -> Result<()> {
    poll::until("every member is in the map", PATIENCE, async || {
        for node in cluster.nodes() {
            let map = node.get("/failsafe").await?.json()?;
            ensure!(map.as_object().map(serde_json::Map::len) == Some(cluster.nodes().len()), "{} knows of {map}", node.name);
        }
        Ok(())
    })
    .await
}

async fn is_active(node: &Node) -> Result<bool> {
    Ok(node.status().await?.get("failsafe_mode_is_active") == Some(&json!(true)))
}

async fn eventually_active(nodes: impl IntoIterator<Item = &Node>, expected: bool) -> Result<()> {
    for node in nodes {
        poll::until(&format!("failsafe mode on {} is active: {expected}", node.name), PATIENCE, async || {
            ensure!(is_active(node).await? == expected);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Waits until a write was acknowledged so long after `since`.
async fn eventually_writes_for(cluster: &Cluster, since: Instant, long: Duration) -> Result<()> {
    poll::until(&format!("writes go on for {long:?}"), long + PATIENCE, async || {
        let last = cluster.history()?.rows().last().map(|row| row.write.acknowledged).context("no write")?;
        ensure!(last > since + long, "the last one is {:?} after it", last.duration_since(since));
        Ok(())
    })
    .await
}

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

fn postmasters(cluster: &Cluster) -> Vec<Option<nix::unistd::Pid>> {
    cluster.nodes().iter().map(Node::postmaster).collect()
}

/// The store of `cluster` is silent for several lives of the lock, and nobody who writes notices.
async fn outlives_the_store(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader().await?;
    let (before, timeline) = (postmasters(cluster), leader.timeline().await?);

    let silent = Instant::now();
    cluster.store.signal_all(Signal::SIGSTOP)?;

    eventually_active(cluster.nodes(), true).await?;
    eventually_writes_for(cluster, silent, cluster.times.ttl * 3).await?;
    eventually_active(cluster.nodes(), true).await?;
    for path in ["/primary", "/leader", "/"] {
        ensure!(leader.get(path).await?.status == 200, "{path} of the primary");
    }
    ensure!(cluster.history()?.longest_gap_since(silent) < cluster.times.ttl, "writes stopped");

    cluster.store.signal_all(Signal::SIGCONT)?;

    eventually_active(cluster.nodes(), false).await?;
    ensure!(cluster.eventually_settled().await?.name == leader.name, "another node leads");
    ensure!(leader.timeline().await? == timeline, "somebody was promoted");
    ensure!(postmasters(cluster) == before, "a PostgreSQL was restarted");
    Ok(())
}

/// Must hold: rest-api.md 2 (5).
#[tokio::test(flavor = "multi_thread")]
async fn hard_case_93_in_failsafe_mode_writes_go_on_without_the_store_and_nothing_changes_when_it_is_back() -> Result<()> {
    let cluster = Cluster::builder().dynamic(&failsafe()).start().await?;
    eventually_mapped(&cluster).await?;
    outlives_the_store(&cluster).await?;
    cluster.finish(Loss::None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_case_93_one_replica_that_is_gone_as_well_ends_failsafe_mode() -> Result<()> {
    let cluster = Cluster::builder().dynamic(&failsafe()).start().await?;
    eventually_mapped(&cluster).await?;
    let leader = cluster.leader().await?;
    let replica = cluster.another(leader)?;
    cluster.store.signal_all(Signal::SIGSTOP)?;
    eventually_active([leader], true).await?;

    replica.kill().await?;
    eventually_nobody_takes_writes(&cluster).await?;
    eventually_active([leader], false).await?;

    cluster.store.signal_all(Signal::SIGCONT)?;
    replica.start()?;
    cluster.eventually_settled().await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_case_94_a_leader_cut_off_from_the_store_alone_stays_and_nobody_races() -> Result<()> {
    let cluster = Cluster::builder().dynamic(&failsafe()).with_links().start().await?;
    eventually_mapped(&cluster).await?;
    let leader = cluster.leader().await?;
    let before = postmasters(&cluster);

    let began = Instant::now();
    cluster.cut(leader, Link::Store)?;

    poll::until("the lock has expired", PATIENCE, async || {
        ensure!(cluster.store.get(&cluster.key("leader")).await?.is_none());
        Ok(())
    })
    .await?;
    eventually_writes_for(&cluster, began, cluster.times.ttl * 3).await?;
    ensure!(cluster.store.get(&cluster.key("leader")).await?.is_none(), "somebody has taken the lock");

    cluster.heal(leader)?;
    eventually_active([leader], false).await?;
    ensure!(cluster.eventually_settled().await?.name == leader.name, "another node leads");
    ensure!(leader.timeline().await? == 1, "somebody was promoted");
    ensure!(postmasters(&cluster) == before, "a PostgreSQL was restarted");
    cluster.finish(Loss::None).await
}

/// A program that is one agent on some nodes and the other on the rest.
fn write_mixed(path: &Path, ours: &Path, theirs: &Path, nodes_of_theirs: &[&str]) -> Result<()> {
    let cases: Vec<String> = nodes_of_theirs.iter().map(|name| format!("*/{name}/*")).collect();
    let (ours, theirs) = (ours.display(), theirs.display());
    let script = format!("#!/bin/sh\ncase \"$1\" in\n{}) exec {theirs} \"$1\" ;;\n*) exec {ours} \"$1\" ;;\nesac\n", cases.join(" | "));
    fs::write(path, script)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

async fn mixed(theirs_lead: bool) -> Result<()> {
    let theirs = match Agent::Patroni.daemon() {
        Ok(program) if program.is_file() => program,
        _ => {
            skip::report("no `patroni` is installed");
            return Ok(());
        }
    };
    if skip::unless_quorate("a mixed cluster has both agents")? {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let ours = tests::agents::runnable_by_all(&Agent::Quorate.daemon()?, directory.path())?;
    let program = directory.path().join("agent");
    let nodes_of_theirs: &[&str] = if theirs_lead { &["pg1"] } else { &["pg2"] };
    write_mixed(&program, &ours, &theirs, nodes_of_theirs)?;
    // Patroni accepts no shorter life of the lock.
    let times = Times { ttl: Duration::from_secs(20), loop_wait: Duration::from_secs(2), retry_timeout: Duration::from_secs(5) };
    let mut cluster = Cluster::builder().daemon(&program).times(times).dynamic(&failsafe()).assemble().await?;
    let first = cluster.node("pg1")?;
    first.start()?;
    cluster.eventually_leads(first).await?;
    for node in cluster.others(first) {
        node.start()?;
    }
    cluster.eventually_settled().await?;
    cluster.begin_checking().await?;
    eventually_mapped(&cluster).await?;
    outlives_the_store(&cluster).await?;
    cluster.finish(Loss::None).await
}

/// Must hold: rest-api.md 6 (8).
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_outlives_the_store_with_the_word_of_a_replica_that_patroni_runs() -> Result<()> {
    mixed(false).await
}

/// Must hold: rest-api.md 6 (8), the reverse.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_patroni_runs_outlives_the_store_with_our_word() -> Result<()> {
    mixed(true).await
}
