//! Section 12.1 and 12.2: which slots should exist on a node, and what is done about those that differ.

use dcs_core::model::{Lsn, Member, Tags};
use serde_json::{Value, json};

use super::super::action::{Decision, Effect, Severity};
use super::super::observation::{Monitor, SlotObservation, TransactionId};
use super::super::slots::{LogicalWork, SlotPlan};
use super::{Situation, global, says};
use crate::settings::StandbyCluster;

pub(super) fn slot(name: &str) -> SlotObservation {
    SlotObservation {
        name: name.to_owned(),
        logical: false,
        database: None,
        plugin: None,
        active: false,
        xmin: None,
        catalog_xmin: None,
        restart_lsn: Some(Lsn(500)),
        confirmed_flush_lsn: None,
        lost: false,
    }
}

pub(super) fn logical(name: &str) -> SlotObservation {
    SlotObservation {
        logical: true,
        database: Some("postgres".to_owned()),
        plugin: Some("pgoutput".to_owned()),
        catalog_xmin: Some(TransactionId(700)),
        confirmed_flush_lsn: Some(Lsn(600)),
        ..slot(name)
    }
}

pub(super) fn plan(decision: &Decision) -> SlotPlan {
    let plan = decision.effects.iter().find_map(|effect| match effect {
        Effect::MaintainSlots(plan) => Some(plan.clone()),
        _ => None,
    });
    plan.unwrap_or_default()
}

pub(super) fn work(decision: &Decision) -> LogicalWork {
    let work = decision.effects.iter().find_map(|effect| match effect {
        Effect::TendLogicalSlots(work) => Some(work.clone()),
        _ => None,
    });
    work.unwrap_or_default()
}

fn created(decision: &Decision) -> Vec<String> {
    plan(decision).create
}

fn dropped(decision: &Decision) -> Vec<String> {
    plan(decision).drop.into_iter().map(|drop| drop.name).collect()
}

fn tags(value: Value) -> Tags {
    let Value::Object(tags) = value else { panic!("tags are an object") };
    Tags(tags)
}

fn tag<'s>(situation: &'s mut Situation, name: &str, value: Value) -> &'s mut Member {
    let member = situation.view.members.iter_mut().find(|member| member.name == name).expect("a member");
    member.record.tags = tags(value);
    member
}

fn leader() -> Situation {
    Situation::primary().led_by("a")
}

fn replica() -> Situation {
    Situation::replica().led_by("b")
}

fn configured(mut situation: Situation, document: Value) -> Situation {
    situation.cfg = global(document);
    situation
}

/// Must hold: postgresql.md 14 (1)
#[test]
fn a_slot_is_named_like_its_member_in_letters_that_postgresql_takes() {
    let mut situation = leader();
    situation.view.members[1].name = "pg-0.Node".into();
    situation.view.members[2].name = "zwei ü".into();
    assert_eq!(created(&situation.decide()), ["pg_0_node", "zweiu0032u0252"]);
}

/// Must hold: postgresql.md 14 (2)
#[test]
fn every_node_has_slots_for_all_others_and_moves_those_that_nobody_uses() {
    assert_eq!(created(&leader().decide()), ["b", "c"]);
    assert_eq!(created(&replica().decide()), ["b", "c"]);
    let told = |position: u64| Some([("b".to_owned(), Lsn(position)), ("c".to_owned(), Lsn(position))].into());
    for (mut situation, position, moved) in [
        (replica(), 700, vec![("b".to_owned(), Lsn(700)), ("c".to_owned(), Lsn(700))]),
        // Hard case 103: nobody moves to where the standby has not been.
        (replica(), 2000, vec![("b".to_owned(), Lsn(1000)), ("c".to_owned(), Lsn(1000))]),
        (replica(), 500, Vec::new()),
        // Their owners move them.
        (leader(), 700, Vec::new()),
    ] {
        situation.obs.server.slots = Some(["b", "c"].map(slot).to_vec());
        situation.view.status.slots = told(position);
        assert_eq!(plan(&situation.decide()), SlotPlan { advance: moved, ..SlotPlan::default() }, "{position}");
    }
}

#[test]
fn a_slot_that_is_used_is_not_moved_by_us() {
    let mut situation = replica();
    situation.obs.server.slots = Some(vec![SlotObservation { active: true, ..slot("b") }, slot("c")]);
    situation.view.status.slots = Some([("b".to_owned(), Lsn(700))].into());
    assert_eq!(plan(&situation.decide()), SlotPlan::default());
}

