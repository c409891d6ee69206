//! Section 12: the slots of absent members, over the restart of an agent and the change of a leader.

use std::time::Duration;

use dcs_core::Acquisition;
use dcs_core::model::{Lsn, Role, Status};
use serde_json::json;

use super::super::action::{Decision, Effect, Severity};
use super::super::memory::{Memory, RewindState};
use super::super::observation::SlotObservation;
use super::super::slots::SlotPlan;
use super::desired_slots::{logical, slot};
use super::{Situation, deeds, global, lease, says};

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

/// Hard case 47: an agent that was restarted while its server went on.
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
    assert_eq!(plan(&decision).map(|plan| plan.drop.iter().map(|drop| drop.name.as_str()).collect()), Some(vec!["gone"]));
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

fn tags(situation: &mut Situation, name: &str, tag: &str) {
    for member in situation.view.members.iter_mut().filter(|member| member.name == name) {
        member.record.tags.0.insert(tag.to_owned(), json!(true));
    }
}

fn names(status: &Status) -> Vec<(&str, u64)> {
    status.slots.iter().flatten().map(|(name, lsn)| (name.as_str(), lsn.0)).collect()
}

/// Section 12.3: what is told, of which slots.
#[test]
fn the_leader_tells_of_the_slots_that_it_manages_and_of_its_own() {
    let mut situation = leader_with_a_retained_slot();
    let ls = json!({"type": "logical", "database": "postgres", "plugin": "pgoutput"});
    situation.cfg = global(json!({"slots": {"ps": null, "ls": ls, "other": ls}, "ignore_slots": [{"name": "foreign"}]}));
    let mut other = logical("other");
    other.plugin = Some("test_decoding".to_owned());
    let lost = SlotObservation { lost: true, restart_lsn: None, ..slot("c") };
    situation.obs.server.slots = Some(vec![slot("b"), lost, slot("gone"), slot("ps"), logical("ls"), other, slot("foreign")]);
    let decision = situation.decide();
    let status = written(&decision);
    assert_eq!(status.last_lsn, Lsn(1000));
    assert_eq!(names(status), [("a", 1000), ("b", 500), ("gone", 500), ("ls", 600), ("ps", 500)]);
    assert_eq!(status.retain_slots, ["a", "b", "c", "gone"], "a slot that is just not there is still its member's");
}

#[test]
fn without_a_time_to_live_only_permanent_slots_are_told_and_none_is_retained() {
    let ls = json!({"type": "logical", "database": "postgres", "plugin": "pgoutput"});
    for (document, told) in [
        (json!({"member_slots_ttl": 0}), vec![]),
        (json!({"member_slots_ttl": 0, "slots": {"ps": null, "ls": ls, "a": null}}), vec![("a", 1000), ("ls", 600), ("ps", 500)]),
    ] {
        let mut situation = leader_with_a_retained_slot();
        situation.cfg = global(document);
        situation.view.status = Status::default();
        situation.obs.server.slots = Some(vec![slot("b"), slot("c"), slot("ps"), logical("ls")]);
        let decision = situation.decide();
        assert_eq!((names(written(&decision)), written(&decision).retain_slots.len()), (told, 0));
    }
}

#[test]
fn members_that_do_not_stream_and_permanent_slots_are_not_retained() {
    let mut situation = leader_with_a_retained_slot();
    situation.cfg = global(json!({"slots": {"b": null}}));
    situation.view.status.retain_slots.clear();
    tags(&mut situation, "c", "nostream");
    let decision = situation.decide();
    assert_eq!(written(&decision).retain_slots, ["a"]);
}

#[test]
fn the_status_is_told_by_leaders_only_and_by_one_of_a_standby_cluster_too() {
    let tells = |situation: &mut Situation| situation.decide().effects.iter().any(|effect| matches!(effect, Effect::WriteStatus(_)));
    assert!(!tells(&mut Situation::replica().led_by("b")));
    assert!(!tells(&mut Situation::replica().led_by("a")), "it is about to be promoted");
    let mut standby_leader = Situation::replica().led_by("a");
    standby_leader.obs.server.role = Role::StandbyLeader;
    assert!(tells(&mut standby_leader));
}

/// Must hold: postgresql.md 14 (3)
#[test]
fn the_slot_of_an_absent_member_is_kept_everywhere_for_its_time_and_then_dropped_everywhere() {
    let mut leader = leader_with_a_retained_slot();
    leader.cfg.member_slots_ttl = Duration::from_secs(60);
    leader.obs.server.slots = Some(["b", "c"].map(slot).to_vec());
    leader.view.status = Status::default();
    let begin = leader.now;
    cycle(&mut leader);
    leader.view.members.retain(|member| member.name != "c");
    let replica = |status: &Status| {
        let mut replica = Situation::replica().led_by("b");
        replica.view.members.retain(|member| member.name != "c");
        replica.view.status = status.clone();
        replica.obs.server.slots = Some(["b", "c"].map(slot).to_vec());
        plan(&replica.decide()).map(|plan| plan.drop.len())
    };
    for seconds in [10, 59] {
        leader.now = begin + Duration::from_secs(seconds);
        assert_eq!(plan(&cycle(&mut leader)), None, "after {seconds} s");
        assert_eq!(replica(&leader.view.status), None, "after {seconds} s");
    }
    leader.now = begin + Duration::from_secs(60);
    cycle(&mut leader);
    assert_eq!(plan(&cycle(&mut leader)).map(|plan| plan.drop.len()), Some(1));
    assert_eq!(replica(&leader.view.status), Some(1));
}
