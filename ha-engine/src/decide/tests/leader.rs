//! Rows H, E and M: the lock is mine.

use dcs_core::model::{FailoverRequest, Role, ScheduledTime, Timeline};
use dcs_core::{InitializeWrite, Renewal};
use jiff::tz::Offset;
use serde_json::json;

use super::super::action::{Ask, DemoteKind, Effect, Severity, Task};
use super::super::memory::{Critical, RewindState};
use super::super::observation::{Monitor, PeerAnswer, PeerStatus, PrimaryMonitor, StoreFailed};
use super::{Situation, deeds, says, standby_answer};

#[test]
fn h5_a_leader_with_nothing_to_do_says_so_and_publishes_its_status() {
    let mut situation = Situation::primary().led_by("a");
    situation.memory.rewind = RewindState::Checkpoint;
    let decision = situation.decide();
    assert_eq!(decision.message, "no action. I am (a), the leader with the lock");
    assert!(decision.effects.iter().any(|effect| matches!(effect, Effect::WriteStatus(status) if status.last_lsn.0 == 1000)));
}

#[test]
fn the_slots_of_all_members_are_made_by_the_leader() {
    let decision = Situation::primary().led_by("a").decide();
    let plan = decision.effects.iter().find_map(|effect| match effect {
        Effect::MaintainSlots(plan) => Some(plan.create.clone()),
        _ => None,
    });
    assert_eq!(plan, Some(vec!["b".to_owned(), "c".to_owned()]));
}

#[test]
fn h7_a_primary_whose_renewal_is_refused_stops_at_once() {
    let mut situation = Situation::primary().led_by("a");
    situation.renewal = Ok(Renewal::Lost);
    let decision = situation.decide();
    assert_eq!(decision.message, "demoted self because failed to update leader lock in DCS");
    assert!(deeds(&decision).contains(&&Effect::Demote(DemoteKind::ImmediateNoLock)));
    assert!(decision.memory.lease.is_none());
}

#[test]
fn h8_a_standby_whose_renewal_is_refused_does_not_promote() {
    let mut situation = Situation::replica().led_by("a");
    situation.renewal = Ok(Renewal::Lost);
    let decision = situation.decide();
    assert_eq!(decision.message, "not promoting because failed to update leader lock in DCS");
    assert_eq!(decision.task, None);
}

#[test]
fn e7_a_standby_that_holds_the_lock_is_promoted() {
    let decision = Situation::replica().led_by("a").decide();
    assert_eq!(decision.message, "promoted self to leader because I had the session lock");
    assert_eq!(decision.task, Some(Task::Promote));
    assert_eq!(decision.memory.critical, Critical::Pending);
}

#[test]
fn e5_a_promotion_that_was_accepted_is_not_asked_for_again() {
    let mut situation = Situation::replica().led_by("a");
    situation.obs.server.role = Role::Promoted;
    assert_eq!(situation.decide().task, None);
}

#[test]
fn e3_a_failed_pre_promote_script_gives_the_lock_back() {
    let mut situation = Situation::replica().led_by("a");
    situation.memory.critical = Critical::Done(false);
    let decision = situation.decide();
    assert_eq!(decision.message, "Promotion cancelled because the pre-promote script failed");
    assert!(deeds(&decision).contains(&&Effect::ReleaseLock(None)));
    assert_eq!(decision.memory.released_lock_at, Some(situation.now));
}

#[test]
fn a_store_error_during_renewal_demotes_like_a_store_error_during_load() {
    let mut situation = Situation::primary().led_by("a");
    situation.renewal = Err(StoreFailed);
    let decision = situation.decide();
    assert_eq!(decision.message, "demoted self because DCS is not accessible and I was a leader");
    assert!(deeds(&decision).contains(&&Effect::Demote(DemoteKind::Offline)));
}

#[test]
fn c8_a_leader_writes_the_system_identifier_that_the_store_has_lost() {
    let mut situation = Situation::primary().led_by("a");
    situation.view.initialize = None;
    let decision = situation.decide();
    assert!(
        deeds(&decision).iter().any(|effect| matches!(effect, Effect::WriteInitialize(InitializeWrite::CreateOnly, _))),
        "{decision:?}"
    );
}

#[test]
fn c9_a_leader_writes_the_configuration_that_the_store_has_lost() {
    let mut situation = Situation::primary().led_by("a");
    situation.view.config = None;
    let decision = situation.decide();
    assert!(deeds(&decision).contains(&&Effect::WriteConfig));
    assert!(!deeds(&decision).iter().any(|effect| matches!(effect, Effect::MaintainSlots(_))), "a wiped store drops no slot");
}

#[test]
fn after_a_promotion_the_leader_makes_itself_fit_to_rewind_from() {
    let mut situation = Situation::primary().led_by("a");
    assert!(deeds(&situation.decide()).contains(&&Effect::CheckpointAfterPromotion));
    situation.memory.rewind = RewindState::Checkpoint;
    assert!(!deeds(&situation.decide()).contains(&&Effect::CheckpointAfterPromotion));
}

#[test]
fn the_history_is_asked_for_when_the_store_does_not_have_the_timeline() {
    let mut situation = Situation::primary().led_by("a");
    situation.obs.server.monitor = Monitor::Primary(PrimaryMonitor { timeline: Timeline(2), lsn: dcs_core::model::Lsn(1000) });
    situation.decide();
    assert!(situation.asked.contains(&Ask::HistoryFile(Timeline(2))));
}

