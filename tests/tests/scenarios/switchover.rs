//! Handing leadership over on request.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{Cluster, Loss, StoreKind};

on_every_store! {
    every_store: [
        a_switchover_without_a_candidate_makes_some_replica_the_leader,
        the_control_tool_switches_over_there_and_back,
    ]
    etcd_and_raft: [
        a_switchover_asked_of_a_replica_makes_the_candidate_the_leader,
        an_impossible_switchover_is_refused_with_the_reason_and_changes_nothing,
        a_leader_without_replicas_refuses_to_switch_over,
        a_manual_failover_moves_the_leader_to_the_candidate,
    ]
}

async fn a_switchover_without_a_candidate_makes_some_replica_the_leader(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let old = cluster.leader().await?;

    let answer = cluster.switchover(old, &old.name, None).await?;

    let new = cluster.eventually_leader_other_than(old).await?;
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(answer.body == format!("Successfully switched over to \"{}\"", new.name), "{answer:?}");
    cluster.eventually_follows(old, new).await?;
    cluster.finish(Loss::None).await
}

async fn a_switchover_asked_of_a_replica_makes_the_candidate_the_leader(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let old = cluster.leader().await?;
    let replicas: Vec<_> = cluster.others(old).collect();
    let (asked, candidate) = (replicas[0], replicas[1]);

    let answer = cluster.switchover(asked, &old.name, Some(&candidate.name)).await?;

    ensure!(answer.status == 200, "{answer:?}");
    ensure!(answer.body == format!("Successfully switched over to \"{}\"", candidate.name), "{answer:?}");
    cluster.eventually_leads(candidate).await?;
    cluster.eventually_follows(old, candidate).await?;
    cluster.finish(Loss::None).await
}

async fn the_control_tool_switches_over_there_and_back(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let old = cluster.leader().await?;
    let new = cluster.another(old)?;

    for (from, to) in [(old, new), (new, old)] {
        let arguments = ["switchover", &cluster.scope, "--leader", &from.name, "--candidate", &to.name, "--force"];
        let output = cluster.ctl(&arguments).await?.success()?;
        ensure!(output.contains(&format!("Successfully switched over to \"{}\"", to.name)), "{output}");
        cluster.eventually_leads(to).await?;
        cluster.eventually_settled().await?;
    }
    let history = cluster.ctl(&["history", &cluster.scope, "-f", "json"]).await?.success()?;
    ensure!(serde_json::from_str::<Vec<serde_json::Value>>(&history)?.len() == 2, "two switches of timeline, but {history}");
    cluster.finish(Loss::None).await
}

async fn an_impossible_switchover_is_refused_with_the_reason_and_changes_nothing(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).local_of(0, json!({"tags": {"nofailover": true}})).start().await?;
    let [barred, _, _] = cluster.nodes() else { anyhow::bail!("three nodes were asked for") };
    let leader = cluster.leader().await?;
    let leader = if leader.name == barred.name {
        // It may have been the first to bootstrap; the tag bars it only from taking over.
        let other = cluster.another(barred)?;
        ensure!(cluster.switchover(barred, &barred.name, Some(&other.name)).await?.status == 200);
        cluster.eventually_settled().await?
    } else {
        leader
    };
    let replica = cluster.others(leader).find(|node| node.name != barred.name).map_or("", |node| &node.name);

    for (body, status, reason) in [
        (json!({"leader": leader.name, "candidate": leader.name}), 400, "Switchover target and source are the same"),
        (json!({"leader": replica, "candidate": null}), 412, "leader name does not match"),
        (json!({"leader": leader.name, "candidate": "nobody"}), 412, "candidate does not exists"),
        (json!({"leader": leader.name, "candidate": barred.name}), 412, "switchover is not possible: no good candidates have been found"),
        (json!({"candidate": replica}), 400, "Switchover could be performed only from a specific leader"),
    ] {
        let answer = leader.send("POST", "/switchover", &body).await?;
        ensure!((answer.status, answer.body.as_str()) == (status, reason), "{body} was answered by {answer:?}");
    }
    let request = cluster.store.get(&cluster.key("failover")).await?;
    ensure!(request.as_deref().unwrap_or("{}") == "{}", "a refused switchover left {request:?} in the store");
    ensure!(cluster.leader().await?.name == leader.name);
    cluster.finish(Loss::None).await
}

async fn a_leader_without_replicas_refuses_to_switch_over(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).members(1).start().await?;
    let leader = cluster.leader().await?;

    let answer = cluster.switchover(leader, &leader.name, None).await?;

    ensure!(answer.status == 412, "{answer:?}");
    ensure!(answer.body == "switchover is not possible: cluster does not have members except leader", "{answer:?}");
    cluster.finish(Loss::None).await
}

async fn a_manual_failover_moves_the_leader_to_the_candidate(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).start().await?;
    let old = cluster.leader().await?;
    let candidate = cluster.another(old)?;

    let answer = old.send("POST", "/failover", &json!({"candidate": candidate.name})).await?;

    ensure!(answer.status == 200, "{answer:?}");
    ensure!(answer.body == format!("Successfully failed over to \"{}\"", candidate.name), "{answer:?}");
    cluster.eventually_leads(candidate).await?;
    cluster.eventually_follows(old, candidate).await?;
    cluster.finish(Loss::None).await
}
