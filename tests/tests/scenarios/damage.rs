//! Content that is not what it should be: in the store, and in a data directory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Loss, StoreKind, postgres, skip};

on_every_store! {
    etcd_and_raft: [
        a_data_directory_of_another_cluster_is_refused_and_left_as_it_is,
        damaged_keys_demote_nobody,
        a_switchover_request_with_a_time_that_cannot_be_read_is_ignored,
        a_store_that_lost_everything_is_filled_again_by_the_leader,
    ]
}

async fn a_data_directory_of_another_cluster_is_refused_and_left_as_it_is(store: StoreKind) -> Result<()> {
    let mut cluster = Cluster::builder().store(store).assemble().await?;
    let [first, second, stranger] = cluster.nodes() else { anyhow::bail!("three nodes were asked for") };
    first.start()?;
    second.start()?;
    cluster.eventually_settled().await?;
    let initdb = stranger.program(&postgres::bin_dir()?.join("initdb")).arguments(["-D".as_ref(), stranger.data_dir.as_os_str()]);
    initdb.run().await?.success()?;
    let control = stranger.data_dir.join("global/pg_control");
    let before = std::fs::read(&control)?;

    stranger.start()?;
    let status = stranger.eventually_ended(Duration::from_secs(60)).await?;

    ensure!(status == Some(1), "the agent ended with status {status:?}");
    let said = stranger.read_log();
    ensure!(said.contains("system ID mismatch, node pg3 belongs to a different cluster"), "{said}");
    ensure!(std::fs::read(&control)? == before, "its control file was changed");
    let identifier = cluster.leader().await?.ask("SELECT system_identifier FROM pg_control_system()").await?;
    ensure!(cluster.store.get(&cluster.key("initialize")).await? == Some(identifier), "the cluster's identifier was changed");
    cluster.begin_checking().await?;
    cluster.finish(Loss::None).await
}

async fn damaged_keys_demote_nobody(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let postmaster = leader.postmaster().context("a postmaster")?;
    let member = format!("members/{}", cluster.another(leader)?.name);

    for (key, value) in [
        ("config", "not json at all"),
        ("failover", "{{{"),
        ("sync", "{"),
        ("history", "[[\"a\"]]"),
        ("failsafe", "text"),
        ("status", "text"),
        (member.as_str(), "postgres without a scheme"),
    ] {
        cluster.store.put(&cluster.key(key), value).await?;
    }
    let began = leader.status().await?["dcs_last_seen"].as_u64();
    let lives = 2 * cluster.times.ttl.as_secs();
    poll::until("the leader has lived with it for two lives of its lock", PATIENCE, async || {
        let seen = leader.status().await?["dcs_last_seen"].as_u64();
        ensure!(seen >= began.map(|began| began + lives), "{seen:?} after {began:?}");
        Ok(())
    })
    .await?;

    ensure!(cluster.leader().await?.name == leader.name);
    ensure!(leader.postmaster() == Some(postmaster), "PostgreSQL was restarted");
    ensure!(leader.timeline().await? == 1);
    cluster.finish(Loss::None).await
}

async fn a_switchover_request_with_a_time_that_cannot_be_read_is_ignored(store: StoreKind) -> Result<()> {
    if skip::unless_quorate("Patroni cannot read a view with such a key, and steps down")? {
        return Ok(());
    }
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let request = format!(r#"{{"leader": "{}", "scheduled_at": "the day after tomorrow"}}"#, leader.name);

    cluster.store.put(&cluster.key("failover"), &request).await?;

    poll::until("the leader has said what is wrong", PATIENCE, async || {
        ensure!(leader.read_log().contains("the day after tomorrow"), "its log does not mention it");
        Ok(())
    })
    .await?;
    ensure!(cluster.leader().await?.name == leader.name);
    cluster.finish(Loss::None).await
}

async fn a_store_that_lost_everything_is_filled_again_by_the_leader(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let identifier = leader.ask("SELECT system_identifier FROM pg_control_system()").await?;

    cluster.store.delete_all(&cluster.key("")).await?;

    poll::until("the keys are back", PATIENCE, async || {
        for (key, expected) in [("initialize", identifier.as_str()), ("leader", leader.name.as_str())] {
            let found = cluster.store.get(&cluster.key(key)).await?;
            ensure!(found.as_deref() == Some(expected), "{key} is {found:?}");
        }
        let config = cluster.store.get(&cluster.key("config")).await?.context("there is no config")?;
        ensure!(config.contains("loop_wait"), "the config is {config}");
        for node in cluster.nodes() {
            let member = cluster.store.get(&cluster.key(&format!("members/{}", node.name))).await?;
            ensure!(member.is_some(), "{} is no member", node.name);
        }
        Ok(())
    })
    .await?;
    ensure!(cluster.leader().await?.name == leader.name);
    ensure!(leader.timeline().await? == 1);
    cluster.finish(Loss::None).await
}
