//! Rows Q, K and U: nobody leads.

use dcs_core::Acquisition;
use dcs_core::model::{Lsn, MemberName, Role, Timeline};
use serde_json::json;

use super::super::action::{Ask, Effect, Severity, Task};
use super::super::observation::{Monitor, PeerAnswer, PeerStatus};
use super::{Situation, deeds, says, standby_answer};

const PROMOTED: &str = "promoted self to leader by acquiring session lock";
const NOT_HEALTHIEST: &str = "following a different leader because i am not the healthiest node";

fn remembered_leader(mut situation: Situation, name: &str) -> Situation {
    let view = situation.view.clone();
    let mut led = Situation { view, ..Situation::replica() }.led_by(name);
    led.view.failover = None;
    situation.memory.last_locked_view = Some(std::sync::Arc::new(led.view));
    situation
}

fn on_timeline(answer: PeerAnswer, timeline: u32) -> PeerAnswer {
    match answer {
        PeerAnswer::Status(status) => PeerAnswer::Status(PeerStatus { timeline: Some(Timeline(timeline)), ..status }),
        unreachable => unreachable,
    }
}

#[test]
fn u7_the_most_advanced_replica_takes_the_lock_and_is_promoted() {
    let mut situation = Situation::replica().peer("b", standby_answer(900)).peer("c", standby_answer(1000));
    let decision = situation.decide();
    assert_eq!(decision.message, PROMOTED);
    assert_eq!(decision.task, Some(Task::Promote));
    assert!(decision.memory.lease.is_some(), "a promotion holds a lease");
}

#[test]
fn g5_a_replica_that_is_behind_does_not_take_the_lock() {
    let mut situation = Situation::replica().peer("b", standby_answer(1001));
    let decision = situation.decide();
    assert_eq!(decision.message, NOT_HEALTHIEST);
    assert!(!situation.asked.contains(&Ask::AcquireLock));
    assert!(says(&decision, Severity::Info, "Wal position of b is ahead of my wal position"));
}

#[test]
fn g4_a_primary_that_is_still_alive_ends_the_race() {
    let alive = PeerAnswer::Status(PeerStatus {
        in_recovery: false,
        position: Lsn::ZERO,
        timeline: Some(Timeline(1)),
        tags: dcs_core::model::Tags::default(),
        watchdog_failed: false,
        scope: None,
        system_id: None,
    });
    let mut situation = Situation::replica().peer("c", alive);
    let decision = situation.decide();
    assert_eq!(decision.message, NOT_HEALTHIEST);
    assert!(says(&decision, Severity::Warning, "Primary (c) is still alive"));
}

#[test]
fn x3_a_living_primary_with_nofailover_ends_the_race_too() {
    let mut situation = Situation::replica();
    for member in &mut situation.view.members {
        if member.name == "c" {
            member.record.tags.0.insert("nofailover".to_owned(), json!(true));
        }
    }
    let PeerAnswer::Status(status) = standby_answer(0) else { unreachable!("a status") };
    let mut situation = situation.peer("c", PeerAnswer::Status(PeerStatus { in_recovery: false, ..status }));
    assert_eq!(situation.line(), NOT_HEALTHIEST);
}

#[test]
fn x3_a_nofailover_node_that_is_ahead_does_not_end_it() {
    let mut situation = Situation::replica().peer("c", standby_answer(9999));
    for member in &mut situation.view.members {
        if member.name == "c" {
            member.record.tags.0.insert("nofailover".to_owned(), json!(true));
        }
    }
    assert_eq!(situation.line(), PROMOTED);
}

#[test]
fn g1_a_replica_that_lags_too_far_behind_the_last_known_position_stays_out() {
    let mut situation = Situation::replica();
    situation.view.status.last_lsn = Lsn(1000 + 1_048_577);
    let decision = situation.decide();
    assert_eq!(decision.message, NOT_HEALTHIEST);
    assert!(says(&decision, Severity::Info, "My wal position exceeds maximum replication lag"));
    situation.view.status.last_lsn = Lsn(1000 + 1_048_576);
    assert_eq!(situation.line(), PROMOTED, "the limit itself is allowed");
}

#[test]
fn x2_a_node_on_an_abandoned_timeline_counts_only_up_to_the_switch() {
    let mut situation = Situation::replica().history(&[(1, 800)]).peer("b", on_timeline(standby_answer(5000), 1));
    situation.own_timeline = Some(Timeline(2));
    assert_eq!(situation.line(), PROMOTED);
}

#[test]
fn x2_a_node_that_is_itself_on_an_abandoned_timeline_leaves_it_to_those_on_the_newest() {
    let mut situation = Situation::replica().history(&[(1, 800)]).peer("b", on_timeline(standby_answer(820), 2));
    assert_eq!(situation.line(), NOT_HEALTHIEST);
}

