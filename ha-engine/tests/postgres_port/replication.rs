//! Standbys: following, promoting, comparing histories, rewinding, slots.

use std::time::Duration;

use dcs_core::model::{Lsn, Role, Timeline};
use ha_engine::Cancel;
use ha_engine::decide::action::Severity;
use ha_engine::decide::observation::Monitor;
use ha_engine::decide::slots::{SlotDrop, SlotPlan};
use ha_engine::ports::{
    FollowPlan, Postgres, PromoteOutcome, RecoveryDiff, RewindOutcome, StartOutcome, StopHook, StopMode, StopOutcome, StopRequest,
};
use tokio::time::Instant;

use crate::lab::{Lab, Node, eventually, shell, soon, stop_request};

async fn promote(node: &Node) {
    assert_eq!(node.postgres.promote(Duration::from_secs(10), &Cancel::never()).await, PromoteOutcome::Promoted);
}

/// Trap 1 of postgresql.md 22a: a request that comes while the WAL receiver ends may be slept over. Without nudges about two of
/// three promotions meet it, so two standbys are promoted at once.
async fn a_promotion_right_after_the_primarys_death(lab: Lab) {
    let primary = lab.primary("pg1").await;
    let standbys = [lab.standby("pg2", &primary).await, lab.standby("pg3", &primary).await];
    primary.must("CREATE TABLE t AS SELECT 1").await;
    for standby in &standbys {
        standby.eventually_has("SELECT count(*) FROM t", "1").await;
    }
    primary.kill_postmaster();
    let begin = Instant::now();
    tokio::join!(promote(&standbys[0]), promote(&standbys[1]));
    // The trap is 5 s long (wal_retrieve_retry_interval). Usually this takes 0.1 s; the bound leaves room for a busy machine.
    assert!(begin.elapsed() < Duration::from_secs(3), "promotion took {:?}", begin.elapsed());
    for standby in standbys {
        assert_eq!(standby.postgres.local().role, Role::Primary);
        assert!(!standby.data_dir().join("promote").exists(), "the request was taken up, and no second one is left behind");
        standby.must("INSERT INTO t VALUES (2)").await;
        let (lines, _) = standby.postgres.history_file(Timeline(2)).await.expect("a history file");
        assert_eq!((lines.len(), lines[0].timeline), (1, 1));
    }
}

async fn promotions_that_do_not_happen(lab: Lab) {
    let mut primary = lab.primary("pg1").await;
    // A primary has nothing to be promoted to.
    promote(&primary).await;
    primary.postgres.set_role(Role::Replica);
    promote(&primary).await;
    assert_eq!(primary.primary_timeline().await, Timeline(1));

    primary.reconfigure(|settings| settings.postgresql.pre_promote = Some(shell("exit 1"))).await;
    assert!(!primary.postgres.run_pre_promote(&Cancel::never()).await);
    primary.reconfigure(|settings| settings.postgresql.pre_promote = None).await;
    assert!(primary.postgres.run_pre_promote(&Cancel::never()).await);

    let source = ha_engine::CancelSource::new();
    source.cancel();
    primary.postgres.set_role(Role::Replica);
    assert_eq!(primary.postgres.promote(Duration::from_secs(1), &source.token()).await, PromoteOutcome::Cancelled);
    primary.postgres.stop(stop_request(StopMode::Fast), None).await;
    assert_eq!(primary.postgres.promote(Duration::from_secs(1), &Cancel::never()).await, PromoteOutcome::Failed);
}

