//! Section 12.2, step 4 and 5: permanent logical slots on the primary and on standbys, and the feedback that they need.

use std::time::Duration;

use dcs_core::model::{Lsn, Role};
use serde_json::{Value, json};

use super::super::action::{Decision, Effect, Severity, Task};
use super::super::observation::{Monitor, Postmaster, SlotObservation, TransactionId};
use super::super::slots::{LeaderSlots, LogicalReport, LogicalSlot, LogicalWork, SlotMemory};
use super::desired_slots::{logical, plan, slot, work};
use super::{Situation, global, member, says};
use crate::settings::StandbyCluster;

const SAFE: &str = "Logical slot ls is safe to be used after a failover";

fn with_slots(mut situation: Situation) -> Situation {
    situation.cfg = global(json!({"slots": {"ls": {"type": "logical", "database": "postgres", "plugin": "pgoutput"}}}));
    situation
}

/// The replica `a` of `b`, which has the slot and has told that its consumer is at 800.
fn replica(mine: Option<SlotObservation>) -> Situation {
    let mut situation = with_slots(Situation::replica().led_by("b"));
    situation.view.status.slots = Some([("ls".to_owned(), Lsn(800))].into());
    situation.obs.server.slots = Some(["b", "c"].map(slot).into_iter().chain(mine).collect());
    situation.memory.slots.enforces_feedback = true;
    situation
}

/// The slot is known, and was proven.
fn settled(mine: SlotObservation) -> Situation {
    let mut situation = replica(Some(mine));
    situation.memory.slots.judged = Some(situation.obs.server.postmaster);
    situation
}

fn configured_slot() -> LogicalSlot {
    LogicalSlot { name: "ls".to_owned(), database: "postgres".to_owned(), plugin: "pgoutput".to_owned() }
}

fn advances(decision: &Decision) -> Vec<Lsn> {
    work(decision).advance.into_iter().map(|(_, target)| target).collect()
}

fn copies(decision: &Decision) -> bool {
    matches!(&decision.task, Some(Task::CopyLogicalSlots { leader, slots }) if leader.name == "b" && *slots == [configured_slot()])
}

fn report(leader: Option<LeaderSlots>) -> Option<LogicalReport> {
    Some(LogicalReport { leader, ..LogicalReport::default() })
}

/// What the leader shows: the physical slot of `a`, and `ls`.
fn shown(physical: Option<u32>, logical: u32) -> LeaderSlots {
    LeaderSlots {
        physical: "a".to_owned(),
        catalog_xmins: [("a".to_owned(), physical.map(TransactionId)), ("ls".to_owned(), Some(TransactionId(logical)))].into(),
        sends_feedback: true,
    }
}

#[test]
fn a_primary_creates_what_is_missing_and_leaves_the_rest_to_its_consumers() {
    let mut situation = with_slots(Situation::primary().led_by("a"));
    situation.obs.server.slots = Some(["b", "c"].map(slot).to_vec());
    situation.memory.slots.unproven.insert("ls".to_owned(), None);
    let decision = situation.decide();
    assert_eq!(work(&decision), LogicalWork { create: vec![configured_slot()], ..LogicalWork::default() });
    assert!(decision.memory.slots.unproven.is_empty(), "on the primary there is nothing to prove");
    situation.obs.server.slots = Some([slot("b"), slot("c"), logical("ls")].to_vec());
    situation.view.status.slots = Some([("ls".to_owned(), Lsn(800))].into());
    let decision = situation.decide();
    assert_eq!((work(&decision), plan(&decision)), Default::default());
}

#[test]
fn a_logical_slot_named_like_a_member_is_told_and_not_made() {
    let mut situation = with_slots(Situation::primary().led_by("a"));
    situation.view.members.push(member("ls"));
    let decision = situation.decide();
    assert_eq!(work(&decision), LogicalWork::default());
    let line = "Permanent logical replication slot {'ls': {'type': 'logical', 'database': 'postgres', 'plugin': 'pgoutput'}} is \
                conflicting with physical replication slot for cluster member";
    assert!(says(&decision, Severity::Error, line));
}