fn saying_nofailover(answer: PeerAnswer) -> PeerAnswer {
    let PeerAnswer::Status(mut status) = answer else { return answer };
    status.tags.0.insert("nofailover".to_owned(), json!(true));
    PeerAnswer::Status(status)
}

#[test]
fn x2_a_node_whose_bare_position_misleads_says_so_and_still_leaves_the_race_to_the_newest() {
    // I am on timeline 1 at 1000; `b` is on timeline 2, which left mine at 800.
    let case = |position, timeline| Situation::replica().history(&[(1, 800)]).peer("b", on_timeline(standby_answer(position), timeline));
    let misleads = |mut situation: Situation| {
        let decision = situation.decide();
        assert_eq!(decision.task, None);
        decision.memory.misleads_by_position
    };
    assert!(misleads(case(820, 2)), "by its bare position it would wait for me");
    assert!(!misleads(case(1001, 2)), "it is ahead by any measure");
    assert!(!misleads(case(1001, 1)), "nobody is on a newer timeline");
    let mut before_the_switch = case(700, 2);
    assert_eq!(before_the_switch.line(), PROMOTED, "it has not even reached the switch");
    let mut down = case(0, 2);
    assert!(!down.decide().memory.misleads_by_position, "its server does not run");
}

#[test]
fn x2_nobody_is_misled_who_could_not_promote_anyway() {
    let case = |answer| {
        let mut situation = Situation::replica().history(&[(1, 800)]).peer("b", answer);
        situation.decide().memory.misleads_by_position
    };
    let newer = || on_timeline(standby_answer(820), 2);
    assert!(case(newer()));
    assert!(!case(saying_nofailover(newer())), "its own word");
    let PeerAnswer::Status(status) = newer() else { unreachable!("a status") };
    assert!(!case(PeerAnswer::Status(PeerStatus { watchdog_failed: true, ..status.clone() })));
    assert!(!case(PeerAnswer::Status(PeerStatus { in_recovery: false, ..status })), "a primary compares no positions");
    assert!(!case(PeerAnswer::Unreachable));
    let mut in_its_key = Situation::replica().history(&[(1, 800)]).peer("b", newer());
    in_its_key.view.members[1].record.tags.0.insert("nofailover".to_owned(), json!(true));
    assert!(!in_its_key.decide().memory.misleads_by_position);
}

#[test]
fn x2_a_node_that_stays_out_for_its_timeline_or_its_lag_misleads_all_the_same() {
    let newer = || on_timeline(standby_answer(820), 2);
    let mut checked = Situation::replica().history(&[(1, 800)]).peer("b", newer());
    checked.cfg = super::global(json!({"check_timeline": true}));
    let decision = checked.decide();
    assert!(says(&decision, Severity::Info, "My timeline 1 is behind last known cluster timeline 2"));
    assert!(decision.memory.misleads_by_position);

    let mut lagging = Situation::replica().history(&[(1, 800)]).peer("b", newer());
    lagging.cfg.maximum_lag_on_failover = 10;
    lagging.view.status.last_lsn = Lsn(820);
    let decision = lagging.decide();
    assert!(says(&decision, Severity::Info, "My wal position exceeds maximum replication lag"), "G1 counts what my position is worth");
    assert!(decision.memory.misleads_by_position);
}

#[test]
fn x2_it_ends_when_somebody_leads_and_when_it_is_over() {
    let mut situation = Situation::replica().history(&[(1, 800)]).peer("b", on_timeline(standby_answer(820), 2));
    situation.memory = situation.decide().memory;
    assert!(situation.memory.misleads_by_position);
    let mut gone = Situation { peers: std::collections::BTreeMap::new(), ..Situation::replica().history(&[(1, 800)]) };
    gone.memory = situation.memory.clone();
    let decision = gone.decide();
    assert_eq!(decision.message, PROMOTED, "nobody else is there");
    assert!(!decision.memory.misleads_by_position);

    let mut led = situation.led_by("c");
    assert!(!led.decide().memory.misleads_by_position);
}