/// P4-1
async fn another_upstream_needs_a_reload_only(lab: Lab) {
    let first = lab.primary("pg1").await;
    let second = lab.standby("pg2", &first).await;
    let third = lab.standby("pg3", &first).await;
    let plan = third.follow_plan(&first);
    let unchanged = eventually("no difference", async || match third.postgres.recovery_diff(&plan, soon()).await {
        RecoveryDiff::None => Ok(()),
        other => Err(format!("{other:?}")),
    });
    unchanged.await;

    promote_after_stop(&first, &second).await;
    let plan = third.follow_plan(&second);
    // Version 12 restarts for this; the test runs on a newer one.
    assert_eq!(third.postgres.recovery_diff(&plan, soon()).await, RecoveryDiff::Reload);
    let pid = third.pid();
    assert_eq!(third.postgres.follow(&plan, true, None, &Cancel::never()).await, StartOutcome::Running);
    second.must("CREATE TABLE t AS SELECT 1").await;
    third.eventually_has("SELECT count(*) FROM t", "1").await;
    assert_eq!((third.pid(), third.postgres.local().role), (pid, Role::Replica));
    third.eventually_streams().await;
    assert_eq!(third.postgres.recovery_diff(&plan, soon()).await, RecoveryDiff::None);
    assert_eq!(third.postgres.own_timeline(soon()).await, Some(Timeline(2)));
    assert_eq!(third.standby_monitor().await.received_timeline, Some(Timeline(2)));

    // P4-6: what somebody wrote by hand is corrected.
    let conf = third.data_dir().join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).expect("it is there").replace("application_name=pg3", "application_name=other");
    std::fs::write(&conf, text).expect("it can be written");
    third.must("SELECT pg_reload_conf()").await;
    eventually("the edited setting", async || match third.sql("SHOW primary_conninfo").await {
        Ok(Some(value)) if value.contains("application_name=other") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(third.postgres.recovery_diff(&plan, soon()).await, RecoveryDiff::Reload);

    std::fs::remove_file(third.data_dir().join("standby.signal")).expect("it is a standby");
    assert_eq!(third.postgres.recovery_diff(&plan, soon()).await, RecoveryDiff::Restart);
}

async fn promote_after_stop(old: &Node, new: &Node) {
    let stopped = old.postgres.stop(stop_request(StopMode::Fast), None).await;
    let StopOutcome::Stopped(Some(position)) = stopped else { panic!("{stopped:?}") };
    eventually("a standby that has everything", async || {
        let received = new.standby_monitor().await.received.max(new.standby_monitor().await.replayed);
        if received >= position.checkpoint_end { Ok(()) } else { Err(format!("{received} < {}", position.checkpoint_end)) }
    })
    .await;
    promote(new).await;
}

/// P7-4, P13-2
async fn a_clean_switchover_needs_no_rewind(lab: Lab) {
    let first = lab.primary("pg1").await;
    let second = lab.standby("pg2", &first).await;
    first.must("CREATE TABLE t AS SELECT 1").await;
    promote_after_stop(&first, &second).await;
    let facts = first.postgres.observe_divergence(&second.upstream(), soon()).await.expect("both can be asked");
    let switch = facts.leader_history.as_ref().expect("a history")[0].lsn;
    assert!(!facts.local_in_recovery && facts.local_lsn < switch, "{facts:?}");
    assert_eq!(facts.checkpoint_end, Some(switch), "the shutdown checkpoint is the last record of the timeline");
    first.follow(&second).await;
    first.eventually_streams().await;
}

async fn histories_that_cannot_be_compared(lab: Lab) {
    let first = lab.primary("pg1").await;
    let second = lab.standby("pg2", &first).await;
    let third = lab.standby("pg3", &first).await;
    // A standby is nobody to be compared with.
    assert!(third.postgres.observe_divergence(&second.upstream(), soon()).await.is_err());
    let facts = third.postgres.observe_divergence(&first.upstream(), soon()).await.expect("both can be asked");
    assert!(facts.local_in_recovery && facts.leader_history.is_none(), "{facts:?}");
    assert_eq!((facts.local_timeline, facts.leader_timeline), (Timeline(1), Timeline(1)));
    first.postgres.stop(stop_request(StopMode::Immediate), None).await;
    assert!(third.postgres.observe_divergence(&first.upstream(), soon()).await.is_err());
    // What was not stopped cleanly has no known position.
    promote(&second).await;
    assert!(first.postgres.observe_divergence(&second.upstream(), soon()).await.is_err());
    // After single-user recovery it has one.
    first.postgres.single_user_recovery(&Cancel::never()).await.expect("it can recover");
    let facts = first.postgres.observe_divergence(&second.upstream(), soon()).await.expect("it is shut down cleanly");
    assert!(!facts.local_in_recovery && facts.checkpoint_end.is_some(), "{facts:?}");
}

/// P13-1, P13-6, P13-7, P13-8
async fn a_crashed_primary_is_rewound_and_its_wal_archived(lab: Lab) {
    let archive = lab.path().join("archive");
    std::fs::create_dir(&archive).expect("a directory");
    let mut settings = lab.settings("pg1");
    let archiving = [
        ("archive_mode".to_owned(), "on".to_owned()),
        ("archive_command".to_owned(), format!("test ! -e {0}/closed && cp %p {0}/%f", archive.display())),
        ("restore_command".to_owned(), format!("cp {}/%f %p", archive.display())),
    ];
    settings.postgresql.parameters.extend(archiving.clone());
    let first = lab.node_with(settings);
    first.bootstrap().await;
    let mut settings = lab.settings("pg2");
    settings.postgresql.parameters.extend(archiving);
    let second = lab.node_with(settings);
    second.clone_from(&first).await;
    second.follow(&first).await;
    second.eventually_streams().await;

    // Nothing can be archived for now; a finished segment waits.
    std::fs::write(archive.join("closed"), "").expect("a mark");
    first.must("CREATE TABLE t (n int)").await;
    let segment = first.must("SELECT pg_walfile_name(pg_current_wal_lsn())").await;
    first.must("SELECT pg_switch_wal()").await;
    second.eventually_has("SELECT count(*) FROM t", "0").await;
    first.must("INSERT INTO t SELECT generate_series(1, 100)").await;
    first.postgres.stop(stop_request(StopMode::Immediate), None).await;
    promote(&second).await;
    second.must("INSERT INTO t VALUES (-1)").await;
    assert!(second.postgres.checkpoint(&Cancel::never()).await);
    std::fs::remove_file(archive.join("closed")).expect("the mark");

    first.postgres.single_user_recovery(&Cancel::never()).await.expect("it can recover");
    assert!(archive.join(&segment).is_file(), "{segment} was archived before its mark was cleared");
    // The leader has not proved its checkpoint: not yet.
    let early = first.postgres.rewind(&second.upstream(), false, &Cancel::never()).await;
    assert!(matches!(&early, RewindOutcome::NotYet(reason) if reason.contains("Waiting for checkpoint on pg2")), "{early:?}");
    assert_eq!(first.postgres.rewind(&second.upstream(), true, &Cancel::never()).await, RewindOutcome::Done);
    first.follow(&second).await;
    first.eventually_streams().await;
    let rows = second.must("SELECT string_agg(n::text, ',') FROM t").await;
    first.eventually_has("SELECT string_agg(n::text, ',') FROM t", &rows).await;
}

async fn a_rewind_without_its_source(lab: Lab) {
    let first = lab.primary("pg1").await;
    let second = lab.standby("pg2", &first).await;
    promote_after_stop(&first, &second).await;
    let upstream = second.upstream();
    second.postgres.stop(stop_request(StopMode::Immediate), None).await;
    let outcome = first.postgres.rewind(&upstream, true, &Cancel::never()).await;
    assert!(matches!(outcome, RewindOutcome::NotYet(_)), "{outcome:?}");
    assert!(first.postgres.can_rewind().await, "nothing was damaged");
}

async fn slots_come_move_and_go(lab: Lab) {
    let node = lab.primary("pg1").await;
    let plan = SlotPlan { create: vec!["pg2".to_owned(), "pg3".to_owned()], ..SlotPlan::default() };
    let slots = node.postgres.apply_slots(&plan, soon()).await;
    let names: Vec<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
    assert_eq!(names, ["pg2", "pg3"]);
    let begin = slots[0].restart_lsn.expect("WAL is reserved at once");
    assert_eq!(node.postgres.apply_slots(&plan, soon()).await.len(), 2, "creating what is there is no error");

    node.must("CREATE TABLE t AS SELECT generate_series(1, 1000)").await;
    let Monitor::Primary(primary) = node.observe().await.monitor else { panic!("not a primary") };
    let plan = SlotPlan { advance: vec![("pg2".to_owned(), primary.lsn)], ..SlotPlan::default() };
    let slots = node.postgres.apply_slots(&plan, soon()).await;
    assert_eq!(slots.iter().find(|slot| slot.name == "pg2").and_then(|slot| slot.restart_lsn), Some(primary.lsn));
    assert!(begin < primary.lsn);
    // Advancing beyond the end is refused, and everything else goes on.
    let plan = SlotPlan { advance: vec![("pg3".to_owned(), Lsn(u64::MAX >> 1))], ..SlotPlan::default() };
    assert_eq!(node.postgres.apply_slots(&plan, soon()).await.len(), 2);

    // A slot that is used cannot be dropped.
    let standby = lab.node("pg2");
    standby.clone_from(&node).await;
    let plan = FollowPlan { slot: Some("pg2".to_owned()), ..standby.follow_plan(&node) };
    assert_eq!(standby.postgres.slot_exists_on(&node.upstream(), "pg2", soon()).await, Some(true));
    assert_eq!(standby.postgres.slot_exists_on(&node.upstream(), "pg9", soon()).await, Some(false));
    assert_eq!(standby.postgres.follow(&plan, false, None, &Cancel::never()).await, StartOutcome::Running);
    eventually("an active slot", async || match node.observe().await.slots {
        Some(slots) if slots.iter().any(|slot| slot.name == "pg2" && slot.active) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let drop = |name: &str| SlotDrop {
        name: name.to_owned(),
        severity: Severity::Info,
        reason: format!("Trying to drop unknown replication slot '{name}'"),
    };
    let plan = SlotPlan { drop: vec![drop("pg2"), drop("pg3"), drop("pg9")], ..SlotPlan::default() };
    let slots = node.postgres.apply_slots(&plan, soon()).await;
    let names: Vec<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
    assert_eq!(names, ["pg2"]);
    assert!(slots[0].active && !slots[0].logical && !slots[0].lost, "{slots:?}");
}

async fn a_standby_restarts_as_what_it_was(lab: Lab) {
    let primary = lab.primary("pg1").await;
    let standby = lab.standby("pg2", &primary).await;
    let pid = standby.pid();
    assert_eq!(standby.postgres.restart(Duration::from_secs(30), &Cancel::never()).await, StartOutcome::Running);
    assert_ne!(standby.pid(), pid);
    assert_eq!(standby.postgres.local().role, Role::Replica);
    standby.eventually_streams().await;
    // A read-only start: recovery from local WAL, nobody to stream from, and later a promotion.
    standby.postgres.stop(stop_request(StopMode::Fast), None).await;
    let nobody = FollowPlan { upstream: None, slot: None, role: Role::Replica, overrides: Vec::new() };
    assert_eq!(standby.postgres.follow(&nobody, false, None, &Cancel::never()).await, StartOutcome::Running);
    assert_eq!(standby.must("SHOW primary_conninfo").await, "");
    promote(&standby).await;
    let stop = StopRequest { hook: StopHook::Skip, ..stop_request(StopMode::Immediate) };
    assert_eq!(standby.postgres.stop(stop, None).await, StopOutcome::Stopped(None));
}

/// C13-9
async fn a_standby_keeps_the_larger_value(lab: Lab) {
    let primary = lab.primary("pg1").await;
    let mut standby = lab.standby("pg2", &primary).await;
    standby
        .reconfigure(|settings| {
            settings.postgresql.parameters.insert("max_connections".to_owned(), "30".to_owned());
        })
        .await;
    let pending = standby.postgres.local().pending_restart;
    assert_eq!(pending.keys().collect::<Vec<_>>(), ["max_connections"]);
    assert_eq!(standby.postgres.restart(Duration::from_secs(30), &Cancel::never()).await, StartOutcome::Running);
    assert_eq!(standby.must("SHOW max_connections").await, "40");
    let pending = standby.postgres.local().pending_restart;
    let change = pending.get("max_connections").expect("it still waits");
    assert_eq!((change.old_value.as_str(), change.new_value.as_str()), ("40", "30"));
}

crate::lab_tests! {
    a_promotion_right_after_the_primarys_death_does_not_sleep => a_promotion_right_after_the_primarys_death;
    a_promotion_that_cannot_happen_is_refused => promotions_that_do_not_happen;
    a_standby_changes_its_upstream_by_reload => another_upstream_needs_a_reload_only;
    a_clean_switchover_shows_no_divergence => a_clean_switchover_needs_no_rewind;
    a_comparison_that_is_not_possible_is_inconclusive => histories_that_cannot_be_compared;
    a_crashed_primary_archives_its_wal_and_is_rewound => a_crashed_primary_is_rewound_and_its_wal_archived;
    a_rewind_from_a_dead_source_is_tried_again_later => a_rewind_without_its_source;
    slots_are_created_advanced_and_dropped => slots_come_move_and_go;
    a_standby_keeps_role_and_recovery_settings_over_a_restart => a_standby_restarts_as_what_it_was;
    a_standby_is_started_with_what_its_primary_had => a_standby_keeps_the_larger_value;
}