#[test]
fn the_history_of_an_abandoned_cluster_is_emptied_on_the_first_timeline() {
    let mut fresh = Situation::primary().led_by("a").history(&[(1, 800)]);
    fresh.cfg.check_timeline = false;
    let written = |decision: &super::super::action::Decision| {
        decision.effects.iter().find_map(|effect| match effect {
            Effect::WriteHistory(value) => Some(value.clone()),
            _ => None,
        })
    };
    assert_eq!(written(&fresh.decide()), Some(json!([])));
    let mut kept = Situation::primary().led_by("a");
    assert_eq!(written(&kept.decide()), None, "an empty one stays");
    kept.view.history = None;
    assert_eq!(written(&kept.decide()), None, "and so does none");
}

#[test]
fn m6_a_leader_steps_down_for_a_healthy_candidate() {
    let mut situation = Situation::primary().led_by("a").requested(Some("a"), Some("b")).peer("b", standby_answer(1000));
    let decision = situation.decide();
    assert_eq!(decision.message, "switchover: demoting myself");
    assert!(matches!(decision.task, Some(Task::Demote { ref name, .. }) if name == "switchover: demote"));
}

#[test]
fn m7_it_stays_if_the_candidate_is_not_healthy_and_clears_the_request() {
    let mut situation = Situation::primary().led_by("a").requested(Some("a"), Some("b"));
    let decision = situation.decide();
    assert_eq!(decision.message, "no action. I am (a), the leader with the lock");
    assert!(says(&decision, Severity::Warning, "switchover: no healthy members found, switchover is not possible"));
    assert!(situation.asked.iter().any(|ask| matches!(ask, Ask::WriteFailover(request, Some(_)) if request.is_empty())));
}

#[test]
fn m7_a_candidate_that_lags_too_much_is_not_healthy() {
    let mut situation = Situation::primary().led_by("a").requested(None, Some("b")).peer("b", standby_answer(10));
    situation.cfg.maximum_lag_on_failover = 100;
    let decision = situation.decide();
    assert_eq!(decision.task, None);
    assert!(says(&decision, Severity::Info, "Member b exceeds maximum replication lag"));
    assert!(says(&decision, Severity::Warning, "manual failover: no healthy members found, failover is not possible"));
}

#[test]
fn x2_a_candidate_on_an_abandoned_timeline_counts_only_up_to_the_switch() {
    let case = |lag| {
        let PeerAnswer::Status(status) = standby_answer(5000) else { unreachable!("a status") };
        let abandoned = PeerAnswer::Status(PeerStatus { timeline: Some(Timeline(1)), ..status });
        let mut situation = Situation::primary().led_by("a").history(&[(1, 800)]).requested(Some("a"), Some("b")).peer("b", abandoned);
        situation.obs.server.monitor = Monitor::Primary(PrimaryMonitor { timeline: Timeline(2), lsn: dcs_core::model::Lsn(1000) });
        situation.cfg.maximum_lag_on_failover = lag;
        situation.decide()
    };
    assert!(says(&case(199), Severity::Info, "Member b exceeds maximum replication lag"));
    assert!(case(200).task.is_some());
}

#[test]
fn m3_a_request_for_another_leader_is_refused() {
    let decision = Situation::primary().led_by("a").requested(Some("c"), None).decide();
    assert!(says(&decision, Severity::Warning, "switchover: leader name does not match: c != a"));
    assert_eq!(decision.task, None);
}

#[test]
fn m4_a_request_for_the_leader_itself_is_refused() {
    let decision = Situation::primary().led_by("a").requested(None, Some("a")).decide();
    assert!(says(&decision, Severity::Warning, "manual failover: I am already the leader, no need to failover"));
}

fn scheduled(seconds: i64) -> Situation {
    let mut situation = Situation::primary().led_by("a").peer("b", standby_answer(1000));
    let at = jiff::Timestamp::from_second(situation.wall.as_second() + seconds).expect("in range");
    situation = situation.requested(Some("a"), None);
    if let Some(key) = &mut situation.view.failover {
        key.request = FailoverRequest { scheduled_at: Some(ScheduledTime::new(at, Offset::UTC)), ..key.request.clone() };
    }
    situation
}

#[test]
fn m2_a_scheduled_switchover_waits_by_a_timer_and_not_by_sleeping() {
    let decision = scheduled(100).decide();
    assert!(says(&decision, Severity::Info, "Awaiting switchover at"));
    assert_eq!(decision.wake_at, None);
    let mut soon = scheduled(4);
    let decision = soon.decide();
    assert_eq!(decision.wake_at, Some(soon.now + std::time::Duration::from_secs(4)));
    assert_eq!(decision.task, None);
    assert!(scheduled(0).decide().task.is_some());
    let stale = scheduled(-60).decide();
    assert!(says(&stale, Severity::Warning, "Found a stale switchover value, cleaning up:"));
}

#[test]
fn x10_a_promotion_under_way_stops_when_the_renewal_is_refused() {
    let mut situation = Situation::replica().led_by("a");
    situation.obs.server.role = Role::Promoted;
    situation.renewal = Ok(Renewal::Lost);
    assert!(deeds(&situation.decide()).contains(&&Effect::Demote(DemoteKind::ImmediateNoLock)));
}

#[test]
fn the_verdict_of_a_script_for_a_lost_lock_does_not_count_for_the_next_one() {
    let mut situation = Situation::replica().led_by("b");
    situation.memory.critical = Critical::Done(false);
    assert_eq!(situation.decide().memory.critical, Critical::Idle);
}