#[test]
fn x2_the_tag_of_a_node_behind_the_newest_timeline_costs_it_nothing_among_ourselves() {
    // I am on timeline 2 at 1000. Nobody reached more of timeline 1 than 800, so who is there at 5000 is worth 800.
    let mut newest = Situation::replica().history(&[(1, 800)]).peer("b", saying_nofailover(on_timeline(standby_answer(5000), 1)));
    newest.own_timeline = Some(Timeline(2));
    assert_eq!(newest.line(), PROMOTED);

    // Two nodes on the abandoned timeline: the other is ahead and says the tag for Patroni's sake only.
    let mut abandoned = Situation::replica().history(&[(1, 5000)]).peer("b", saying_nofailover(on_timeline(standby_answer(1001), 1)));
    let decision = abandoned.decide();
    assert_eq!(decision.message, NOT_HEALTHIEST);
    assert!(says(&decision, Severity::Info, "Wal position of b is ahead of my wal position"));

    // On the newest timeline the tag means what it says.
    let mut honest = Situation::replica().peer("b", saying_nofailover(standby_answer(1001)));
    assert_eq!(honest.line(), PROMOTED);
}

#[test]
fn x2_a_candidate_behind_the_newest_timeline_is_judged_by_its_member_key() {
    let case = || Situation::replica().history(&[(1, 800)]).requested(Some("b"), Some("c"));
    let mut tagged_for_others = case().peer("c", saying_nofailover(on_timeline(standby_answer(900), 1)));
    assert!(says(&tagged_for_others.decide(), Severity::Info, "switchover: to c, i am a"));
    let mut tagged = case().peer("c", saying_nofailover(on_timeline(standby_answer(900), 2)));
    assert!(says(&tagged.decide(), Severity::Warning, "switchover: member c is not allowed to promote"));
    let mut key = case().peer("c", on_timeline(standby_answer(900), 1));
    key.view.members[2].record.tags.0.insert("nofailover".to_owned(), json!(true));
    assert!(says(&key.decide(), Severity::Warning, "switchover: member c is not allowed to promote"));
}

#[test]
fn x3_an_answer_that_counts_only_for_living_primaries_makes_no_timeline_the_newest() {
    let mut situation = Situation::replica().peer("b", standby_answer(900)).peer("c", on_timeline(standby_answer(5000), 9));
    situation.view.members[2].record.tags.0.insert("nofailover".to_owned(), json!(true));
    assert_eq!(situation.line(), PROMOTED);
    assert!(!situation.asked.iter().any(|ask| matches!(ask, Ask::HistoryFile(_))));
}

#[test]
fn g8_with_equal_positions_the_higher_priority_wins() {
    let PeerAnswer::Status(mut status) = standby_answer(1000) else { unreachable!("a status") };
    status.tags.0.insert("failover_priority".to_owned(), json!(5));
    let mut situation = Situation::replica().peer("b", PeerAnswer::Status(status));
    assert_eq!(situation.line(), NOT_HEALTHIEST);
    let mut situation = remembered_leader(situation, "b");
    assert_eq!(situation.line(), PROMOTED, "G7: except that of the former leader");
}

#[test]
fn q1_after_a_failed_pre_promote_script_the_node_stays_out_for_a_ttl() {
    let mut situation = Situation::replica();
    situation.memory.released_lock_at = Some(situation.now);
    assert_eq!(situation.line(), NOT_HEALTHIEST);
    situation.now = situation.now + situation.cfg.ttl;
    assert_eq!(situation.line(), PROMOTED);
}

#[test]
fn q5_a_primary_on_an_old_timeline_does_not_take_the_lock_back() {
    let mut situation = Situation::primary().history(&[(1, 800)]);
    let decision = situation.decide();
    assert_eq!(decision.message, "demoting self because i am not the healthiest node");
    assert!(says(&decision, Severity::Warning, "My timeline 1 is behind last known cluster timeline 2"));
}

#[test]
fn q6_a_primary_takes_the_free_lock_without_asking_anybody() {
    let mut situation = Situation::primary();
    let decision = situation.decide();
    assert_eq!(decision.message, "acquired session lock as a leader");
    assert!(!situation.asked.iter().any(|ask| matches!(ask, Ask::Poll(_))));
}

#[test]
fn q8_a_nofailover_node_follows() {
    let mut situation = Situation::replica().tagged("nofailover", json!(true));
    assert_eq!(situation.line(), "following a different leader because I am not allowed to promote");
    assert!(situation.asked.iter().any(|ask| matches!(ask, Ask::WaitForLock(_))), "U1 gives others time to take the lock");
}

#[test]
fn u4_losing_the_race_means_following() {
    let mut situation = Situation::replica();
    situation.acquisition = Ok(Acquisition::Lost(Some(MemberName::from("b"))));
    let decision = situation.decide();
    assert_eq!(decision.message, "following new leader after trying and failing to obtain lock");
    assert_eq!(decision.task, None);
    assert!(decision.memory.lease.is_none());
}

