//! Every effect the engine can have on the world, as traits. The real ones are small and dumb; simulated ones live in
//! the tests.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::model::{HistoryLine, Lsn, MemberName, Role, ServerState, Timeline};
use dcs_core::{Deadline, Moment};
use tokio::sync::{mpsc, watch};

use crate::cancel::Cancel;
use crate::decide::failsafe::exclusion::FailsafeCall;
use crate::decide::observation::{Monitor, PeerAnswer, PeerTarget, PendingRestarts, ServerObservation, SlotObservation, Upstream};
use crate::decide::slots::{LogicalReport, LogicalSlot, LogicalWork, SlotPlan};
use crate::decide::sync::sample::SyncSample;
use crate::settings::{BootstrapSettings, EffectiveSettings, ReplicaMethod, WatchdogSettings};

/// What this node's PostgreSQL is, as far as the agent knows without asking it. Changes are published at once.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalState {
    /// What it is doing.
    pub state: ServerState,
    /// What it is in the cluster.
    pub role: Role,
    /// When `state` was entered.
    pub since: Moment,
    /// Parameters that wait for a restart.
    pub pending_restart: PendingRestarts,
    /// How others reach the server, as published: `postgres://HOST:PORT/DATABASE`.
    pub conn_url: String,
    /// How others reach the pooler, as published.
    pub proxy_url: Option<String>,
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Clients are disconnected, a shutdown checkpoint is written.
    Fast,
    /// Everything ends at once; the next start recovers from the log.
    Immediate,
}

/// A stop in detail.
#[derive(Clone, Debug)]
pub struct StopRequest {
    /// The signal.
    pub mode: StopMode,
    /// Whether a CHECKPOINT is run before the signal, to make the shutdown checkpoint short.
    pub checkpoint_first: bool,
    /// Whether `before_stop` runs; bounded by this deadline if there is one.
    pub hook: StopHook,
    /// After this time a stop turns into an immediate one, and after the same time again into SIGKILL. None: wait for ever.
    pub timeout: Option<Duration>,
    /// Whether `on_stop` is called (not within a restart) and state `stopping`/`stopped` is shown.
    pub part_of_restart: bool,
}

/// Whether the operator's `before_stop` command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopHook {
    /// It runs, however long it takes.
    Run,
    /// It runs, but is killed at this deadline.
    RunUntil(Deadline),
    /// It does not run: nothing may precede the stop signal of an immediate stop.
    Skip,
}

/// What happens while a server stops, in this order. Sent to whoever has to act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopEvent {
    /// All client backends are gone: nothing can be acknowledged any more.
    BackendsGone,
    /// The control file says `shut down`; the postmaster may still be shipping WAL.
    ShutDown(ShutdownPosition),
}

/// Where a cleanly stopped primary ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownPosition {
    /// Location of the shutdown checkpoint.
    pub checkpoint: Lsn,
    /// End of the shutdown checkpoint record: what a candidate must have flushed. The checkpoint's location if the end
    /// could not be read.
    pub checkpoint_end: Lsn,
    /// What goes to `/status`: the position of the WAL switch right before the checkpoint, if there is one, otherwise the
    /// checkpoint's location.
    pub final_lsn: Lsn,
}

/// How a stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopOutcome {
    /// The postmaster is gone; where it ended, if it was a primary that stopped cleanly.
    Stopped(Option<ShutdownPosition>),
    /// The postmaster is still there.
    Failed,
}

/// How a start ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartOutcome {
    /// The server accepts connections.
    Running,
    /// The time is over and the server is still starting.
    StillStarting,
    /// The postmaster ended, or could not be launched.
    Failed,
}

/// What a standby (or read-only start) should look like.
#[derive(Clone, Debug, PartialEq)]
pub struct FollowPlan {
    /// The node to stream from; none: recovery from local WAL and `restore_command` only.
    pub upstream: Option<Upstream>,
    /// The slot on the upstream; none: no slot.
    pub slot: Option<String>,
    /// `replica` or `standby_leader`.
    pub role: Role,
    /// Recovery settings that win over the configured ones (standby clusters).
    pub overrides: Vec<(String, String)>,
}

/// How much must be done so that the server follows a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryDiff {
    /// It does already.
    None,
    /// The settings must be rewritten and reloaded.
    Reload,
    /// The server must be restarted.
    Restart,
}

