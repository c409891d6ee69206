//! A cluster gets another store while clients write, as `docs/moving-stores.md` says.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Loss, Node, StoreKind, skip};
use tokio::time::Instant;

/// What operators are told to do.
const RECIPE: &str = include_str!("../../../docs/moving-stores.md");

/// A command that the recipe has.
fn step(command: &str) -> Result<Vec<&str>> {
    ensure!(RECIPE.contains(&format!("\nquoratectl {command}\n")), "the recipe does not say `quoratectl {command}`");
    Ok(command.split(' ').collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_from_etcd_to_the_embedded_store_and_writes_go_on() -> Result<()> {
    moves(StoreKind::Etcd, StoreKind::Raft).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_from_etcd_to_consul_and_writes_go_on() -> Result<()> {
    moves(StoreKind::Etcd, StoreKind::Consul).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_from_zookeeper_to_etcd_and_writes_go_on() -> Result<()> {
    moves(StoreKind::ZooKeeper, StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_from_kubernetes_to_the_embedded_store_and_writes_go_on() -> Result<()> {
    moves(StoreKind::Kubernetes, StoreKind::Raft).await
}

async fn moves(from: StoreKind, to: StoreKind) -> Result<()> {
    if skip::unless_there(from, 1)? || skip::unless_there(to, 1)? {
        return Ok(());
    }
    let mut cluster = Cluster::builder().store(from).start().await?;
    let primary = cluster.leader().await?.name.clone();
    cluster.patch_config(&json!({"postgresql": {"parameters": {"work_mem": "9MB"}}})).await?;
    let postmasters: Vec<_> = cluster.nodes().iter().map(Node::postmaster).collect();
    let old_file = cluster.sandbox().directory().join("old.yml");
    std::fs::copy(cluster.nodes().first().context("a node")?.file(), &old_file)?;
    cluster.sandbox().account().own(&old_file)?;
    let began = Instant::now();

    // 1. Maintenance mode.
    cluster.ctl(&step("pause --wait")?).await?.success()?;
    // 2. The new store, in all files.
    let former = cluster.write_another_store_into_the_files(to).await?;
    // 3. Agents start anew, that of the primary first.
    let leader = cluster.node(&primary)?;
    for node in std::iter::once(leader).chain(cluster.others(leader)) {
        let status = node.stop().await?;
        ensure!(status == Some(0), "the agent of {} ended with status {status:?}", node.name);
        node.start()?;
    }
    // 4. Everything is there.
    poll::until("the new store knows the cluster", PATIENCE, async || {
        let listed = cluster.ctl(&step("list")?).await?.success()?;
        ensure!(listed.contains("Maintenance mode: on"), "{listed}");
        for node in cluster.nodes() {
            let line = listed.lines().find(|line| line.contains(&format!("| {} ", node.name))).context("not listed")?;
            let role = if node.name == primary { "Leader" } else { "Replica" };
            ensure!(line.contains(role) && (line.contains("running") || line.contains("streaming")), "{listed}");
        }
        Ok(())
    })
    .await?;
    let config = cluster.ctl(&step("show-config")?).await?.success()?;
    ensure!(config.contains("work_mem: 9MB"), "the configuration did not come along: {config}");
    // 5. And out of maintenance mode.
    cluster.ctl(&step("resume --wait")?).await?.success()?;
    // 6. Nothing is left of the old.
    let old_leader = former.get(&cluster.key("leader")).await?;
    let mut answers = vec![cluster.scope.as_str(), "Yes I am aware"];
    answers.extend(old_leader.as_deref());
    let mut arguments = step("-c old.yml remove demo")?;
    arguments.drain(..2);
    cluster.ctl_with(&old_file, &arguments, &answers).await?.success()?;
    ensure!(former.get(&cluster.key("config")).await?.is_none(), "the old store still has a configuration");

    let after: Vec<_> = cluster.nodes().iter().map(Node::postmaster).collect();
    ensure!(after == postmasters, "a PostgreSQL was restarted");
    ensure!(cluster.eventually_settled().await?.name == primary, "another node leads");
    ensure!(cluster.node(&primary)?.timeline().await? == 1, "somebody was promoted");
    let gap = cluster.history()?.longest_gap_since(began);
    ensure!(gap < cluster.times.ttl / 2, "no writes for {gap:?}");
    cluster.finish(Loss::None).await
}