#[test]
fn k1_the_candidate_of_a_request_takes_the_lock_whatever_its_lag() {
    let mut situation = Situation::replica().requested(Some("b"), Some("a")).peer("c", standby_answer(5000));
    let decision = situation.decide();
    assert_eq!(decision.message, PROMOTED);
    assert!(situation.asked.iter().any(|ask| matches!(ask, Ask::WriteFailover(request, None) if request.is_empty())), "U5 clears the key");
}

#[test]
fn k5_everybody_else_leaves_it_to_a_candidate_that_is_able() {
    let mut situation = Situation::replica().requested(Some("b"), Some("c")).peer("c", standby_answer(10));
    let decision = situation.decide();
    assert_eq!(decision.message, NOT_HEALTHIEST);
    assert!(says(&decision, Severity::Info, "switchover: to c, i am a"));
}

#[test]
fn k6_a_candidate_that_does_not_answer_is_passed_over() {
    let mut situation = Situation::replica().requested(Some("b"), Some("c"));
    assert_eq!(situation.line(), PROMOTED);
}

#[test]
fn k8_the_leader_that_stepped_down_leaves_it_to_the_others() {
    let mut situation = Situation::replica().requested(Some("a"), None).peer("b", standby_answer(1000));
    assert_eq!(situation.line(), NOT_HEALTHIEST);
}

#[test]
fn k9_it_takes_the_lock_back_if_nobody_else_is_able() {
    let mut situation = Situation::replica().requested(Some("a"), None);
    assert_eq!(situation.line(), PROMOTED);
}

#[test]
fn k10_the_old_leader_does_not_count_in_a_switchover_race() {
    let mut situation = Situation::replica().requested(Some("b"), None).peer("b", standby_answer(9999)).peer("c", standby_answer(900));
    situation.view.status.last_lsn = Lsn(10_000_000);
    assert_eq!(situation.line(), PROMOTED, "nor does the lag");
}

#[test]
fn members_of_the_last_view_with_a_leader_take_part_in_the_race() {
    let mut situation = remembered_leader(Situation::replica().peer("b", standby_answer(2000)), "c");
    situation.view.members.retain(|member| member.name == "a");
    assert_eq!(situation.line(), NOT_HEALTHIEST);
}

#[test]
fn a_standby_without_known_position_stays_out() {
    let mut situation = Situation::replica();
    situation.obs.server.monitor = Monitor::Failed;
    assert_eq!(situation.line(), NOT_HEALTHIEST);
}

#[test]
fn taking_the_lock_over_a_stale_synchronous_state_deletes_it_first() {
    let mut situation = Situation::replica();
    situation.view.sync.revision = Some(dcs_core::model::Revision::from(3_i64));
    situation.view.sync.record.leader = Some(MemberName::from("b"));
    situation.written = false;
    let decision = situation.decide();
    assert_eq!(decision.message, "Postponing promotion because synchronous replication state was updated by somebody else", "E6");
    assert_eq!(decision.task, None);
    assert!(deeds(&decision).iter().all(|effect| !matches!(effect, Effect::SetRole(Role::Promoted))));
}

#[test]
fn q3_a_server_that_is_starting_takes_no_lock() {
    let mut situation = Situation::replica();
    situation.obs.server.state = dcs_core::model::ServerState::Starting;
    assert_eq!(situation.line(), NOT_HEALTHIEST);
    assert!(!situation.asked.contains(&Ask::AcquireLock));
}

#[test]
fn g2_and_g3_with_check_timeline_an_old_or_unknown_timeline_stays_out() {
    let mut situation = Situation::replica().history(&[(1, 5000)]);
    situation.cfg = super::global(json!({"check_timeline": true}));
    let decision = situation.decide();
    assert_eq!(decision.message, NOT_HEALTHIEST);
    assert!(says(&decision, Severity::Info, "My timeline 1 is behind last known cluster timeline 2"));
    let mut situation = Situation::replica();
    situation.cfg = super::global(json!({"check_timeline": true}));
    situation.own_timeline = None;
    assert!(says(&situation.decide(), Severity::Info, "Can not figure out my timeline"));
}

#[test]
fn an_unknown_own_timeline_compares_bare_positions() {
    let mut situation = Situation::replica().peer("b", on_timeline(standby_answer(1000), 7));
    situation.own_timeline = None;
    assert_eq!(situation.line(), PROMOTED);
    let mut situation = Situation::replica().peer("b", on_timeline(standby_answer(1001), 7));
    situation.own_timeline = None;
    assert_eq!(situation.line(), NOT_HEALTHIEST);
}

#[test]
fn a_node_that_was_not_the_one_looks_again_soon() {
    let mut situation = Situation::replica().peer("b", standby_answer(1001));
    let decision = situation.decide();
    assert_eq!(decision.wake_at, Some(situation.now + std::time::Duration::from_secs(1)));
}
