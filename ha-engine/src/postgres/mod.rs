//! The real PostgreSQL port: one type owns the data directory and the postmaster.
//!
//! ```text
//!   driver ──► LocalPostgres ──► observe      one statement per look, answers shared
//!                  │       ├───► start stop   the postmaster as nobody's child, awaited by process handle
//!                  │       ├───► follow promote rewind clone_from bootstrap
//!                  │       └───► callbacks, slots, settings
//!                  └ watch ────► every change of state and role, at once
//! ```
//!
//! Nothing here judges what should be done, and nothing here keeps a lock while it waits: a second stop can overtake the
//! first one.

mod book;
mod bootstrap;
mod callbacks;
mod clone;
mod configuration;
mod connection;
mod control;
mod divergence;
mod external;
mod follow;
pub mod lease_guard;
mod observe;
mod postmaster;
mod processes;
mod promote;
mod query;
mod rewind;
mod roles;
mod runner;
mod settings;
mod single_user;
mod slots;
mod start;
mod status;
mod stop;
mod synchronous;
mod tls;
mod wal_record;
mod walsender;

pub mod cluster_wide;
mod conf;
mod conninfo;
mod control_data;
mod data_dir;
mod files;
mod gucs;
mod hba;
mod history;
mod keep_wal;
mod local_address;
mod logical_slots;
mod options;
mod parameters;
mod recovery;
mod reload;
mod report;
#[cfg(test)]
mod testing;
pub mod umask;
pub mod value;
mod waldump;
pub mod words;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::model::{HistoryLine, Role, ServerState, Timeline};
use dcs_core::{Clock, Deadline};
use tokio::sync::{mpsc, watch};

use self::book::{Addresses, Book};
use self::callbacks::Callbacks;
use self::connection::{Session, Target};
use self::postmaster::Process;
use crate::cancel::Cancel;
use crate::decide::observation::{ServerObservation, SlotObservation, Upstream};
use crate::decide::slots::{LogicalReport, LogicalSlot, LogicalWork, SlotPlan};
use crate::decide::sync::sample::SyncSample;
use crate::ports::{
    CallbackEvent, CloneSource, ControlData, DivergenceFacts, FollowPlan, Inconclusive, KeptWal, LocalState, OperationFailed, Postgres,
    PromoteOutcome, RecoveryDiff, RewindOutcome, SlotState, StartOutcome, StatusReport, StopEvent, StopOutcome, StopRequest, WalToKeep,
};
use crate::settings::{BootstrapSettings, EffectiveSettings};

/// Bound of a call of a small program that only reads, where the caller has no deadline.
const PROGRAM: Duration = Duration::from_secs(10);

/// The local PostgreSQL.
pub struct LocalPostgres {
    clock: Arc<dyn Clock>,
    state: watch::Sender<LocalState>,
    settings: Mutex<Arc<EffectiveSettings>>,
    book: Mutex<Book>,
    heartbeat: Session,
    restapi: Session,
    callbacks: Callbacks,
    control: control::Cache,
    reports: status::Cache,
    modes: files::Modes,
    /// Held while `postgresql.conf` is written, so that what was decided last is what stays in it.
    writing: tokio::sync::Mutex<()>,
}

impl LocalPostgres {
    /// The server that `settings` describe. Touches neither it nor its files; [`Postgres::adopt`] looks at them.
    ///
    /// The permissions of configuration files outside the data directory follow the umask that the process was started with.
    pub fn new(settings: Arc<EffectiveSettings>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let state = LocalState {
            state: ServerState::Stopped,
            role: Role::Uninitialized,
            since: clock.now(),
            pending_restart: Default::default(),
            conn_url: String::new(),
            proxy_url: None,
        };
        let postgres = Arc::new(Self {
            clock,
            state: watch::Sender::new(state),
            settings: Mutex::new(settings),
            book: Mutex::default(),
            heartbeat: Session::new("heartbeat"),
            restapi: Session::new("restapi"),
            callbacks: Callbacks::default(),
            control: control::Cache::default(),
            reports: status::Cache::default(),
            modes: files::Modes::from_umask(umask::inherited()),
            writing: tokio::sync::Mutex::default(),
        });
        postgres.assemble_parameters();
        postgres.resolve_addresses();
        postgres
    }

