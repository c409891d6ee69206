//! What a decision may ask and order.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::model::{ClusterView, FailoverRequest, Lsn, MemberName, Revision, Role, ServerState, Status, SyncRecord, SystemId};
use dcs_core::{Acquisition, InitializeWrite, Moment, Renewal};

use super::failsafe::exclusion::Promise;
use super::failsafe::{Appeal, Extension};
use super::journal::Record;
use super::memory::Memory;
use super::observation::{PeerAnswer, PeerTarget, StoreFailed, Upstream};
use super::slots::{LogicalSlot, LogicalWork, SlotPlan};
use super::sync::sample::SyncSample;
use super::sync::watch::SyncWatch;
use crate::ports::{CallbackEvent, CloneSource, ControlData, DivergenceFacts, FollowPlan, RecoveryDiff};

/// One run of `decide`.
#[derive(Clone, Debug)]
pub enum Step {
    /// Something is needed first. All of them may be answered at once.
    Ask(Vec<Ask>),
    /// What to do.
    Done(Box<Decision>),
}

/// What to do, and what to remember.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The next memory.
    pub memory: Memory,
    /// Effects, in the order in which they are carried out.
    pub effects: Vec<Effect>,
    /// A long task to start, after the effects.
    pub task: Option<Task>,
    /// The line of this cycle, in the words that operators know.
    pub message: String,
    /// Something that must be looked at before the period is over.
    pub wake_at: Option<Moment>,
    /// Whether a change of any member's key should end the sleep: something waits for a member to say it.
    pub watch_members: bool,
    /// In synchronous mode, on the primary that leads: what to look out for among the standbys until the next cycle.
    pub sync_watch: Option<SyncWatch>,
    /// Why, rule by rule.
    pub journal: Vec<Record>,
}

/// Which of several loads within one cycle is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reload {
    /// After the lock was taken.
    AfterAcquisition,
    /// Before following somebody else.
    BeforeFollowing,
    /// Before starting a server that does not run.
    BeforeStarting,
}

/// A question that a decision cannot go on without.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Renew the lock that the view says is mine.
    RenewLock,
    /// Create the lock, if nobody holds it.
    AcquireLock,
    /// Take the lock without a condition (end of a bootstrap).
    TakeLock,
    /// Load the view again.
    Load(Reload),
    /// Create `initialize`, empty, if it does not exist.
    ClaimBootstrap,
    /// Ask members for their state.
    Poll(Vec<PeerTarget>),
    /// Ask all other members for their word that they do not race, because the store is lost.
    Word(Appeal),
    /// Read the control file.
    ControlData,
    /// Compare histories with this node.
    Divergence(Upstream),
    /// What would have to change to follow this plan.
    RecoveryDiff(FollowPlan),
    /// Write the failover key; conditional if a revision is given.
    WriteFailover(FailoverRequest, Option<Revision>),
    /// Make `/sync` empty (a stale one, before promoting without synchronous mode).
    DeleteSync(Option<Revision>),
    /// Write `/sync`, conditional on this revision.
    WriteSync(SyncRecord, Option<Revision>),
    /// Set `synchronous_standby_names`, and look at the server once every process of it has read that.
    SetSynchronousNames {
        /// Which change of this cycle it is: the same text may come twice.
        step: u32,
        /// The text.
        text: String,
    },
    /// Wait, at most this long, for somebody to take the lock.
    WaitForLock(Duration),
    /// Arm the watchdog.
    ActivateWatchdog,
    /// The timeline of the local server by the replication protocol.
    OwnTimeline,
    /// The local history file of the current timeline.
    HistoryFile(dcs_core::model::Timeline),
}

