//! The result, for people.

use std::fmt::Write;

use crate::measure::Measured;

/// What is compared: its name, how to read it from a result, and the ratio we aim at.
struct Line {
    name: &'static str,
    unit: &'static str,
    value: fn(&Measured) -> f64,
    aim: Aim,
}

#[derive(Clone, Copy)]
enum Aim {
    /// Ours over theirs is at most this.
    RatioAtMost(f64),
    /// Ours over theirs is at least this.
    RatioAtLeast(f64),
    /// Ours is below this, whatever theirs is.
    Below(f64),
    /// None was set.
    Open,
}

const LINES: [Line; 6] = [
    Line { name: "switchover: no writes for", unit: "ms", value: |m| millis(m.switchover), aim: Aim::RatioAtMost(1.0 / 3.0) },
    Line { name: "postmaster killed: no writes for", unit: "ms", value: |m| millis(m.postmaster), aim: Aim::RatioAtMost(0.25) },
    Line { name: "node died: writes again after its lock expired", unit: "ms", value: |m| millis(m.node), aim: Aim::Below(1000.0) },
    Line { name: "agent, idle: resident memory", unit: "MiB", value: |m| m.memory, aim: Aim::RatioAtMost(0.25) },
    Line { name: "agent, idle: processor", unit: "ms/s", value: |m| m.processor, aim: Aim::Open },
    Line { name: "GET /primary", unit: "req/s", value: |m| m.requests, aim: Aim::RatioAtLeast(20.0) },
];

fn millis(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// One line for each thing that was measured, with the ratio of ours to theirs and whether it is what we aim at.
pub(crate) fn render(ours: &Measured, theirs: &Measured, version: &str) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{:<48} {:>6} {:>12} {:>14} {:>8}  aim", "", "", "Quorate", version, "ratio");
    for line in LINES {
        let (our, their) = ((line.value)(ours), (line.value)(theirs));
        let ratio = our / their;
        let aim = match line.aim {
            Aim::RatioAtMost(limit) => verdict(ratio <= limit, &format!("ratio ≤ {limit:.2}")),
            Aim::RatioAtLeast(limit) => verdict(ratio >= limit, &format!("ratio ≥ {limit:.0}")),
            Aim::Below(limit) => verdict(our < limit, &format!("< {limit:.0} {}", line.unit)),
            Aim::Open => String::new(),
        };
        let _ = writeln!(out, "{:<48} {:>6} {:>12.1} {:>14.1} {:>8.3}  {aim}", line.name, line.unit, our, their, ratio);
    }
    out
}

fn verdict(reached: bool, aim: &str) -> String {
    format!("{aim}: {}", if reached { "reached" } else { "missed" })
}