    /// The settings in force.
    fn settings(&self) -> Arc<EffectiveSettings> {
        Arc::clone(&locked(&self.settings))
    }

    /// What is known; for short looks only.
    fn book(&self) -> MutexGuard<'_, Book> {
        locked(&self.book)
    }

    /// The data directory.
    fn data_dir(&self) -> PathBuf {
        self.settings().postgresql.data_dir.clone()
    }

    /// Where things are.
    fn paths(&self) -> files::Paths {
        files::Paths::new(&self.settings().postgresql)
    }

    /// A PostgreSQL program, by its usual name.
    fn program(&self, name: &str) -> PathBuf {
        let settings = self.settings();
        let settings = &settings.postgresql;
        let file = settings.bin_name.0.get(name).map_or(name, String::as_str);
        if settings.bin_dir.as_os_str().is_empty() { PathBuf::from(file) } else { settings.bin_dir.join(file) }
    }

    /// The local server, as the superuser.
    fn target(&self) -> Target {
        let settings = self.settings();
        let Addresses { sql, port, .. } = self.book().addresses.clone();
        Target::new(&sql, port, &settings.postgresql.authentication.superuser, &settings.postgresql.database)
    }

    /// The local server, for the replication protocol.
    fn replication_target(&self) -> Target {
        let settings = self.settings();
        let Addresses { replication, port, .. } = self.book().addresses.clone();
        Target::new(&replication, port, &settings.postgresql.authentication.replication, "replication")
    }

    /// The role without asking.
    fn role(&self) -> Role {
        self.state.borrow().role
    }

    /// The state without asking.
    fn server_state(&self) -> ServerState {
        self.state.borrow().state
    }

    /// Enters `state`, which begins now even if it is the same.
    fn enter(&self, state: ServerState) {
        let now = self.clock.now();
        self.state.send_modify(|local| (local.state, local.since) = (state, now));
    }

    /// Leaves a starting state for `state`; false if it was left already, by somebody else who looked at the same time.
    fn leave_starting(&self, state: ServerState) -> bool {
        let now = self.clock.now();
        self.state.send_if_modified(|local| {
            let starting = local.state.is_starting();
            if starting {
                (local.state, local.since) = (state, now);
            }
            starting
        })
    }

    /// The postmaster of the data directory, if one runs.
    async fn postmaster(&self) -> Option<Process> {
        let known = self.book().postmaster.clone();
        if let Some(process) = known
            && process.is_alive()
        {
            return Some(process);
        }
        let data_dir = self.data_dir();
        let found = blocking(move || Process::owner_of(&data_dir)).await;
        let mut book = self.book();
        // One that was launched meanwhile has no pid file yet.
        if book.postmaster.as_ref().is_none_or(|process| !process.is_alive()) {
            book.postmaster.clone_from(&found);
            book.running_version = None;
            return found;
        }
        book.postmaster.clone()
    }

    /// The major version, read from the data directory if it is not known.
    async fn major(&self) -> Option<u32> {
        let known = self.book().major;
        if known.is_some() {
            return known;
        }
        self.forget_version();
        let data_dir = self.data_dir();
        let major = blocking(move || data_dir::major_version(&data_dir)).await;
        if major.is_some() {
            self.book().major = major;
            self.assemble_parameters();
        }
        major
    }

    /// The data directory was made or replaced: nothing that was read from it holds any more.
    fn forget_version(&self) {
        let mut book = self.book();
        (book.major, book.running_version) = (None, None);
        (book.system_id, book.data_dir, book.current_recovery) = (None, None, None);
    }

    /// Closes the agent's connections to the server.
    async fn close_connections(&self) {
        let (heartbeat, restapi) = (self.heartbeat.close().await, self.restapi.close().await);
        if heartbeat || restapi {
            tracing::info!("closed patroni connections to postgres");
        }
    }

    /// Calls the operator's command for `event`, unless a new cluster is being made. Keeps the account of calls.
    fn notify(&self, event: CallbackEvent) {
        {
            let mut book = self.book();
            if book.stage.is_bootstrap() {
                return;
            }
            book.callback_called |= event != CallbackEvent::Reload;
        }
        let settings = self.settings();
        let Some(command) = settings.postgresql.callbacks.get(event.as_str()) else { return };
        let role = match self.role() {
            Role::Promoted => Role::Primary,
            role => role,
        };
        self.callbacks.call(command, event, role.as_str(), &settings.scope);
    }
}

