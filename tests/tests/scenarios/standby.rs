//! Standby clusters: a cluster that follows another one, takes over from it, and gives back.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Loss, Node, StoreKind};

on! { etcd, Etcd,
    a_standby_cluster_survives_the_loss_of_its_leader_and_of_the_primary_it_follows,
    two_clusters_change_places_and_back_and_no_row_is_lost,
}

/// Where a cluster is, as the other one is told: all hosts, and the port that they share.
fn address(cluster: &Cluster) -> Result<(String, u16)> {
    let ports: BTreeSet<u16> = cluster.nodes().iter().map(|node| node.postgres.address.port()).collect();
    let [port] = ports.into_iter().collect::<Vec<_>>()[..] else { bail!("the servers listen on different ports") };
    let hosts: Vec<String> = cluster.nodes().iter().map(|node| node.postgres.address.ip().to_string()).collect();
    Ok((hosts.join(","), port))
}

/// The one node of a standby cluster that leads it.
async fn eventually_standby_leader<'c>(cluster: &'c Cluster, former: Option<&Node>) -> Result<&'c Node> {
    poll::until(&format!("{} has a standby leader", cluster.scope), PATIENCE * 2, async || {
        let mut leaders = Vec::new();
        let mut seen = Vec::new();
        for node in cluster.nodes().iter().filter(|node| node.is_agent_running()) {
            let status = node.get("/standby-leader").await?;
            seen.push(format!("{} {} {}", node.name, status.status, status.body));
            if status.status == 200 && status.json()?["role"] == "standby_leader" {
                leaders.push(node);
            }
        }
        let [leader] = leaders[..] else { bail!("{} lead: {seen:?}", leaders.len()) };
        ensure!(former.is_none_or(|former| former.name != leader.name), "it is still {}", leader.name);
        for (path, expected) in [("/leader", 200), ("/read-only", 200), ("/primary", 503), ("/", 503), ("/replica", 503)] {
            let found = leader.get(path).await?.status;
            ensure!(found == expected, "{path} of {} answers {found}", leader.name);
        }
        Ok(leader)
    })
    .await
}

async fn eventually_streams(node: &Node, from: &Node) -> Result<()> {
    poll::until(&format!("{} streams from {}", node.name, from.name), PATIENCE, async || {
        let state = from.ask(&format!("SELECT state FROM pg_stat_replication WHERE application_name = '{}'", node.name)).await?;
        ensure!(state == "streaming", "{} sees {} as {state:?}", from.name, node.name);
        let (upstream, own) = (from.timeline().await?, node.timeline().await?);
        ensure!(upstream == own, "{} is on timeline {upstream}, {} on {own}", from.name, node.name);
        Ok(())
    })
    .await
}

