//! Restarting PostgreSQL on request, and settings that need it.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Loss, Node, StoreKind};

on_every_store! {
    etcd_and_raft: [
        a_setting_that_needs_a_restart_is_pending_until_each_member_was_restarted,
        a_setting_that_needs_no_restart_applies_everywhere_by_itself,
        a_restart_whose_conditions_do_not_hold_is_refused_and_leaves_postgresql_alone,
        the_control_tool_restarts_every_member_and_the_leader_stays,
    ]
}

async fn eventually_pending(node: &Node, pending: bool) -> Result<()> {
    poll::until(&format!("pending restart of {} is {pending}", node.name), PATIENCE, async || {
        let status: Value = node.status().await?;
        ensure!(status["pending_restart"].as_bool().unwrap_or(false) == pending, "{status}");
        Ok(())
    })
    .await
}

async fn restart(node: &Node) -> Result<()> {
    let answer = node.send("POST", "/restart", &json!({"restart_pending": true})).await?;
    ensure!((answer.status, answer.body.as_str()) == (200, "restarted successfully"), "{}: {answer:?}", node.name);
    Ok(())
}

async fn a_setting_that_needs_a_restart_is_pending_until_each_member_was_restarted(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;

    cluster.patch_config(&json!({"postgresql": {"parameters": {"max_connections": 60}}})).await?;
    for node in cluster.nodes() {
        eventually_pending(node, true).await?;
    }
    let reason: Value = leader.status().await?;
    let reason = &reason["pending_restart_reason"]["max_connections"];
    ensure!(reason["old_value"] == "50" && reason["new_value"] == "60", "{reason}");
    ensure!(leader.ask("SHOW max_connections").await? == "50");

    // A standby may not have fewer connections than its primary: the primary goes first.
    restart(leader).await?;
    eventually_pending(leader, false).await?;
    for replica in cluster.others(leader) {
        poll::until(&format!("{} was restarted", replica.name), PATIENCE, async || {
            // It may refuse while the new value has not reached its control file.
            if replica.ask("SHOW max_connections").await? != "60" {
                restart(replica).await?;
            }
            ensure!(replica.ask("SHOW max_connections").await? == "60");
            Ok(())
        })
        .await?;
        eventually_pending(replica, false).await?;
    }
    ensure!(cluster.eventually_settled().await?.name == leader.name, "a restart cost the leader its place");
    ensure!(leader.timeline().await? == 1);
    cluster.finish(Loss::None).await
}

async fn a_setting_that_needs_no_restart_applies_everywhere_by_itself(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let postmasters: Vec<_> = cluster.nodes().iter().map(Node::postmaster).collect();

    cluster.patch_config(&json!({"postgresql": {"parameters": {"work_mem": "9MB"}}})).await?;

    for (node, postmaster) in cluster.nodes().iter().zip(postmasters) {
        poll::until(&format!("{} has the setting", node.name), PATIENCE, async || {
            let found = node.ask("SHOW work_mem").await?;
            ensure!(found == "9MB", "work_mem is {found}");
            Ok(())
        })
        .await?;
        ensure!(node.postmaster() == postmaster, "{} was restarted", node.name);
        eventually_pending(node, false).await?;
    }
    cluster.finish(Loss::None).await
}

async fn a_restart_whose_conditions_do_not_hold_is_refused_and_leaves_postgresql_alone(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).members(2).start().await?;
    let leader = cluster.leader().await?;
    let postmaster = leader.postmaster();

    for body in [json!({"role": "replica"}), json!({"restart_pending": true}), json!({"postgres_version": "10.0"})] {
        let answer = leader.send("POST", "/restart", &body).await?;
        ensure!((answer.status, answer.body.as_str()) == (503, "restart conditions are not satisfied"), "{body}: {answer:?}");
    }
    ensure!(leader.postmaster() == postmaster, "PostgreSQL was restarted");
    cluster.finish(Loss::None).await
}

async fn the_control_tool_restarts_every_member_and_the_leader_stays(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let postmasters: Vec<_> = cluster.nodes().iter().map(Node::postmaster).collect();

    let output = cluster.ctl(&["restart", &cluster.scope, "--force"]).await?.success()?;

    for (node, postmaster) in cluster.nodes().iter().zip(postmasters) {
        ensure!(output.contains(&format!("Success: restart on member {}", node.name)), "{output}");
        ensure!(node.postmaster() != postmaster, "{} was not restarted", node.name);
    }
    ensure!(cluster.eventually_settled().await?.name == leader.name, "a restart cost the leader its place");
    cluster.finish(Loss::None).await
}
