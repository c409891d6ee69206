//! Replication slots: consumers of permanent ones lose nothing when the primary changes, and what is kept for absent members is dropped
//! in time.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Loss, Node, StoreKind};
use tokio::time::Instant;

// What is done about slots does not depend on the store.
on!(
    etcd,
    Etcd,
    a_consumer_of_a_permanent_logical_slot_loses_no_change_in_a_switchover_and_a_failover,
    a_permanent_physical_slot_moves_on_replicas_with_the_one_on_the_leader,
    the_slot_of_an_absent_member_is_kept_for_its_time_and_dropped_then,
    an_unknown_slot_is_dropped_and_one_that_is_to_be_ignored_is_kept,
    a_wiped_configuration_drops_no_slot,
);

/// The slot that the tests decode from, and how changes reach it soon.
fn decoding() -> Value {
    json!({
        "slots": {"ls": {"type": "logical", "database": "postgres", "plugin": "test_decoding"}},
        "postgresql": {"parameters": {"wal_level": "logical", "wal_receiver_status_interval": "1s"}},
    })
}

fn numbers(text: &str) -> BTreeSet<i64> {
    text.split(',').filter_map(|number| number.parse().ok()).collect()
}

/// The numbers of the rows that the table has.
async fn rows(node: &Node) -> Result<BTreeSet<i64>> {
    Ok(numbers(&node.ask("SELECT string_agg(number::text, ',') FROM ledger").await?))
}

/// Consumes what the slot has to give: the numbers of the rows whose insertion was decoded.
async fn consume(node: &Node) -> Result<BTreeSet<i64>> {
    let query = r"SELECT string_agg((regexp_match(data, 'ledger: INSERT: number\[bigint\]:(\d+)'))[1], ',')
        FROM pg_logical_slot_get_changes('ls', NULL, NULL)";
    Ok(numbers(&node.ask(query).await?))
}

/// The positions of a slot, as text.
async fn slot(node: &Node, name: &str) -> Result<Option<String>> {
    let query = format!("SELECT COALESCE(confirmed_flush_lsn, restart_lsn) FROM pg_replication_slots WHERE slot_name = '{name}'");
    Ok(Some(node.ask(&query).await?).filter(|position| !position.is_empty()))
}

async fn eventually_has(node: &Node, name: &str) -> Result<String> {
    poll::until(&format!("{} has the slot {name}", node.name), PATIENCE, async || slot(node, name).await?.context("no such slot")).await
}