/// Must hold: postgresql.md 14 (6)
#[test]
fn a_slot_that_is_missing_on_a_replica_is_copied_once_the_leader_has_told_of_it() {
    let mut situation = replica(None);
    let decision = situation.decide();
    assert!(copies(&decision), "{:?}", decision.task);
    assert_eq!(decision.message, "Copying logical slots ['ls'] from the primary");
    assert_eq!(decision.task.map(|task| task.name()), Some("copy_logical_slots".to_owned()));
    situation.view.status.slots = None;
    assert_eq!(situation.decide().task, None, "nobody has told of it");
}

#[test]
fn nothing_is_copied_in_pause_or_without_somebody_to_copy_from() {
    let mut paused = replica(None).paused();
    assert_eq!(paused.decide().task, None);
    let mut mine = replica(None).led_by("a");
    assert!(!copies(&mine.decide()), "the promotion comes first");
    let mut unlocked = replica(None);
    unlocked.view.leader = None;
    assert!(!copies(&unlocked.decide()));
    let mut nowhere = replica(None);
    nowhere.view.members.iter_mut().filter(|member| member.name == "b").for_each(|member| member.record.conn_url = None);
    assert_eq!(nowhere.decide().task, None);
}

/// Hard case 103: feedback beyond replay.
#[test]
fn hard_case_103_a_slot_moves_with_its_consumer_but_not_beyond_what_is_replayed() {
    for (position, told, target) in [(600, 800, Some(800)), (600, 5000, Some(1000)), (800, 800, None), (900, 800, None), (1000, 5000, None)]
    {
        let mut situation = settled(SlotObservation { confirmed_flush_lsn: Some(Lsn(position)), ..logical("ls") });
        situation.view.status.slots = Some([("ls".to_owned(), Lsn(told))].into());
        let decision = situation.decide();
        assert_eq!(advances(&decision), target.map(Lsn).into_iter().collect::<Vec<_>>(), "{position} to {told}");
        assert_eq!(decision.task, None);
    }
    let mut leads = settled(logical("ls")).led_by("a");
    assert_eq!(advances(&leads.decide()), [], "a slot does not move while its node is being promoted");
}

/// Hard case 103: an invalidated slot.
#[test]
fn hard_case_103_a_broken_slot_is_copied_again_once_and_then_with_growing_pauses() {
    let mut situation = settled(logical("ls"));
    let broken = Some(LogicalReport { broken: vec!["ls".to_owned()], ..LogicalReport::default() });
    situation.obs.slot_report = broken.clone();
    let decision = situation.decide();
    assert!(copies(&decision) && advances(&decision).is_empty());
    // It has been copied, and is still broken.
    situation.memory = decision.memory;
    situation.memory.slots.copied(&["ls".to_owned()], situation.now);
    let decision = situation.decide();
    assert_eq!((decision.task, work(&situation.decide()).advance), (None, Vec::new()));
    situation.now = situation.now + Duration::from_secs(2);
    let decision = situation.decide();
    assert!(copies(&decision));
    situation.memory = decision.memory;
    situation.memory.slots.copied(&["ls".to_owned()], situation.now);
    situation.now = situation.now + Duration::from_millis(1500);
    assert_eq!(situation.decide().task, None, "the second pause is longer");
    // It moves: whatever it was is over.
    situation.obs.slot_report = Some(LogicalReport { advanced: vec!["ls".to_owned()], ..LogicalReport::default() });
    let decision = situation.decide();
    assert!(decision.memory.slots.copies.is_empty());
    situation.memory = decision.memory;
    situation.obs.slot_report = broken;
    assert!(copies(&situation.decide()));
}

#[test]
fn a_lost_slot_of_a_replica_is_dropped_first_and_copied_then() {
    let mut situation = settled(SlotObservation { lost: true, ..logical("ls") });
    let decision = situation.decide();
    assert_eq!(plan(&decision).drop.len(), 1);
    assert_eq!((advances(&decision), decision.task), (Vec::new(), None));
}

