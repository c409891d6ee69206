//! A file system without room.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Loss, StoreKind, skip};

on_every_store! {
    etcd_and_raft: [
        a_primary_whose_disk_is_full_is_replaced_and_returns_when_there_is_room,
    ]
}

/// Writes until nothing fits any more.
fn fill(volume: &Path) -> Result<std::path::PathBuf> {
    let path = volume.join("ballast");
    let mut file = File::create(&path)?;
    for size in [1 << 20, 4096, 1] {
        let block = vec![b'x'; size];
        while file.write_all(&block).is_ok() {}
    }
    Ok(path)
}

async fn a_primary_whose_disk_is_full_is_replaced_and_returns_when_there_is_room(store: StoreKind) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        skip::report("a small file system, which only root can mount");
        return Ok(());
    }
    let cluster = Cluster::builder().store(store).volume_of(0, "300m").start().await?;
    let first = cluster.node("pg1")?;
    let leader = cluster.leader().await?;
    if leader.name != first.name {
        let answer = cluster.switchover(leader, &leader.name, Some(&first.name)).await?;
        ensure!(answer.status == 200, "{answer:?}");
        cluster.eventually_leads(first).await?;
        cluster.eventually_settled().await?;
    }

    let ballast = fill(first.data_dir.parent().unwrap_or(Path::new("/nowhere")))?;
    // Only WAL is written: a table that cannot grow would merely refuse rows. What is preallocated is used up first.
    poll::until("another node leads", PATIENCE, async || {
        let _ = first.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000)) FROM generate_series(1, 64)").await;
        let owner = cluster.store.get(&cluster.key("leader")).await?;
        ensure!(owner.as_ref().is_some_and(|owner| owner != &first.name), "the lock says {owner:?}");
        Ok(())
    })
    .await?;
    let new = cluster.eventually_leader_other_than(first).await?;
    cluster.eventually_writes().await?;

    fs::remove_file(ballast)?;
    cluster.eventually_follows(first, new).await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}
