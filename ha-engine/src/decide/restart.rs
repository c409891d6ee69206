//! Restarts on request and on schedule.

use dcs_core::model::ScheduledTime;
use serde_json::{Map, Value};

/// A restart that waits for its time.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduledRestart {
    /// When.
    pub at: ScheduledTime,
    /// Start time of the postmaster when it was scheduled, seconds since the epoch: a restart in between cancels it.
    pub postmaster_started_at: Option<i64>,
    /// The conditions, as requested: `role`, `postgres_version`, `timeout`, `restart_pending`.
    pub filters: Map<String, Value>,
}
