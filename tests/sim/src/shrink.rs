//! From a failing schedule to the faults that matter.

use crate::run::{Outcome, run};
use crate::scenario::Scenario;

/// Leaves out faults for as long as the scenario still fails. The smallest one found, and what came of it.
pub fn shrink(scenario: &Scenario) -> (Scenario, Outcome) {
    let mut best = scenario.clone();
    let mut size = best.faults.len().div_ceil(2).max(1);
    loop {
        let mut from = 0;
        let mut smaller = false;
        while from < best.faults.len() {
            let mut candidate = best.clone();
            candidate.faults.drain(from..(from + size).min(candidate.faults.len()));
            if run(&candidate, false).violations.is_empty() {
                from += size;
            } else {
                best = candidate;
                smaller = true;
            }
        }
        if size == 1 && !smaller {
            break;
        }
        size = (size / 2).max(1);
    }
    let outcome = run(&best, true);
    (best, outcome)
}
