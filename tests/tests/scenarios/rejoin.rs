//! The return of a primary whose history went another way.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Link, Loss, Node, StoreKind};

on_every_store! {
    etcd_and_raft: [
        a_diverged_primary_is_rewound_and_keeps_its_data_directory,
        a_diverged_primary_that_may_not_be_rewound_is_copied_anew_where_that_is_allowed,
        a_diverged_primary_that_may_be_neither_rewound_nor_removed_stays_out_and_keeps_its_data,
        what_a_rewind_gives_up_is_told_and_kept_where_the_operator_wants_it,
    ]
}

/// Rows of the time in which nothing was replicated may be lost, and no others.
const UNREPLICATED: Loss = Loss::UnreplicatedTail(Duration::from_secs(20));

/// Lets the leader acknowledge rows that nobody else gets, kills it, and returns it and its successor.
async fn diverge(cluster: &Cluster) -> Result<(&Node, &Node)> {
    let old = cluster.leader().await?;
    cluster.cut(old, Link::Peers)?;
    let replicated = cluster.history()?.count();
    poll::until("rows are acknowledged that are not replicated", PATIENCE, async || {
        let rows = cluster.history()?.count() - replicated;
        ensure!(rows > 20, "{rows}");
        Ok(())
    })
    .await?;
    old.execute("CREATE TABLE only_here AS SELECT generate_series(1, 1000) AS i").await?;
    old.kill().await?;
    let new = cluster.eventually_leader_other_than(old).await?;
    cluster.eventually_writes().await?;
    cluster.heal(old)?;
    Ok((old, new))
}

async fn has_forgotten(node: &Node) -> Result<()> {
    let found = node.ask("SELECT to_regclass('only_here') IS NULL").await?;
    ensure!(found == "t", "{} still has what only it had", node.name);
    Ok(())
}

async fn a_diverged_primary_is_rewound_and_keeps_its_data_directory(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).with_links().start().await?;
    let (old, new) = diverge(&cluster).await?;
    let born = old.data_born()?;

    old.start()?;

    cluster.eventually_follows(old, new).await?;
    has_forgotten(old).await?;
    ensure!(old.data_born()? == born, "{} was copied anew instead of rewound", old.name);
    cluster.finish(UNREPLICATED).await
}

async fn a_diverged_primary_that_may_not_be_rewound_is_copied_anew_where_that_is_allowed(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder()
        .store(store)
        .with_links()
        .dynamic(&json!({"postgresql": {"use_pg_rewind": false}}))
        .local(&json!({"postgresql": {"remove_data_directory_on_diverged_timelines": true}}))
        // Without checksums and hint bits logged, pg_rewind is impossible as well as forbidden.
        .local(&json!({"bootstrap": {"initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}]}}))
        .start()
        .await?;
    let (old, new) = diverge(&cluster).await?;
    let born = old.data_born()?;

    old.start()?;

    cluster.eventually_follows(old, new).await?;
    has_forgotten(old).await?;
    ensure!(old.data_born()? != born, "{} follows without a new copy: how?", old.name);
    cluster.finish(UNREPLICATED).await
}

async fn a_diverged_primary_that_may_be_neither_rewound_nor_removed_stays_out_and_keeps_its_data(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder()
        .store(store)
        .with_links()
        .dynamic(&json!({"postgresql": {"use_pg_rewind": false}}))
        .local(&json!({"bootstrap": {"initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}]}}))
        .start()
        .await?;
    let (old, new) = diverge(&cluster).await?;
    let born = old.data_born()?;

    old.start()?;
    poll::until("the old primary has published a state", PATIENCE, async || {
        let status: Value = old.status().await?;
        ensure!(status["role"] == "replica" && status["dcs_last_seen"].as_u64() > Some(0), "{status}");
        Ok(())
    })
    .await?;

    // It may run and be refused by the new primary, but it must not have thrown anything away.
    ensure!(old.data_born()? == born, "the only copy of acknowledged rows was removed");
    ensure!(cluster.leader().await?.name == new.name);
    // For the general checks it has to be a member again. This is what an operator would do, whatever the agent is about to try.
    let answer = old.send("POST", "/reinitialize", &json!({"force": true})).await?;
    ensure!(answer.status == 200, "{answer:?}");
    cluster.eventually_follows(old, new).await?;
    cluster.finish(UNREPLICATED).await
}

async fn what_a_rewind_gives_up_is_told_and_kept_where_the_operator_wants_it(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).with_links().start().await?;
    let kept = cluster.leader().await?.directory.join("kept");
    cluster.patch_config(&json!({"quorate": {"keep_divergent_wal": kept}})).await?;
    let (old, new) = diverge(&cluster).await?;

    old.start()?;

    cluster.eventually_follows(old, new).await?;
    has_forgotten(old).await?;
    let copies: Vec<_> = std::fs::read_dir(&kept)?.collect::<Result<_, _>>()?;
    ensure!(copies.len() == 1, "one copy and nothing unfinished: {copies:?}");
    let copy = copies[0].path();
    let note = std::fs::read_to_string(copy.join("README"))?;
    ensure!(note.contains("gives up") && note.contains("bytes of WAL on timeline 1"), "{note}");
    let segments =
        std::fs::read_dir(&copy)?.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("00000001000000")).count();
    ensure!(segments > 0, "no segment in {copy:?}");
    let told: Value = serde_json::from_str(&cluster.ctl(&["why", &cluster.scope, "--since", "1h", "-f", "json"]).await?.success()?)?;
    let given_up = told.as_array().into_iter().flatten().find(|entry| entry["rule"] == "rewind.wal_given_up");
    let given_up = given_up.with_context(|| format!("nothing of it in {told:#}"))?;
    ensure!(given_up["reported_by"] == old.name.as_str() && given_up["facts"]["kept"] == copy.to_string_lossy().as_ref(), "{given_up:#}");
    let bytes: u64 = given_up["facts"]["bytes"].as_str().context("how much")?.parse()?;
    ensure!(bytes > 10_000, "{given_up:#}");
    cluster.finish(UNREPLICATED).await
}