/// The answer to an [`Ask`], of the same kind.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To [`Ask::RenewLock`].
    Renewal(Result<Renewal, StoreFailed>),
    /// To [`Ask::AcquireLock`] and [`Ask::TakeLock`].
    Acquisition(Result<Acquisition, StoreFailed>),
    /// To [`Ask::AcquireLock`] and [`Ask::TakeLock`]: nothing was sent, because this node has given its word meanwhile.
    Promised(Promise),
    /// To [`Ask::Load`].
    View(Result<Arc<ClusterView>, StoreFailed>),
    /// To [`Ask::ClaimBootstrap`], [`Ask::WriteFailover`] and [`Ask::DeleteSync`]: whether it was written. A store error
    /// counts as "no": the next cycle tries again.
    Written(bool),
    /// To [`Ask::WriteSync`]: the new revision; nothing if it was not written, or nobody knows.
    SyncWritten(Option<Revision>),
    /// To [`Ask::SetSynchronousNames`].
    NamesSet {
        /// Whether the server has the text now.
        done: bool,
        /// What a primary showed afterwards.
        sample: Option<SyncSample>,
    },
    /// To [`Ask::Poll`], in order of arrival.
    Peers(Vec<(MemberName, PeerAnswer)>),
    /// To [`Ask::Word`]; nothing unless everybody has given it, in time.
    Word(Option<Extension>),
    /// To [`Ask::ControlData`]; nothing if it could not be read.
    ControlData(Option<ControlData>),
    /// To [`Ask::Divergence`]; nothing if it was inconclusive.
    Divergence(Option<DivergenceFacts>),
    /// To [`Ask::RecoveryDiff`].
    RecoveryDiff(RecoveryDiff),
    /// To [`Ask::WaitForLock`].
    Waited,
    /// To [`Ask::ActivateWatchdog`]: whether it is armed, or this node may lead without.
    WatchdogActivated(bool),
    /// To [`Ask::OwnTimeline`].
    OwnTimeline(Option<dcs_core::model::Timeline>),
    /// To [`Ask::HistoryFile`]: its lines and when it was written.
    HistoryFile(Option<(Vec<dcs_core::model::HistoryLine>, String)>),
}

/// Every answer given so far in this cycle.
#[derive(Clone, Debug, Default)]
pub struct Answers(Vec<(Ask, Answer)>);

impl Answers {
    /// Adds an answer.
    pub fn add(&mut self, ask: Ask, answer: Answer) {
        self.0.push((ask, answer));
    }

    /// The answer to `ask`, if it was given.
    pub fn get(&self, ask: &Ask) -> Option<&Answer> {
        self.0.iter().find(|(asked, _)| asked == ask).map(|(_, answer)| answer)
    }
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// For tracing a decision.
    Debug,
    /// Of general interest.
    Info,
    /// Somebody may want to look.
    Warning,
    /// Somebody should look.
    Error,
}

/// How a primary becomes a standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemoteKind {
    /// The store is lost: fast stop, the lock is left to expire, restart following nobody.
    Offline,
    /// A request: checkpoint, fast stop, release the lock as soon as a candidate has everything, restart following the new
    /// leader.
    Graceful,
    /// Not fit to be primary: immediate stop, release the lock, restart as standby.
    Immediate,
    /// The lock is lost: immediate stop, restart as standby.
    ImmediateNoLock,
}

impl DemoteKind {
    /// The word in the log line `Demoting self (<kind>)`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Graceful => "graceful",
            Self::Immediate => "immediate",
            Self::ImmediateNoLock => "immediate-nolock",
        }
    }
}

/// Why the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitReason {
    /// What is said.
    pub message: String,
    /// Whether PostgreSQL is left alone (a refused join, a foreign data directory).
    pub leave_postgres: bool,
}

/// Something to do at once. Small, or bounded by the cycle's budget.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Say something.
    Log(Severity, String),
    /// Take over a role.
    SetRole(Role),
    /// Take over a state.
    SetState(ServerState),
    /// Publish the member key.
    TouchMember,
    /// Stop the server immediately, within `retry_timeout`.
    StopImmediately,
    /// Demote in the foreground. The start as standby follows as a task `starting after demotion`, except for
    /// [`DemoteKind::Offline`], which starts in the foreground too.
    Demote(DemoteKind),
    /// Cancel the running task and wait for its end.
    CancelTask,
    /// Release the lock, with the final position if it is known.
    ReleaseLock(Option<Lsn>),
    /// Write `initialize`.
    WriteInitialize(InitializeWrite, SystemId),
    /// Delete `initialize` after a failed bootstrap.
    CancelInitialize,
    /// Write the dynamic configuration in force to `/config`.
    WriteConfig,
    /// Write `status` (directly after a renewal).
    WriteStatus(Status),
    /// Write the map of members for failsafe mode (directly after a renewal), if it differs.
    WriteFailsafe(serde_json::Map<String, serde_json::Value>),
    /// Write the timeline history.
    WriteHistory(serde_json::Value),
    /// Call the operator's command.
    Call(CallbackEvent),
    /// Resume paused replay.
    ResumeReplay,
    /// Write recovery settings and reload.
    FollowByReload(FollowPlan),
    /// Carry out a slot plan.
    MaintainSlots(SlotPlan),
    /// Work on logical slots beside the loop; what comes of it is in the next observation.
    TendLogicalSlots(LogicalWork),
    /// Force `hot_standby_feedback` on, or leave it to the configuration again.
    EnforceFeedback(bool),
    /// Run a CHECKPOINT beside the loop after a promotion and wake it when done.
    CheckpointAfterPromotion,
    /// Write a small WAL record beside the loop: a member may be waiting for one to become consistent.
    WriteWalRecord,
    /// Synchronous mode is off: the configured `synchronous_standby_names` come into force.
    UseConfiguredNames,
    /// Make a starting or waiting standby look again at once.
    Nudge,
    /// Rename the data directory to `….failed`.
    MoveDataDirectoryAside,
    /// Remove the data directory: a setting says so after a failed rewind.
    RemoveDataDirectory,
    /// Stop the watchdog: there is nothing that a reset of the machine would end.
    DisableWatchdog,
    /// End the process.
    Exit(ExitReason),
}

