//! What survives between cycles. Never changed in place: a decision carries the next one.

use std::collections::BTreeMap;
use std::sync::Arc;

use dcs_core::model::{ClusterView, Lsn, MemberName, SystemId, Timeline};
use dcs_core::{LeaderLease, Moment};

use super::failsafe::FailsafeMemory;
use super::reconnect::UpstreamSeen;
use super::repeat::Repeat;
use super::restart::ScheduledRestart;
use super::slots::SlotMemory;
use super::sync::SyncMemory;

/// What the engine remembers.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The last view that had a leader, or the first one ever. The race polls its members too, so that a wiped or expired
    /// members directory does not elect the first node that looks.
    pub last_locked_view: Option<Arc<ClusterView>>,
    /// Until when this node may believe to be the leader.
    pub lease: Option<LeaderLease>,
    /// Whether the last cycle was paused.
    pub was_paused: bool,
    /// The timeline that the leader published.
    pub leader_timeline: Option<Timeline>,
    /// The last timeline this node saw on itself as a standby.
    pub own_last_timeline: Option<Timeline>,
    /// The own timeline by the replication protocol, and the leader timeline it was read for.
    pub cached_own_timeline: Option<(Option<Timeline>, Timeline)>,
    /// The last own position.
    pub last_wal_lsn: Option<Lsn>,
    /// A start or restart was launched; the next idle cycle judges its result.
    pub recovering: bool,
    /// The critical part of a task (`pre_promote`, `post_bootstrap`).
    pub critical: Critical,
    /// A bootstrap is in progress here.
    pub bootstrapping: bool,
    /// When single-user recovery was begun since the last good start.
    pub crash_recovery_started: Option<Moment>,
    /// Overrides `primary_start_timeout` during a requested restart.
    pub start_timeout: Option<std::time::Duration>,
    /// What is known about divergence.
    pub rewind: RewindState,
    /// When a failed `pre_promote` made this node release the lock.
    pub released_lock_at: Option<Moment>,
    /// While nobody leads: this node is behind a newer timeline, and its bare position would keep somebody on that one from
    /// promoting who compares nothing else (hardening rule X2).
    pub misleads_by_position: bool,
    /// A restart that waits for its time.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// The system identifier that `initialize` was seen to have.
    pub known_system_id: Option<SystemId>,
    /// Whether the agent has managed this PostgreSQL before (a slot or standby check has run since agent start).
    pub managed: bool,
    /// When each retained slot was last seen for a present member.
    pub retain_slots_seen: BTreeMap<String, Moment>,
    /// What is known about the slots of this node.
    pub slots: SlotMemory,
    /// What was seen of the member that this standby streams from.
    pub upstream: Option<UpstreamSeen>,
    /// The members that wait for consistency, and when a record is written for them again.
    pub helped_members: BTreeMap<MemberName, Repeat>,
    /// Failsafe mode.
    pub failsafe: FailsafeMemory,
    /// What this node, as the primary, knows about synchronous replication.
    pub sync: SyncMemory,
}

/// The critical part of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Critical {
    /// No such part.
    #[default]
    Idle,
    /// It runs.
    Pending,
    /// It ended; whether it succeeded.
    Done(bool),
}

/// What is known about divergence from the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RewindState {
    /// Nothing.
    #[default]
    Initial,
    /// On a primary: the control file shows the promoted timeline; others may rewind from here.
    Checkpoint,
    /// Must compare with the leader.
    Check,
    /// Diverged.
    Need,
    /// Same history.
    NotNeed,
    /// A rewind was executed successfully.
    Success,
    /// A rewind was executed and failed.
    Failed,
}

impl RewindState {
    /// Whether a rewind has been executed, successfully or not.
    pub const fn is_executed(self) -> bool {
        matches!(self, Self::Success | Self::Failed)
    }

    /// Whether the comparison is still to be made or has said that a rewind is needed.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Check | Self::Need)
    }
}
