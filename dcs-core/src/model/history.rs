//! The timelines that the cluster has left behind.

use serde_json::Value;

use super::{Lsn, Revision, Timeline};

/// One timeline that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryLine {
    /// The timeline that ended.
    pub timeline: u32,
    /// Where it ended.
    pub lsn: Lsn,
    /// PostgreSQL's reason.
    pub reason: String,
    /// When, ISO 8601; absent in entries of old agents.
    pub timestamp: Option<String>,
    /// Who led afterwards; absent in entries of old agents.
    pub new_leader: Option<String>,
}

/// The `history` key.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// Revision of the key.
    pub revision: Revision,
    /// The readable entries, oldest first; empty if the value is damaged.
    pub lines: Vec<HistoryLine>,
    /// The value as stored, for `GET /history`; null if it is not JSON.
    pub raw: Value,
}

impl History {
    /// The timeline that the cluster should be on: the last entry's successor, 1 for an empty list, nothing if the value
    /// is damaged.
    pub fn cluster_timeline(&self) -> Option<Timeline> {
        match self.lines.last() {
            Some(line) => line.timeline.checked_add(1).map(Timeline),
            None => matches!(&self.raw, Value::Array(entries) if entries.is_empty()).then_some(Timeline(1)),
        }
    }
}
