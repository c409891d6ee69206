//! What this node publishes about itself (section 15).

use dcs_core::model::{MemberRecord, Role, ServerState, Tags};
use serde_json::{Map, Value};

use super::memory::{Memory, RewindState};
use super::observation::{Monitor, ServerObservation, TaskKind};
use super::restart::ScheduledRestart;

/// The version of the reference that this product is compatible with. Other agents compare it.
pub const COMPATIBLE_VERSION: &str = "4.1.4";

/// What goes into the member key beside the observation.
#[derive(Clone, Debug)]
pub struct Publication<'a> {
    /// The REST URL of this node.
    pub api_url: &'a str,
    /// How others reach PostgreSQL.
    pub conn_url: &'a str,
    /// How others reach the pooler.
    pub proxy_url: Option<&'a str>,
    /// The tags in force.
    pub tags: &'a Tags,
    /// The kind of the running task.
    pub task: Option<TaskKind>,
    /// Whether the lease is valid now.
    pub leads: bool,
    /// Whether the cluster is in maintenance mode.
    pub paused: bool,
}

/// The record to publish.
pub fn record(server: &ServerObservation, memory: &Memory, about: &Publication<'_>) -> MemberRecord {
    let mut record = MemberRecord {
        conn_url: Some(about.conn_url.to_owned()),
        api_url: Some(about.api_url.to_owned()),
        proxy_url: about.proxy_url.map(str::to_owned),
        state: Some(server.state.as_str().to_owned()),
        role: Some(server.role.as_str().to_owned()),
        version: Some(COMPATIBLE_VERSION.to_owned()),
        checkpoint_after_promote: (about.leads && memory.rewind != RewindState::Checkpoint).then_some(false),
        tags: about.tags.clone(),
        pending_restart: (!server.pending_restart.is_empty()).then(|| server.pending_restart.clone()),
        pause: about.paused,
        scheduled_restart: memory.scheduled_restart.as_ref().map(published_schedule),
        ..MemberRecord::default()
    };
    let undisturbed = matches!(about.task, None | Some(TaskKind::Promote { .. }));
    let has_positions = matches!(server.state, ServerState::Running | ServerState::Restarting | ServerState::Starting);
    if undisturbed && has_positions {
        add_positions(&mut record, server, memory);
    }
    record
}

fn add_positions(record: &mut MemberRecord, server: &ServerObservation, memory: &Memory) {
    match &server.monitor {
        Monitor::Primary(primary) => {
            record.xlog_location = Some(primary.lsn);
            record.timeline = Some(primary.timeline);
        }
        Monitor::Standby(standby) => {
            record.xlog_location = server.monitor.lsn();
            record.receive_lsn = Some(standby.received).filter(|lsn| !lsn.is_zero());
            record.replay_lsn = Some(standby.replayed).filter(|lsn| !lsn.is_zero());
            record.replication_state = standby.replication_state.clone();
            record.timeline = standby
                .received_timeline
                .or_else(|| standby.control_timeline.filter(|_| server.role == Role::StandbyLeader))
                .or_else(|| memory.cached_own_timeline.map(|(_, own)| own));
        }
        Monitor::NotAsked | Monitor::Failed => {}
    }
}

/// A scheduled restart as published in the member key.
pub fn published_schedule(restart: &ScheduledRestart) -> Map<String, Value> {
    let mut published = restart.filters.clone();
    published.insert("schedule".to_owned(), Value::from(restart.at.to_string()));
    let started = restart
        .postmaster_started_at
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or(Value::Null, |time| Value::from(time.to_string()));
    published.insert("postmaster_start_time".to_owned(), started);
    published
}
