//! Logical slots: made on a primary, copied to a standby, moved there, and of use after its promotion.

use dcs_core::model::{Lsn, Role};
use ha_engine::Cancel;
use ha_engine::decide::observation::{Monitor, SlotObservation};
use ha_engine::decide::slots::{LeaderLook, LogicalSlot, LogicalWork};
use ha_engine::ports::{FollowPlan, Postgres as _, PromoteOutcome, StartOutcome, StopMode};

use crate::lab::{Lab, Node, eventually, soon, stop_request};

fn ls(name: &str) -> LogicalSlot {
    LogicalSlot { name: name.to_owned(), database: "postgres".to_owned(), plugin: "pgoutput".to_owned() }
}

/// A primary that can decode, with the slot `ls`, and its standby `pg2` with a physical slot of its own.
async fn pair(lab: &Lab) -> (Node, Node) {
    let node = |name: &str| {
        let mut settings = lab.settings(name);
        let parameters = [("wal_level", "logical"), ("wal_receiver_status_interval", "1s")];
        settings.postgresql.parameters.extend(parameters.map(|(name, value)| (name.to_owned(), value.to_owned())));
        lab.node_with(settings)
    };
    let (primary, standby) = (node("pg1"), node("pg2"));
    primary.bootstrap().await;
    primary.must("SELECT pg_create_physical_replication_slot('pg2', true)").await;
    standby.clone_from(&primary).await;
    let plan = FollowPlan { slot: Some("pg2".to_owned()), ..standby.follow_plan(&primary) };
    assert_eq!(standby.postgres.follow(&plan, false, None, &Cancel::never()).await, StartOutcome::Running);
    standby.eventually_streams().await;
    (primary, standby)
}

async fn create(primary: &Node, slots: Vec<LogicalSlot>) -> Vec<String> {
    let work = LogicalWork { create: slots, ..LogicalWork::default() };
    primary.postgres.tend_logical_slots(&work, &Cancel::never()).await.created
}

async fn slot(node: &Node, name: &str) -> Option<SlotObservation> {
    node.observe().await.slots.expect("they can be read").into_iter().find(|slot| slot.name == name)
}

/// Copies `names` as a task does.
async fn copy(primary: &Node, standby: &Node, names: &[&str]) -> usize {
    let slots: Vec<_> = names.iter().map(|name| ls(name)).collect();
    let states = standby.postgres.read_logical_slots(&primary.upstream(), &slots, soon()).await.expect("the leader answers");
    let copied = states.len();
    standby.postgres.stop(stop_request(StopMode::Fast), None).await;
    standby.postgres.write_logical_slots(states).await.expect("written");
    assert_eq!(standby.postgres.start(Role::Replica, None, &Cancel::never()).await, StartOutcome::Running);
    standby.eventually_streams().await;
    copied
}

async fn a_slot_from_the_primary_to_the_promotion_of_its_copy(lab: Lab) {
    let (primary, standby) = pair(&lab).await;
    assert_eq!(create(&primary, vec![ls("ls")]).await, ["ls"]);
    assert_eq!(create(&primary, vec![ls("ls")]).await, Vec::<String>::new(), "it is there");
    standby.postgres.enforce_feedback(true).await.expect("told");
    standby.eventually_has("SHOW hot_standby_feedback", "on").await;

    assert_eq!(copy(&primary, &standby, &["ls", "nosuch"]).await, 1);
    let copied = slot(&standby, "ls").await.expect("the copy");
    assert!(copied.logical && copied.plugin.as_deref() == Some("pgoutput") && copied.database.as_deref() == Some("postgres"), "{copied:?}");
    assert_eq!(standby.must("SHOW hot_standby_feedback").await, "on", "over the restart");

    // The primary keeps what decoding needs, once it has heard of it.
    let look = LeaderLook { leader: primary.upstream(), physical: "pg2".to_owned(), logical: vec!["ls".to_owned()] };
    let looking = LogicalWork { look: Some(look), ..LogicalWork::default() };
    let leader = eventually("catalog rows are kept", async || {
        let seen = standby.postgres.tend_logical_slots(&looking, &Cancel::never()).await.leader.expect("the leader answers");
        if seen.catalog_xmins.get("pg2").copied().flatten().is_some() { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
    .await;
    assert!(leader.sends_feedback && leader.catalog_xmins.get("ls").copied().flatten().is_some(), "{leader:?}");

    // The consumer goes on, and the copy after it.
    primary.must("CREATE TABLE t AS SELECT generate_series(1, 1000)").await;
    let end = primary.must("SELECT pg_current_wal_flush_lsn()").await;
    primary.must(&format!("SELECT pg_replication_slot_advance('ls', '{end}')")).await;
    let target: Lsn = end.parse().expect("a position");
    eventually("everything is replayed", async || match standby.observe().await.monitor {
        Monitor::Standby(standby) if standby.replayed >= target => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let work = LogicalWork { advance: vec![(ls("ls"), target)], ..LogicalWork::default() };
    let report = standby.postgres.tend_logical_slots(&work, &Cancel::never()).await;
    assert_eq!((report.advanced, report.broken), (vec!["ls".to_owned()], Vec::new()));
    assert_eq!(slot(&standby, "ls").await.and_then(|slot| slot.confirmed_flush_lsn), Some(target));

    primary.postgres.stop(stop_request(StopMode::Fast), None).await;
    assert_eq!(standby.postgres.promote(std::time::Duration::from_secs(30), &Cancel::never()).await, PromoteOutcome::Promoted);
    standby.must("CREATE PUBLICATION p FOR ALL TABLES").await;
    standby.must("INSERT INTO t VALUES (1001)").await;
    let changes = "SELECT count(*) > 0 FROM pg_logical_slot_get_binary_changes('ls', NULL, NULL, 'proto_version', '1', \
                   'publication_names', 'p')";
    standby.must(changes).await;
    standby.postgres.enforce_feedback(false).await.expect("told");
    standby.eventually_has("SHOW hot_standby_feedback", "off").await;
}

async fn slots_that_are_something_else(lab: Lab) {
    let (primary, standby) = pair(&lab).await;
    primary.must("SELECT pg_create_logical_replication_slot('other', 'test_decoding')").await;
    let wanted = [ls("other"), ls("pg2"), ls("nosuch")];
    let found = standby.postgres.read_logical_slots(&primary.upstream(), &wanted, soon()).await.expect("the leader answers");
    assert_eq!(found, [], "another plugin, a physical slot, none at all");
    assert_eq!(create(&primary, vec![LogicalSlot { database: "nosuch".to_owned(), ..ls("ls") }]).await, Vec::<String>::new());
    let broken = LogicalWork { advance: vec![(ls("nosuch"), Lsn(1))], ..LogicalWork::default() };
    let report = standby.postgres.tend_logical_slots(&broken, &Cancel::never()).await;
    assert_eq!((report.advanced, report.broken), (Vec::new(), Vec::<String>::new()), "a slot that is not there is not broken");
    primary.postgres.stop(stop_request(StopMode::Fast), None).await;
    standby.postgres.read_logical_slots(&primary.upstream(), &wanted, soon()).await.expect_err("the leader is down");
}

crate::lab_tests! {
    a_copied_logical_slot_moves_with_its_consumer_and_decodes_after_a_promotion => a_slot_from_the_primary_to_the_promotion_of_its_copy;
    what_is_not_the_configured_logical_slot_is_not_copied => slots_that_are_something_else;
}