/// Where a copy of the data comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct CloneSource {
    /// The node; none: only methods that need no node.
    pub node: Option<Upstream>,
    /// The methods to try, in order.
    pub methods: Vec<ReplicaMethod>,
    /// Whether the node is a brand new primary made by this product, so that a fast checkpoint disturbs nobody.
    pub fast_checkpoint: bool,
}

/// What two servers' histories look like, for the divergence check.
#[derive(Clone, Debug, PartialEq)]
pub struct DivergenceFacts {
    /// The local timeline.
    pub local_timeline: Timeline,
    /// The local position: replay position or minimum recovery end of a standby, latest checkpoint of a former primary.
    pub local_lsn: Lsn,
    /// Whether the local server is (or was stopped) in recovery.
    pub local_in_recovery: bool,
    /// End of the local shutdown checkpoint record, for a former primary; none if it could not be read.
    pub checkpoint_end: Option<Lsn>,
    /// The leader's timeline.
    pub leader_timeline: Timeline,
    /// The leader's history; none if the server has none for its timeline.
    pub leader_history: Option<Vec<HistoryLine>>,
}

/// Why two servers could not be compared now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Inconclusive(pub String);

/// WAL that is about to be given up, and where a copy of it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalToKeep {
    /// The operator's directory; the copy gets one of its own in it.
    pub directory: PathBuf,
    /// The timeline, and where it parted from the one that is followed next; nothing: all WAL that there is.
    pub since: Option<(Timeline, Lsn)>,
    /// What it is, for people who find it.
    pub note: String,
}

/// A copy of WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptWal {
    /// Where it is.
    pub directory: PathBuf,
    /// How many segments it has.
    pub segments: usize,
}

/// How a rewind ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewindOutcome {
    /// The data directory is a copy that can follow the source.
    Done,
    /// Not started or not possible now; may be tried again. The reason, in the operator's words.
    NotYet(String),
    /// The source was healthy and the rewind failed, or the local control file is damaged: it will not work.
    Failed,
}

/// How a promotion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromoteOutcome {
    /// The server is in production.
    Promoted,
    /// The request was accepted and the server was still in recovery when the time was over.
    Requested,
    /// The request was not accepted.
    Failed,
    /// Cancelled before the request.
    Cancelled,
}

/// What `pg_controldata` says, as far as it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    /// All lines, label and value, in order.
    pub lines: Vec<(String, String)>,
    /// `Database cluster state`.
    pub cluster_state: String,
    /// `Latest checkpoint location`.
    pub checkpoint: Lsn,
    /// `Latest checkpoint's TimeLineID`.
    pub checkpoint_timeline: Option<Timeline>,
    /// `Minimum recovery ending location`.
    pub minimum_recovery_end: Lsn,
    /// `Min recovery ending loc's timeline`.
    pub minimum_recovery_timeline: Option<Timeline>,
    /// Whether `pg_rewind` could work on this data: `wal_log_hints` or checksums.
    pub rewindable: bool,
}

/// Something PostgreSQL-related did not work. Already logged where the details are known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OperationFailed(pub String);

/// A logical slot as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// Its name.
    pub name: String,
    /// Its state file.
    pub content: Vec<u8>,
}

/// Events that operators' commands are called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackEvent {
    /// `on_start`
    Start,
    /// `on_stop`
    Stop,
    /// `on_restart`
    Restart,
    /// `on_reload`
    Reload,
    /// `on_role_change`
    RoleChange,
}

/// What `GET /patroni` and the health checks tell about the server; at most a second old.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusReport {
    /// When it was read.
    pub read_at: Moment,
    /// What the server said; nothing if it could not be queried.
    pub server: Option<ServerStatus>,
}

/// The answer of a server to the status query.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerStatus {
    /// `YYYY-MM-DD HH:MM:SS.ffffff+HH:MM`.
    pub postmaster_start_time: String,
    /// The same, seconds since the epoch.
    pub postmaster_start_epoch: f64,
    /// e.g. 150020.
    pub server_version: u32,
    /// Recovery or not, positions, timeline.
    pub monitor: Monitor,
    /// Timestamp of the last replayed transaction, as text and seconds since the epoch; a standby's.
    pub replayed_timestamp: Option<(String, f64)>,
    /// Latest end LSN that the WAL receiver was told of.
    pub latest_end_lsn: Option<Lsn>,
    /// Who streams from here.
    pub replication: Vec<serde_json::Value>,
}

