//! What is known about this node at the moment of a request, put together from three sources.
//!
//! ```text
//!   Snapshot      (the engine: view, lease, settings)   ─┐
//!   LocalState    (PostgreSQL port: state and role)     ─┼─► Facts ──► status codes, JSON, metrics
//!   StatusReport  (PostgreSQL port: what the server said)┘
//! ```
//!
//! `Facts` are plain values; whether this node is the leader is no such value, because a lease ends by itself: it is
//! judged when the answer is given.

use dcs_core::model::{Lsn, Role, ServerState};
use ha_engine::Snapshot;
use ha_engine::decide::observation::{Monitor, StandbyMonitor};
use ha_engine::ports::{LocalState, ServerStatus, StatusReport};
use ha_engine::settings::SyncMode;

/// How this node is listed in the synchronous state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncDuty {
    /// Commits wait for it.
    Sync,
    /// Commits wait for a number of nodes, of which it is one.
    Quorum,
}

/// What answers are made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// What PostgreSQL is doing; nothing if it should be running and cannot be asked.
    pub state: Option<ServerState>,
    /// What the node is: by what the server said, otherwise by what was known last.
    pub role: Role,
    /// Maintenance mode, by the last known configuration.
    pub paused: bool,
    /// Whether this is a standby cluster.
    pub standby_cluster: bool,
    /// Whether the view of the cluster can still be used.
    pub has_view: bool,
    /// Whether nobody is known to hold the leader lock.
    pub unlocked: bool,
    /// Whether commits wait for this replica.
    pub duty: Option<SyncDuty>,
    /// How far the leader is known to be; 0 if that is unknown.
    pub leader_position: Lsn,
    /// What the WAL receiver was told last about the end of the leader's WAL.
    pub latest_end: Lsn,
    /// What has been replayed; 0 if unknown, or not a standby.
    pub replayed: Lsn,
    /// What has been received; 0 if unknown, or not a standby.
    pub received: Lsn,
    /// Whether the standby streams.
    pub streaming: bool,
    /// Whether failsafe mode is active here.
    pub failsafe: bool,
}

/// Whether the server may be asked in this state at all.
pub fn may_be_asked(state: ServerState) -> bool {
    matches!(state, ServerState::Running | ServerState::Restarting | ServerState::Starting)
}

/// The standby's side of what a server said.
pub fn standby(server: &ServerStatus) -> Option<&StandbyMonitor> {
    match &server.monitor {
        Monitor::Standby(standby) => Some(standby),
        Monitor::Primary(_) | Monitor::NotAsked | Monitor::Failed => None,
    }
}

/// The position that a standby shows as received: what it replayed, if it never received anything.
pub fn received(standby: &StandbyMonitor) -> Lsn {
    if standby.received.is_zero() { standby.replayed } else { standby.received }
}

impl Facts {
    /// Puts the facts together. `view_is_fresh` says whether the snapshot's view can still be used, `failsafe` whether failsafe
    /// mode is active here.
    pub fn gather(
        snapshot: &Snapshot,
        me: &dcs_core::model::MemberName,
        local: &LocalState,
        report: Option<&StatusReport>,
        view_is_fresh: bool,
        failsafe: bool,
    ) -> Self {
        let global = &snapshot.settings.global;
        let view = snapshot.view.as_deref().filter(|_| view_is_fresh);
        let server = report.and_then(|report| report.server.as_ref()).filter(|_| may_be_asked(local.state));
        let standby_cluster = global.standby_cluster.is_some();
        let role = match server.map(|server| &server.monitor) {
            Some(Monitor::Primary(_)) => Role::Primary,
            Some(Monitor::Standby(_)) if standby_cluster => local.role,
            Some(Monitor::Standby(_)) => Role::Replica,
            Some(Monitor::NotAsked | Monitor::Failed) | None => local.role,
        };
        let listed = role == Role::Replica && view.is_some_and(|view| view.sync.lists(me));
        let duty = match global.synchronous_mode {
            SyncMode::On if listed => Some(SyncDuty::Sync),
            SyncMode::Quorum if listed => Some(SyncDuty::Quorum),
            SyncMode::Off | SyncMode::On | SyncMode::Quorum => None,
        };
        let latest_end = server.and_then(|server| server.latest_end_lsn).unwrap_or_default();
        let published = view.map_or(Lsn::ZERO, |view| view.status.last_lsn);
        let monitor = server.and_then(standby);
        Self {
            state: Some(local.state).filter(|state| *state != ServerState::Running || server.is_some()),
            role,
            paused: global.pause,
            standby_cluster,
            has_view: view.is_some(),
            unlocked: view.is_none_or(dcs_core::model::ClusterView::is_unlocked),
            duty,
            leader_position: published.max(latest_end),
            latest_end,
            replayed: monitor.map_or(Lsn::ZERO, |standby| standby.replayed),
            received: monitor.map_or(Lsn::ZERO, received),
            streaming: monitor.is_some_and(|standby| standby.replication_state.as_deref() == Some("streaming")),
            failsafe,
        }
    }

    /// Whether PostgreSQL runs and could be asked.
    pub fn is_running(&self) -> bool {
        self.state == Some(ServerState::Running)
    }
}
