//! Seeds of the whole-engine simulation: enough of them for every run of the tests. `make sim` runs any number.

use std::time::Duration;

use simulation::{Mode, Scenario, run, shrink};

/// How long faults may begin in each history.
const SPAN: Duration = Duration::from_secs(180);

/// How many seeds each mode gets.
const SEEDS: u64 = 24;

fn judge(mode: Mode) {
    for seed in 0..SEEDS {
        let scenario = Scenario::random(seed, mode, SPAN);
        if run(&scenario, false).violations.is_empty() {
            continue;
        }
        let (smallest, outcome) = shrink(&scenario);
        let faults: Vec<String> = smallest.faults.iter().map(ToString::to_string).collect();
        panic!(
            "seed {seed}, mode {mode}:\n{}\n\nfaults that matter:\n{}\n\n{}",
            outcome.history.join("\n"),
            faults.join("\n"),
            outcome.violations.join("\n")
        );
    }
}

/// Must hold: ha-engine.md 18 (SAF1, SAF2, SAF3, SAF12, SAF13, LIV6)
#[test]
fn asynchronous_clusters_have_one_primary_and_become_whole_again() {
    judge(Mode::Async);
}

/// Must hold: ha-engine.md 18 (SAF1, SAF2, SAF7, LIV5, LIV6)
#[test]
fn synchronous_clusters_lose_nothing_that_was_acknowledged() {
    judge(Mode::On);
}

/// Must hold: ha-engine.md 18 (SAF1, SAF2, SAF7, LIV5, LIV6)
#[test]
fn strictly_synchronous_clusters_lose_nothing_that_was_acknowledged() {
    judge(Mode::Strict);
}

/// Must hold: ha-engine.md 18 (SAF1, SAF2, SAF8, LIV5, LIV6)
#[test]
fn clusters_with_quorum_commit_lose_nothing_that_was_acknowledged() {
    judge(Mode::Quorum);
}

#[test]
fn one_seed_is_one_history() {
    for (seed, mode) in [(1, Mode::Async), (2, Mode::On), (3, Mode::Quorum), (4, Mode::Strict)] {
        let scenario = Scenario::random(seed, mode, SPAN);
        let (first, second) = (run(&scenario, true), run(&scenario, true));
        let difference = first.history.iter().zip(&second.history).find(|(one, other)| one != other);
        assert_eq!(difference, None, "seed {seed}, mode {mode}");
        assert_eq!((first.hash, first.took), (second.hash, second.took));
        assert!(first.acknowledged > 0 && first.history.len() > 100, "something happened");
    }
}
