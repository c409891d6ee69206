//! The result, for people.

use std::fmt::Write;

use crate::measure;
use crate::requests::Rates;
use crate::store;

/// What is compared: its name, how to read it from a result, and the ratio we aim at.
struct Line<M> {
    name: &'static str,
    unit: &'static str,
    value: fn(&M) -> f64,
    aim: Aim,
}

/// A store as the two stores are compared: what it does by itself, and what an idle agent needs with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreResult {
    /// What it does by itself.
    pub(crate) nodes: store::Measured,
    /// Resident memory of an idle agent, in MiB.
    pub(crate) memory: f64,
    /// Processor time of an idle agent, in milliseconds per second.
    pub(crate) processor: f64,
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

const AGENTS: [Line<measure::Measured>; 6] = [
    Line { name: "switchover: no writes for", unit: "ms", value: |m| millis(m.switchover), aim: Aim::RatioAtMost(1.0 / 3.0) },
    Line { name: "postmaster killed: no writes for", unit: "ms", value: |m| millis(m.postmaster), aim: Aim::RatioAtMost(0.25) },
    Line { name: "node died: writes again after its lock expired", unit: "ms", value: |m| millis(m.node), aim: Aim::Below(1000.0) },
    Line { name: "agent, idle: resident memory", unit: "MiB", value: |m| m.memory, aim: Aim::RatioAtMost(0.25) },
    Line { name: "agent, idle: processor", unit: "ms/s", value: |m| m.processor, aim: Aim::Open },
    Line { name: "GET /primary", unit: "req/s", value: |m| m.requests, aim: Aim::RatioAtLeast(20.0) },
];

const STORES: [Line<StoreResult>; 6] = [
    Line { name: "put by one client, median", unit: "ms", value: |m| millis(m.nodes.median), aim: Aim::Open },
    Line { name: "put by one client, 99 of 100", unit: "ms", value: |m| millis(m.nodes.slowest), aim: Aim::Open },
    Line { name: "puts by 16 clients", unit: "/s", value: |m| m.nodes.throughput, aim: Aim::Open },
    Line { name: "leader killed: no puts for", unit: "ms", value: |m| millis(m.nodes.election), aim: Aim::Open },
    Line { name: "our agent with it, idle: resident memory", unit: "MiB", value: |m| m.memory, aim: Aim::Open },
    Line { name: "our agent with it, idle: processor", unit: "ms/s", value: |m| m.processor, aim: Aim::Open },
];

fn millis(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The agents beside each other.
pub(crate) fn agents(ours: &measure::Measured, theirs: &measure::Measured, version: &str) -> String {
    render(&AGENTS, ["Quorate", version], [ours, theirs])
}

/// The stores beside each other.
pub(crate) fn stores(embedded: &StoreResult, etcd: &StoreResult) -> String {
    render(&STORES, ["embedded", "etcd"], [embedded, etcd])
}

/// What idle agents ask of their stores, beside each other. Ours may ask for `allowed` more in a minute and member: the leader looks once in each of its
/// loops whether the lock is really its own.
pub(crate) fn requests(rates: &[Rates], version: &str, allowed: f64) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{:<24} {:>12} {:>14} {:>8}  aim", "requests/min and member", "Quorate", version, "more");
    for Rates { store, ours, theirs } in rates {
        let more = ours - theirs;
        let aim = verdict(more <= allowed, &format!("≤ {allowed:.0} more"));
        let _ = writeln!(out, "{:<24} {ours:>12.1} {theirs:>14.1} {more:>8.1}  {aim}", store.name());
    }
    out
}

/// One line for each thing that was measured, with the ratio of the first to the second and whether it is what we aim at.
fn render<M>(lines: &[Line<M>], names: [&str; 2], measured: [&M; 2]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{:<48} {:>6} {:>12} {:>14} {:>8}  aim", "", "", names[0], names[1], "ratio");
    for line in lines {
        let [first, second] = measured.map(line.value);
        let ratio = first / second;
        let aim = match line.aim {
            Aim::RatioAtMost(limit) => verdict(ratio <= limit, &format!("ratio ≤ {limit:.2}")),
            Aim::RatioAtLeast(limit) => verdict(ratio >= limit, &format!("ratio ≥ {limit:.0}")),
            Aim::Below(limit) => verdict(first < limit, &format!("< {limit:.0} {}", line.unit)),
            Aim::Open => String::new(),
        };
        let text = format!("{:<48} {:>6} {first:>12.1} {second:>14.1} {ratio:>8.3}  {aim}", line.name, line.unit);
        let _ = writeln!(out, "{}", text.trim_end());
    }
    out
}

fn verdict(reached: bool, aim: &str) -> String {
    format!("{aim}: {}", if reached { "reached" } else { "missed" })
}