/// The local PostgreSQL: one owner of the data directory and the postmaster.
///
/// Nothing here judges: which operation is right is decided elsewhere. Operations that take a [`Cancel`] end soon after it
/// is cancelled, with their child processes gone.
#[async_trait]
pub trait Postgres: Send + Sync + fmt::Debug {
    // ---- looking -------------------------------------------------------------------------------------------------

    /// State and role, without asking the server.
    fn local(&self) -> LocalState;

    /// The same, with changes.
    fn subscribe(&self) -> watch::Receiver<LocalState>;

    /// Completes when the postmaster that runs now has ended; at once if none runs. Never a poll of long period: this is
    /// how a crash wakes the loop.
    async fn postmaster_ended(&self);

    /// At agent start: looks for a running postmaster and adopts it, and sets state and role from what is found.
    async fn adopt(&self, deadline: Deadline);

    /// Everything a decision may want to know about the server. `with_slots` asks for replication slots too. Never fails:
    /// what could not be read is said in the observation. While the state is starting it looks whether the start has
    /// finished, and takes over `running` (then calls the pending callback).
    async fn observe(&self, with_slots: bool, deadline: Deadline) -> ServerObservation;

    /// The status for REST answers, at most `max_age` old; askers share one query.
    async fn report(&self, max_age: Duration, deadline: Deadline) -> Arc<StatusReport>;

    /// Reads the control file.
    async fn control_data(&self, deadline: Deadline) -> Result<ControlData, OperationFailed>;

    /// The local history file of `timeline`, and when it was written.
    async fn history_file(&self, timeline: Timeline) -> Option<(Vec<HistoryLine>, jiff::Zoned)>;

    /// The local timeline by the replication protocol.
    async fn own_timeline(&self, deadline: Deadline) -> Option<Timeline>;

    /// Whether `pg_rewind` could work here: the program is there, and the control file has `wal_log_hints` or checksums.
    /// Cached by file identity; does not look at `use_pg_rewind`.
    async fn can_rewind(&self) -> bool;

    /// Compares histories with `leader`.
    async fn observe_divergence(&self, leader: &Upstream, deadline: Deadline) -> Result<DivergenceFacts, Inconclusive>;

    /// What would have to change so that the server follows `plan`.
    async fn recovery_diff(&self, plan: &FollowPlan, deadline: Deadline) -> RecoveryDiff;

    /// Whether the slot of this member exists on `upstream` (asked there), so that a standby need not start too early.
    async fn slot_exists_on(&self, upstream: &Upstream, slot: &str, deadline: Deadline) -> Option<bool>;

    // ---- bookkeeping -----------------------------------------------------------------------------------------------

    /// Takes over a role that was decided, without touching the server.
    fn set_role(&self, role: Role);

    /// Takes over a state that was decided, without touching the server.
    fn set_state(&self, state: ServerState);

    /// Calls the operator's command for `event`, beside everything else.
    fn call(&self, event: CallbackEvent);

    /// Whether a start, stop or role callback has been due since the agent started.
    fn callback_called(&self) -> bool;

    /// Takes new settings into use: rewrites files, reloads the server, finds out what waits for a restart.
    /// `force_reload` reloads even if nothing changed (SIGHUP).
    async fn apply_settings(&self, settings: Arc<EffectiveSettings>, force_reload: bool);

    // ---- running ---------------------------------------------------------------------------------------------------

    /// Starts the server in `role` with the recovery settings as they are. `timeout` overrides `pg_ctl_timeout`.
    async fn start(&self, role: Role, timeout: Option<Duration>, cancel: &Cancel) -> StartOutcome;

    /// Starts the server as primary (no recovery settings), after a crash.
    async fn start_as_primary(&self, timeout: Option<Duration>, cancel: &Cancel) -> StartOutcome;

    /// Stops the server. `events` hears what happens meanwhile.
    async fn stop(&self, request: StopRequest, events: Option<mpsc::Sender<StopEvent>>) -> StopOutcome;

