//! Rows F and W: somebody else leads.

use dcs_core::model::{HistoryLine, Lsn, Role, Timeline};
use serde_json::json;

use super::super::action::{Ask, DemoteKind, Effect, Task};
use super::super::memory::RewindState;
use super::{Situation, deeds};
use crate::ports::{DivergenceFacts, RecoveryDiff};

fn diverged() -> Option<DivergenceFacts> {
    Some(DivergenceFacts {
        local_timeline: Timeline(1),
        local_lsn: Lsn(1000),
        local_in_recovery: true,
        checkpoint_end: None,
        leader_timeline: Timeline(2),
        leader_history: Some(vec![HistoryLine { timeline: 1, lsn: Lsn(900), reason: String::new(), timestamp: None, new_leader: None }]),
    })
}

#[test]
fn h10_a_replica_follows_the_leader() {
    let decision = Situation::replica().led_by("b").decide();
    assert_eq!(decision.message, "no action. I am (a), a secondary, and following a leader (b)");
    assert_eq!(decision.task, None);
}

#[test]
fn f4_a_primary_that_sees_another_leader_stops_at_once() {
    let decision = Situation::primary().led_by("b").decide();
    assert_eq!(decision.message, "demoting self because I do not have the lock and I was a leader");
    assert!(deeds(&decision).contains(&&Effect::Demote(DemoteKind::ImmediateNoLock)));
    assert_eq!(decision.memory.rewind, RewindState::Check);
}

#[test]
fn f10_a_new_upstream_is_followed_by_a_reload_where_that_suffices() {
    let mut situation = Situation::replica().led_by("b");
    situation.recovery_diff = RecoveryDiff::Reload;
    let decision = situation.decide();
    assert!(deeds(&decision).iter().any(|effect| matches!(effect, Effect::FollowByReload(plan) if plan.slot.as_deref() == Some("a"))));
    assert_eq!(decision.memory.rewind, RewindState::Check);
}

#[test]
fn f9_and_by_a_restart_where_it_does_not() {
    let mut situation = Situation::replica().led_by("b");
    situation.recovery_diff = RecoveryDiff::Restart;
    assert!(matches!(situation.decide().task, Some(Task::Follow { name: "changing primary_conninfo and restarting", .. })));
}

#[test]
fn replicatefrom_names_the_upstream_and_falls_back_to_the_leader() {
    let upstream = |mut situation: Situation| {
        situation.decide();
        situation.asked.iter().find_map(|ask| match ask {
            Ask::RecoveryDiff(plan) => plan.upstream.as_ref().map(|upstream| upstream.name.clone()),
            _ => None,
        })
    };
    let cascading = |name| Situation::replica().led_by("b").tagged("replicatefrom", json!(name));
    assert_eq!(upstream(cascading("c")).as_deref(), Some("c"));
    assert_eq!(upstream(cascading("a")).as_deref(), Some("b"), "never myself");
    assert_eq!(upstream(cascading("gone")).as_deref(), Some("b"));
}

#[test]
fn nostream_follows_nobody() {
    let mut situation = Situation::replica().led_by("b").tagged("nostream", json!(true));
    situation.decide();
    assert!(situation.asked.iter().any(|ask| matches!(ask, Ask::RecoveryDiff(plan) if plan.upstream.is_none() && plan.slot.is_none())));
}

#[test]
fn w2_a_diverged_replica_is_rewound() {
    let mut situation = Situation::replica().led_by("b");
    situation.memory.rewind = RewindState::Check;
    situation.divergence = diverged();
    let decision = situation.decide();
    assert_eq!(decision.message, "running pg_rewind from b");
    assert_eq!(decision.memory.rewind, RewindState::Need);
}

#[test]
fn w2_not_before_the_leader_has_finished_its_checkpoint() {
    let mut situation = Situation::replica().led_by("b");
    situation.memory.rewind = RewindState::Need;
    for member in &mut situation.view.members {
        if member.name == "b" {
            member.record.checkpoint_after_promote = Some(false);
        }
    }
    let decision = situation.decide();
    assert_eq!(decision.message, "Waiting for checkpoint on b before rewind");
    assert_eq!(decision.task, None);
    assert!(decision.watch_members, "the loop wakes when the leader says so");
}

#[test]
fn w3_what_cannot_be_rewound_is_rebuilt_if_a_setting_says_so() {
    let mut situation = Situation::replica().led_by("b");
    situation.memory.rewind = RewindState::Need;
    situation.obs.rewind_policy.can_rewind = false;
    assert_eq!(situation.line(), "no action. I am (a), a secondary, and following a leader (b)", "W4");
    situation.obs.rewind_policy.rebuild_diverged = true;
    assert_eq!(situation.line(), "reinitializing due to diverged timelines");
}

#[test]
fn the_check_waits_for_a_leader_that_is_a_primary_by_its_own_word() {
    let mut situation = Situation::replica().led_by("b");
    situation.memory.rewind = RewindState::Check;
    for member in &mut situation.view.members {
        member.record.role = Some("promoted".to_owned());
    }
    let decision = situation.decide();
    assert_eq!(decision.memory.rewind, RewindState::Check);
    assert!(!situation.asked.iter().any(|ask| matches!(ask, Ask::Divergence(_))));
}

#[test]
fn x14_an_unreadable_history_leaves_the_question_open() {
    let mut situation = Situation::replica().led_by("b");
    situation.memory.rewind = RewindState::Check;
    situation.divergence = diverged().map(|facts| DivergenceFacts { leader_history: None, ..facts });
    assert_eq!(situation.decide().memory.rewind, RewindState::Check);
}

#[test]
fn f12_the_same_leader_on_a_new_timeline_is_a_reason_to_compare() {
    let mut situation = Situation::replica().led_by("b");
    situation.memory.own_last_timeline = Some(Timeline(1));
    for member in &mut situation.view.members {
        member.record.timeline = Some(Timeline(2));
    }
    situation.decide();
    assert!(situation.asked.iter().any(|ask| matches!(ask, Ask::Divergence(_))));
}

#[test]
fn f7_paused_replay_is_resumed() {
    let mut situation = Situation::replica().led_by("b");
    if let super::super::observation::Monitor::Standby(standby) = &mut situation.obs.server.monitor {
        standby.replay_paused = true;
    }
    assert!(deeds(&situation.decide()).contains(&&Effect::ResumeReplay));
}

#[test]
fn the_first_cycle_on_an_adopted_standby_compares_histories_and_calls_on_start() {
    let mut situation = Situation::replica().led_by("b");
    situation.memory.managed = false;
    let decision = situation.decide();
    assert_eq!(decision.memory.rewind, RewindState::Check);
    assert!(decision.memory.managed);
    assert!(deeds(&decision).contains(&&Effect::Call(crate::ports::CallbackEvent::Start)));
    assert_eq!(situation.obs.server.role, Role::Replica);
}

#[test]
fn x10_a_promotion_under_way_stops_when_somebody_else_leads() {
    let mut situation = Situation::replica().led_by("b");
    situation.obs.server.role = Role::Promoted;
    let decision = situation.decide();
    assert!(deeds(&decision).contains(&&Effect::Demote(DemoteKind::ImmediateNoLock)));
    assert!(!deeds(&decision).contains(&&Effect::SetRole(Role::Replica)), "the mark of the promotion stays until it is stopped");
}