#[test]
fn a_copied_slot_is_proven_when_the_leader_keeps_what_it_needs_and_has_since_before_its_position() {
    // What the leader keeps for us, what it had for the slot, what the slot needs here; whether that is safe.
    for (kept, there, here, safe) in [
        (Some(700), 700, 700, true),
        (Some(705), 700, 710, true),
        (Some(695), 700, 700, false),
        (Some(701), 700, 700, false),
        (None, 700, 700, false),
        // Transaction numbers go round.
        (Some(2), u32::MAX, 5, true),
        (Some(u32::MAX), 2, 5, false),
    ] {
        let mut situation = settled(SlotObservation { catalog_xmin: Some(TransactionId(here)), ..logical("ls") });
        situation.memory.slots.unproven.insert("ls".to_owned(), None);
        situation.obs.slot_report = report(Some(shown(kept, there)));
        let decision = situation.decide();
        assert_eq!(decision.memory.slots.unproven.is_empty(), safe, "{kept:?} {there} {here}");
        assert_eq!(says(&decision, Severity::Info, SAFE), safe);
        let look = work(&decision).look;
        assert_eq!(look.is_none(), safe, "what is not proven is looked at again");
        let remembered = decision.memory.slots.unproven.get("ls").copied();
        if !safe {
            assert_eq!(remembered, Some(kept.map(|_| TransactionId(there))), "remembered since the leader keeps anything for us");
            assert_eq!(look.map(|look| look.logical.is_empty()), Some(kept.is_some()));
        }
    }
}

#[test]
fn what_the_leader_had_for_a_slot_is_remembered_from_when_it_began_to_keep_rows_for_us() {
    let mut situation = settled(SlotObservation { catalog_xmin: Some(TransactionId(720)), ..logical("ls") });
    situation.memory.slots.unproven.insert("ls".to_owned(), Some(TransactionId(700)));
    let mut leader = shown(Some(705), 800);
    leader.catalog_xmins.remove("ls");
    situation.obs.slot_report = report(Some(leader));
    assert!(says(&situation.decide(), Severity::Info, SAFE), "the consumer has gone on since, which changes nothing");
}

#[test]
fn a_leader_without_our_slot_and_a_server_without_feedback_are_told() {
    let told = |leader: LeaderSlots, severity: Severity, line: &str| {
        let mut situation = settled(logical("ls"));
        situation.memory.slots.unproven.insert("ls".to_owned(), None);
        situation.obs.slot_report = report(Some(leader));
        let decision = situation.decide();
        assert!(says(&decision, severity, line), "{:?}", decision.effects);
        assert_eq!(decision.memory.slots.unproven.get("ls"), Some(&None));
    };
    told(
        LeaderSlots { physical: "a".to_owned(), ..LeaderSlots::default() },
        Severity::Warning,
        "Physical slot a does not exist on the primary",
    );
    told(
        LeaderSlots { sends_feedback: false, ..shown(None, 700) },
        Severity::Error,
        "Logical slot failover requires \"hot_standby_feedback\". Please check postgresql.auto.conf",
    );
}

#[test]
fn slots_are_unproven_after_a_start_of_the_agent_a_restart_of_the_server_and_a_pause() {
    let unproven = |situation: &mut Situation| situation.decide().memory.slots.unproven.contains_key("ls");
    assert!(unproven(&mut replica(Some(logical("ls")))), "the agent has just started");
    assert!(!unproven(&mut settled(logical("ls"))));
    let mut restarted = settled(logical("ls"));
    restarted.obs.server.postmaster = Postmaster::Running { pid: 43, started_at: 2 };
    assert!(unproven(&mut restarted));
    let mut resumed = settled(logical("ls"));
    resumed.memory.was_paused = true;
    assert!(unproven(&mut resumed));
    let mut gone = settled(logical("ls"));
    gone.memory.slots.unproven.insert("other".to_owned(), None);
    assert!(gone.decide().memory.slots.unproven.is_empty(), "what does not exist needs no proof");
}

#[test]
fn the_leader_is_asked_for_the_slot_of_the_member_that_brings_the_wal() {
    let asked = |situation: &mut Situation| work(&situation.decide()).look.map(|look| (look.leader.name, look.physical, look.logical));
    let expected = |physical: &str| Some(("b".to_owned(), physical.to_owned(), vec!["ls".to_owned()]));
    assert_eq!(asked(&mut replica(Some(logical("ls")))), expected("a"));
    let mut cascade = replica(Some(logical("ls"))).tagged("replicatefrom", json!("c"));
    assert_eq!(asked(&mut cascade), expected("c"));
    let mut unlocked = replica(Some(logical("ls")));
    unlocked.view.leader = None;
    assert_eq!(asked(&mut unlocked), None);
}

