//! The leader helps members that wait for consistency, and disturbs nobody otherwise.

use std::time::Duration;

use dcs_core::model::{Member, Role, Timeline};
use dcs_core::{Moment, Renewal};
use serde_json::json;

use super::super::action::Effect;
use super::super::memory::RewindState;
use super::Situation;

/// The leader `a`, with `b` as `change` makes it.
fn leader_with(change: impl FnOnce(&mut Member)) -> Situation {
    let mut situation = Situation::primary().led_by("a");
    situation.memory.rewind = RewindState::Checkpoint;
    let b = situation.view.members.iter_mut().find(|member| member.name == "b").expect("b is a member");
    b.record.state = Some("starting".to_owned());
    change(b);
    situation
}

fn writes_a_record(situation: &mut Situation) -> bool {
    situation.decide().effects.contains(&Effect::WriteWalRecord)
}

#[test]
fn a_record_is_written_for_a_member_that_may_wait_for_consistency_and_for_no_other() {
    let state = |word: &'static str| move |member: &mut Member| member.record.state = Some(word.to_owned());
    let role = |word: &'static str| move |member: &mut Member| member.record.role = Some(word.to_owned());
    let timeline = |number| move |member: &mut Member| member.record.timeline = Some(Timeline(number));
    let tag = |name: &'static str| move |member: &mut Member| drop(member.record.tags.0.insert(name.to_owned(), json!(true)));
    let cases: [(&str, Situation, bool); 11] = [
        ("it starts and says nothing else", leader_with(|_| ()), true),
        ("it is on my timeline", leader_with(timeline(1)), true),
        ("it is on another one and must be rewound first", leader_with(timeline(2)), false),
        ("it accepts connections", leader_with(state("running")), false),
        ("it is stopped", leader_with(state("stopped")), false),
        ("it is being copied", leader_with(state("creating replica")), false),
        ("it has not said what it does", leader_with(|member| member.record.state = None), false),
        ("it is a primary in crash recovery", leader_with(role("primary")), false),
        ("it does not stream", leader_with(tag("nostream")), false),
        ("it may not promote, and streams all the same", leader_with(tag("nofailover")), true),
        ("the cluster is paused", leader_with(|_| ()).paused(), false),
    ];
    for (what, mut situation, expected) in cases {
        assert_eq!(writes_a_record(&mut situation), expected, "{what}");
    }
}

#[test]
fn only_a_primary_that_holds_the_lock_writes_one() {
    let mut lost = leader_with(|_| ());
    lost.renewal = Ok(Renewal::Lost);
    assert!(!writes_a_record(&mut lost));

    let mut follower = Situation::replica().led_by("c");
    follower.view.members[1].record.state = Some("starting".to_owned());
    assert!(!writes_a_record(&mut follower));

    let mut promoting = Situation::replica().led_by("a");
    promoting.obs.server.role = Role::Promoted;
    promoting.view.members[1].record.state = Some("starting".to_owned());
    assert!(!writes_a_record(&mut promoting));
}

#[test]
fn my_own_key_that_says_starting_is_no_reason() {
    let mut situation = Situation::primary().led_by("a");
    let me = situation.view.members.iter_mut().find(|member| member.name == "a").expect("a is a member");
    (me.record.state, me.record.role) = (Some("starting".to_owned()), Some("replica".to_owned()));
    assert!(!writes_a_record(&mut situation));
}

/// Cycles `times`, each when the one before asked to be woken, or after the period of 10 s; the moments of records.
fn records_while_waiting(situation: &mut Situation, times: u32) -> Vec<Moment> {
    let mut records = Vec::new();
    for _ in 0..times {
        let decision = situation.decide();
        if decision.effects.contains(&Effect::WriteWalRecord) {
            records.push(situation.now);
        }
        situation.memory = decision.memory;
        situation.now = decision.wake_at.unwrap_or(situation.now + Duration::from_secs(10)).min(situation.now + Duration::from_secs(10));
    }
    records
}

#[test]
fn while_the_same_member_waits_the_pauses_between_records_grow() {
    let mut situation = leader_with(|_| ());
    let begin = situation.now;
    let records = records_while_waiting(&mut situation, 400);
    let after: Vec<u64> = records.iter().map(|moment| moment.saturating_since(begin).as_secs()).collect();
    // Over an hour: each pause is twice as long as the one before.
    assert_eq!(after, [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 2047]);
}

#[test]
fn two_waiting_members_cost_one_record_and_one_that_waits_anew_is_helped_at_once() {
    let mut situation = leader_with(|_| ());
    situation.view.members[2].record.state = Some("starting".to_owned());
    let decision = situation.decide();
    assert_eq!(decision.effects.iter().filter(|effect| **effect == Effect::WriteWalRecord).count(), 1);
    assert_eq!(decision.memory.helped_members.len(), 2);

    situation.memory = decision.memory;
    assert!(!writes_a_record(&mut situation), "they have just been helped");
    situation.view.members[2].record.state = Some("running".to_owned());
    situation.memory = situation.decide().memory;
    situation.view.members[2].record.state = Some("starting".to_owned());
    assert!(writes_a_record(&mut situation), "c was up and starts again");
}
