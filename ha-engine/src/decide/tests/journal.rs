//! What decisions say about themselves.

use dcs_core::model::{HistoryLine, Lsn, Role, SyncRecord, Timeline};
use dcs_core::{Acquisition, Renewal};
use serde_json::json;

use super::super::action::Decision;
use super::super::journal::{Record, Rule};
use super::super::memory::RewindState;
use super::super::observation::{PeerAnswer, PeerStatus, StoreFailed, TaskKind};
use super::{Situation, global, standby_answer};
use crate::ports::DivergenceFacts;

fn record(decision: &Decision, rule: Rule) -> &Record {
    let found = decision.journal.iter().find(|record| record.rule == rule);
    found.unwrap_or_else(|| panic!("no record of {rule:?}: {:?}", decision.journal))
}

fn fact<'r>(record: &'r Record, name: &str) -> &'r str {
    let found = record.facts.iter().find(|fact| fact.name == name);
    found.map_or_else(|| panic!("no {name}: {record:?}"), |fact| &fact.value)
}

fn reasons(record: &Record) -> Vec<(&str, &str)> {
    record.candidates.iter().map(|candidate| (candidate.member.as_str(), candidate.reason.as_str())).collect()
}

fn alive() -> PeerAnswer {
    let PeerAnswer::Status(status) = standby_answer(0) else { unreachable!("a status") };
    PeerAnswer::Status(PeerStatus { in_recovery: false, ..status })
}

/// Every way to be kept from the lock, and the rule that says so.
#[test]
fn every_reason_to_stay_out_of_the_race_has_a_rule_of_its_own() {
    let lagging = |mut situation: Situation| {
        situation.view.status.last_lsn = Lsn(100_000_000);
        situation
    };
    let starting = |mut situation: Situation| {
        situation.obs.server.state = dcs_core::model::ServerState::Starting;
        situation
    };
    let in_sync_mode = |mut situation: Situation| {
        situation.cfg = global(json!({"synchronous_mode": true}));
        situation.view.sync.record = SyncRecord { leader: Some("b".into()), standbys: vec!["c".into()], quorum: 0 };
        situation
    };
    let of_unknown_timeline = |mut situation: Situation| {
        situation.own_timeline = None;
        situation
    };
    let prior = |priority: i64| {
        let PeerAnswer::Status(mut status) = standby_answer(1000) else { unreachable!("a status") };
        status.tags.0.insert("failover_priority".to_owned(), json!(priority));
        PeerAnswer::Status(status)
    };
    let lost = |mut situation: Situation| {
        situation.acquisition = Ok(Acquisition::Lost(None));
        situation
    };
    let backing_off = |mut situation: Situation| {
        situation.memory.released_lock_at = Some(situation.now);
        situation
    };
    for (situation, rule) in [
        (backing_off(Situation::replica()), Rule::RaceBackoff),
        (starting(Situation::replica()), Rule::RaceStarting),
        (Situation::replica().paused(), Rule::RacePaused),
        (Situation::replica().tagged("nofailover", json!(true)), Rule::RaceNoFailover),
        (in_sync_mode(Situation::replica()), Rule::RaceNotSynchronous),
        (lagging(Situation::replica()), Rule::RaceLag),
        (of_unknown_timeline(Situation::replica()), Rule::RaceNoTimeline),
        (Situation::replica().history(&[(1, 800)]), Rule::RaceOldTimeline),
        (Situation::primary().history(&[(1, 800)]), Rule::RaceOldTimeline),
        (Situation::replica().peer("b", alive()), Rule::RacePrimaryAlive),
        (Situation::replica().peer("b", standby_answer(1001)), Rule::RaceBehind),
        (Situation::replica().peer("b", prior(2)), Rule::RacePriority),
        (lost(Situation::replica()), Rule::RaceLost),
        (Situation::replica().requested(None, Some("b")).peer("b", standby_answer(1)), Rule::RaceForCandidate),
        (Situation::replica().paused().requested(Some("b"), None), Rule::RaceNoCandidate),
        (Situation::replica().requested(Some("a"), None).peer("b", standby_answer(1000)), Rule::RaceSteppedDown),
    ] {
        let mut situation = situation;
        let check_timeline = matches!(rule, Rule::RaceNoTimeline | Rule::RaceOldTimeline);
        situation.cfg.check_timeline |= check_timeline;
        let decision = situation.decide();
        let told = record(&decision, rule);
        assert!(!told.what.is_empty() && !decision.journal.iter().any(|record| record.rule == Rule::RaceWon), "{rule:?}");
    }
}

#[test]
fn the_winner_tells_of_every_other_candidate_why_it_did_not_stand_in_the_way() {
    let decision = Situation::replica().peer("c", standby_answer(900)).decide();
    let won = record(&decision, Rule::RaceWon);
    assert_eq!(reasons(won), [("b", "did not answer"), ("c", "is behind this node")]);
    assert_eq!(won.candidates[1].position, Some(Lsn(900)));
    assert_eq!((fact(won, "my_position"), fact(won, "my_timeline")), ("0/3E8", "1"));
    record(&decision, Rule::Promote);
}

