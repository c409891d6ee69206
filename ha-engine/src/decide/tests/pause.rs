//! Maintenance mode (section 7).

use dcs_core::Renewal;
use dcs_core::model::{Role, ServerState, SystemId};

use super::super::action::{Ask, Effect, Task};
use super::super::memory::RewindState;
use super::{Situation, deeds, standby_answer};

#[test]
fn h6_a_paused_primary_goes_on_when_its_renewal_is_refused() {
    let mut situation = Situation::primary().led_by("a").paused();
    situation.renewal = Ok(Renewal::Lost);
    let decision = situation.decide();
    assert_eq!(decision.message, "continue to run as primary after failing to update leader lock in DCS");
    assert!(!deeds(&decision).iter().any(|effect| matches!(effect, Effect::Demote(_))));
}

#[test]
fn h2_a_holder_that_is_not_primary_gives_the_lock_back() {
    let decision = Situation::replica().led_by("a").paused().decide();
    assert_eq!(decision.message, "removed leader lock because postgres is not running as primary");
}

#[test]
fn f1_a_paused_primary_without_the_lock_goes_on() {
    let mut situation = Situation::primary().led_by("b").paused();
    assert_eq!(situation.line(), "continue to run as primary without lock");
}

#[test]
fn q7_no_replica_promotes_itself() {
    let mut situation = Situation::replica().paused();
    assert_eq!(situation.line(), "no action. I am (a)");
    assert!(!situation.asked.contains(&Ask::AcquireLock));
}

#[test]
fn q2_except_the_candidate_of_a_request() {
    let mut situation = Situation::replica().paused().requested(None, Some("a")).peer("b", standby_answer(9000));
    assert_eq!(situation.decide().task, Some(Task::Promote));
}

#[test]
fn q4_a_primary_with_the_right_identity_takes_the_free_lock() {
    assert_eq!(Situation::primary().paused().line(), "acquired session lock as a leader");
    let mut foreign = Situation::primary().paused();
    foreign.obs.server.system_id = SystemId::parse("7999999999999999999");
    assert_eq!(foreign.line(), "continue to run as primary without lock");
}

#[test]
fn r1_and_r2_a_stopped_server_is_not_started() {
    let decision = Situation::stopped(Role::Primary).led_by("a").paused().decide();
    assert_eq!(decision.message, "removed leader lock because postgres is not running");
    let decision = Situation::stopped(Role::Replica).led_by("b").paused().decide();
    assert_eq!(decision.message, "postgres is not running");
    assert!(deeds(&decision).contains(&&Effect::SetState(ServerState::Stopped)));
    assert_eq!(decision.task, None);
}

#[test]
fn c16_foreign_data_does_not_end_the_agent_in_pause() {
    let mut situation = Situation::primary().led_by("a").paused();
    situation.obs.server.system_id = SystemId::parse("7999999999999999999");
    let decision = situation.decide();
    assert_eq!(decision.message, "released leader key voluntarily due to the system ID mismatch");
    assert!(!deeds(&decision).iter().any(|effect| matches!(effect, Effect::Exit(_))));
}

#[test]
fn c6_leaving_pause_forgets_what_was_known_about_divergence() {
    let mut situation = Situation::primary().led_by("a");
    situation.memory.was_paused = true;
    situation.memory.rewind = RewindState::Checkpoint;
    let decision = situation.decide();
    assert!(!decision.memory.was_paused);
    assert_eq!(decision.memory.rewind, RewindState::Initial);
}

#[test]
fn an_empty_data_directory_is_left_empty() {
    let mut situation = Situation::stopped(Role::Uninitialized).led_by("b").paused();
    situation.obs.server.data_dir = super::super::observation::DataDir::Empty;
    assert_eq!(situation.line(), "running with empty data directory");
}

#[test]
fn k3_in_pause_only_the_named_candidate_moves() {
    let mut situation = Situation::replica().paused().requested(None, Some("b")).peer("b", standby_answer(10));
    assert_eq!(situation.line(), "no action. I am (a)");
}

#[test]
fn k2_in_pause_a_request_for_a_candidate_that_is_gone_is_cleared_by_a_primary() {
    let mut situation = Situation::primary().paused().requested(None, Some("gone"));
    assert_eq!(situation.line(), "acquired session lock as a leader", "and then Q4 decides");
    assert!(situation.asked.iter().any(|ask| matches!(ask, Ask::WriteFailover(request, Some(_)) if request.is_empty())));
}

#[test]
fn k7_in_pause_a_switchover_without_candidate_moves_nobody() {
    let mut situation = Situation::replica().paused().requested(Some("b"), None);
    assert_eq!(situation.line(), "no action. I am (a)");
}

#[test]
fn m5_in_pause_a_leader_refuses_a_switchover_without_candidate() {
    let decision = Situation::primary().led_by("a").paused().requested(Some("a"), None).decide();
    assert!(super::says(
        &decision,
        super::super::action::Severity::Warning,
        "Switchover is possible only to a specific candidate in a paused state"
    ));
    assert_eq!(decision.task, None);
}

#[test]
fn m1_in_pause_a_holder_that_is_not_primary_looks_at_no_request() {
    let mut situation = Situation::replica().led_by("a").paused().requested(None, Some("a"));
    assert_eq!(situation.line(), "waiting to become primary after promote...", "H1");
}

#[test]
fn s0_in_pause_a_starting_server_is_what_its_process_says() {
    let mut situation = Situation::primary().led_by("a").paused();
    situation.obs.server.state = ServerState::Starting;
    let decision = situation.decide();
    assert!(deeds(&decision).contains(&&Effect::SetState(ServerState::Running)));
}
