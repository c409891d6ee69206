//! Failsafe mode: what goes on without the store, and who stands back (section 6; rows C2, C24, D2, D3, E7, Q12).

use std::collections::BTreeMap;
use std::time::Duration;

use dcs_core::model::{Lsn, MemberName, Role};
use dcs_core::{Acquisition, LeaderLease};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::action::{Ask, DemoteKind, Effect, Severity, Task};
use super::super::failsafe::exclusion::{Exclusion, FailsafeCall, Promise};
use super::super::failsafe::{Appeal, Extension};
use super::super::observation::{PeerTarget, SlotObservation, TaskKind};
use super::properties;
use super::{Situation, deeds, says, standby_answer};

const GOES_ON: &str = "continue to run as a leader because failsafe mode is enabled and all members are accessible";
const STOPS: &str = "demoted self because DCS is not accessible and I was a leader";

fn url(name: &str) -> String {
    format!("http://{name}.example:8008/patroni")
}

fn map(names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), Value::String(url(name)))).collect()
}

fn failsafe(mut situation: Situation) -> Situation {
    situation.cfg.failsafe_mode = true;
    situation
}

/// The primary `a` without its store, with `map` as last loaded.
fn lost(map: Option<Value>) -> Situation {
    let mut situation = failsafe(Situation::primary().led_by("a"));
    situation.store_lost = true;
    situation.memory.failsafe.map = map;
    situation
}

fn extension(situation: &Situation) -> Extension {
    Extension {
        lease: LeaderLease::granted(situation.now, Duration::from_secs(30)),
        positions: BTreeMap::from([(MemberName::from("b"), Lsn(900))]),
    }
}

/// What `a` has promised.
fn promised_to(situation: &Situation, name: &str, slots: &[(&str, u64)]) -> Option<Promise> {
    let mut exclusion = Exclusion::default();
    let call = FailsafeCall {
        name: MemberName::from(name),
        conn_url: format!("postgres://{name}.elsewhere:5432/postgres"),
        api_url: url(name),
        slots: (!slots.is_empty()).then(|| slots.iter().map(|(name, lsn)| ((*name).to_owned(), Lsn(*lsn))).collect()),
    };
    exclusion.answer(call, situation.cfg.ttl, situation.now).expect("it claims nothing");
    exclusion.promise(situation.cfg.ttl, situation.now).cloned()
}

#[test]
fn d3_a_primary_goes_on_when_everybody_gives_their_word() {
    let mut situation = lost(Some(map(&["a", "b", "c"])));
    let extension = extension(&situation);
    situation.word = Some(extension.clone());
    let decision = situation.decide();
    assert_eq!(decision.message, GOES_ON);
    assert!(!deeds(&decision).iter().any(|effect| matches!(effect, Effect::Demote(_))));
    assert_eq!(decision.memory.lease, Some(extension.lease));
    assert_eq!(decision.memory.failsafe.extension, Some(extension));
    let targets = ["b", "c"].map(|name| PeerTarget { name: name.into(), api_url: url(name) }).to_vec();
    let slots = Some(BTreeMap::from([("a".to_owned(), Lsn(1000))]));
    assert_eq!(situation.asked, [Ask::Word(Appeal { targets, slots })]);
}

#[test]
fn d4_a_primary_stops_when_somebody_does_not() {
    let mut situation = lost(Some(map(&["a", "b", "c"])));
    situation.memory.failsafe.extension = Some(extension(&situation));
    let decision = situation.decide();
    assert_eq!(decision.message, STOPS);
    assert!(deeds(&decision).contains(&&Effect::Demote(DemoteKind::Offline)));
    assert_eq!(decision.memory.failsafe.extension, None, "failsafe mode has ended");
}

#[test]
fn d4_without_the_mode_or_a_usable_map_nobody_is_asked() {
    for map in [None, Some(json!("text")), Some(json!([])), Some(map(&["b", "c"])), Some(json!({"a": url("a"), "b": 5}))] {
        let mut situation = lost(map.clone());
        situation.word = Some(extension(&situation));
        assert_eq!((situation.line().as_str(), situation.asked.len()), (STOPS, 0), "{map:?}");
    }
    let mut situation = lost(Some(map(&["a", "b"])));
    situation.word = Some(extension(&situation));
    situation.cfg.failsafe_mode = false;
    assert_eq!((situation.line().as_str(), situation.asked.len()), (STOPS, 0));
}

