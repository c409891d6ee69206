//! Rows C14 to C19, N, P and R: no data, foreign data, PostgreSQL down.

use std::time::Duration;

use dcs_core::model::{Role, ServerState, SystemId};

use super::super::action::{Ask, DemoteKind, Effect, Task};
use super::super::memory::{Critical, RewindState};
use super::super::observation::DataDir;
use super::{Situation, deeds, standby_answer};

fn empty() -> Situation {
    let mut situation = Situation::stopped(Role::Uninitialized);
    situation.obs.server.data_dir = DataDir::Empty;
    situation.obs.server.system_id = None;
    situation.obs.server.state = ServerState::Stopped;
    situation
}

fn brand_new() -> Situation {
    let mut situation = empty();
    situation.view = dcs_core::model::ClusterView::default();
    situation
}

#[test]
fn n2_the_first_node_bootstraps_a_new_cluster() {
    let mut situation = brand_new();
    let decision = situation.decide();
    assert_eq!(decision.message, "trying to bootstrap a new cluster");
    assert_eq!(decision.task, Some(Task::Bootstrap));
    assert!(decision.memory.bootstrapping);
}

#[test]
fn n3_only_one_node_bootstraps() {
    let mut situation = brand_new();
    situation.written = false;
    let decision = situation.decide();
    assert_eq!(decision.message, "failed to acquire initialize lock");
    assert_eq!(decision.task, None);
}

#[test]
fn n6_the_others_wait() {
    let mut situation = brand_new();
    situation.view.initialize = Some(String::new());
    assert_eq!(situation.line(), "waiting for leader to bootstrap");
    let mut situation = brand_new();
    situation.obs.may_bootstrap = false;
    assert_eq!(situation.line(), "waiting for leader to bootstrap", "without a bootstrap section no cluster is made");
}

#[test]
fn n4_a_new_node_copies_the_leader() {
    let decision = empty().led_by("b").decide();
    assert_eq!(decision.message, "trying to bootstrap from leader 'b'");
    assert!(matches!(decision.task, Some(Task::Clone { ref name, .. }) if name == "bootstrap from leader 'b'"));
}

#[test]
fn n4_it_prefers_a_member_that_offers_itself() {
    let mut situation = empty().led_by("b");
    for member in &mut situation.view.members {
        if member.name == "c" {
            member.record.tags.0.insert("clonefrom".to_owned(), true.into());
        }
    }
    assert_eq!(situation.line(), "trying to bootstrap from replica 'c'");
}

#[test]
fn c14_a_leader_that_lost_its_data_gives_the_lock_back() {
    let decision = empty().led_by("a").decide();
    assert_eq!(decision.message, "released leader key voluntarily as data dir empty and currently leader");
    assert!(deeds(&decision).contains(&&Effect::ReleaseLock(None)));
}

#[test]
fn c17_foreign_data_ends_the_agent_and_is_left_alone() {
    let mut situation = Situation::replica().led_by("b");
    situation.obs.server.system_id = SystemId::parse("7999999999999999999");
    let decision = situation.decide();
    assert_eq!(decision.message, "system ID mismatch, node a belongs to a different cluster: 7000000000000000001 != 7999999999999999999");
    assert!(matches!(deeds(&decision).as_slice(), [Effect::Exit(reason)] if reason.leave_postgres));
}

#[test]
fn c18_a_running_standby_without_a_cluster_is_not_taken_over() {
    let mut situation = Situation::replica();
    situation.view = dcs_core::model::ClusterView::default();
    situation.memory.managed = false;
    let decision = situation.decide();
    assert!(matches!(deeds(&decision).as_slice(), [.., Effect::Exit(reason)] if reason.leave_postgres), "{decision:?}");
}

#[test]
fn c19_a_running_primary_without_a_cluster_becomes_its_leader() {
    let mut situation = Situation::primary();
    situation.view = dcs_core::model::ClusterView::default();
    situation.memory.managed = false;
    let decision = situation.decide();
    assert_eq!(decision.message, "acquired session lock as a leader");
    assert!(deeds(&decision).iter().any(|effect| matches!(effect, Effect::WriteInitialize(..))));
}

#[test]
fn r6_a_crashed_primary_that_holds_the_lock_is_started_again() {
    let mut situation = Situation::stopped(Role::Primary).led_by("a").control_state("in production");
    let decision = situation.decide();
    assert_eq!(decision.message, "starting primary after failure");
    assert_eq!(decision.task, Some(Task::StartPrimaryAfterFailure { timeout: Some(Duration::from_secs(300)) }));
    assert!(decision.memory.recovering);
}