/// Must hold: postgresql.md 14 (4)
#[test]
fn without_a_time_to_live_only_those_who_stream_from_here_have_slots() {
    let at_once = || json!({"member_slots_ttl": 0});
    assert_eq!(created(&configured(leader(), at_once()).decide()), ["b", "c"]);
    assert_eq!(created(&configured(replica(), at_once()).decide()), Vec::<String>::new());
    let mut cascade = configured(replica(), at_once());
    tag(&mut cascade, "c", json!({"replicatefrom": "a"}));
    assert_eq!(created(&cascade.decide()), ["c"]);
    let mut gone = configured(leader(), at_once());
    gone.view.members.retain(|member| member.name != "c");
    gone.obs.server.slots = Some(["b", "c"].map(slot).to_vec());
    assert_eq!(dropped(&gone.decide()), ["c"]);
}

/// Must hold: postgresql.md 14 (8)
#[test]
fn the_slot_of_a_cascading_member_is_its_upstreams_and_a_reserve_of_the_leader() {
    let cascade = |mut situation: Situation| {
        tag(&mut situation, "c", json!({"replicatefrom": "b"})).record.xlog_location = Some(Lsn(800));
        situation.obs.server.slots = Some(["b", "c"].map(slot).to_vec());
        situation.view.status.slots = Some([("c".to_owned(), Lsn(600))].into());
        situation
    };
    // On the leader it moves with what the member says of itself: its own slot there stands still.
    assert_eq!(plan(&cascade(leader()).decide()).advance, [("c".to_owned(), Lsn(800))]);
    // `a` is what `c` follows: the slot is in use, or will be.
    let mut upstream = cascade(replica());
    tag(&mut upstream, "c", json!({"replicatefrom": "a"}));
    assert_eq!(plan(&upstream.decide()), SlotPlan::default());
    // Whoever names a member that does not exist streams from the leader.
    let mut stray = cascade(leader());
    tag(&mut stray, "c", json!({"replicatefrom": "gone"}));
    assert_eq!(plan(&stray.decide()), SlotPlan::default());
    // A leader does not stream from anybody.
    let mut leads = cascade(replica());
    tag(&mut leads, "b", json!({"replicatefrom": "a"})).record.xlog_location = Some(Lsn(900));
    assert_eq!(plan(&leads.decide()).advance.first(), Some(&("b".to_owned(), Lsn(900))));
}

/// Must hold: postgresql.md 14 (9)
#[test]
fn a_member_that_does_not_stream_has_no_slot_anywhere() {
    for mut situation in [leader(), replica()] {
        tag(&mut situation, "c", json!({"nostream": true, "replicatefrom": "a"}));
        situation.obs.server.slots = Some(["b", "c"].map(slot).to_vec());
        assert_eq!(dropped(&situation.decide()), ["c"]);
    }
}

/// Must hold: postgresql.md 14 (11)
#[test]
fn a_node_that_never_leads_keeps_only_the_slots_of_those_that_it_feeds() {
    let mut situation = configured(replica().tagged("nofailover", json!(true)), json!({"slots": {"ps": null, "ls": ls()}}));
    situation.view.status.retain_slots = vec!["gone".to_owned()];
    situation.view.status.slots = Some([("ls".to_owned(), Lsn(600))].into());
    tag(&mut situation, "c", json!({"replicatefrom": "a"}));
    let decision = situation.decide();
    assert_eq!(created(&decision), ["c"]);
    assert_eq!((work(&decision), decision.task), (LogicalWork::default(), None));
}

#[test]
fn members_that_share_a_name_for_their_slots_are_told_and_share_one() {
    let mut situation = leader();
    situation.view.members[1].name = "b-1".into();
    situation.view.members[2].name = "b.1".into();
    let decision = situation.decide();
    assert_eq!(created(&decision), ["b_1"]);
    assert!(says(&decision, Severity::Error, "Following cluster members share a replication slot name: b-1, b.1 map to b_1"));
}

