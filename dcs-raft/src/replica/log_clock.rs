//! The clock of the log: what leases are counted in. It goes while there is a leader, never goes back, and has nothing to
//! do with any wall clock.

use dcs_core::Moment;

/// The leader's part of it. The log remembers the rest: every entry carries the time at which it was taken.
#[derive(Debug, Default)]
pub(super) struct LogClock {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    term: u64,
    /// What the clock showed when this node became the leader: the time of the last entry of its log.
    base_ms: u64,
    since: Moment,
    /// The last time that was given to an entry.
    last_ms: u64,
}

impl LogClock {
    pub(super) fn start(&mut self, term: u64, base_ms: u64, now: Moment) {
        self.running = Some(Running { term, base_ms, since: now, last_ms: base_ms });
    }

    pub(super) fn stop(&mut self) {
        self.running = None;
    }

    pub(super) fn runs_in(&self, term: u64) -> bool {
        self.running.as_ref().is_some_and(|running| running.term == term)
    }

    /// The time for a new entry; nothing if this node does not lead.
    pub(super) fn stamp(&mut self, now: Moment) -> Option<u64> {
        let running = self.running.as_mut()?;
        let passed = u64::try_from((now - running.since).as_millis()).unwrap_or(u64::MAX);
        running.last_ms = running.last_ms.max(running.base_ms.saturating_add(passed));
        Some(running.last_ms)
    }
}
