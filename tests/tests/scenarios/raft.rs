//! What only clusters live through whose agents are the store: who leads the store and who leads PostgreSQL are two questions, and whoever
//! stops an agent stops a voter with it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::poll::{self, PATIENCE};
use tests::settings::Times;
use tests::{Cluster, Link, Loss, Node, StoreKind, cluster};
use tokio::time::Instant;

fn on_raft() -> cluster::Builder {
    Cluster::builder().store(StoreKind::Raft)
}

async fn eventually_raft_is_led_by_another_than(cluster: &Cluster, former: &Node) -> Result<()> {
    poll::until(&format!("a node other than {} leads the Raft cluster", former.name), PATIENCE, async || {
        let leader = cluster.raft_leader().await?;
        ensure!(leader.name != former.name);
        Ok(())
    })
    .await
}

/// Waits until the agent has led for two lives of its lock, with what the store has now.
async fn eventually_has_led_on(cluster: &Cluster, leader: &Node) -> Result<()> {
    eventually_has_led_for(cluster, leader, 2 * cluster.times.ttl.as_secs()).await
}

/// Waits until the agent has led for so many seconds, with what the store has now.
async fn eventually_has_led_for(cluster: &Cluster, leader: &Node, seconds: u64) -> Result<()> {
    let began = leader.status().await?["dcs_last_seen"].as_u64();
    poll::until(&format!("{} has led for {seconds} s", leader.name), PATIENCE, async || {
        let seen = leader.status().await?["dcs_last_seen"].as_u64();
        ensure!(seen >= began.map(|began| began + seconds), "{seen:?} after {began:?}");
        Ok(())
    })
    .await?;
    let now = cluster.leader().await?;
    ensure!(now.name == leader.name, "{} leads now", now.name);
    Ok(())
}

