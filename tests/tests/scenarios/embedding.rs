//! The agent inside another program: its example, as it is.

use anyhow::{Result, ensure};
use tests::agents::beside_us;
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Loss, Node, StoreKind, skip};

#[tokio::test(flavor = "multi_thread")]
async fn a_program_with_an_agent_in_it_does_its_own_work_where_the_primary_is() -> Result<()> {
    if skip::unless_quorate("it is about our own crate")? {
        return Ok(());
    }
    let mut cluster = Cluster::builder().store(StoreKind::Raft).daemon(&beside_us("examples/embedded")?).assemble().await?;
    cluster.start_all()?;
    let first = cluster.eventually_settled().await?.name.clone();
    cluster.begin_checking().await?;
    let first = cluster.node(&first)?;
    eventually_works(first).await?;

    ensure!(first.stop().await? == Some(0), "a program that is asked to stop ends in order");
    let second = cluster.eventually_leader_other_than(first).await?;
    eventually_works(second).await?;
    for node in cluster.others(first).filter(|node| node.name != second.name) {
        ensure!(works(node) == 0, "{} worked and was never the primary", node.name);
    }
    first.start()?;
    cluster.eventually_follows(first, second).await?;
    cluster.finish(Loss::None).await
}

/// How many pieces of its work a node has done.
fn works(node: &Node) -> usize {
    let piece = format!("{} does piece ", node.name);
    node.read_log().lines().filter(|line| line.starts_with(&piece)).count()
}

async fn eventually_works(node: &Node) -> Result<()> {
    let what = format!("{} does what only the primary may", node.name);
    poll::until(&what, PATIENCE, async || {
        let pieces = works(node);
        ensure!(pieces >= 2, "{pieces} pieces");
        Ok(())
    })
    .await
}
