//! Synchronous replication: what is acknowledged is never lost, and commits wait no longer than they must.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::poll::{self, PATIENCE};
use tests::settings::Times;
use tests::{Cluster, Loss, Node, StoreKind};
use tokio::time::{Instant, timeout};

on_every_store! {
    etcd_and_raft: [
        no_commit_is_lost_when_one_primary_after_the_other_dies_in_synchronous_mode,
        no_commit_is_lost_when_one_primary_after_the_other_dies_in_quorum_mode,
        a_voter_that_has_not_received_what_was_acknowledged_does_not_win,
        no_commit_is_lost_in_a_switchover_and_a_failed_node_comes_back_in_strict_mode,
        a_lost_synchronous_standby_is_replaced_and_commits_go_on,
        alone_a_strict_primary_waits_and_another_goes_on,
        the_modes_are_switched_under_writes,
        a_restarted_synchronous_standby_hands_its_duty_over_first,
    ]
}

/// What the store says about synchronous replication.
async fn key(cluster: &Cluster) -> Result<Value> {
    let text = cluster.store.get(&cluster.key("sync")).await?.unwrap_or_else(|| "{}".to_owned());
    serde_json::from_str(&text).with_context(|| format!("the sync key is {text:?}"))
}

fn standbys(key: &Value) -> Vec<String> {
    let names = key.get("sync_standby").and_then(Value::as_str).unwrap_or_default();
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Waits until the key, led by `leader`, lists `count` standbys; returns them.
async fn eventually_synchronous(cluster: &Cluster, leader: &Node, count: usize) -> Result<Vec<String>> {
    poll::until(&format!("{count} synchronous standbys of {}", leader.name), PATIENCE, async || {
        let key = key(cluster).await?;
        ensure!(key.get("leader").and_then(Value::as_str) == Some(&leader.name), "{key}");
        let standbys = standbys(&key);
        ensure!(standbys.len() == count, "{key}");
        Ok(standbys)
    })
    .await
}

/// Waits until `node`, as it knows the cluster, has this duty: the paths that answer 200, and a field of its status.
async fn eventually_on_duty(node: &Node, duty: Option<&str>) -> Result<()> {
    poll::until(&format!("{} has the duty {duty:?}", node.name), PATIENCE, async || {
        for (path, expected) in [("/sync", Some("sync")), ("/quorum", Some("quorum")), ("/async", None)] {
            let status = node.get(path).await?.status;
            ensure!((status == 200) == (duty == expected), "{path} answers {status}");
        }
        let status = node.status().await?;
        for name in ["sync", "quorum"] {
            let flag = status.get(format!("{name}_standby"));
            ensure!((flag == Some(&json!(true))) == (duty == Some(name)), "{status}");
        }
        Ok(())
    })
    .await
}

async fn names(node: &Node) -> Result<String> {
    node.ask("SHOW synchronous_standby_names").await
}

async fn primaries_die(store: StoreKind, mode: Value, count: usize) -> Result<()> {
    let cluster = Cluster::builder().store(store).dynamic(&json!({"synchronous_mode": mode})).start().await?;
    for _ in 0..3 {
        let old = cluster.eventually_settled().await?;
        let able = eventually_synchronous(&cluster, old, count).await?;
        cluster.eventually_writes().await?;

        old.kill().await?;

        let new = cluster.eventually_leader_other_than(old).await?;
        ensure!(able.contains(&new.name), "{} was promoted, and only {able:?} had every commit for sure", new.name);
        cluster.eventually_writes().await?;
        old.start()?;
        cluster.eventually_follows(old, new).await?;
    }
    cluster.finish(Loss::None).await
}

async fn no_commit_is_lost_when_one_primary_after_the_other_dies_in_synchronous_mode(store: StoreKind) -> Result<()> {
    primaries_die(store, json!(true), 1).await
}

async fn no_commit_is_lost_when_one_primary_after_the_other_dies_in_quorum_mode(store: StoreKind) -> Result<()> {
    primaries_die(store, json!("quorum"), 2).await
}

/// A process that stands still until this is dropped.
struct Standstill(Pid);

impl Standstill {
    fn of(pid: &str) -> Result<Self> {
        let pid = Pid::from_raw(pid.parse().with_context(|| format!("{pid:?} is no process"))?);
        kill(pid, Signal::SIGSTOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

async fn a_voter_that_has_not_received_what_was_acknowledged_does_not_win(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).dynamic(&json!({"synchronous_mode": "quorum"})).start().await?;
    let old = cluster.leader().await?;
    eventually_synchronous(&cluster, old, 2).await?;
    let voters: Vec<&Node> = cluster.others(old).collect();
    let [ahead, lagging] = voters[..] else { anyhow::bail!("two voters, and not {}", voters.len()) };
    cluster.eventually_writes().await?;

    let receiver = Standstill::of(&lagging.ask("SELECT pid FROM pg_stat_wal_receiver").await?)?;
    cluster.eventually_writes().await?;
    ensure!(standbys(&key(&cluster).await?).contains(&lagging.name), "it is a voter all the same");
    old.kill().await?;
    cluster.eventually_leads(ahead).await?;
    drop(receiver);

    cluster.eventually_follows(lagging, ahead).await?;
    cluster.eventually_writes().await?;
    old.start()?;
    cluster.eventually_follows(old, ahead).await?;
    cluster.finish(Loss::None).await
}

async fn no_commit_is_lost_in_a_switchover_and_a_failed_node_comes_back_in_strict_mode(store: StoreKind) -> Result<()> {
    let modes = json!({"synchronous_mode": true, "synchronous_mode_strict": true});
    let cluster = Cluster::builder().store(store).dynamic(&modes).start().await?;
    let old = cluster.leader().await?;
    let able = eventually_synchronous(&cluster, old, 1).await?;
    let outsider = cluster.others(old).find(|node| !able.contains(&node.name)).context("a node that is not synchronous")?;

    let answer = cluster.switchover(old, &old.name, Some(&outsider.name)).await?;
    ensure!((answer.status, answer.body.as_str()) == (412, "candidate name does not match with sync_standby"), "{answer:?}");
    let answer = cluster.switchover(old, &old.name, None).await?;
    ensure!(answer.status == 200, "{answer:?}");

    let new = cluster.eventually_leader_other_than(old).await?;
    ensure!(able.contains(&new.name), "{} took over, and not {able:?}", new.name);
    eventually_synchronous(&cluster, new, 1).await?;
    cluster.eventually_writes().await?;
    new.kill().await?;
    let last = cluster.eventually_leader_other_than(new).await?;
    new.start()?;
    cluster.eventually_follows(new, last).await?;
    cluster.finish(Loss::None).await
}

async fn a_lost_synchronous_standby_is_replaced_and_commits_go_on(store: StoreKind) -> Result<()> {
    // A period so long that what is noticed by it is told apart from what is noticed by a look.
    let times = Times { ttl: Duration::from_secs(15), loop_wait: Duration::from_secs(8), retry_timeout: Duration::from_secs(3) };
    let cluster = Cluster::builder().store(store).times(times).dynamic(&json!({"synchronous_mode": true})).start().await?;
    let leader = cluster.leader().await?;
    let before = eventually_synchronous(&cluster, leader, 1).await?;
    let lost = cluster.node(before.first().context("one")?)?;
    // A cycle begins now, and so the next one is far away.
    cluster.patch_config(&json!({"synchronous_node_count": 1})).await?;
    cluster.eventually_writes().await?;
    let heir = cluster.others(leader).find(|node| node.name != lost.name).context("a third node")?;

    let died = Instant::now();
    lost.kill().await?;

    poll::until("the other one is synchronous", PATIENCE, async || {
        let key = key(&cluster).await?;
        ensure!(standbys(&key) == [heir.name.clone()], "{key}");
        ensure!(names(leader).await? == heir.name);
        Ok(())
    })
    .await?;
    cluster.eventually_writes().await?;
    let gap = cluster.history()?.longest_gap_since(died);
    ensure!(gap < times.loop_wait * 3 / 4, "commits waited for {gap:?}");
    eventually_on_duty(heir, Some("sync")).await?;

    lost.start()?;
    cluster.eventually_follows(lost, leader).await?;
    // Who has the duty keeps it.
    eventually_synchronous(&cluster, leader, 1).await?;
    eventually_on_duty(lost, None).await?;
    leader.kill().await?;
    cluster.eventually_leads(heir).await?;
    leader.start()?;
    cluster.finish(Loss::None).await
}

async fn alone_a_strict_primary_waits_and_another_goes_on(store: StoreKind) -> Result<()> {
    let modes = json!({"synchronous_mode": true, "synchronous_mode_strict": true});
    let cluster = Cluster::builder().store(store).dynamic(&modes).start().await?;
    let leader = cluster.leader().await?;
    eventually_synchronous(&cluster, leader, 1).await?;
    // In pause the agents, which the embedded store needs, leave a stopped server alone.
    cluster.patch_config(&json!({"pause": true})).await?;
    poll::until("everybody is paused", PATIENCE, async || {
        for node in cluster.nodes() {
            ensure!(node.status().await?.get("pause") == Some(&json!(true)), "{} is not", node.name);
        }
        Ok(())
    })
    .await?;
    for replica in cluster.others(leader) {
        replica.signal_postmaster(Signal::SIGINT)?;
    }
    poll::until("the primary waits for anybody", PATIENCE, async || {
        ensure!(names(leader).await? == "*", "{}", names(leader).await?);
        let key = key(&cluster).await?;
        ensure!(standbys(&key).is_empty(), "{key}");
        Ok(())
    })
    .await?;
    let write = leader.execute("INSERT INTO probes DEFAULT VALUES");
    ensure!(timeout(Duration::from_secs(2), write).await.is_err(), "a commit was acknowledged although nobody else has it");

    cluster.patch_config(&json!({"synchronous_mode_strict": false})).await?;
    poll::until("the primary goes on alone", PATIENCE, async || {
        ensure!(names(leader).await?.is_empty(), "{}", names(leader).await?);
        Ok(())
    })
    .await?;
    leader.execute("INSERT INTO probes DEFAULT VALUES").await?;
    cluster.eventually_writes().await?;

    cluster.patch_config(&json!({"pause": null})).await?;
    eventually_synchronous(&cluster, leader, 1).await?;
    cluster.finish(Loss::None).await
}

async fn the_modes_are_switched_under_writes(store: StoreKind) -> Result<()> {
    let user = json!({"postgresql": {"parameters": {"synchronous_standby_names": "somebody"}}});
    let cluster = Cluster::builder().store(store).start().await?;
    let leader = cluster.leader().await?;
    let replicas: Vec<String> = cluster.others(leader).map(|node| node.name.clone()).collect();
    ensure!(key(&cluster).await? == json!({}), "nothing is synchronous yet");

    cluster.patch_config(&json!({"synchronous_mode": true})).await?;
    let named = eventually_synchronous(&cluster, leader, 1).await?;
    ensure!(names(leader).await? == named.concat());
    ensure!(key(&cluster).await? == json!({"leader": leader.name, "sync_standby": named.concat(), "quorum": 0}));
    let listed = cluster.ctl(&["list"]).await?;
    ensure!(listed.stdout.contains("Sync Standby"), "{}", listed.stdout);

    cluster.patch_config(&json!({"synchronous_mode": "quorum"})).await?;
    let voters = eventually_synchronous(&cluster, leader, 2).await?;
    ensure!(voters == replicas, "{voters:?}");
    poll::until("a quorum", PATIENCE, async || {
        ensure!(names(leader).await? == format!("ANY 1 ({})", replicas.join(",")), "{}", names(leader).await?);
        let key = key(&cluster).await?;
        ensure!(key == json!({"leader": leader.name, "sync_standby": replicas.join(","), "quorum": 1}), "{key}");
        Ok(())
    })
    .await?;
    for replica in cluster.others(leader) {
        eventually_on_duty(replica, Some("quorum")).await?;
    }
    let listed = cluster.ctl(&["list"]).await?;
    ensure!(listed.stdout.matches("Quorum Standby").count() == 2, "{}", listed.stdout);

    cluster.patch_config(&json!({"synchronous_mode": true})).await?;
    eventually_synchronous(&cluster, leader, 1).await?;
    cluster.patch_config(&json!({"synchronous_mode": null})).await?;
    poll::until("nothing is synchronous any more", PATIENCE, async || {
        ensure!(names(leader).await?.is_empty(), "{}", names(leader).await?);
        let key = key(&cluster).await?;
        ensure!(key == json!({}), "{key}");
        Ok(())
    })
    .await?;
    cluster.eventually_writes().await?;
    let gap = cluster.history()?.longest_gap_since(Instant::now() - Duration::from_secs(1));
    ensure!(gap < Duration::from_secs(1), "commits still wait: {gap:?}");

    // What the operator configured counts when the mode is off, and waits for nobody in this test longer than it takes to look.
    cluster.patch_config(&user).await?;
    poll::until("the configured names", PATIENCE, async || {
        ensure!(names(leader).await? == "somebody", "{}", names(leader).await?);
        Ok(())
    })
    .await?;
    cluster.patch_config(&json!({"postgresql": {"parameters": {"synchronous_standby_names": null}}})).await?;
    poll::until("no names", PATIENCE, async || {
        ensure!(names(leader).await?.is_empty(), "{}", names(leader).await?);
        Ok(())
    })
    .await?;
    cluster.finish(Loss::None).await
}

async fn a_restarted_synchronous_standby_hands_its_duty_over_first(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).dynamic(&json!({"synchronous_mode": true})).start().await?;
    let leader = cluster.leader().await?;
    let before = eventually_synchronous(&cluster, leader, 1).await?;
    let restarted = cluster.node(before.first().context("one")?)?;

    let began = Instant::now();
    let answer = restarted.send("POST", "/restart", &json!({})).await?;

    ensure!(answer.status == 200, "{answer:?}");
    let after = eventually_synchronous(&cluster, leader, 1).await?;
    ensure!(after != before, "{after:?} has kept its duty");
    cluster.eventually_writes().await?;
    let gap = cluster.history()?.longest_gap_since(began);
    ensure!(gap < Duration::from_secs(3), "commits waited for {gap:?}");
    ensure!(restarted.read_log().contains("Waiting for primary to release us from synchronous standby"));
    cluster.eventually_follows(restarted, leader).await?;
    cluster.finish(Loss::None).await
}
