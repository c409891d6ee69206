//! What `pg_controldata` prints.

use dcs_core::model::{Lsn, SystemId, Timeline};

use crate::ports::ControlData;

/// Reads the output of `pg_controldata` (in the C locale); nothing if it does not even name the cluster's state. Positions
/// that cannot be read are 0, timelines that cannot be read are absent.
pub(crate) fn parse(text: &str) -> Option<ControlData> {
    let lines: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(label, value)| (label.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let mut data = ControlData {
        lines,
        cluster_state: String::new(),
        checkpoint: Lsn::ZERO,
        checkpoint_timeline: None,
        minimum_recovery_end: Lsn::ZERO,
        minimum_recovery_timeline: None,
        rewindable: false,
    };
    data.cluster_state = data.value("Database cluster state")?.to_owned();
    data.checkpoint = data.lsn("Latest checkpoint location");
    data.checkpoint_timeline = data.timeline("Latest checkpoint's TimeLineID");
    data.minimum_recovery_end = data.lsn("Minimum recovery ending location");
    data.minimum_recovery_timeline = data.timeline("Min recovery ending loc's timeline");
    data.rewindable =
        data.value("wal_log_hints setting") == Some("on") || data.value("Data page checksum version").is_some_and(|version| version != "0");
    Some(data)
}

/// Where a server stands that cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalPosition {
    /// Whether it was a standby.
    pub(crate) in_recovery: bool,
    /// Its timeline.
    pub(crate) timeline: Timeline,
    /// The minimum recovery end of a standby, the latest checkpoint of a former primary.
    pub(crate) lsn: Lsn,
}

impl ControlData {
    /// The value behind `label`. Some majors write `Current ` before some labels.
    pub(crate) fn value(&self, label: &str) -> Option<&str> {
        let found = self.lines.iter().find(|(found, _)| found.strip_prefix("Current ").unwrap_or(found) == label);
        found.map(|(_, value)| value.as_str())
    }

    /// `Database system identifier`.
    pub(crate) fn system_id(&self) -> Option<SystemId> {
        SystemId::parse(self.value("Database system identifier")?)
    }

    /// Whether a primary was shut down cleanly.
    pub(crate) fn is_shut_down(&self) -> bool {
        self.cluster_state == "shut down"
    }

    /// Where the stopped server stands, for the divergence check; nothing if it was a primary that did not stop cleanly.
    pub(crate) fn local_position(&self) -> Option<LocalPosition> {
        let standby = matches!(self.cluster_state.as_str(), "shut down in recovery" | "in archive recovery");
        if standby
            && !self.minimum_recovery_end.is_zero()
            && let Some(timeline) = self.minimum_recovery_timeline
        {
            return Some(LocalPosition { in_recovery: true, timeline, lsn: self.minimum_recovery_end });
        }
        // A standby without a minimum recovery end was a primary when it went down.
        let timeline = self.checkpoint_timeline?;
        let known = (standby || self.is_shut_down()) && !self.checkpoint.is_zero();
        known.then_some(LocalPosition { in_recovery: false, timeline, lsn: self.checkpoint })
    }

    fn lsn(&self, label: &str) -> Lsn {
        self.value(label).and_then(|text| text.parse().ok()).unwrap_or(Lsn::ZERO)
    }

    fn timeline(&self, label: &str) -> Option<Timeline> {
        Timeline::known(self.value(label)?.parse().ok()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHUT_DOWN: &str = "\
pg_control version number:            1300
Catalog version number:               202209061
Database system identifier:           7391234567890123456
Database cluster state:               shut down
pg_control last modified:             Sat 01 Aug 2026 10:00:00 AM UTC
Latest checkpoint location:           0/3000028
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's REDO WAL file:    000000020000000000000003
Latest checkpoint's TimeLineID:       2
Minimum recovery ending location:     0/0
Min recovery ending loc's timeline:   0
wal_level setting:                    replica
wal_log_hints setting:                on
max_connections setting:              100
Data page checksum version:           0
";

    fn with(label: &str, value: &str) -> ControlData {
        let lines = SHUT_DOWN.lines().map(|line| match line.strip_prefix(label) {
            Some(_) => format!("{label}: {value}\n"),
            None => format!("{line}\n"),
        });
        parse(&lines.collect::<String>()).expect("it has a state")
    }

    #[test]
    fn a_cleanly_stopped_primary_is_read() {
        let data = parse(SHUT_DOWN).expect("it has a state");
        assert_eq!(data.cluster_state, "shut down");
        assert!(data.is_shut_down() && data.rewindable);
        assert_eq!(data.checkpoint, Lsn(0x300_0028));
        assert_eq!(data.checkpoint_timeline, Some(Timeline(2)));
        assert_eq!((data.minimum_recovery_end, data.minimum_recovery_timeline), (Lsn::ZERO, None));
        assert_eq!(data.system_id().map(|id| id.to_string()).as_deref(), Some("7391234567890123456"));
        assert_eq!(data.value("Latest checkpoint's REDO WAL file"), Some("000000020000000000000003"));
        assert_eq!(data.lines.len(), 15);
        assert_eq!(data.value("pg_control last modified"), Some("Sat 01 Aug 2026 10:00:00 AM UTC"));
        let position = LocalPosition { in_recovery: false, timeline: Timeline(2), lsn: Lsn(0x300_0028) };
        assert_eq!(data.local_position(), Some(position));
    }

    #[test]
    fn labels_of_some_majors_begin_with_current() {
        let data = parse("Database cluster state: x\nCurrent max_connections setting: 200\n").expect("it has a state");
        assert_eq!(data.value("max_connections setting"), Some("200"));
    }

    #[test]
    fn checksums_or_hints_make_data_rewindable() {
        assert!(with("Data page checksum version", "1").rewindable);
        assert!(with("wal_log_hints setting", "on").rewindable);
        assert!(!with("wal_log_hints setting", "off").rewindable);
    }

    #[test]
    fn a_standby_stands_at_its_minimum_recovery_end() {
        let text = SHUT_DOWN
            .replace("shut down", "shut down in recovery")
            .replace("0/0\n", "0/5000060\n")
            .replace("timeline:   0", "timeline:   3");
        let position = LocalPosition { in_recovery: true, timeline: Timeline(3), lsn: Lsn(0x500_0060) };
        assert_eq!(parse(&text).and_then(|data| data.local_position()), Some(position));
    }

    #[test]
    fn a_standby_without_minimum_recovery_end_was_a_primary() {
        let position = with("Database cluster state", "in archive recovery").local_position();
        assert_eq!(position.map(|position| (position.in_recovery, position.lsn)), Some((false, Lsn(0x300_0028))));
    }

    #[test]
    fn a_crashed_primary_stands_nowhere() {
        assert_eq!(with("Database cluster state", "in production").local_position(), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in any::<String>(), state in "[a-z ]*", value in any::<String>()) {
            let _ = parse(&text);
            let labelled = ["Latest checkpoint location", "Latest checkpoint's TimeLineID",
                "Minimum recovery ending location", "Min recovery ending loc's timeline", "Database system identifier"];
            let lines: String = labelled.iter().map(|label| format!("{label}: {value}\n")).collect();
            if let Some(data) = parse(&format!("Database cluster state: {state}\n{lines}")) {
                let _ = (data.local_position(), data.system_id());
            }
        }
    }
}
