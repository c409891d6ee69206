//! Rebuilding a replica on request.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Loss, StoreKind};

on_every_store! {
    etcd_and_raft: [
        a_reinitialized_replica_gets_a_new_copy_and_follows_again,
        a_replica_whose_files_are_ruined_is_repaired_by_reinitializing_it,
        the_leader_refuses_to_be_reinitialized,
    ]
}

async fn a_reinitialized_replica_gets_a_new_copy_and_follows_again(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let replica = cluster.another(leader)?;
    let born = replica.data_born()?;

    let output = cluster.ctl(&["reinit", &cluster.scope, &replica.name, "--force", "--wait"]).await?.success()?;

    ensure!(output.contains(&format!("Success: reinitialize for member {}", replica.name)), "{output}");
    poll::until("the copy is new", PATIENCE, async || {
        ensure!(replica.data_born()? != born, "the old data is still there");
        Ok(())
    })
    .await?;
    cluster.eventually_follows(replica, leader).await?;
    cluster.finish(Loss::None).await
}

async fn a_replica_whose_files_are_ruined_is_repaired_by_reinitializing_it(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let replica = cluster.another(leader)?;

    ensure!(replica.stop().await? == Some(0));
    std::fs::remove_dir_all(replica.data_dir.join("pg_xact"))?;
    std::fs::write(replica.data_dir.join("global/pg_control"), "nonsense")?;
    replica.start()?;
    poll::until("the agent is there", PATIENCE, async || replica.get("/patroni").await.map(drop)).await?;
    poll::until("the agent accepts the request", PATIENCE, async || {
        let answer = replica.send("POST", "/reinitialize", &json!({"force": true})).await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .await?;

    cluster.eventually_follows(replica, leader).await?;
    cluster.finish(Loss::None).await
}

async fn the_leader_refuses_to_be_reinitialized(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).members(2).start().await?;
    let leader = cluster.leader().await?;
    let born = leader.data_born()?;

    let answer = leader.send("POST", "/reinitialize", &json!({"force": true})).await?;

    ensure!((answer.status, answer.body.as_str()) == (503, "I am the leader, can not reinitialize"), "{answer:?}");
    ensure!(leader.data_born()? == born);
    cluster.finish(Loss::None).await
}
