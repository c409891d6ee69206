//! The control tool on every store: what it reads, writes and removes.

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Loss, StoreKind};

on_every_store! {
    every_store: [
        the_control_tool_shows_changes_and_removes_a_cluster,
    ]
    etcd_and_raft: [
        the_control_tool_lists_every_member_with_its_role_and_state,
    ]
}

async fn the_control_tool_lists_every_member_with_its_role_and_state(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;

    let listed: Value = serde_json::from_str(&cluster.ctl(&["list", "-f", "json"]).await?.success()?)?;
    let members = listed.as_array().map_or(0, Vec::len);
    ensure!(members == 3, "{members} members in {listed}");
    for member in listed.as_array().into_iter().flatten() {
        let expected = if member["Member"] == leader.name.as_str() { ("Leader", "running") } else { ("Replica", "streaming") };
        ensure!((member["Role"].as_str(), member["State"].as_str()) == (Some(expected.0), Some(expected.1)), "{member}");
        ensure!(member["TL"] == 1, "{member}");
    }
    cluster.finish(Loss::None).await
}

async fn the_control_tool_shows_changes_and_removes_a_cluster(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).members(1).start().await?;
    let node = cluster.leader().await?;

    let listed: Value = serde_json::from_str(&cluster.ctl(&["list", "-f", "json"]).await?.success()?)?;
    ensure!(listed[0]["Role"] == "Leader" && listed[0]["State"] == "running", "{listed}");
    cluster.ctl(&["edit-config", "--force", "-p", "work_mem=9MB"]).await?.success()?;
    poll::until("PostgreSQL has the setting", PATIENCE, async || {
        let found = node.ask("SHOW work_mem").await?;
        ensure!(found == "9MB", "work_mem is {found}");
        Ok(())
    })
    .await?;
    let shown = cluster.ctl(&["show-config"]).await?.success()?;
    ensure!(shown.contains("work_mem: 9MB"), "{shown}");

    // The embedded store is nowhere but in the agents: it must run, and its cluster lead, while it is removed.
    let leads = store == StoreKind::Raft;
    if !leads {
        ensure!(node.stop().await? == Some(0), "the agent did not end well");
    }
    let mut answers = vec![cluster.scope.as_str(), "Yes I am aware"];
    answers.extend(leads.then_some(node.name.as_str()));
    cluster.ctl_with(&node.file(), &["remove", &cluster.scope], &answers).await?.success()?;
    if !leads {
        for key in ["config", "initialize", "leader"] {
            let left = cluster.store.get(&cluster.key(key)).await?;
            ensure!(left.is_none(), "{key} is still {left:?}");
        }
    }
    cluster.finish_unchecked();
    Ok(())
}