async fn eventually_lacks(node: &Node, name: &str) -> Result<()> {
    poll::until(&format!("{} has no slot {name}", node.name), PATIENCE, async || {
        // A slot that reserves no WAL has no position.
        let count = node.ask(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'")).await?;
        ensure!(count == "0", "it has");
        Ok(())
    })
    .await
}

/// Waits until `node` says for the `times`th time that its copy of the slot is safe.
async fn eventually_safe(node: &Node, times: usize) -> Result<()> {
    poll::until(&format!("the slot is safe on {}", node.name), PATIENCE, async || {
        let said = node.read_log().matches("Logical slot ls is safe to be used after a failover").count();
        ensure!(said >= times, "it was said {said} times");
        Ok(())
    })
    .await
}

fn copies(node: &Node) -> usize {
    node.read_log().matches("Copying logical slots ['ls'] from the primary").count()
}

/// Waits until the slot of every replica is where the leader's consumer is, and needs no WAL from before `built`.
async fn eventually_behind(cluster: &Cluster, leader: &Node, built: &str) -> Result<()> {
    let consumed = leader.ask("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'ls'").await?;
    let there =
        format!("SELECT confirmed_flush_lsn >= '{consumed}' AND restart_lsn >= '{built}' FROM pg_replication_slots WHERE slot_name = 'ls'");
    for replica in cluster.others(leader) {
        poll::until(&format!("the slot on {} is at {consumed}", replica.name), PATIENCE, async || {
            ensure!(replica.ask(&there).await? == "t", "it is at {:?}", slot(replica, "ls").await?);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Waits until a row is in the table that was not there before, and everything that is there was decoded or is in `skipped`.
async fn eventually_decoded(cluster: &Cluster, leader: &Node, decoded: &mut BTreeSet<i64>, skipped: &BTreeSet<i64>) -> Result<()> {
    cluster.eventually_writes().await?;
    let written = rows(leader).await?;
    decoded.extend(consume(leader).await?);
    let missing: Vec<_> = written.iter().filter(|number| !decoded.contains(number) && !skipped.contains(number)).collect();
    ensure!(missing.is_empty(), "the consumer has lost {missing:?}");
    Ok(())
}

/// Must hold: postgresql.md 14 (6)
async fn a_consumer_of_a_permanent_logical_slot_loses_no_change_in_a_switchover_and_a_failover(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).dynamic(&decoding()).start().await?;
    let first = cluster.leader().await?;
    eventually_has(first, "ls").await?;
    // Whatever was written up to now may be from before the slot.
    let skipped = rows(first).await?;
    let mut decoded = BTreeSet::new();
    for replica in cluster.others(first) {
        eventually_has(replica, "ls").await?;
        eventually_safe(replica, 1).await?;
        ensure!(copies(replica) == 1, "{} restarted {} times for it", replica.name, copies(replica));
    }
    for node in cluster.nodes() {
        ensure!(node.ask("SHOW hot_standby_feedback").await? == "on", "{} gives no feedback", node.name);
    }
    // A replica has no WAL from before it was built, and cannot decode with a slot that needs some.
    let built = first.ask("SELECT pg_current_wal_insert_lsn()").await?;
    let needs_none = format!("SELECT restart_lsn >= '{built}' FROM pg_replication_slots WHERE slot_name = 'ls'");
    poll::until("the slot needs no WAL from before the replicas were built", PATIENCE, async || {
        first.execute("CHECKPOINT").await?;
        decoded.extend(consume(first).await?);
        ensure!(first.ask(&needs_none).await? == "t", "it does");
        Ok(())
    })
    .await?;
    eventually_decoded(&cluster, first, &mut decoded, &skipped).await?;
    eventually_behind(&cluster, first, &built).await?;

    let answer = cluster.switchover(first, &first.name, None).await?;
    ensure!(answer.status == 200, "{answer:?}");

    let second = cluster.eventually_leader_other_than(first).await?;
    eventually_decoded(&cluster, second, &mut decoded, &skipped).await?;
    cluster.eventually_follows(first, second).await?;
    eventually_safe(first, 1).await?;
    eventually_behind(&cluster, second, &built).await?;

    second.kill().await?;

    let last = cluster.eventually_leader_other_than(second).await?;
    let unsafe_slots = "Logical replication slots that might be unsafe to use after promote";
    ensure!(!last.read_log().contains(unsafe_slots), "the slot was not proven on {}", last.name);
    eventually_decoded(&cluster, last, &mut decoded, &skipped).await?;
    second.start()?;
    cluster.eventually_follows(second, last).await?;
    eventually_has(second, "ls").await?;
    eventually_decoded(&cluster, last, &mut decoded, &skipped).await?;
    cluster.finish(Loss::SUDDEN_DEATH).await
}

async fn a_permanent_physical_slot_moves_on_replicas_with_the_one_on_the_leader(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder().store(store).dynamic(&json!({"slots": {"ps": {"type": "physical"}}})).start().await?;
    let leader = cluster.leader().await?;
    for node in cluster.nodes() {
        eventually_has(node, "ps").await?;
    }
    cluster.eventually_writes().await?;

    leader.execute("SELECT pg_replication_slot_advance('ps', pg_current_wal_flush_lsn())").await?;

    let position = slot(leader, "ps").await?.context("the leader's slot")?;
    for replica in cluster.others(leader) {
        poll::until(&format!("the slot on {} is at {position}", replica.name), PATIENCE, async || {
            let found = slot(replica, "ps").await?;
            ensure!(found.as_deref() == Some(&position), "it is at {found:?}");
            Ok(())
        })
        .await?;
    }
    let answer = cluster.switchover(leader, &leader.name, None).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let new = cluster.eventually_leader_other_than(leader).await?;
    ensure!(slot(new, "ps").await?.as_deref() == Some(&position), "it has moved although nobody has used it");
    // It is gone once it is not configured any more.
    cluster.patch_config(&json!({"slots": null})).await?;
    for node in cluster.nodes() {
        eventually_lacks(node, "ps").await?;
    }
    cluster.finish(Loss::None).await
}

/// Must hold: postgresql.md 14 (3)
async fn the_slot_of_an_absent_member_is_kept_for_its_time_and_dropped_then(store: StoreKind) -> Result<()> {
    let time = Duration::from_secs(12);
    let cluster = Cluster::builder().store(store).dynamic(&json!({"member_slots_ttl": "12s"})).start().await?;
    let leader = cluster.leader().await?;
    let absent = cluster.another(leader)?;
    let other = cluster.others(leader).find(|node| node.name != absent.name).context("a third node")?;
    eventually_has(leader, &absent.name).await?;
    eventually_has(other, &absent.name).await?;
    let present = Instant::now();

    ensure!(absent.stop().await? == Some(0), "the agent did not end well");

    poll::until("the member is gone", PATIENCE, async || {
        let member = cluster.store.get(&cluster.key(&format!("members/{}", absent.name))).await?;
        ensure!(member.is_none(), "it is there");
        Ok(())
    })
    .await?;
    let status: Value = serde_json::from_str(&cluster.store.get(&cluster.key("status")).await?.context("a status")?)?;
    let retained = status.get("retain_slots").and_then(Value::as_array).context("retained slots")?;
    ensure!(retained.contains(&json!(absent.name)), "{status}");
    eventually_has(leader, &absent.name).await?;
    eventually_has(other, &absent.name).await?;
    eventually_lacks(leader, &absent.name).await?;
    ensure!(present.elapsed() >= time, "it was dropped after {:?}", present.elapsed());
    eventually_lacks(other, &absent.name).await?;
    let line = format!("Replication slot '{}' for absent cluster member is expired after 12 sec.", absent.name);
    ensure!(leader.read_log().contains(&line), "{line:?} is not in the log");

    absent.start()?;
    cluster.eventually_follows(absent, leader).await?;
    eventually_has(other, &absent.name).await?;
    cluster.finish(Loss::None).await
}

/// Must hold: postgresql.md 14 (5)
async fn an_unknown_slot_is_dropped_and_one_that_is_to_be_ignored_is_kept(store: StoreKind) -> Result<()> {
    let ignored = json!({"ignore_slots": [{"name": "theirs", "type": "physical"}]});
    let cluster = Cluster::builder().store(store).dynamic(&ignored).start().await?;
    let leader = cluster.leader().await?;
    let make = "SELECT pg_create_physical_replication_slot('theirs'), pg_create_physical_replication_slot('nobodys')";
    for node in cluster.nodes() {
        node.execute(make).await?;
    }
    for node in cluster.nodes() {
        eventually_lacks(node, "nobodys").await?;
        ensure!(node.ask("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'theirs'").await? == "1", "{} dropped it", node.name);
    }

    cluster.patch_config(&json!({"pause": true, "ignore_slots": null})).await?;
    poll::until("everybody is paused", PATIENCE, async || {
        for node in cluster.nodes() {
            ensure!(node.status().await?.get("pause") == Some(&json!(true)), "{} is not", node.name);
        }
        Ok(())
    })
    .await?;
    leader.execute("SELECT pg_create_physical_replication_slot('nobodys')").await?;
    let began = leader.status().await?["dcs_last_seen"].as_u64();
    poll::until("three cycles in pause", PATIENCE, async || {
        let seen = leader.status().await?["dcs_last_seen"].as_u64();
        ensure!(seen >= began.map(|began| began + 3), "{seen:?} after {began:?}");
        Ok(())
    })
    .await?;
    let both = "SELECT count(*) FROM pg_replication_slots WHERE slot_name IN ('theirs', 'nobodys')";
    ensure!(leader.ask(both).await? == "2", "one was dropped in pause");

    cluster.patch_config(&json!({"pause": null})).await?;
    for name in ["theirs", "nobodys"] {
        eventually_lacks(leader, name).await?;
    }
    cluster.finish(Loss::None).await
}

async fn a_wiped_configuration_drops_no_slot(store: StoreKind) -> Result<()> {
    let settings = json!({"slots": {"ps": null}, "ignore_slots": [{"name": "theirs"}]});
    let cluster = Cluster::builder().store(store).dynamic(&settings).start().await?;
    for node in cluster.nodes() {
        eventually_has(node, "ps").await?;
        node.execute("SELECT pg_create_physical_replication_slot('theirs')").await?;
    }
    let names = "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots";
    let mut before = Vec::new();
    for node in cluster.nodes() {
        before.push(node.ask(names).await?);
    }

    cluster.store.delete_all(&cluster.key("config")).await?;

    let config = poll::until("the leader has written its configuration back", PATIENCE, async || {
        cluster.store.get(&cluster.key("config")).await?.context("there is none")
    })
    .await?;
    ensure!(serde_json::from_str::<Value>(&config)?.get("slots") == Some(&json!({"ps": null})), "{config}");
    cluster.eventually_writes().await?;
    for (node, before) in cluster.nodes().iter().zip(before) {
        let after = node.ask(names).await?;
        ensure!(after == before, "{} had {before}, and has {after}", node.name);
        ensure!(!node.read_log().contains("Dropped replication slot"), "{} has dropped one", node.name);
    }
    cluster.finish(Loss::None).await
}