impl fmt::Debug for LocalPostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalPostgres").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

/// Locks; a panic elsewhere does not make the value unusable.
fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work`, which reads or writes files, off the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going down, and with it whoever waits here.
        Err(_) => std::future::pending().await,
    }
}

/// `path` as text, for arguments that are made of several parts.
fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[async_trait]
impl Postgres for LocalPostgres {
    fn local(&self) -> LocalState {
        self.state.borrow().clone()
    }

    fn subscribe(&self) -> watch::Receiver<LocalState> {
        self.state.subscribe()
    }

    async fn postmaster_ended(&self) {
        if let Some(process) = self.postmaster().await {
            process.ended().await;
        }
    }

    async fn adopt(&self, deadline: Deadline) {
        self.adopt_server(deadline).await;
    }

    async fn observe(&self, with_slots: bool, deadline: Deadline) -> ServerObservation {
        self.observe_server(with_slots, deadline).await
    }

    async fn report(&self, max_age: Duration, deadline: Deadline) -> Arc<StatusReport> {
        self.shared_report(max_age, deadline).await
    }

    async fn control_data(&self, deadline: Deadline) -> Result<ControlData, OperationFailed> {
        self.read_control_data(deadline).await
    }

    async fn history_file(&self, timeline: Timeline) -> Option<(Vec<HistoryLine>, jiff::Zoned)> {
        self.read_history_file(timeline).await
    }

    async fn own_timeline(&self, deadline: Deadline) -> Option<Timeline> {
        self.identify_own_timeline(deadline).await
    }

    async fn can_rewind(&self) -> bool {
        self.rewind_possible().await
    }

    async fn observe_divergence(&self, leader: &Upstream, deadline: Deadline) -> Result<DivergenceFacts, Inconclusive> {
        self.compare_histories(leader, deadline).await
    }

    async fn recovery_diff(&self, plan: &FollowPlan, deadline: Deadline) -> RecoveryDiff {
        self.compare_recovery(plan, deadline).await
    }

    async fn slot_exists_on(&self, upstream: &Upstream, slot: &str, deadline: Deadline) -> Option<bool> {
        self.find_slot_on(upstream, slot, deadline).await
    }

    fn set_role(&self, role: Role) {
        self.state.send_if_modified(|local| std::mem::replace(&mut local.role, role) != role);
    }

    fn set_state(&self, state: ServerState) {
        if self.server_state() != state {
            self.enter(state);
        }
    }

    fn call(&self, event: CallbackEvent) {
        self.notify(event);
    }

    fn callback_called(&self) -> bool {
        self.book().callback_called
    }

    async fn apply_settings(&self, settings: Arc<EffectiveSettings>, force_reload: bool) {
        self.adopt_settings(settings, force_reload).await;
    }

    async fn start(&self, role: Role, timeout: Option<Duration>, cancel: &Cancel) -> StartOutcome {
        self.start_server(start::Start { role: Some(role), timeout, callback: start::Callback::OnStart }, cancel).await
    }

    async fn start_as_primary(&self, timeout: Option<Duration>, cancel: &Cancel) -> StartOutcome {
        self.start_server(start::Start { role: Some(Role::Primary), timeout, callback: start::Callback::OnStart }, cancel).await
    }

    async fn stop(&self, request: StopRequest, events: Option<mpsc::Sender<StopEvent>>) -> StopOutcome {
        self.stop_server(request, events).await
    }

    async fn restart(&self, timeout: Duration, cancel: &Cancel) -> StartOutcome {
        // A server that does not run is what its data directory says, not what it was when it stopped.
        let role = Some(self.role()).filter(|role| !matches!(role, Role::Demoted | Role::Uninitialized));
        self.restart_server(start::Start { role, timeout: Some(timeout), callback: start::Callback::OnRestart }, cancel).await
    }

    async fn follow(&self, plan: &FollowPlan, reload_only: bool, timeout: Option<Duration>, cancel: &Cancel) -> StartOutcome {
        self.follow_plan(plan, reload_only, timeout, cancel).await
    }

    async fn run_pre_promote(&self, cancel: &Cancel) -> bool {
        self.call_pre_promote(cancel).await
    }

    async fn promote(&self, limit: Duration, cancel: &Cancel) -> PromoteOutcome {
        self.promote_server(limit, cancel).await
    }

    async fn resume_replay(&self, deadline: Deadline) {
        self.resume_wal_replay(deadline).await;
    }

    async fn checkpoint(&self, cancel: &Cancel) -> bool {
        self.checkpoint_after_promotion(cancel).await
    }

    async fn write_wal_record(&self, deadline: Deadline) {
        self.write_small_record(deadline).await;
    }

    async fn synchronous_replication(&self, deadline: Deadline) -> Option<SyncSample> {
        self.sample_synchronous_replication(deadline).await
    }

    async fn set_synchronous_names(&self, text: Option<&str>, deadline: Deadline) -> Result<Option<SyncSample>, OperationFailed> {
        self.decide_synchronous_names(text, deadline).await
    }

    async fn nudge(&self) {
        self.signal_reload().await;
    }

    async fn bootstrap(&self, how: &BootstrapSettings, cancel: &Cancel) -> Result<(), OperationFailed> {
        self.make_cluster(how, cancel).await
    }

    async fn post_bootstrap(&self, how: &BootstrapSettings, cancel: &Cancel) -> Result<(), OperationFailed> {
        self.finish_cluster(how, cancel).await
    }

    async fn clone_from(&self, source: &CloneSource, cancel: &Cancel) -> Result<(), OperationFailed> {
        self.copy_from(source, cancel).await
    }

    async fn rewind(&self, source: &Upstream, source_checkpointed: bool, cancel: &Cancel) -> RewindOutcome {
        self.rewind_to(source, source_checkpointed, cancel).await
    }

    async fn keep_wal(&self, wal: &WalToKeep, cancel: &Cancel) -> Result<KeptWal, OperationFailed> {
        self.copy_wal(wal, cancel).await
    }

    async fn single_user_recovery(&self, cancel: &Cancel) -> Result<(), OperationFailed> {
        self.recover_in_single_user_mode(cancel).await
    }

    async fn archives_wal(&self) -> bool {
        self.archive_command().await.is_some()
    }

    async fn archive_shutdown_checkpoint(&self, cancel: &Cancel) -> Result<(), OperationFailed> {
        self.archive_checkpoint(cancel).await
    }

    async fn remove_data_directory(&self) -> Result<(), OperationFailed> {
        self.discard_data_directory().await
    }

    async fn move_data_directory_aside(&self) -> Result<(), OperationFailed> {
        self.set_data_directory_aside().await
    }

    async fn apply_slots(&self, plan: &SlotPlan, deadline: Deadline) -> Vec<SlotObservation> {
        self.maintain_slots(plan, deadline).await
    }

    async fn tend_logical_slots(&self, work: &LogicalWork, cancel: &Cancel) -> LogicalReport {
        self.work_on_logical_slots(work, cancel).await
    }

    async fn read_logical_slots(
        &self,
        leader: &Upstream,
        slots: &[LogicalSlot],
        deadline: Deadline,
    ) -> Result<Vec<SlotState>, OperationFailed> {
        self.read_slots_of(leader, slots, deadline).await
    }

    async fn write_logical_slots(&self, slots: Vec<SlotState>) -> Result<(), OperationFailed> {
        self.write_slot_states(slots).await
    }

    async fn enforce_feedback(&self, on: bool) -> Result<(), OperationFailed> {
        self.force_feedback(on).await
    }
}