#[test]
fn the_loser_tells_who_was_ahead_and_by_what() {
    let decision = Situation::replica().peer("b", standby_answer(1001)).peer("c", standby_answer(1000)).decide();
    let behind = record(&decision, Rule::RaceBehind);
    assert_eq!(behind.what, "this node does not take the free leader lock: b has more WAL");
    assert_eq!(reasons(behind), [("b", "is ahead of this node"), ("c", "is as far as this node")]);
}

#[test]
fn a_replica_that_lags_tells_by_how_much_and_what_is_allowed() {
    let mut situation = Situation::replica();
    situation.view.status.last_lsn = Lsn(1000 + 1_048_577);
    let decision = situation.decide();
    let lag = record(&decision, Rule::RaceLag);
    assert_eq!((fact(lag, "behind_bytes"), fact(lag, "maximum_lag_on_failover")), ("1048577", "1048576"));
    assert_eq!(lag.facts.iter().filter(|fact| fact.name == "my_position").count(), 1, "told once");
}

#[test]
fn the_loss_of_a_leader_is_told_by_those_who_stay() {
    let mut situation = Situation::replica().led_by("b");
    assert_eq!(record(&situation.decide(), Rule::LockHeld).what, "b holds the leader lock");
    situation.memory = situation.decide().memory;
    assert!(situation.decide().journal.is_empty(), "nothing new: {:?}", situation.decide().journal);

    situation.view.leader = None;
    let free = situation.decide();
    let free = record(&free, Rule::LockFree);
    assert_eq!(free.what, "the leader lock is free; b held it before: it gave the lock back or did not renew it in time");
    assert_eq!((fact(free, "former_leader"), fact(free, "its_role")), ("b", "primary"));

    let mut later = Situation { memory: situation.memory.clone(), ..Situation::replica() }.led_by("c");
    assert_eq!(record(&later.decide(), Rule::LockHeld).what, "c holds the leader lock now; b held it before");
}

#[test]
fn every_demotion_tells_its_cause() {
    let renewing = |mut situation: Situation, renewal| {
        situation.renewal = renewal;
        situation
    };
    let slow = |mut situation: Situation| {
        situation.obs.server.state = dcs_core::model::ServerState::Starting;
        situation.cfg.primary_start_timeout = std::time::Duration::from_secs(1);
        situation.peer("b", standby_answer(1000))
    };
    let store_lost = |mut situation: Situation| {
        situation.store_lost = true;
        situation
    };
    for (situation, rule) in [
        (renewing(Situation::primary().led_by("a"), Ok(Renewal::Lost)), Rule::DemoteLockLost),
        (renewing(Situation::primary().led_by("a"), Err(StoreFailed)), Rule::DemoteStoreLost),
        (store_lost(Situation::primary().led_by("a")), Rule::DemoteStoreLost),
        (Situation::primary().led_by("b"), Rule::DemoteNoLock),
        (Situation::primary().led_by("b").busy(TaskKind::Restart), Rule::DemoteLockLost),
        (slow(Situation::primary().led_by("a")), Rule::DemoteTooSlow),
        (Situation::primary().led_by("a").requested(Some("a"), Some("b")).peer("b", standby_answer(1000)), Rule::RequestAccepted),
    ] {
        let mut situation = situation;
        record(&situation.decide(), rule);
    }
}

#[test]
fn a_refused_request_tells_of_every_candidate_why_it_cannot_take_over() {
    let mut situation = Situation::primary().led_by("a").requested(Some("a"), None).peer("c", standby_answer(1000));
    situation.view.status.last_lsn = Lsn(50_000_000);
    let decision = situation.decide();
    let refused = record(&decision, Rule::RequestImpossible);
    assert_eq!(reasons(refused), [("b", "Member b is not reachable"), ("c", "Member c exceeds maximum replication lag")]);
}

#[test]
fn a_rewind_tells_where_the_histories_parted_and_how_much_is_given_up() {
    let line = |timeline, lsn| HistoryLine { timeline, lsn: Lsn(lsn), reason: String::new(), timestamp: None, new_leader: None };
    let mut situation = Situation::stopped(Role::Demoted).led_by("b").control_state("shut down");
    situation.memory.rewind = RewindState::Check;
    situation.divergence = Some(DivergenceFacts {
        local_timeline: Timeline(1),
        local_lsn: Lsn(1000),
        local_in_recovery: false,
        checkpoint_end: Some(Lsn(1200)),
        leader_timeline: Timeline(2),
        leader_history: Some(vec![line(1, 900)]),
    });
    let decision = situation.decide();
    let diverged = record(&decision, Rule::Diverged);
    assert_eq!((fact(diverged, "histories_parted_at"), fact(diverged, "bytes_not_in_the_leaders_history")), ("0/384", "300"));
    record(&decision, Rule::Rewind);

    situation.obs.rewind_policy.can_rewind = false;
    situation.obs.rewind_policy.rebuild_diverged = true;
    record(&situation.decide(), Rule::Rebuild);
}

#[test]
fn an_idle_node_has_nothing_to_tell() {
    for mut situation in [Situation::primary().led_by("a"), Situation::replica().led_by("b")] {
        situation.memory.last_locked_view = Some(std::sync::Arc::new(situation.view.clone()));
        situation.memory.rewind = RewindState::NotNeed;
        assert_eq!(situation.decide().journal, []);
    }
}