    /// Stops and starts the server, keeping role and recovery settings.
    async fn restart(&self, timeout: Duration, cancel: &Cancel) -> StartOutcome;

    /// Writes recovery settings for `plan` and makes the server follow them: reload if it runs and that suffices
    /// (`reload_only`), restart if it runs, start otherwise.
    async fn follow(&self, plan: &FollowPlan, reload_only: bool, timeout: Option<Duration>, cancel: &Cancel) -> StartOutcome;

    /// Runs `pre_promote`. True if there is none or it succeeded.
    async fn run_pre_promote(&self, cancel: &Cancel) -> bool;

    /// Requests the promotion and waits for it, at most `limit`.
    async fn promote(&self, limit: Duration, cancel: &Cancel) -> PromoteOutcome;

    /// Resumes paused WAL replay (PostgreSQL 14 and later pause after a parameter decrease).
    async fn resume_replay(&self, deadline: Deadline);

    /// Runs CHECKPOINT; true if the control file shows the current timeline afterwards.
    async fn checkpoint(&self, cancel: &Cancel) -> bool;

    /// Writes a small WAL record that standbys get soon: one that waits for its minimum recovery point then accepts
    /// connections. A failure is logged; it is tried again if somebody still waits.
    async fn write_wal_record(&self, deadline: Deadline);

    /// What this primary shows of its standbys and of synchronous replication; nothing if it does not answer.
    async fn synchronous_replication(&self, deadline: Deadline) -> Option<SyncSample>;

    /// Decides about `synchronous_standby_names`: this text, or from now on again what is configured. Returns when the server
    /// has it, on a primary with what it shows once every process has had the time to read it.
    async fn set_synchronous_names(&self, text: Option<&str>, deadline: Deadline) -> Result<Option<SyncSample>, OperationFailed>;

    /// Makes standbys' start-up processes look again at once (SIGHUP to the postmaster, no `on_reload`).
    async fn nudge(&self);

    // ---- building --------------------------------------------------------------------------------------------------

    /// Makes a new data directory (initdb or the custom method) and starts it for the first time.
    async fn bootstrap(&self, how: &BootstrapSettings, cancel: &Cancel) -> Result<(), OperationFailed>;

    /// What follows once the new server is a primary: users, `post_bootstrap`, final configuration.
    async fn post_bootstrap(&self, how: &BootstrapSettings, cancel: &Cancel) -> Result<(), OperationFailed>;

    /// Makes the data directory a copy of `source`. An existing one is removed first (unless a method keeps it), and after
    /// a failure. Does not start the server.
    async fn clone_from(&self, source: &CloneSource, cancel: &Cancel) -> Result<(), OperationFailed>;

    /// Stops the server if it runs and rewinds it to `source`.
    async fn rewind(&self, source: &Upstream, source_checkpointed: bool, cancel: &Cancel) -> RewindOutcome;

    /// Copies WAL that the next operation gives up out of the data directory; complete and on disk when this returns.
    async fn keep_wal(&self, wal: &WalToKeep, cancel: &Cancel) -> Result<KeptWal, OperationFailed>;

    /// Crash recovery in single-user mode.
    async fn single_user_recovery(&self, cancel: &Cancel) -> Result<(), OperationFailed>;

    /// Whether WAL is archived: `archive_mode` is on and there is an `archive_command`.
    async fn archives_wal(&self) -> bool;

    /// Gives the WAL file with the shutdown checkpoint of a server that is down to `archive_command`: the archiver never gets a
    /// file that is not full.
    async fn archive_shutdown_checkpoint(&self, cancel: &Cancel) -> Result<(), OperationFailed>;

    /// Removes the data directory. Only for reinitialize, clone, and where a setting says so.
    async fn remove_data_directory(&self) -> Result<(), OperationFailed>;

    /// Renames the data directory to `….failed`.
    async fn move_data_directory_aside(&self) -> Result<(), OperationFailed>;

    // ---- slots -----------------------------------------------------------------------------------------------------

    /// Carries out a plan; what could not be done is logged and planned again next cycle.
    async fn apply_slots(&self, plan: &SlotPlan, deadline: Deadline) -> Vec<SlotObservation>;