/// Hard case 102: the former leader's member key expires with its lock.
#[test]
fn hard_case_102_the_slot_of_a_former_leader_is_retained_and_no_slot_with_xmin_is_dropped_before_the_promotion() {
    let mut situation = Situation::replica();
    situation.view.members.retain(|member| member.name != "b");
    situation.view.status.retain_slots = ["a", "b", "c"].map(str::to_owned).to_vec();
    let with_xmin = SlotObservation { xmin: Some(TransactionId(7)), ..slot("c") };
    situation.obs.server.slots = Some(vec![slot("b"), with_xmin.clone()]);
    // Nobody leads yet, then this node does and is still a standby.
    assert_eq!(plan(&situation.decide()), SlotPlan::default());
    let mut situation = situation.led_by("a");
    assert_eq!(plan(&situation.decide()), SlotPlan::default());
    // Somebody else has been promoted: the slot that nobody uses here would hold vacuum back for ever.
    let mut situation = situation.led_by("c");
    situation.memory.lease = None;
    let decision = situation.decide();
    let plan = plan(&decision);
    assert_eq!((plan.create, plan.drop.len()), (vec!["c".to_owned()], 1));
    assert_eq!(plan.drop[0].severity, Severity::Warning);
    assert_eq!(plan.drop[0].reason, "Dropping physical replication slot c because of its xmin value 7");
}

#[test]
fn the_xmin_of_a_slot_that_may_be_used_is_left_alone() {
    let mut situation = leader();
    situation.view.status.retain_slots = vec!["gone".to_owned()];
    let held = |name: &str| SlotObservation { xmin: Some(TransactionId(7)), ..slot(name) };
    situation.obs.server.slots = Some(vec![held("b"), slot("c"), held("gone")]);
    assert_eq!(plan(&situation.decide()), SlotPlan::default(), "b is expected, and of `gone` nobody knows");
}

/// Hard case 103, of physical slots.
#[test]
fn hard_case_103_a_lost_slot_and_one_without_wal_are_made_anew() {
    let lost = SlotObservation { lost: true, restart_lsn: None, ..slot("b") };
    let foreign = SlotObservation { restart_lsn: None, ..slot("c") };
    let situation = |paused: bool, ignored: Value| {
        let mut situation = configured(replica(), json!({"ignore_slots": ignored}));
        (situation.cfg.pause, situation.memory.was_paused) = (paused, paused);
        situation.obs.server.slots = Some(vec![lost.clone(), foreign.clone()]);
        situation.decide()
    };
    let decision = situation(false, json!([]));
    let found = plan(&decision);
    assert_eq!((dropped(&decision), found.create.as_slice()), (vec!["b".to_owned(), "c".to_owned()], &["b".to_owned()][..]));
    assert_eq!(found.drop[0].reason, "Trying to drop replication slot 'b' with wal_status=lost");
    assert!(found.drop[1].reason.starts_with("Dropping physical replication slot c because it has no restart_lsn. "), "{found:?}");
    assert_eq!(dropped(&situation(true, json!([]))), ["c"], "a lost slot stays in pause");
    assert_eq!(dropped(&situation(false, json!([{"name": "b"}]))), ["c"], "and if it is to be ignored");
}

/// Must hold: postgresql.md 14 (5)
#[test]
fn an_unknown_slot_is_dropped_unless_in_pause_or_ignored() {
    let mut decoding = logical("foreign");
    decoding.plugin = Some("test_decoding".to_owned());
    for (found, ignored, stays) in [
        (slot("foreign"), json!([]), false),
        (slot("foreign"), json!([{}]), true),
        (slot("foreign"), json!([{"name": "foreign"}]), true),
        (slot("foreign"), json!([{"name": "other"}, {"type": "physical"}]), true),
        (slot("foreign"), json!([{"name": "foreign", "type": "logical"}]), false),
        (slot("foreign"), json!([{"name": null, "database": ""}]), true),
        (slot("foreign"), json!([{"name": 5}, {"name": ""}, "foreign", null]), false),
        (decoding.clone(), json!([{"type": "logical", "database": "postgres", "plugin": "test_decoding"}]), true),
        (decoding.clone(), json!([{"plugin": "pgoutput"}, {"database": "app"}]), false),
        (decoding, json!([{"database": "postgres"}]), true),
    ] {
        let mut situation = configured(replica(), json!({"ignore_slots": ignored}));
        situation.obs.server.slots = Some(vec![slot("b"), slot("c"), found]);
        let decision = situation.decide();
        let expected: &[&str] = if stays { &[] } else { &["foreign"] };
        assert_eq!(dropped(&decision), expected, "{ignored}");
        let mut paused = situation.paused();
        assert_eq!(dropped(&paused.decide()), Vec::<String>::new(), "in pause");
    }
}

