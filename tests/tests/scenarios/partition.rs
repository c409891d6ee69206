//! A node that is cut off while everybody else is not.

use anyhow::{Result, ensure};
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Link, Loss, Node, StoreKind};

on_every_store! {
    every_store: [
        a_leader_cut_off_from_everybody_steps_down_before_another_is_promoted,
    ]
    etcd_and_raft: [
        a_leader_cut_off_from_the_store_alone_steps_down_before_its_lock_expires,
        a_replica_cut_off_from_the_store_disturbs_nobody,
    ]
}

async fn eventually_takes_no_writes(node: &Node) -> Result<()> {
    poll::until(&format!("{} takes no writes", node.name), PATIENCE, async || {
        // It may be read-only, or stopped for the moment.
        let recovering = node.ask("SELECT pg_is_in_recovery()").await.unwrap_or_else(|_| "t".to_owned());
        ensure!(recovering == "t", "it is a primary");
        Ok(())
    })
    .await
}

async fn a_leader_cut_off_from_everybody_steps_down_before_another_is_promoted(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).with_links().start().await?;
    let old = cluster.leader().await?;

    cluster.cut(old, Link::All)?;

    let new = cluster.eventually_leader_other_than(old).await?;
    eventually_takes_no_writes(old).await?;
    cluster.heal(old)?;
    cluster.eventually_follows(old, new).await?;
    // What it acknowledged between the cut and stepping down went nowhere else.
    let unreplicated = Loss::UnreplicatedTail(cluster.times.ttl);
    cluster.finish(unreplicated).await
}

async fn a_leader_cut_off_from_the_store_alone_steps_down_before_its_lock_expires(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).with_links().start().await?;
    let old = cluster.leader().await?;

    cluster.cut(old, Link::Store)?;

    let new = cluster.eventually_leader_other_than(old).await?;
    cluster.heal(old)?;
    cluster.eventually_follows(old, new).await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

async fn a_replica_cut_off_from_the_store_disturbs_nobody(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).with_links().start().await?;
    let leader = cluster.leader().await?;
    let replica = cluster.another(leader)?;

    cluster.cut(replica, Link::All)?;
    let gone = cluster.key(&format!("members/{}", replica.name));
    poll::until("the store has forgotten the replica", PATIENCE, async || {
        ensure!(cluster.store.get(&gone).await?.is_none(), "it is still a member");
        Ok(())
    })
    .await?;
    cluster.eventually_writes().await?;
    ensure!(cluster.leader().await?.name == leader.name);

    cluster.heal(replica)?;
    cluster.eventually_follows(replica, leader).await?;
    ensure!(leader.timeline().await? == 1);
    cluster.finish(Loss::None).await
}
