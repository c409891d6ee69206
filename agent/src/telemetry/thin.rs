//! Thinning of routine lines: a quiet cycle is one line, not two.

use super::names;
use super::record::Record;
use crate::config::LogLevel;

/// Holds back what a quiet cycle would say twice.
#[derive(Debug, Default)]
pub(super) struct Thinner {
    /// `Lock owner: …`, until it is known whether the cycle was quiet.
    held: Option<Record>,
    last_routine: Option<String>,
}

impl Thinner {
    /// The records to print for `record`, in order. Everything, unless the level is exactly INFO.
    pub(super) fn pass(&mut self, record: Record, level: LogLevel, deduplicate: bool) -> Vec<Record> {
        if level != LogLevel::Info {
            return vec![record];
        }
        if record.message.starts_with("Lock owner: ") {
            self.held = Some(record);
            return Vec::new();
        }
        if !names::is_engine(&record.name) {
            return vec![record];
        }
        let Some(held) = self.held.take() else { return vec![record] };
        if record.message.starts_with("no action. ") || record.message.starts_with("PAUSE: no action") {
            let repeated = deduplicate && self.last_routine.as_ref() == Some(&record.message);
            self.last_routine = Some(record.message.clone());
            return if repeated { Vec::new() } else { vec![record] };
        }
        self.last_routine = None;
        vec![held, record]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(message: &str) -> Record {
        let mut record = Record::own(LogLevel::Info, message.to_owned());
        record.name = "patroni.ha".to_owned();
        record
    }

    fn printed(messages: &[Record], level: LogLevel, deduplicate: bool) -> Vec<String> {
        let mut thinner = Thinner::default();
        let pass = |record: &Record| thinner.pass(record.clone(), level, deduplicate);
        messages.iter().flat_map(pass).map(|record| record.message).collect()
    }

    const OWNER: &str = "Lock owner: n1; I am n1";
    const ROUTINE: &str = "no action. I am (n1), the leader with the lock";

    #[test]
    fn a_quiet_cycle_is_one_line() {
        let cycle = [engine(OWNER), engine(ROUTINE), engine(OWNER), engine(ROUTINE)];
        assert_eq!(printed(&cycle, LogLevel::Info, false), [ROUTINE, ROUTINE]);
        assert_eq!(printed(&cycle, LogLevel::Info, true), [ROUTINE]);
    }

    #[test]
    fn the_owner_is_printed_when_something_happens() {
        let cycle = [engine(OWNER), engine("promoted self"), engine(OWNER), engine(ROUTINE)];
        assert_eq!(printed(&cycle, LogLevel::Info, true), [OWNER, "promoted self", ROUTINE]);
    }

    #[test]
    fn other_components_do_not_break_a_quiet_cycle() {
        let mut other = engine("GET /health");
        other.name = "patroni.api".to_owned();
        let cycle = [engine(OWNER), other, engine("PAUSE: no action. I am (n1)")];
        assert_eq!(printed(&cycle, LogLevel::Info, false), ["GET /health", "PAUSE: no action. I am (n1)"]);
    }

    #[test]
    fn nothing_is_held_back_at_other_levels() {
        let cycle = [engine(OWNER), engine(ROUTINE)];
        assert_eq!(printed(&cycle, LogLevel::Debug, true), [OWNER, ROUTINE]);
    }

    #[test]
    fn another_line_lets_the_next_routine_line_through() {
        let cycle = [engine(OWNER), engine(ROUTINE), engine(OWNER), engine("x"), engine(OWNER), engine(ROUTINE)];
        assert_eq!(printed(&cycle, LogLevel::Info, true), [ROUTINE, OWNER, "x", ROUTINE]);
    }
}