#[test]
fn r4_it_fails_over_at_once_if_that_is_configured_and_possible() {
    let mut situation = Situation::stopped(Role::Primary).led_by("a").control_state("in production").peer("b", standby_answer(1000));
    situation.cfg.primary_start_timeout = Duration::ZERO;
    let decision = situation.decide();
    assert_eq!(decision.message, "stopped PostgreSQL to fail over after a crash");
    assert!(deeds(&decision).contains(&&Effect::Demote(DemoteKind::Immediate)));
}

#[test]
fn x11_with_nobody_to_fail_over_to_it_is_started_instead() {
    let mut situation = Situation::stopped(Role::Primary).led_by("a").control_state("in production");
    situation.cfg.primary_start_timeout = Duration::ZERO;
    assert_eq!(situation.decide().task, Some(Task::StartPrimaryAfterFailure { timeout: None }));
}

#[test]
fn r9_a_crashed_node_without_the_lock_recovers_before_it_is_compared() {
    let mut situation = Situation::stopped(Role::Primary).led_by("b").control_state("in production");
    let decision = situation.decide();
    assert_eq!(decision.task, Some(Task::CrashRecovery));
    assert!(decision.memory.crash_recovery_started.is_some());
}

#[test]
fn r8_a_backup_label_is_left_to_postgresql() {
    let mut situation = Situation::stopped(Role::Primary).led_by("b").control_state("in production");
    situation.obs.server.data_dir = DataDir::Present { recovery_file: false, backup_label: true };
    assert_eq!(situation.line(), "starting as a secondary");
}

#[test]
fn r11_a_stopped_leader_starts_read_only_and_is_promoted_later() {
    let mut situation = Situation::stopped(Role::Demoted).led_by("a").control_state("shut down");
    situation.obs.server.state = ServerState::Stopped;
    let decision = situation.decide();
    assert_eq!(decision.message, "starting as readonly because i had the session lock");
    assert!(matches!(decision.task, Some(Task::Follow { ref plan, .. }) if plan.upstream.is_none()));
}

#[test]
fn r15_a_stopped_replica_is_started() {
    let mut situation = Situation::stopped(Role::Replica).led_by("b").control_state("shut down in recovery");
    assert_eq!(situation.line(), "starting as a secondary");
    assert!(situation.asked.iter().any(|ask| matches!(ask, Ask::Divergence(_))), "R12 compares first");
}

#[test]
fn r12_not_again_after_a_rewind() {
    let mut situation = Situation::stopped(Role::Replica).led_by("b").control_state("in archive recovery");
    situation.memory.rewind = RewindState::Success;
    assert_eq!(situation.line(), "starting as a secondary");
    assert!(!situation.asked.iter().any(|ask| matches!(ask, Ask::Divergence(_))));
}

/// Must hold: invariant SAF12, hard case 54.
#[test]
fn hard_case_54_what_a_failed_rewind_has_left_is_not_started() {
    for state in ["in archive recovery", "shut down", "shut down in recovery"] {
        let mut situation = Situation::stopped(Role::Replica).led_by("b").control_state(state);
        situation.memory.rewind = RewindState::Failed;
        let decision = situation.decide();
        assert_eq!(decision.message, "not starting PostgreSQL because pg_rewind has failed: this node must be reinitialized");
        assert!(decision.task.is_none() && !decision.memory.recovering);
    }
}

#[test]
fn p1_a_leader_that_cannot_be_started_gives_the_lock_back() {
    let mut situation = Situation::stopped(Role::Primary).led_by("a");
    situation.memory.recovering = true;
    let decision = situation.decide();
    assert_eq!(decision.message, "removed leader key after trying and failing to start postgres");
    assert!(deeds(&decision).contains(&&Effect::SetRole(Role::Demoted)));
}

#[test]
fn p2_others_say_that_it_failed_and_try_again() {
    let mut situation = Situation::stopped(Role::Replica).led_by("b");
    situation.memory.recovering = true;
    let decision = situation.decide();
    assert_eq!(decision.message, "failed to start postgres");
    assert!(!decision.memory.recovering);
}

#[test]
fn b1_a_failed_bootstrap_is_undone_and_ends_the_agent() {
    let mut situation = Situation::stopped(Role::Uninitialized);
    situation.memory.bootstrapping = true;
    situation.memory.critical = Critical::Done(false);
    situation.view.initialize = Some(String::new());
    let decision = situation.decide();
    assert_eq!(decision.message, "Failed to bootstrap cluster");
    assert!(deeds(&decision).contains(&&Effect::CancelInitialize) && deeds(&decision).contains(&&Effect::MoveDataDirectoryAside));
    situation.view.initialize = Some("7000000000000000002".to_owned());
    assert!(!deeds(&situation.decide()).contains(&&Effect::CancelInitialize), "the identifier of somebody who was faster stays");
}