#[test]
fn d3_who_is_alone_in_the_map_asks_nobody() {
    let mut situation = lost(Some(map(&["a"])));
    situation.word = Some(extension(&situation));
    assert_eq!(situation.line(), GOES_ON);
    assert!(matches!(situation.asked.as_slice(), [Ask::Word(Appeal { targets, .. })] if targets.is_empty()));
}

/// Must hold: hard case 3.
#[test]
fn hard_case_3_a_renewal_that_fails_asks_the_others_and_one_that_is_refused_does_not() {
    let mut situation = failsafe(Situation::primary().led_by("a"));
    situation.memory.failsafe.map = Some(map(&["a", "b", "c"]));
    situation.word = Some(extension(&situation));
    situation.renewal = Err(super::StoreFailed);
    assert_eq!(situation.line(), GOES_ON);
    // Must hold: hard case 2.
    situation.renewal = Ok(dcs_core::Renewal::Lost);
    situation.asked.clear();
    let decision = situation.decide();
    assert_eq!(deeds(&decision).first(), Some(&&Effect::Demote(DemoteKind::ImmediateNoLock)));
    assert!(!situation.asked.iter().any(|ask| matches!(ask, Ask::Word(_))));
}

/// Hardening rule X10 in row D3.
#[test]
fn x10_a_promotion_under_way_is_kept_by_the_word_of_all() {
    let mut situation = failsafe(Situation::replica().led_by("a")).busy(TaskKind::Promote { pre_promote_pending: false });
    situation.obs.server.role = Role::Promoted;
    situation.store_lost = true;
    situation.memory.failsafe.map = Some(map(&["a", "b", "c"]));
    situation.word = Some(extension(&situation));
    let decision = situation.decide();
    assert_eq!((decision.message.as_str(), deeds(&decision).len()), (GOES_ON, 0));
}

