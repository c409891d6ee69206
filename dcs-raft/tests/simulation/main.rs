//! Whole clusters in one thread and in virtual time: seeded faults, and a check of everything that clients were told.
//!
//! One seed is one history. `QUORATE_SEED=17 cargo test -p dcs-raft --test simulation -- --nocapture` tells that of seed 17
//! again, and `QUORATE_SEEDS=100000` runs more of them.

mod campaign;
mod clients;
mod linearizable;
mod network;
mod world;

use world::{Report, World};

/// How many histories are told without being asked for more, over all tests of this file.
const SEEDS: u64 = 10_000;

/// Tests that share the seeds: the test runner runs them beside each other.
const PARTS: u64 = 4;

fn run(part: u64) {
    if let Some(seed) = number("QUORATE_SEED") {
        if part == 0 {
            let report = World::new(seed).run();
            println!("seed {seed}: {report:?}");
        }
        return;
    }
    let seeds = number("QUORATE_SEEDS").unwrap_or(SEEDS);
    let mut total = Report::default();
    for seed in (part..seeds).step_by(usize::try_from(PARTS).expect("a small number")) {
        let told = std::panic::catch_unwind(|| World::new(seed).run());
        match told {
            Ok(report) => total.add(&report),
            Err(_) => panic!("seed {seed} failed; QUORATE_SEED={seed} tells its history again"),
        }
    }
    println!("{total:?}");
    assert!(total.operations > 0 && total.crashes > 0 && total.leaders > total.histories, "the histories are full of events");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[test]
fn faults_leave_no_trace_in_what_clients_see_part_1() {
    run(0);
}

#[test]
fn faults_leave_no_trace_in_what_clients_see_part_2() {
    run(1);
}

#[test]
fn faults_leave_no_trace_in_what_clients_see_part_3() {
    run(2);
}

#[test]
fn faults_leave_no_trace_in_what_clients_see_part_4() {
    run(3);
}

#[test]
fn the_same_seed_tells_the_same_history() {
    for seed in 0..20 {
        let (one, other) = (World::new(seed).run(), World::new(seed).run());
        assert_eq!(one, other, "seed {seed}");
    }
}

#[test]
fn nodes_that_forget_their_votes_are_found_out() {
    let found_out = (0..2_000).any(|seed| std::panic::catch_unwind(|| World::forgetful(seed).run()).is_err());
    assert!(found_out, "the checks find nothing");
}