#[test]
fn a_store_without_configuration_changes_no_slot() {
    for mut situation in [leader(), replica()] {
        situation.view.config = None;
        situation.obs.server.slots = Some(["b", "foreign"].map(slot).to_vec());
        let decision = situation.decide();
        assert_eq!(plan(&decision), SlotPlan::default());
        assert_eq!(work(&decision), LogicalWork::default());
    }
}

/// Must hold: configuration.md 7 (6)
#[test]
fn all_managed_slots_disappear_when_slots_are_not_used() {
    for mut situation in [leader(), replica()] {
        situation.obs.use_slots = false;
        situation.cfg = global(json!({"slots": {"ps": null}, "ignore_slots": [{"name": "foreign"}]}));
        situation.obs.server.slots = Some(["b", "c", "ps", "foreign"].map(slot).to_vec());
        assert_eq!(dropped(&situation.decide()), ["b", "c", "ps"]);
    }
}

fn ls() -> Value {
    json!({"type": "logical", "database": "postgres", "plugin": "pgoutput"})
}

/// Section 12.1 of configuration.md: attributes of a permanent slot, and what they make on a primary: physical, logical,
/// nothing, or nothing and an error.
#[test]
fn a_permanent_slot_is_what_its_attributes_say() {
    for (attributes, physical, logical, error) in [
        (json!(null), true, false, None),
        (json!({}), true, false, None),
        (json!(0), true, false, None),
        (json!({"type": "physical"}), true, false, None),
        (json!({"type": "physical", "database": "postgres", "plugin": "pgoutput"}), true, false, None),
        (json!({"database": "postgres"}), true, false, None),
        (json!({"lsn": 5}), true, false, None),
        (json!({"cluster_type": "primary"}), true, false, None),
        (json!({"cluster_type": "standby"}), false, false, None),
        (ls(), false, true, None),
        (json!({"database": "postgres", "plugin": "pgoutput"}), false, true, None),
        (json!({"type": "logical"}), false, false, Some("Bad value for slot 's' in permanent_slots: {'type': 'logical'}")),
        (json!({"type": "odd"}), false, false, Some("Bad value for slot 's' in permanent_slots: {'type': 'odd'}")),
        (json!("text"), false, false, Some("Bad value for slot 's' in permanent_slots: text")),
    ] {
        let mut situation = configured(leader(), json!({"slots": {"s": attributes}}));
        situation.obs.server.slots = Some(["b", "c"].map(slot).to_vec());
        let decision = situation.decide();
        assert_eq!(created(&decision) == ["s"], physical, "{attributes}");
        assert_eq!(work(&decision).create.iter().any(|slot| slot.name == "s"), logical, "{attributes}");
        let told = decision.effects.iter().filter(|effect| matches!(effect, Effect::Log(Severity::Error, _))).count();
        assert_eq!(told, usize::from(error.is_some()), "{attributes}");
        assert!(error.is_none_or(|error| says(&decision, Severity::Error, error)), "{attributes}");
    }
}

#[test]
fn a_permanent_slot_with_a_name_that_postgresql_refuses_is_told_and_left_out() {
    let long = "x".repeat(64);
    for name in ["Upper", "with-dash", "", long.as_str()] {
        let mut situation = configured(leader(), json!({"slots": {name: null}}));
        let decision = situation.decide();
        assert_eq!(created(&decision), ["b", "c"]);
        assert!(says(&decision, Severity::Error, &format!("Invalid permanent replication slot name '{name}'")));
        assert!(says(&decision, Severity::Error, "Slot name may only contain lower case letters, numbers, and the underscore chars"));
    }
}

#[test]
fn a_standby_cluster_has_the_physical_slots_that_are_not_for_primaries_only() {
    let document = json!({"slots": {
        "always": null, "here": {"cluster_type": "standby"}, "there": {"cluster_type": "primary"}, "ls": ls(),
    }});
    let mut situation = configured(replica(), document);
    situation.cfg.standby_cluster = Some(StandbyCluster { host: Some("remote".to_owned()), ..StandbyCluster::default() });
    situation.view.status.slots = Some([("ls".to_owned(), Lsn(600))].into());
    let decision = situation.decide();
    assert_eq!(created(&decision), ["always", "b", "c", "here"]);
    assert_eq!(decision.task, None);
}

