//! Known hard cases (`spec/ha-engine.md` 19) that are about whole clusters: each a short script of faults. `a` leads when they
//! begin.

use std::time::Duration;

use simulation::{Fault, Mode, Name, Outcome, Scenario, What, Whom, run};

const A: Whom = Whom::Node("a");

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn fault(at: u64, lasts: u64, what: What) -> Fault {
    Fault { at: seconds(at), lasts: seconds(lasts), what }
}

/// Runs a script; every invariant held.
fn play(mode: Mode, faults: Vec<Fault>) -> Outcome {
    let outcome = run(&Scenario::with(mode, faults), true);
    assert!(outcome.violations.is_empty(), "{}\n{}", outcome.history.join("\n"), outcome.violations.join("\n"));
    outcome
}

/// Who was promoted since the cluster was complete, and how long after that.
fn promotions(outcome: &Outcome) -> Vec<(Name, Duration)> {
    outcome.promotions.iter().map(|(at, who, _)| (*who, at.saturating_sub(outcome.complete_at))).collect()
}

fn says(outcome: &Outcome, text: &str) -> bool {
    outcome.history.iter().any(|line| line.contains(text))
}

#[test]
fn hard_case_01_a_store_that_is_silent_for_long_makes_the_cluster_read_only_until_it_is_back() {
    let outcome = play(Mode::Async, vec![fault(5, 60, What::StoreSilent)]);
    assert!(says(&outcome, "demoted self because DCS is not accessible and I was a leader"));
    let promoted = promotions(&outcome);
    assert!(promoted.len() == 1 && promoted[0].1 >= seconds(65), "nobody before the store is back, then one: {promoted:?}");
    // LIV9: writable again within two periods.
    assert!(promoted[0].1 <= seconds(65 + 20 + 1), "{promoted:?}");
}

/// Must hold: ha-engine.md 18 (LIV1)
#[test]
fn hard_case_17_of_two_equal_standbys_of_a_dead_leader_exactly_one_wins() {
    let outcome = play(Mode::Async, vec![fault(5, 90, What::MachineDies(A))]);
    let promoted = promotions(&outcome);
    assert!(promoted.len() == 1 && promoted[0].0 != "a", "{promoted:?}");
    assert!(promoted[0].1 <= seconds(5 + 30 + 5), "within ttl and five seconds: {promoted:?}");
}

#[test]
fn hard_case_20_a_leader_whose_agent_is_stopped_is_replaced_and_steps_down_when_it_goes_on() {
    for mode in [Mode::Async, Mode::On, Mode::Quorum] {
        let outcome = play(mode, vec![fault(5, 60, What::AgentStalls(A))]);
        let promoted = promotions(&outcome);
        assert!(promoted.len() == 1 && promoted[0].0 != "a", "{mode}: {promoted:?}");
        assert!(says(&outcome, "the leader lock could not be renewed in time: stopping PostgreSQL"), "{mode}");
    }
}

#[test]
fn hard_case_37_a_primary_that_crashes_is_started_again_on_its_timeline() {
    let outcome = play(Mode::Async, vec![fault(5, 1, What::PostgresDies(A))]);
    assert_eq!(promotions(&outcome), []);
    assert!(says(&outcome, "starting primary after failure"));
}

/// Must hold: ha-engine.md 18 (LIV2)
#[test]
fn hard_case_50_a_primary_that_shut_down_in_order_follows_without_a_rewind() {
    for mode in [Mode::Async, Mode::On, Mode::Quorum] {
        let outcome = play(mode, vec![fault(5, 30, What::AgentEnds(A))]);
        let promoted = promotions(&outcome);
        assert!(promoted.len() == 1 && promoted[0].0 != "a", "{mode}: {promoted:?}");
        assert!(promoted[0].1 <= seconds(5 + 5), "{mode}: {promoted:?}");
        assert!(!says(&outcome, "rewound to") && !says(&outcome, "pg_rewind"), "{mode}: nothing was lost");
    }
}

#[test]
fn hard_case_70_without_leader_and_synchronous_standby_nobody_is_promoted() {
    let probe = play(Mode::On, Vec::new());
    let other = if says(&probe, "Synchronous standby status assigned to ['b']") { "b" } else { "c" };
    let faults = vec![fault(5, 120, What::MachineDies(A)), fault(5, 60, What::MachineDies(Whom::Node(other)))];
    let outcome = play(Mode::On, faults);
    let promoted = promotions(&outcome);
    assert!(promoted.len() == 1 && promoted[0].0 == other, "the synchronous one, alone: {promoted:?}");
    assert!(promoted[0].1 >= seconds(65), "not before it is back: {promoted:?}");
}

#[test]
fn a_switchover_moves_the_leader_and_loses_nothing() {
    for mode in [Mode::Async, Mode::On, Mode::Strict, Mode::Quorum] {
        let outcome = play(mode, vec![fault(5, 1, What::Switchover)]);
        let promoted = promotions(&outcome);
        assert!(promoted.len() == 1 && promoted[0].0 != "a", "{mode}: {promoted:?}");
        assert!(promoted[0].1 <= seconds(5 + 6), "{mode}: {promoted:?}");
    }
}