/// Waits until `node` has everything that is committed on `primary` now.
async fn eventually_has_all_of(node: &Node, primary: &Node) -> Result<()> {
    let end = primary.ask("SELECT pg_current_wal_flush_lsn()").await?;
    poll::until(&format!("{} has what {} has", node.name, primary.name), PATIENCE, async || {
        let replayed = node.ask(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")).await?;
        ensure!(replayed == "t", "it is not at {end} yet");
        Ok(())
    })
    .await
}

/// A standby cluster of two nodes, `dr1` and `dr2`, that follows `primary`.
async fn standby_of(primary: &Cluster, store: StoreKind, more: &Value) -> Result<Cluster> {
    let (host, port) = address(primary)?;
    let section = json!({"standby_cluster": {"host": host, "port": port}});
    let builder = Cluster::builder().store(store).named("dr", "dr").members(2).dynamic(&section).dynamic(more);
    let cluster = builder.assemble().await?;
    cluster.start_all()?;
    Ok(cluster)
}

/// Every role that the control tool shows, by member.
async fn roles(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let listed: Value = serde_json::from_str(&cluster.ctl(&["list", "-f", "json"]).await?.success()?)?;
    let text = |member: &Value, key: &str| member[key].as_str().unwrap_or_default().to_owned();
    Ok(listed.as_array().context("a list")?.iter().map(|member| (text(member, "Member"), text(member, "Role"))).collect())
}

/// Hard case 60: the comparison with the other cluster is made over all of its hosts, and finds the one that is primary.
/// Must hold: rest-api.md 2 (4).
async fn a_standby_cluster_survives_the_loss_of_its_leader_and_of_the_primary_it_follows(store: StoreKind) -> Result<()> {
    let main = Cluster::builder().store(store).named("main", "pg").members(2).start().await?;
    let primary = main.leader().await?;
    let dr = standby_of(&main, store, &json!({})).await?;

    let leader = eventually_standby_leader(&dr, None).await?;
    let member = dr.another(leader)?;
    eventually_streams(leader, primary).await?;
    eventually_streams(member, leader).await?;
    eventually_has_all_of(member, primary).await?;
    ensure!(leader.ask("SELECT pg_is_in_recovery()").await? == "t", "the leader of a standby cluster takes writes");
    let roles = roles(&dr).await?;
    ensure!(roles.contains(&(leader.name.clone(), "Standby Leader".to_owned())), "{roles:?}");
    let slot = leader.ask(&format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", member.name)).await?;
    ensure!(slot == "t", "the slot of {} on the standby leader is {slot:?}", member.name);

    // The standby leader dies: the other one is all there is, and follows the primary itself.
    leader.kill().await?;
    let successor = eventually_standby_leader(&dr, Some(leader)).await?;
    eventually_streams(successor, primary).await?;
    leader.start()?;
    eventually_streams(leader, successor).await?;

    // The primary dies: the standby cluster goes on with its successor.
    primary.kill().await?;
    let promoted = main.eventually_leader_other_than(primary).await?;
    eventually_streams(successor, promoted).await?;
    main.eventually_writes().await?;
    primary.start()?;
    main.eventually_follows(primary, promoted).await?;
    eventually_has_all_of(successor, promoted).await?;
    eventually_has_all_of(leader, promoted).await?;

    // A switchover among standbys.
    let answer = dr.switchover(successor, &successor.name, Some(&leader.name)).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let leader = eventually_standby_leader(&dr, Some(successor)).await?;
    eventually_streams(leader, promoted).await?;
    eventually_streams(successor, leader).await?;
    dr.finish_unchecked();
    main.finish(Loss::SUDDEN_DEATH).await
}

/// Hard case 91: once without an archive and once with one; nothing is rewound or copied.
async fn two_clusters_change_places_and_back_and_no_row_is_lost(store: StoreKind) -> Result<()> {
    let main = Cluster::builder().store(store).named("main", "pg").members(2).start().await?;
    let primary = main.leader().await?;
    // Beside the data directory, whether the server or the agent runs it.
    let archive = json!({"archive_mode": "on", "archive_command": "cp %p $(dirname %p)/../../archived-%f"});
    let dr = standby_of(&main, store, &json!({"postgresql": {"parameters": archive}})).await?;
    let other = eventually_standby_leader(&dr, None).await?;
    eventually_streams(other, primary).await?;
    eventually_streams(dr.another(other)?, other).await?;
    let refused = dr.ctl(&["demote-cluster", "--force", "--host", "elsewhere"]).await?;
    ensure!(refused.success().is_err_and(|error| format!("{error:#}").contains("Cluster is already in the required state")));

    change_places(&main, &dr).await?;
    let new = dr.leader().await?;
    new.execute("CREATE TABLE moved AS SELECT generate_series(1, 1000) AS i").await?;
    let standby_leader = eventually_standby_leader(&main, None).await?;
    eventually_streams(standby_leader, new).await?;
    for node in main.nodes() {
        eventually_has_all_of(node, new).await?;
        ensure!(node.ask("SELECT count(*) FROM moved").await? == "1000");
    }

    change_places(&dr, &main).await?;
    // Where WAL is archived, the end of it is there too, and the former primary leads the standby cluster.
    let log = new.read_log();
    let archived = log.lines().filter_map(|line| line.split("Trying to archive ").nth(1)).filter_map(|rest| rest.split(':').next()).last();
    let archived = archived.with_context(|| format!("nothing was archived by the agent of {}", new.name))?;
    ensure!(new.directory.join(format!("archived-{archived}")).is_file(), "{archived} is not in the archive");
    ensure!(eventually_standby_leader(&dr, None).await?.name == new.name, "{} gave the lock away", new.name);
    let back = main.leader().await?;
    ensure!(back.ask("SELECT count(*) FROM moved").await? == "1000");
    let standby_leader = eventually_standby_leader(&dr, None).await?;
    eventually_streams(standby_leader, back).await?;
    eventually_streams(dr.another(standby_leader)?, standby_leader).await?;
    dr.finish_unchecked();
    main.finish(Loss::None).await
}

/// Makes the cluster that leads a standby of the other one, and then that one a cluster of its own, as an operator does.
async fn change_places(from: &Cluster, to: &Cluster) -> Result<()> {
    let (host, port) = address(to)?;
    let demoted = from.ctl(&["demote-cluster", "--force", "--host", &host, "--port", &port.to_string()]).await?.success()?;
    ensure!(demoted.contains("cluster is successfully demoted"), "{demoted}");
    // What a standby cluster has from the other one it keeps; the rest it must have before it goes on alone.
    let former = eventually_standby_leader(from, None).await?;
    let end = former.ask("SELECT pg_last_wal_replay_lsn()").await?;
    poll::until("the other cluster has everything", PATIENCE, async || {
        for node in to.nodes() {
            let replayed = node.ask(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")).await?;
            ensure!(replayed == "t", "{} is not at {end} yet", node.name);
        }
        Ok(())
    })
    .await?;
    let promoted = to.ctl(&["promote-cluster", "--force"]).await?.success()?;
    ensure!(promoted.contains("cluster is successfully promoted"), "{promoted}");
    Ok(())
}