/// Must hold: postgresql.md 14 (10)
#[test]
fn a_permanent_slot_named_like_a_member_stays_when_the_member_is_gone() {
    let mut situation = configured(leader(), json!({"member_slots_ttl": 0, "slots": {"c": null, "a": null}}));
    situation.obs.server.slots = Some(["b", "c"].map(slot).to_vec());
    assert_eq!(plan(&situation.decide()), SlotPlan::default(), "and none is made for this node itself");
    situation.view.members.retain(|member| member.name != "c");
    assert_eq!(plan(&situation.decide()), SlotPlan::default());
}

#[test]
fn a_permanent_physical_slot_is_moved_on_replicas_and_on_the_leader_only_for_a_cascading_member() {
    let ready = |mut situation: Situation| {
        situation = configured(situation, json!({"slots": {"ps": null}}));
        situation.obs.server.slots = Some(["b", "c", "ps"].map(slot).to_vec());
        situation.view.status.slots = Some([("ps".to_owned(), Lsn(800))].into());
        situation
    };
    assert_eq!(plan(&ready(replica()).decide()).advance, [("ps".to_owned(), Lsn(800))]);
    assert_eq!(plan(&ready(leader()).decide()).advance, []);
    // The member that the slot is for streams from somebody else, and says itself how far it is.
    let mut cascade = ready(leader().tagged("nofailover", json!(false)));
    cascade.view.members[2].name = "ps".into();
    cascade.obs.server.slots = Some(["b", "ps"].map(slot).to_vec());
    tag(&mut cascade, "ps", json!({"replicatefrom": "b"})).record.xlog_location = Some(Lsn(900));
    assert_eq!(plan(&cascade.decide()).advance, [("ps".to_owned(), Lsn(900))]);
}

#[test]
fn a_slot_of_another_kind_is_replaced_also_in_pause_and_if_it_is_ignored() {
    let mut other_plugin = logical("ls");
    other_plugin.plugin = Some("test_decoding".to_owned());
    for (found, attributes, made, line) in [
        (
            other_plugin,
            ls(),
            Vec::new(),
            "Trying to drop replication slot 's' because value is changing from {'type': 'logical', 'database': 'postgres', \
             'plugin': 'test_decoding'} to {'type': 'logical', 'database': 'postgres', 'plugin': 'pgoutput'}",
        ),
        (
            logical("ls"),
            json!(null),
            vec!["s".to_owned()],
            "Trying to drop replication slot 's' because value is changing from {'type': 'logical', 'database': 'postgres', \
             'plugin': 'pgoutput'} to {'type': 'physical'}",
        ),
        (
            slot("ls"),
            ls(),
            Vec::new(),
            "Trying to drop replication slot 's' because value is changing from {'type': 'physical'} to {'type': 'logical', \
             'database': 'postgres', 'plugin': 'pgoutput'}",
        ),
    ] {
        let document = json!({"slots": {"s": attributes}, "ignore_slots": [{}]});
        let mut situation = configured(leader(), document).paused();
        situation.obs.server.slots = Some(vec![slot("b"), slot("c"), SlotObservation { name: "s".to_owned(), ..found }]);
        let plan = plan(&situation.decide());
        assert_eq!((plan.drop.len(), plan.create), (1, made));
        assert_eq!(plan.drop[0].reason, line);
    }
}

/// Hard case 28: the slots of a cascading standby that is the only one left.
#[test]
fn hard_case_28_slots_are_computed_without_a_leader_in_the_view() {
    let mut situation = Situation::replica().tagged("replicatefrom", json!("b"));
    situation.view.members.retain(|member| member.name == "a");
    situation.view.status.retain_slots = ["b", "c"].map(str::to_owned).to_vec();
    situation.obs.server.slots = Some(vec![slot("b")]);
    assert_eq!(created(&situation.decide()), ["c"]);
}

#[test]
fn slots_are_made_while_this_node_is_being_promoted_and_not_during_any_other_task() {
    use super::super::observation::TaskKind;
    let promoting = TaskKind::Promote { pre_promote_pending: false };
    assert_eq!(created(&Situation::replica().led_by("a").busy(promoting).decide()), ["b", "c"]);
    assert_eq!(created(&replica().busy(TaskKind::Other).decide()), Vec::<String>::new());
}

#[test]
fn nothing_is_done_about_slots_that_cannot_be_seen() {
    let mut situation = leader();
    situation.obs.server.slots = None;
    situation.obs.server.monitor = Monitor::Failed;
    let decision = situation.decide();
    assert_eq!(plan(&decision), SlotPlan::default());
}
