//! What replicas are like while nothing happens.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Loss, Node, StoreKind};

on_every_store! {
    etcd_and_raft: [
        every_replica_streams_through_a_slot_of_its_own_and_refuses_writes,
        a_node_that_comes_later_copies_the_leader_and_follows_it,
        a_replica_that_was_away_catches_up_without_a_new_copy,
    ]
}

on! { cascading, Etcd,
    a_replica_of_a_replica_streams_from_it_and_from_the_leader_while_it_is_away,
}

async fn every_replica_streams_through_a_slot_of_its_own_and_refuses_writes(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;

    for replica in cluster.others(leader) {
        let query = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}' AND slot_type = 'physical'", replica.name);
        poll::until(&format!("the slot of {} is in use", replica.name), PATIENCE, async || {
            let active = leader.ask(&query).await?;
            ensure!(active == "t", "active is {active:?}");
            Ok(())
        })
        .await?;
        ensure!(replica.get("/replica").await?.status == 200);
        ensure!(replica.get("/primary").await?.status == 503);
        let Err(refusal) = replica.execute("CREATE TABLE forbidden ()").await else { anyhow::bail!("{} takes writes", replica.name) };
        ensure!(format!("{refusal:#}").contains("read-only"), "{refusal:#}");
    }
    cluster.finish(Loss::None).await
}

async fn a_node_that_comes_later_copies_the_leader_and_follows_it(store: StoreKind) -> Result<()> {
    let mut cluster = Cluster::builder().store(store).assemble().await?;
    let [first, second, last] = cluster.nodes() else { anyhow::bail!("three nodes were asked for") };
    first.start()?;
    second.start()?;
    let leader = cluster.eventually_settled().await?;
    leader.execute("CREATE TABLE before AS SELECT generate_series(1, 10000) AS i").await?;

    last.start()?;

    cluster.eventually_follows(last, leader).await?;
    ensure!(last.ask("SELECT count(*) FROM before").await? == "10000");
    cluster.begin_checking().await?;
    cluster.finish(Loss::None).await
}

async fn a_replica_that_was_away_catches_up_without_a_new_copy(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let replica = cluster.another(leader)?;
    let born = replica.data_born()?;

    ensure!(replica.stop().await? == Some(0), "the agent did not end well");
    ensure!(replica.postmaster().is_none(), "the agent left PostgreSQL running");
    cluster.eventually_writes().await?;
    replica.start()?;

    cluster.eventually_follows(replica, leader).await?;
    ensure!(replica.data_born()? == born, "{} was copied anew", replica.name);
    cluster.finish(Loss::None).await
}

/// Must hold: postgresql.md 14 (8).
async fn a_replica_of_a_replica_streams_from_it_and_from_the_leader_while_it_is_away(store: StoreKind) -> Result<()> {
    let tag = |name: &str| json!({"tags": {"replicatefrom": name}});
    let cluster = Cluster::builder().store(store).local_of(2, tag("pg2")).assemble().await?;
    let [leader, middle, last] = cluster.nodes() else { anyhow::bail!("three nodes were asked for") };
    leader.start()?;
    cluster.eventually_leads(leader).await?;
    middle.start()?;
    cluster.eventually_follows(middle, leader).await?;
    last.start()?;
    cluster.eventually_follows(last, middle).await?;
    let slot = async |node: &Node, expected: &str| {
        poll::until(&format!("the slot of pg3 on {} is {expected:?}", node.name), PATIENCE, async || {
            let active = node.ask("SELECT active FROM pg_replication_slots WHERE slot_name = 'pg3'").await?;
            ensure!(active == expected, "it is {active:?}");
            Ok(())
        })
        .await
    };
    slot(middle, "t").await?;
    slot(leader, "f").await?;

    middle.kill().await?;
    cluster.eventually_follows(last, leader).await?;
    middle.start()?;
    cluster.eventually_follows(last, middle).await?;

    // A node that streams from nobody is there all the same.
    last.change_file(|file| file["tags"] = json!({"nostream": true}))?;
    last.signal_agent(nix::sys::signal::Signal::SIGHUP)?;
    poll::until("pg3 streams from nobody", PATIENCE, async || {
        let conninfo = last.ask("SHOW primary_conninfo").await?;
        ensure!(conninfo.is_empty(), "primary_conninfo is {conninfo:?}");
        let senders = middle.ask("SELECT count(*) FROM pg_stat_replication").await?;
        ensure!(senders == "0", "{} WAL senders on {}", senders, middle.name);
        let status = last.get("/replica").await?.status;
        ensure!(status == 200, "/replica answers {status}");
        Ok(())
    })
    .await?;
    cluster.finish_unchecked();
    Ok(())
}
