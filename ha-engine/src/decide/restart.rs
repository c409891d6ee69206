//! Restarts on request and on schedule (section 11).

use std::time::Duration;

use dcs_core::model::ScheduledTime;
use serde_json::{Map, Value};

use super::action::Task;
use super::cycle::{Cycle, Outcome};
use super::journal::{Record, Rule};
use super::observation::{Postmaster, ServerObservation};
use super::schedule::{Due, due};
use crate::handle::RestartRequest;

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

impl ScheduledRestart {
    /// The conditions as a request. They were checked when the restart was scheduled.
    fn request(&self) -> RestartRequest {
        let filters = &self.filters;
        RestartRequest {
            role: filters.get("role").and_then(Value::as_str).map(str::to_owned),
            postgres_version: filters.get("postgres_version").and_then(Value::as_str).and_then(version_number),
            timeout: filters.get("timeout").and_then(Value::as_u64).map(Duration::from_secs),
            restart_pending: filters.contains_key("restart_pending"),
        }
    }
}

/// A version text as PostgreSQL's number: `15.2` is 150002, `9.5.3` is 90503.
pub fn version_number(text: &str) -> Option<u32> {
    let parts: Vec<u32> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match parts.as_slice() {
        [major, minor] if *major >= 10 => Some(major * 10_000 + minor),
        [first, second] => Some(first * 10_000 + second * 100),
        [first, second, third] if *first < 10 => Some(first * 10_000 + second * 100 + third),
        _ => None,
    }
}

/// Why a restart must not happen now; nothing if it may.
pub(crate) fn refusal(request: &RestartRequest, server: &ServerObservation, server_version: Option<u32>) -> Option<&'static str> {
    if request.role.as_deref().is_some_and(|role| role != server.role.as_str()) {
        return Some("host role mismatch");
    }
    if let (Some(wanted), Some(running)) = (request.postgres_version, server_version)
        && running >= wanted
    {
        return Some("postgres version mismatch");
    }
    if request.restart_pending && server.pending_restart.is_empty() {
        return Some("pending restart flag is not set");
    }
    None
}

/// The scheduled restart, if its time has come. A line if it replaces the cycle's.
pub(super) fn scheduled(c: &mut Cycle<'_>) -> Outcome<Option<String>> {
    let Some(scheduled) = c.memory.scheduled_restart.clone() else {
        return Ok(None);
    };
    if c.paused() || c.task.is_some() {
        return Ok(None);
    }
    let started_at = match c.obs.server.postmaster {
        Postmaster::Running { started_at, .. } => Some(started_at),
        _ => None,
    };
    if let (Some(then), Some(now)) = (scheduled.postmaster_started_at, started_at)
        && then != now
    {
        let line = format!("Cancelling scheduled restart: postgres restart has already happened at {now}");
        c.info(line.clone());
        c.note(Record::new(Rule::RestartDropped, line));
        c.memory.scheduled_restart = None;
        return Ok(None);
    }
    match due(scheduled.at, c.now.wall, c.cfg.loop_wait) {
        Due::Waiting { seconds } => {
            c.info(format!("Awaiting restart at {} (in {seconds} seconds)", scheduled.at));
            Ok(None)
        }
        Due::Soon(wait) => {
            c.wake_at(c.now.moment + wait);
            Ok(None)
        }
        Due::Stale => {
            c.warn(format!("Found a stale restart value, cleaning up: {}", scheduled.at));
            let what = format!("the scheduled restart was to happen at {} and is too old to be meant", scheduled.at);
            c.note(Record::new(Rule::RestartDropped, what));
            c.memory.scheduled_restart = None;
            Ok(None)
        }
        Due::Now => {
            c.info(format!("Manual scheduled restart at {}", scheduled.at));
            c.memory.scheduled_restart = None;
            let request = scheduled.request();
            if let Some(reason) = refusal(&request, &c.obs.server, c.obs.server_version.or(c.obs.server.major_version)) {
                c.info(format!("not proceeding with the restart: {reason}"));
                c.note(Record::new(Rule::RestartRefused, format!("not proceeding with the scheduled restart: {reason}")));
                return Ok(None);
            }
            let timeout = request.timeout.unwrap_or(c.cfg.primary_start_timeout);
            c.memory.recovering = true;
            c.memory.start_timeout = Some(timeout);
            c.task = Some(Task::Restart { timeout });
            Ok(Some(c.noted(Rule::RestartDue, "restart initiated")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::version_number;

    #[test]
    fn version_texts_become_numbers() {
        for (text, number) in [("15.2", Some(150_002)), ("9.5.3", Some(90_503)), ("9.6", Some(90_600)), ("15", None), ("x.y", None)] {
            assert_eq!(version_number(text), number, "{text}");
        }
    }
}
