//! Section 12: the slots of absent members, over the restart of an agent and the change of a leader.

use std::time::Duration;

use dcs_core::Acquisition;
use dcs_core::model::{Lsn, Role, Status};

use super::super::action::{Decision, Effect, Severity};
use super::super::memory::{Memory, RewindState};
use super::super::observation::SlotObservation;
use super::super::slots::SlotPlan;
use super::{Situation, deeds, lease, says};

fn slot(name: &str) -> SlotObservation {
    SlotObservation {
        name: name.to_owned(),
        logical: false,
        database: None,
        plugin: None,
        active: false,
        has_xmin: false,
        restart_lsn: Some(Lsn(500)),
        confirmed_flush_lsn: None,
        lost: false,
    }
}

/// The leader `a` with the slots of `b`, `c` and of `gone`, which is a member no more and is retained.
fn leader_with_a_retained_slot() -> Situation {
    let mut situation = Situation::primary().led_by("a");
    situation.memory.rewind = RewindState::Checkpoint;
    situation.obs.server.slots = Some(["b", "c", "gone"].map(slot).to_vec());
    situation.view.status.retain_slots = ["a", "b", "c", "gone"].map(str::to_owned).to_vec();
    situation
}

fn written(decision: &Decision) -> &Status {
    let status = decision.effects.iter().find_map(|effect| match effect {
        Effect::WriteStatus(status) => Some(status),
        _ => None,
    });
    status.expect("a leader publishes its status")
}

fn plan(decision: &Decision) -> Option<&SlotPlan> {
    decision.effects.iter().find_map(|effect| match effect {
        Effect::MaintainSlots(plan) => Some(plan),
        _ => None,
    })
}

/// Cycles once; the store then shows what was written.
fn cycle(situation: &mut Situation) -> Decision {
    let decision = situation.decide();
    situation.view.status = written(&decision).clone();
    situation.memory = decision.memory.clone();
    decision
}

/// Row 47: an agent that was restarted while its server went on.
#[test]
fn x18_a_restarted_agent_of_the_leader_keeps_server_lock_and_the_slots_of_absent_members() {
    let mut situation = leader_with_a_retained_slot();
    situation.memory = Memory::default();
    let decision = situation.decide();
    assert_eq!(decision.message, "no action. I am (a), the leader with the lock");
    assert!(decision.memory.lease.is_some());
    assert_eq!(decision.task, None);
    let touching: Vec<_> =
        deeds(&decision).into_iter().filter(|effect| !matches!(effect, Effect::Call(_) | Effect::CheckpointAfterPromotion)).collect();
    assert_eq!(touching, Vec::<&Effect>::new(), "no slot is made or dropped, no role is changed");
    let status = written(&decision);
    assert_eq!(status.retain_slots, ["a", "b", "c", "gone"]);
    assert_eq!(status.slots.as_ref().and_then(|slots| slots.get("gone")), Some(&Lsn(500)));
}

#[test]
fn x18_the_clock_of_an_absent_members_slot_starts_with_the_first_view_and_is_not_started_again() {
    let mut situation = leader_with_a_retained_slot();
    situation.memory = Memory::default();
    situation.cfg.member_slots_ttl = Duration::from_secs(60);
    let begin = situation.now;
    for seconds in [0, 10, 30, 59] {
        situation.now = begin + Duration::from_secs(seconds);
        let decision = cycle(&mut situation);
        assert!(situation.view.status.retain_slots.contains(&"gone".to_owned()), "after {seconds} s");
        assert_eq!(plan(&decision), None, "after {seconds} s");
    }
    situation.now = begin + Duration::from_secs(60);
    let decision = cycle(&mut situation);
    assert!(says(&decision, Severity::Info, "Replication slot 'gone' for absent cluster member is expired after 60 sec."));
    assert_eq!(situation.view.status.retain_slots, ["a", "b", "c"]);
    let decision = cycle(&mut situation);
    assert_eq!(plan(&decision).map(|plan| plan.drop.iter().map(|(name, _)| name.as_str()).collect()), Some(vec!["gone"]));
}

#[test]
fn the_clock_of_a_present_members_slot_starts_when_it_goes() {
    let mut situation = leader_with_a_retained_slot();
    situation.cfg.member_slots_ttl = Duration::from_secs(60);
    let begin = situation.now;
    cycle(&mut situation);
    situation.now = begin + Duration::from_secs(50);
    cycle(&mut situation);
    situation.view.members.retain(|member| member.name != "c");
    situation.now = begin + Duration::from_secs(100);
    cycle(&mut situation);
    assert_eq!(situation.view.status.retain_slots, ["a", "b", "c"], "`gone` was seen last at 0 s, c at 50 s");
    situation.now = begin + Duration::from_secs(110);
    cycle(&mut situation);
    assert_eq!(situation.view.status.retain_slots, ["a", "b"]);
}

#[test]
fn taking_the_lock_starts_the_clocks_of_all_retained_slots_anew() {
    let mut situation = Situation::replica();
    situation.view.status.retain_slots = vec!["gone".to_owned()];
    situation.memory.retain_slots_seen.insert("gone".to_owned(), dcs_core::Moment::ZERO);
    situation.acquisition = Ok(Acquisition::Won(lease()));
    let decision = situation.decide();
    assert_eq!(decision.memory.retain_slots_seen.get("gone"), Some(&situation.now), "the former leader may have seen it a moment ago");
}

#[test]
fn a_leader_that_cannot_see_its_slots_keeps_what_was_told_of_them() {
    let mut situation = leader_with_a_retained_slot();
    situation.memory = Memory::default();
    situation.view.status.slots = Some([("gone".to_owned(), Lsn(400))].into());
    situation.obs.server.slots = None;
    let decision = situation.decide();
    assert_eq!(written(&decision).retain_slots, situation.view.status.retain_slots);
    assert_eq!(written(&decision).slots, situation.view.status.slots);
    assert_eq!(situation.obs.server.role, Role::Primary);
}