#[test]
fn a_promotion_warns_of_slots_that_are_not_proven() {
    let mut situation = with_slots(Situation::replica().led_by("a"));
    situation.memory.slots = SlotMemory { unproven: [("ls".to_owned(), None), ("other".to_owned(), None)].into(), ..SlotMemory::default() };
    let decision = situation.decide();
    assert_eq!(decision.task, Some(Task::Promote));
    assert!(says(&decision, Severity::Warning, "Logical replication slots that might be unsafe to use after promote: {'ls', 'other'}"));
}

fn replicates_from(situation: &mut Situation, name: &str, upstream: &str) {
    for member in situation.view.members.iter_mut().filter(|member| member.name == name) {
        member.record.tags.0.insert("replicatefrom".to_owned(), json!(upstream));
    }
}

/// Section 9: no logical slots on a member that does not stream, or below one.
#[test]
fn a_standby_without_a_way_to_the_primary_has_no_logical_slots() {
    let mut silent = replica(None).tagged("nostream", json!(true));
    assert_eq!(silent.decide().task, None);
    let mut below = replica(None).tagged("replicatefrom", json!("c"));
    assert!(copies(&below.decide()));
    below.view.members[2].record.tags.0.insert("nostream".to_owned(), json!(true));
    assert_eq!(below.decide().task, None);
    let mut circle = replica(None).tagged("replicatefrom", json!("c"));
    replicates_from(&mut circle, "c", "a");
    assert_eq!(circle.decide().task, None);
    // One that leads needs no way to anybody.
    let mut leads = with_slots(Situation::primary().led_by("a")).tagged("nostream", json!(true));
    assert_eq!(work(&leads.decide()).create, [configured_slot()]);
}

fn feedback(situation: &mut Situation) -> Option<bool> {
    situation.memory.slots.enforces_feedback = false;
    let needed = situation.decide().effects.iter().any(|effect| *effect == Effect::EnforceFeedback(true));
    situation.memory.slots.enforces_feedback = true;
    let withdrawn = situation.decide().effects.iter().any(|effect| *effect == Effect::EnforceFeedback(false));
    (needed != withdrawn).then_some(needed)
}

/// Section 14.7 of postgresql.md.
#[test]
fn feedback_is_forced_on_who_decodes_or_feeds_somebody_who_does() {
    let tagged = |name: &str, value: Value| replica(None).tagged(name, value);
    assert_eq!(feedback(&mut with_slots(Situation::primary().led_by("a"))), Some(true), "the leader too");
    assert_eq!(feedback(&mut replica(None)), Some(true));
    assert_eq!(feedback(&mut Situation::replica().led_by("b")), Some(false), "no logical slots");
    assert_eq!(feedback(&mut tagged("nostream", json!(true))), Some(false));
    assert_eq!(feedback(&mut tagged("nofailover", json!(true))), Some(false));
    let mut feeds = tagged("nofailover", json!(true));
    replicates_from(&mut feeds, "c", "a");
    assert_eq!(feedback(&mut feeds), Some(true), "c decodes, and its feedback goes through here");
    let mut indirect = tagged("nofailover", json!(true));
    indirect.view.members.push(member("d"));
    replicates_from(&mut indirect, "c", "a");
    indirect.view.members[2].record.tags.0.insert("nofailover".to_owned(), json!(true));
    replicates_from(&mut indirect, "d", "c");
    assert_eq!(feedback(&mut indirect), Some(true));
    let mut circle = tagged("replicatefrom", json!("c"));
    replicates_from(&mut circle, "c", "a");
    assert_eq!(feedback(&mut circle), Some(false));
    let mut standby = replica(None);
    standby.cfg.standby_cluster = Some(StandbyCluster { host: Some("remote".to_owned()), ..StandbyCluster::default() });
    assert_eq!(feedback(&mut standby), Some(false));
    let mut unused = replica(None);
    unused.obs.use_slots = false;
    assert_eq!(feedback(&mut unused), Some(false));
    let mut wiped = replica(None);
    wiped.view.config = None;
    assert_eq!(feedback(&mut wiped), None, "a wiped store changes nothing");
}

#[test]
fn feedback_is_decided_also_for_a_server_that_does_not_run() {
    let mut stopped = with_slots(Situation::stopped(Role::Replica).led_by("b"));
    assert!(matches!(stopped.obs.server.monitor, Monitor::NotAsked));
    assert_eq!(feedback(&mut stopped), Some(true));
}
