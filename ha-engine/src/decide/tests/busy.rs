//! Rows A: a long task is running.

use std::time::Duration;

use dcs_core::Renewal;
use dcs_core::model::Role;

use super::super::action::{DemoteKind, Effect};
use super::super::observation::TaskKind;
use super::{Situation, deeds, standby_answer};

#[test]
fn a2_the_lock_is_renewed_during_a_task() {
    let mut situation = Situation::primary().led_by("a").busy(TaskKind::Restart);
    assert_eq!(situation.line(), "updated leader lock during a task");
}

#[test]
fn a1_crash_recovery_that_takes_too_long_makes_room() {
    let mut situation = Situation::stopped(Role::Primary).led_by("a").busy(TaskKind::CrashRecovery).peer("b", standby_answer(1000));
    assert_eq!(situation.line(), "updated leader lock during a task");
    situation.now = situation.now + Duration::from_secs(300);
    let decision = situation.decide();
    assert_eq!(decision.message, "terminated crash recovery because of startup timeout");
    assert!(deeds(&decision).contains(&&Effect::CancelTask));
}

#[test]
fn a3_losing_the_lock_during_pre_promote_cancels_the_promotion() {
    let mut situation = Situation::replica().led_by("b").busy(TaskKind::Promote { pre_promote_pending: true });
    let decision = situation.decide();
    assert_eq!(decision.message, "lost leader before promote");
    assert_eq!(deeds(&decision), [&Effect::CancelTask]);
}

#[test]
fn a4_losing_the_lock_during_a_restart_stops_the_primary() {
    let mut situation = Situation::primary().led_by("a").busy(TaskKind::Restart);
    situation.renewal = Ok(Renewal::Lost);
    let decision = situation.decide();
    assert_eq!(decision.message, "lost leader lock during a task");
    assert!(deeds(&decision).contains(&&Effect::Demote(DemoteKind::ImmediateNoLock)));
}

#[test]
fn x10_losing_the_lock_during_a_promotion_stops_it_too() {
    let mut situation = Situation::replica().led_by("b").busy(TaskKind::Promote { pre_promote_pending: false });
    situation.obs.server.role = Role::Promoted;
    assert_eq!(situation.line(), "lost leader lock during a task");
}

#[test]
fn a5_a_task_of_a_replica_just_goes_on() {
    let mut situation = Situation::replica().led_by("b").busy(TaskKind::Other);
    assert_eq!(situation.line(), "a task in progress");
}

#[test]
fn in_pause_a_lost_lock_interrupts_nothing() {
    let mut situation = Situation::primary().led_by("b").busy(TaskKind::Restart).paused();
    assert_eq!(situation.line(), "a task in progress");
}

#[test]
fn losing_the_lock_during_a_demotion_stops_the_server_at_once() {
    let mut situation = Situation::primary().led_by("b").busy(TaskKind::Demote);
    let decision = situation.decide();
    assert_eq!(decision.message, "lost leader lock during a task");
    assert_eq!(deeds(&decision), [&Effect::StopImmediately]);
}
