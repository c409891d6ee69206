//! The journal: asked afterwards, the cluster tells why it failed over, and why it did not.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Link, Loss, StoreKind};

on_every_store! {
    etcd_and_raft: [
        after_a_failover_it_is_told_who_was_lost_why_the_winner_won_and_why_the_other_did_not,
    ]
}

/// The story as the control tool tells it.
async fn story(cluster: &Cluster, arguments: &[&str]) -> Result<Vec<Value>> {
    let mut all = vec!["why", &cluster.scope, "-f", "json", "--since", "1h"];
    all.extend(arguments);
    let text = cluster.ctl(&all).await?.success()?;
    let told: Value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
    Ok(told.as_array().context("a list")?.clone())
}

/// What this member tells by this rule, the newest first.
fn by_rule<'s>(story: &'s [Value], member: &str, rule: &str) -> Vec<&'s Value> {
    story.iter().rev().filter(|entry| entry["reported_by"] == member && entry["rule"] == rule).collect()
}

fn reason<'e>(entry: &'e Value, member: &str) -> Option<&'e str> {
    entry["candidates"].as_array()?.iter().find(|candidate| candidate["member"] == member)?["reason"].as_str()
}

async fn after_a_failover_it_is_told_who_was_lost_why_the_winner_won_and_why_the_other_did_not(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let old = cluster.leader().await?;

    old.kill().await?;

    let new = cluster.eventually_leader_other_than(old).await?;
    let other = cluster.others(old).find(|node| node.name != new.name).context("a third node")?;
    cluster.eventually_follows(other, new).await?;
    let told = story(&cluster, &[]).await?;
    let lost = by_rule(&told, &new.name, "lock.free");
    ensure!(lost.iter().any(|entry| entry["facts"]["former_leader"] == old.name.as_str()), "the loss of {}: {told:#?}", old.name);
    let won = *by_rule(&told, &new.name, "race.won").first().context("who won says so")?;
    ensure!(reason(won, &old.name) == Some("did not answer"), "{won:#}");
    ensure!(reason(won, &other.name).is_some(), "{won:#}");
    ensure!(!by_rule(&told, &new.name, "promote").is_empty(), "{told:#?}");
    // The other one saw the free lock and says what kept it from it, or came when it was taken.
    let kept_out = told.iter().any(|entry| {
        let rule = entry["rule"].as_str().unwrap_or_default();
        let taken = rule == "lock.held" && entry["what"].as_str().is_some_and(|what| what.starts_with(&new.name));
        entry["reported_by"] == other.name.as_str() && (taken || (rule.starts_with("race.") && rule != "race.won"))
    });
    ensure!(kept_out, "{} does not say why it did not take over: {told:#?}", other.name);

    let read = cluster.ctl(&["why", &cluster.scope, "--member", &new.name]).await?.success()?;
    ensure!(read.contains("took the free leader lock") && !read.contains(&format!("  {}  ", other.name)), "{read}");
    old.start()?;
    cluster.eventually_follows(old, new).await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

/// Hard case 18: with everybody too far behind, nobody wins.
#[tokio::test(flavor = "multi_thread")]
async fn hard_case_18_when_nobody_may_take_over_every_candidate_tells_its_reason() -> Result<()> {
    let dynamic = json!({"maximum_lag_on_failover": 100_000});
    let cluster = Cluster::builder().store(StoreKind::Etcd).with_links().dynamic(&dynamic).start().await?;
    let old = cluster.leader().await?;
    cluster.cut(old, Link::Peers)?;
    old.execute("CREATE TABLE only_here AS SELECT generate_series(1, 100000) AS i").await?;
    let written: u64 = old.ask("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").await?.parse()?;
    poll::until("the leader has published how far it is", PATIENCE, async || {
        let status = cluster.store.get(&cluster.key("status")).await?.context("a status")?;
        let status: Value = serde_json::from_str(&status)?;
        ensure!(status["optime"].as_u64() >= Some(written), "{status}");
        Ok(())
    })
    .await?;
    old.kill().await?;

    let others: Vec<_> = cluster.others(old).collect();
    poll::until("both say that they are too far behind", PATIENCE, async || {
        let told = story(&cluster, &[]).await?;
        for node in &others {
            let lagging = by_rule(&told, &node.name, "race.lag");
            let entry = *lagging.first().with_context(|| format!("{} says nothing of a lag: {told:#?}", node.name))?;
            let behind: u64 = entry["facts"]["behind_bytes"].as_str().context("how far")?.parse()?;
            ensure!(behind > 100_000 && entry["facts"]["maximum_lag_on_failover"] == "100000", "{entry:#}");
            ensure!(entry["outcome"] == "refused" && reason(entry, &old.name) == Some("did not answer"), "{entry:#}");
            // A busy machine may keep a node from answering now and then: that is another record.
            let rounds: u64 = lagging.iter().filter_map(|entry| entry["count"].as_u64()).sum();
            ensure!(rounds > u64::try_from(lagging.len())?, "idle rounds are counted: {lagging:#?}");
        }
        Ok(())
    })
    .await?;
    let told = story(&cluster, &[]).await?;
    for node in &others {
        ensure!(by_rule(&told, &node.name, "race.won").is_empty() && node.ask("SELECT pg_is_in_recovery()").await? == "t");
    }

    cluster.heal(old)?;
    old.start()?;
    ensure!(cluster.eventually_settled().await?.name == old.name, "only {} has everything", old.name);
    cluster.finish(Loss::None).await
}