#[test]
fn who_may_have_been_added_to_the_map_is_asked_too() {
    let mut situation = lost(Some(map(&["a", "b"])));
    let unwritten = map(&["a", "b", "c"]).as_object().cloned().expect("an object");
    situation.memory.failsafe = situation.memory.failsafe.after_write(unwritten.clone(), false);
    situation.decide();
    let asked = |situation: &Situation| match situation.asked.last() {
        Some(Ask::Word(appeal)) => appeal.targets.iter().map(|target| target.name.to_string()).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    assert_eq!(asked(&situation), ["b", "c"]);
    let written = map(&["a", "c"]).as_object().cloned().expect("an object");
    situation.memory.failsafe = situation.memory.failsafe.after_write(written, true);
    situation.decide();
    assert_eq!(asked(&situation), ["c"]);
}

#[test]
fn a_leader_writes_everybody_with_a_url_into_the_map() {
    let mut situation = failsafe(Situation::primary().led_by("a"));
    situation.view.members[2].record.api_url = None;
    let written = |situation: &mut Situation| {
        let decision = situation.decide();
        let maps: Vec<_> = decision.effects.iter().filter(|effect| matches!(effect, Effect::WriteFailsafe(_))).cloned().collect();
        maps
    };
    let expected = map(&["a", "b"]).as_object().cloned().expect("an object");
    assert_eq!(written(&mut situation), [Effect::WriteFailsafe(expected.clone())]);
    // The leader itself belongs to it, published or not.
    situation.view.members.remove(0);
    assert_eq!(written(&mut situation), [Effect::WriteFailsafe(expected)]);
    situation.renewal = Ok(dcs_core::Renewal::Lost);
    assert_eq!(written(&mut situation), [], "only after a renewal");
    let mut busy = failsafe(Situation::primary().led_by("a")).busy(TaskKind::Restart);
    assert_eq!(written(&mut busy).len(), 1, "also while a task runs");
    assert_eq!(written(&mut Situation::primary().led_by("a")), [], "only with the mode");
}

#[test]
fn c24_a_lease_from_the_store_ends_failsafe_mode() {
    let mut situation = failsafe(Situation::primary().led_by("a"));
    situation.memory.failsafe.extension = Some(extension(&situation));
    assert_eq!(situation.decide().memory.failsafe.extension, None);
}

/// Must hold: hard case 95.
#[test]
fn hard_case_95_a_promotion_ends_what_was_remembered_of_failsafe_mode() {
    let mut situation = failsafe(Situation::replica().led_by("a"));
    situation.memory.failsafe.extension = Some(extension(&situation));
    let decision = situation.decide();
    assert_eq!(decision.task, Some(Task::Promote));
    assert_eq!(decision.memory.failsafe.extension, None);
}

#[test]
fn q12_who_is_not_in_the_map_never_races() {
    let race = |map: Option<Value>| {
        let mut situation = failsafe(Situation::replica()).peer("b", standby_answer(900)).peer("c", standby_answer(900));
        situation.view.failsafe = map;
        situation.decide();
        situation.asked.contains(&Ask::AcquireLock)
    };
    assert!(!race(Some(map(&["b", "c"]))));
    for allowed in [None, Some(json!({})), Some(json!("text")), Some(map(&["a", "b"]))] {
        assert!(race(allowed.clone()), "{allowed:?}");
    }
    let mut off = Situation::replica();
    off.view.failsafe = Some(map(&["b"]));
    off.decide();
    assert!(off.asked.contains(&Ask::AcquireLock), "the map of a mode that is off");
}

#[test]
fn q14_whoever_is_in_the_map_is_asked_in_the_race_even_without_a_member_key() {
    let mut situation = failsafe(Situation::replica()).peer("c", standby_answer(2000));
    situation.view.failsafe = Some(map(&["a", "b", "c"]));
    situation.view.members.truncate(1);
    let decision = situation.decide();
    assert!(!situation.asked.contains(&Ask::AcquireLock));
    assert!(says(&decision, Severity::Info, "Wal position of c is ahead of my wal position"));
}

#[test]
fn an_agent_that_was_just_restarted_races_only_if_nobody_can_count_on_a_promise_of_it() {
    let race = |change: fn(&mut Situation)| {
        let mut situation = failsafe(Situation::replica()).peer("b", standby_answer(900));
        situation.view.failsafe = Some(map(&["a", "b", "c"]));
        situation.obs.started_at = situation.now;
        change(&mut situation);
        situation.decide();
        situation.asked.contains(&Ask::AcquireLock)
    };
    assert!(!race(|_| ()), "c may be a primary that nobody reaches");
    assert!(race(|situation| {
        situation.peers.insert("c".to_owned(), standby_answer(900));
    }));
    assert!(race(|situation| situation.now = situation.now + situation.cfg.ttl));
    assert!(race(|situation| situation.view.failsafe = Some(map(&["a", "b"]))), "c would not go on without the store");
    assert!(race(|situation| situation.cfg.failsafe_mode = false));
}

/// Must hold: hard case 94.
#[test]
fn hard_case_94_a_view_without_a_leader_is_completed_with_the_one_that_was_promised() {
    let mut situation = failsafe(Situation::replica());
    situation.obs.promise = promised_to(&situation, "b", &[]);
    let decision = situation.decide();
    assert_eq!(decision.message, "no action. I am (a), a secondary, and following a leader (b)");
    let followed = situation.asked.iter().find_map(|ask| match ask {
        Ask::RecoveryDiff(plan) => plan.upstream.clone(),
        _ => None,
    });
    assert_eq!(followed.map(|upstream| upstream.host).as_deref(), Some("b.elsewhere"), "at the address that it told");
    assert!(!situation.asked.contains(&Ask::AcquireLock));

    // Whether the mode is still on does not matter: the leader may not know of that.
    situation.cfg.failsafe_mode = false;
    assert_eq!(situation.line(), "no action. I am (a), a secondary, and following a leader (b)");
}

#[test]
fn a_leader_without_a_member_key_is_followed_by_what_it_told() {
    let mut situation = failsafe(Situation::replica());
    situation.view.members.retain(|member| member.name != "b");
    situation.obs.promise = promised_to(&situation, "b", &[]);
    assert_eq!(situation.line(), "no action. I am (a), a secondary, and following a leader (b)");
}

/// Hardening rule X20: the promise came while the race was being judged.
#[test]
fn x20_an_acquisition_that_was_not_sent_is_no_acquisition() {
    let mut situation = failsafe(Situation::replica());
    situation.promised = promised_to(&situation, "b", &[]);
    let decision = situation.decide();
    assert_eq!(decision.message, "following new leader after trying and failing to obtain lock");
    assert_eq!((decision.task, decision.memory.lease), (None, None));
    let followed = situation.asked.iter().find_map(|ask| match ask {
        Ask::RecoveryDiff(plan) => plan.upstream.clone(),
        _ => None,
    });
    assert_eq!(followed.map(|upstream| upstream.name).as_deref(), Some("b"));
}

/// Hardening rule X20: a request for the lock that was given up arrived at the store after all.
#[test]
fn x20_a_lock_that_comes_after_the_promise_is_given_back() {
    let mut situation = failsafe(Situation::replica().led_by("a"));
    situation.memory.lease = None;
    situation.obs.promise = promised_to(&situation, "b", &[]);
    let decision = situation.decide();
    assert!(deeds(&decision).contains(&&Effect::ReleaseLock(None)));
    assert_eq!((decision.task, decision.memory.lease), (None, None));
    assert_eq!(decision.message, "no action. I am (a), a secondary, and following a leader (b)");
    assert!(!situation.asked.contains(&Ask::RenewLock));
}

fn slot(name: &str, restart_lsn: u64) -> SlotObservation {
    SlotObservation {
        name: name.to_owned(),
        logical: false,
        database: None,
        plugin: None,
        active: false,
        xmin: None,
        catalog_xmin: None,
        restart_lsn: Some(Lsn(restart_lsn)),
        confirmed_flush_lsn: None,
        lost: false,
    }
}

fn advanced(situation: &mut Situation) -> Vec<(String, Lsn)> {
    let decision = situation.decide();
    decision
        .effects
        .into_iter()
        .find_map(|effect| match effect {
            Effect::MaintainSlots(plan) => Some(plan.advance),
            _ => None,
        })
        .unwrap_or_default()
}

/// Must hold: hard case 93, that slots advance.
#[test]
fn hard_case_93_slots_advance_by_what_the_leader_and_the_members_told() {
    // A replica, which hears from its leader.
    let mut replica = failsafe(Situation::replica().led_by("b"));
    replica.memory.last_locked_view = Some(std::sync::Arc::new(replica.view.clone()));
    replica.obs.server.slots = Some(vec![slot("b", 100), slot("c", 100)]);
    replica.store_lost = true;
    replica.obs.promise = promised_to(&replica, "b", &[("b", 700), ("c", 600)]);
    assert_eq!(advanced(&mut replica), [("b".to_owned(), Lsn(700)), ("c".to_owned(), Lsn(600))]);
    replica.cfg.failsafe_mode = false;
    assert_eq!(advanced(&mut replica), [], "without the mode nothing happens");

    // The leader, which hears from a member that streams from another one.
    let mut leader = lost(Some(map(&["a", "b", "c"])));
    let mut view = leader.view.clone();
    view.members[2].record.tags.0.insert("replicatefrom".to_owned(), "b".into());
    leader.memory.last_locked_view = Some(std::sync::Arc::new(view));
    leader.obs.server.slots = Some(vec![slot("b", 100), slot("c", 100)]);
    let positions = BTreeMap::from([(MemberName::from("b"), Lsn(900)), (MemberName::from("c"), Lsn(800))]);
    leader.word = Some(Extension { positions, ..extension(&leader) });
    assert_eq!(advanced(&mut leader), [("c".to_owned(), Lsn(800))], "b streams from here");
}

#[test]
fn the_position_that_is_told_is_kept_up_to_date_without_the_store() {
    let mut situation = failsafe(Situation::replica());
    situation.store_lost = true;
    situation.memory.last_wal_lsn = Some(Lsn(1));
    assert_eq!(situation.decide().memory.last_wal_lsn, Some(Lsn(1000)));
}

#[test]
fn a_refused_lock_is_still_refused() {
    let mut situation = failsafe(Situation::replica());
    situation.acquisition = Ok(Acquisition::Lost(Some(MemberName::from("b"))));
    assert_eq!(situation.line(), "following new leader after trying and failing to obtain lock");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    /// Must hold: X20. Whatever the situation, and whether the promise was seen before or is found when the lock is asked for.
    #[test]
    fn x20_whoever_has_given_its_word_takes_no_lock_and_promotes_nobody(dice in properties::dice(), seen in any::<bool>()) {
        let mut situation = failsafe(properties::situation(&dice));
        situation.promised = promised_to(&situation, "b", &[]);
        situation.obs.promise = situation.promised.clone().filter(|_| seen);
        // A request for the lock and a promise exclude each other; so do a promise and a lock that was seen.
        prop_assume!(seen || situation.view.leader_name().is_none_or(|leader| leader != "a"));
        let decision = situation.decide();
        prop_assert!(decision.task != Some(Task::Promote), "{}", decision.message);
        if !situation.store_lost && situation.renewal.is_ok() {
            prop_assert_eq!(decision.memory.lease, None);
        }
        if seen {
            prop_assert!(!situation.asked.contains(&Ask::RenewLock) && !situation.asked.contains(&Ask::AcquireLock));
        }
    }
}