#[test]
fn b3_and_b4_a_new_cluster_is_finished_and_then_announced() {
    let mut situation = Situation::primary();
    situation.view = dcs_core::model::ClusterView { initialize: Some(String::new()), ..Default::default() };
    situation.memory.bootstrapping = true;
    situation.memory.critical = Critical::Pending;
    assert_eq!(situation.decide().task, Some(Task::PostBootstrap));
    situation.memory.critical = Critical::Done(true);
    let decision = situation.decide();
    assert_eq!(decision.message, "initialized a new cluster");
    assert!(deeds(&decision).contains(&&Effect::WriteConfig));
    assert!(decision.memory.lease.is_some() && !decision.memory.bootstrapping);
}

#[test]
fn s2_a_leader_that_starts_for_too_long_makes_room() {
    let mut situation = Situation::primary().led_by("a").peer("b", standby_answer(1000));
    situation.obs.server.state = ServerState::Starting;
    situation.obs.server.monitor = super::super::observation::Monitor::NotAsked;
    situation.obs.server.since = situation.now;
    assert_eq!(situation.line(), "PostgreSQL is still starting up, 300 seconds until timeout", "S4");
    situation.now = situation.now + Duration::from_secs(300);
    assert_eq!(situation.line(), "stopped PostgreSQL because of startup timeout");
    situation.peers.clear();
    assert_eq!(situation.line(), "primary start has timed out, but continuing to wait because failover is not possible", "S3");
}

#[test]
fn c15_data_without_identity_is_reported_and_left_alone() {
    let mut situation = Situation::stopped(Role::Replica).led_by("b");
    situation.obs.server.system_id = None;
    let decision = situation.decide();
    assert_eq!(decision.message, "data dir for the cluster is not empty, but system ID is invalid; consider doing reinitialize");
    assert!(deeds(&decision).is_empty() && decision.task.is_none());
}

#[test]
fn n5_a_method_that_needs_no_leader_is_used_without_one() {
    let mut situation = empty();
    situation.view.initialize = Some("7000000000000000001".to_owned());
    situation.obs.has_leaderless_method = true;
    assert_eq!(situation.line(), "trying to bootstrap (without leader)");
    situation.view.initialize = Some(String::new());
    assert_eq!(situation.line(), "waiting for leader to bootstrap", "not while somebody bootstraps");
}

#[test]
fn b2_a_bootstrap_waits_for_the_end_of_recovery() {
    let mut situation = Situation::replica();
    situation.memory.bootstrapping = true;
    situation.memory.critical = Critical::Pending;
    assert_eq!(situation.line(), "waiting for end of recovery after bootstrap");
}

#[test]
fn p3_a_good_start_forgets_the_recovery_and_the_rewind_before_it() {
    let mut situation = Situation::replica().led_by("b");
    situation.memory.recovering = true;
    situation.memory.crash_recovery_started = Some(situation.now);
    situation.memory.rewind = RewindState::Success;
    let decision = situation.decide();
    assert!(!decision.memory.recovering && decision.memory.crash_recovery_started.is_none());
    assert_eq!(decision.memory.rewind, RewindState::Initial);
}

#[test]
fn s1_a_lock_lost_while_starting_stops_the_server() {
    let mut situation = Situation::primary().led_by("a");
    situation.obs.server.state = ServerState::Starting;
    situation.renewal = Ok(dcs_core::Renewal::Lost);
    let decision = situation.decide();
    assert_eq!(decision.message, "stopped PostgreSQL while starting up because leader key was lost");
    assert!(deeds(&decision).contains(&&Effect::Demote(DemoteKind::ImmediateNoLock)));
}

#[test]
fn s5_a_standby_that_is_starting_goes_on_as_usual() {
    let mut situation = Situation::replica().led_by("b");
    situation.obs.server.state = ServerState::Starting;
    assert_eq!(situation.line(), "no action. I am (a), a secondary, and following a leader (b)");
}

#[test]
fn w1_a_standby_stopped_in_the_middle_of_recovery_recovers_before_it_is_rewound() {
    let mut situation = Situation::stopped(Role::Replica).led_by("b").control_state("in archive recovery");
    situation.memory.rewind = RewindState::Need;
    assert_eq!(situation.decide().task, Some(Task::CrashRecovery));
}