/// Kills the primary's node, waits for its successor, and returns the old one to it.
async fn replace_the_primary(cluster: &Cluster) -> Result<()> {
    let old = cluster.leader().await?;
    let died = Instant::now();
    old.kill().await?;

    let new = cluster.eventually_leader_other_than(old).await?;
    cluster.eventually_writes().await?;
    let gap = cluster.history()?.longest_gap_since(died);
    // Detection, poll and promotion; a busy machine gets as much again.
    let allowed = cluster.times.ttl + Duration::from_secs(10);
    ensure!(gap < allowed, "no writes for {gap:?}, {allowed:?} were allowed");

    old.start()?;
    cluster.eventually_follows(old, new).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leads_both_the_store_and_postgresql_is_replaced_in_both_when_it_dies() -> Result<()> {
    let cluster = on_raft().start().await?;
    let both = cluster.leader().await?;
    cluster.let_lead_raft(both).await?;

    replace_the_primary(&cluster).await?;

    eventually_raft_is_led_by_another_than(&cluster, both).await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_only_follows_in_the_store_is_replaced_when_it_dies() -> Result<()> {
    let cluster = on_raft().start().await?;
    let primary = cluster.leader().await?;
    cluster.let_lead_raft(cluster.another(primary)?).await?;

    replace_the_primary(&cluster).await?;

    cluster.finish(Loss::SUDDEN_DEATH).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_goes_on_when_the_replica_that_leads_the_store_dies() -> Result<()> {
    let cluster = on_raft().start().await?;
    let primary = cluster.leader().await?;
    let postmaster = primary.postmaster();
    let replica = cluster.another(primary)?;
    cluster.let_lead_raft(replica).await?;

    replica.kill().await?;

    eventually_raft_is_led_by_another_than(&cluster, replica).await?;
    eventually_has_led_on(&cluster, primary).await?;
    replica.start()?;
    cluster.eventually_follows(replica, primary).await?;
    ensure!(primary.postmaster() == postmaster, "PostgreSQL was restarted");
    cluster.finish(Loss::None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_without_a_majority_steps_down_before_its_lock_can_expire_and_leads_again_with_it() -> Result<()> {
    let cluster = on_raft().start().await?;
    let primary = cluster.leader().await?;
    let [first, second] = cluster.others(primary).collect::<Vec<_>>()[..] else { anyhow::bail!("three nodes were asked for") };

    first.kill().await?;
    eventually_has_led_on(&cluster, primary).await?;
    let lost = Instant::now();
    second.kill().await?;
    poll::until("the primary takes no writes", PATIENCE, async || {
        let recovering = primary.ask("SELECT pg_is_in_recovery()").await.unwrap_or_else(|_| "t".to_owned());
        ensure!(recovering == "t");
        Ok(())
    })
    .await?;
    let last = cluster.history()?.rows().last().map(|row| row.write.acknowledged);
    let lasted = last.map(|last| last.duration_since(lost)).unwrap_or_default();
    // The last renewal came before the loss, so the lock's life had begun before it.
    ensure!(lasted < cluster.times.ttl, "a write was acknowledged {lasted:?} after the majority was lost");

    first.start()?;
    cluster.eventually_settled().await?;
    cluster.eventually_writes().await?;
    second.start()?;
    cluster.eventually_settled().await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leads_both_and_is_cut_off_steps_down_before_another_is_promoted() -> Result<()> {
    let cluster = on_raft().with_links().start().await?;
    let both = cluster.leader().await?;
    cluster.let_lead_raft(both).await?;

    cluster.cut(both, Link::All)?;

    let new = cluster.eventually_leader_other_than(both).await?;
    eventually_raft_is_led_by_another_than(&cluster, both).await?;
    cluster.heal(both)?;
    cluster.eventually_follows(both, new).await?;
    // What it acknowledged between the cut and stepping down went nowhere else.
    let unreplicated = Loss::UnreplicatedTail(cluster.times.ttl);
    cluster.finish(unreplicated).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_goes_on_when_the_replica_that_leads_the_store_is_cut_off() -> Result<()> {
    let cluster = on_raft().with_links().start().await?;
    let primary = cluster.leader().await?;
    let postmaster = primary.postmaster();
    let replica = cluster.another(primary)?;
    cluster.let_lead_raft(replica).await?;

    cluster.cut(replica, Link::All)?;

    eventually_raft_is_led_by_another_than(&cluster, replica).await?;
    eventually_has_led_on(&cluster, primary).await?;
    cluster.heal(replica)?;
    cluster.eventually_follows(replica, primary).await?;
    ensure!(primary.postmaster() == postmaster, "PostgreSQL was restarted");
    cluster.finish(Loss::None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_are_all_told_to_end_at_once_come_back() -> Result<()> {
    let cluster = on_raft().start().await?;

    cluster.nodes().iter().try_for_each(|node| node.signal_agent(Signal::SIGTERM))?;
    for node in cluster.nodes() {
        let status = node.eventually_ended(Duration::from_secs(60)).await?;
        ensure!(status == Some(0), "the agent of {} ended with status {status:?}", node.name);
        ensure!(node.postmaster().is_none(), "the agent of {} left PostgreSQL running", node.name);
    }
    cluster.start_all()?;

    cluster.eventually_settled().await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_are_all_killed_at_once_and_return_within_the_ttl_leave_their_primary_alone() -> Result<()> {
    let cluster = on_raft().start().await?;
    let primary = cluster.leader().await?;
    let postmaster = primary.postmaster();

    cluster.nodes().iter().try_for_each(|node| node.signal_agent(Signal::SIGKILL))?;
    for node in cluster.nodes() {
        node.eventually_ended(Duration::from_secs(10)).await?;
    }
    cluster.start_all()?;

    cluster.eventually_leads(primary).await?;
    cluster.eventually_settled().await?;
    ensure!(primary.postmaster() == postmaster, "PostgreSQL was restarted");
    ensure!(primary.timeline().await? == 1);
    cluster.finish(Loss::None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_and_a_witness_survive_the_loss_of_each() -> Result<()> {
    let cluster = on_raft().members(2).with_witness().start().await?;
    let primary = cluster.leader().await?;
    let replica = cluster.another(primary)?;
    let witness = cluster.witness.as_ref().context("a witness was asked for")?;

    witness.signal(Signal::SIGKILL)?;
    eventually_has_led_on(&cluster, primary).await?;
    witness.start()?;
    cluster.eventually_all_vote().await?;

    replica.kill().await?;
    eventually_has_led_on(&cluster, primary).await?;
    replica.start()?;
    cluster.eventually_follows(replica, primary).await?;
    cluster.eventually_all_vote().await?;
    ensure!(primary.timeline().await? == 1);

    replace_the_primary(&cluster).await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_of_each_replica_dies_hangs_and_restarts_in_turn_and_every_role_stays() -> Result<()> {
    // The restarted agents must be back within the ttl, also where many tests run at once.
    let times = Times { ttl: Duration::from_secs(15), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(6) };
    let cluster = on_raft().times(times).start().await?;
    let primary = cluster.leader().await?;
    let postmasters: Vec<_> = cluster.nodes().iter().map(Node::postmaster).collect();
    // Who could not renew the lock for as long as this has given up.
    let patience = (times.retry_timeout + times.loop_wait * 2).as_secs();

    for replica in cluster.others(primary) {
        cluster.let_lead_raft(replica).await?;
        replica.kill_agent().await?;
        eventually_has_led_for(&cluster, primary, patience).await?;
        replica.start()?;
        cluster.eventually_all_vote().await?;
        cluster.let_lead_raft(replica).await?;
        replica.signal_agent(Signal::SIGSTOP)?;
        eventually_has_led_for(&cluster, primary, patience).await?;
        replica.signal_agent(Signal::SIGCONT)?;
        cluster.eventually_all_vote().await?;
    }
    // Its lock outlives the restart of its agent.
    primary.kill_agent().await?;
    primary.start()?;
    cluster.eventually_all_vote().await?;

    ensure!(cluster.eventually_settled().await?.name == primary.name, "another node leads");
    ensure!(primary.timeline().await? == 1, "somebody was promoted");
    let after: Vec<_> = cluster.nodes().iter().map(Node::postmaster).collect();
    ensure!(after == postmasters, "a PostgreSQL was restarted");
    cluster.finish(Loss::None).await
}