/// A long task, beside the loop.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Make a new cluster.
    Bootstrap,
    /// Make the first node of a standby cluster: copy the remote member, then follow it.
    BootstrapStandbyLeader {
        /// Where from.
        source: CloneSource,
        /// What to follow afterwards.
        follow: FollowPlan,
    },
    /// What follows when the new cluster is a primary.
    PostBootstrap,
    /// Copy another node, then follow `follow`.
    Clone {
        /// The task's name: `bootstrap from leader '<x>'` and so on.
        name: String,
        /// Where from.
        source: CloneSource,
        /// What to follow afterwards.
        follow: FollowPlan,
    },
    /// Copy another node over an existing data directory: `reinitialize`, or `reinitializing due to diverged timelines`.
    Reinitialize {
        /// The task's name.
        name: String,
        /// Where from.
        source: CloneSource,
        /// What to follow afterwards.
        follow: FollowPlan,
    },
    /// `starting primary after failure`.
    StartPrimaryAfterFailure {
        /// How long it may take; none: as long as it takes.
        timeout: Option<Duration>,
    },
    /// `doing crash recovery in a single user mode`.
    CrashRecovery,
    /// `running pg_rewind from <x>`.
    Rewind {
        /// The source.
        source: Upstream,
        /// Whether the source has finished its checkpoint after promotion.
        checkpointed: bool,
    },
    /// Start or restart as a standby: `restarting after failure`, `starting after demotion`,
    /// `changing primary_conninfo and restarting`.
    Follow {
        /// The task's name.
        name: &'static str,
        /// What to follow.
        plan: FollowPlan,
    },
    /// `promote`.
    Promote,
    /// `restart`.
    Restart {
        /// How long the start may take.
        timeout: Duration,
    },
    /// `switchover: demote`, `manual failover: demote`.
    Demote {
        /// The task's name.
        name: String,
        /// The request that is carried out.
        request: FailoverRequest,
    },
    /// `copy_logical_slots`: logical slots of the leader, onto this standby, with one restart.
    CopyLogicalSlots {
        /// The leader.
        leader: Upstream,
        /// The slots.
        slots: Vec<LogicalSlot>,
    },
    /// `demoting to a standby cluster`.
    DemoteCluster {
        /// What a node that keeps the lock follows.
        remote: FollowPlan,
        /// Whether the lock is mine.
        leads: bool,
    },
}

impl Task {
    /// The task's name, as operators see it.
    pub fn name(&self) -> String {
        match self {
            Self::Bootstrap => "bootstrap".to_owned(),
            Self::BootstrapStandbyLeader { .. } => "bootstrap_standby_leader".to_owned(),
            Self::PostBootstrap => "post_bootstrap".to_owned(),
            Self::Clone { name, .. } | Self::Reinitialize { name, .. } | Self::Demote { name, .. } => name.clone(),
            Self::StartPrimaryAfterFailure { .. } => "starting primary after failure".to_owned(),
            Self::CrashRecovery => "doing crash recovery in a single user mode".to_owned(),
            Self::Rewind { source, .. } => format!("running pg_rewind from {}", source.name),
            Self::Follow { name, .. } => (*name).to_owned(),
            Self::Promote => "promote".to_owned(),
            Self::DemoteCluster { .. } => "demoting to a standby cluster".to_owned(),
            Self::Restart { .. } => "restart".to_owned(),
            Self::CopyLogicalSlots { .. } => "copy_logical_slots".to_owned(),
        }
    }
}