    /// Works on logical slots for as long as it takes. Ends between two of them when it is cancelled; what could not be done
    /// is logged.
    async fn tend_logical_slots(&self, work: &LogicalWork, cancel: &Cancel) -> LogicalReport;

    /// Reads the state of logical slots on `leader`; those that are not there, or are something else, are left out.
    async fn read_logical_slots(
        &self,
        leader: &Upstream,
        slots: &[LogicalSlot],
        deadline: Deadline,
    ) -> Result<Vec<SlotState>, OperationFailed>;

    /// Puts slots with this state into the data directory of a stopped server, in the place of any that have their names.
    async fn write_logical_slots(&self, slots: Vec<SlotState>) -> Result<(), OperationFailed>;

    /// Forces `hot_standby_feedback` on, or leaves it to the configuration again; a server that runs is told at once.
    async fn enforce_feedback(&self, on: bool) -> Result<(), OperationFailed>;
}

/// What a watchdog device says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogInfo {
    /// What it calls itself.
    pub identity: String,
    /// The version of its firmware; 0 if it has none.
    pub firmware: u32,
    /// Whether its timeout can be set.
    pub can_set_timeout: bool,
    /// Whether it stops when it is closed in order.
    pub can_be_disabled: bool,
}

/// A watchdog device did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WatchdogError(pub String);

/// A device that resets the machine unless it is fed. At most one is open.
///
/// Nothing here judges: what the timeout must be, and when it is fed, is decided elsewhere. An open device that is not
/// closed by [`Watchdog::close`] goes on: it fires after the process has died.
#[async_trait]
pub trait Watchdog: Send + Sync + fmt::Debug {
    /// Opens the device that `settings` name; from now on it must be fed.
    async fn open(&self, settings: &WatchdogSettings) -> Result<WatchdogInfo, WatchdogError>;

    /// Sets the timeout, in seconds.
    async fn set_timeout(&self, seconds: i64) -> Result<(), WatchdogError>;

    /// The timeout that the device has, in seconds.
    async fn timeout(&self) -> Result<i64, WatchdogError>;

    /// Feeds the device, unless it is later than `not_after` by the time it could be done. Whether it was fed.
    async fn keepalive(&self, not_after: Moment) -> Result<bool, WatchdogError>;

    /// Stops the device, as far as it lets itself be stopped, and closes it.
    async fn close(&self) -> Result<(), WatchdogError>;

    /// Whether the device that `settings` name is there and may be opened.
    async fn is_usable(&self, settings: &WatchdogSettings) -> bool;
}

/// What the lease guard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When PostgreSQL must be stopped, unless something else is said before.
    pub until: Moment,
    /// The postmaster, if it is known: its pid, and its start time in seconds since the epoch.
    pub postmaster: Option<(i32, i64)>,
}

/// The lease guard: it stops PostgreSQL when a moment passes, also when this process cannot do anything any more.
pub trait LeaseGuard: Send + Sync + fmt::Debug {
    /// What is held from now on instead of what was held before; nothing: PostgreSQL is left alone. Called with every renewal,
    /// and never waits. What does not work is logged, and tried again with the next call.
    fn hold(&self, hold: Option<Hold>);
}

/// No guard beside this process. When it is stopped or killed nothing stops its server.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLeaseGuard;

impl LeaseGuard for NoLeaseGuard {
    fn hold(&self, _: Option<Hold>) {}
}

/// Asking other agents.
#[async_trait]
pub trait Peers: Send + Sync + fmt::Debug {
    /// `GET <api_url>` of every target at once; 2 s each, no retry. The answers in order of arrival; every target is in
    /// the result.
    async fn poll(&self, targets: &[PeerTarget], deadline: Deadline) -> Vec<(MemberName, PeerAnswer)>;

    /// `POST <api_url>/failsafe` to every target at once: this leader has lost the store, may it go on? Only if every one of
    /// them says so there is a result: the positions of those that told one. Whoever cannot be reached is tried once more,
    /// within the deadline; a "no" ends it at once.
    async fn ask_for_word(&self, targets: &[PeerTarget], call: &FailsafeCall, deadline: Deadline) -> Option<BTreeMap<MemberName, Lsn>>;

    /// Whether anything answers `GET /liveness` at `api_url`, with any status (the duplicate name check).
    async fn is_alive(&self, api_url: &str, deadline: Deadline) -> bool;
}
