//! A PostgreSQL of which only the state and the report are real.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::model::{HistoryLine, Lsn, Role, ServerState, Timeline};
use dcs_core::{Clock, Deadline, Moment};
use ha_engine::Cancel;
use ha_engine::decide::observation::{Monitor, PrimaryMonitor, ServerObservation, SlotObservation, StandbyMonitor, Upstream};
use ha_engine::decide::slots::{LogicalReport, LogicalSlot, LogicalWork, SlotPlan};
use ha_engine::decide::sync::sample::SyncSample;
use ha_engine::ports::{
    CallbackEvent, CloneSource, ControlData, DivergenceFacts, FollowPlan, Inconclusive, KeptWal, LocalState, OperationFailed, Postgres,
    PromoteOutcome, RecoveryDiff, RewindOutcome, ServerStatus, SlotState, StartOutcome, StatusReport, StopEvent, StopOutcome, StopRequest,
    WalToKeep,
};
use ha_engine::settings::{BootstrapSettings, EffectiveSettings};
use serde_json::json;
use tokio::sync::{mpsc, watch};

/// Says what it is told to say.
#[derive(Debug)]
pub(crate) struct FakePostgres {
    local: watch::Sender<LocalState>,
    server: Mutex<Option<ServerStatus>>,
    hangs: AtomicBool,
    queries: AtomicU64,
    timeline_queries: AtomicU64,
    clock: Arc<dyn Clock>,
}

impl FakePostgres {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let local = LocalState {
            state: ServerState::Running,
            role: Role::Replica,
            since: Moment::ZERO,
            pending_restart: std::collections::BTreeMap::new(),
            conn_url: "postgres://127.0.0.1:5432/postgres".to_owned(),
            proxy_url: None,
        };
        Arc::new(Self {
            local: watch::Sender::new(local),
            server: Mutex::new(Some(standby(1000))),
            hangs: AtomicBool::new(false),
            queries: AtomicU64::new(0),
            timeline_queries: AtomicU64::new(0),
            clock,
        })
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut LocalState)) {
        self.local.send_modify(change);
    }

    pub(crate) fn say(&self, server: Option<ServerStatus>) {
        *self.server.lock().unwrap() = server;
    }

    /// From now on no query is answered.
    pub(crate) fn hang(&self) {
        self.hangs.store(true, Ordering::SeqCst);
    }

    pub(crate) fn timeline_queries(&self) -> u64 {
        self.timeline_queries.load(Ordering::SeqCst)
    }

    pub(crate) fn queries(&self) -> u64 {
        self.queries.load(Ordering::SeqCst)
    }
}

/// A standby that has replayed everything up to `position`, and receives nothing.
pub(crate) fn orphan(position: u64) -> ServerStatus {
    let monitor = StandbyMonitor { replayed: Lsn(position), ..StandbyMonitor::default() };
    ServerStatus { monitor: Monitor::Standby(monitor), ..standby(position) }
}

/// A standby that has received and replayed everything up to `position`.
pub(crate) fn standby(position: u64) -> ServerStatus {
    let monitor = StandbyMonitor {
        replayed: Lsn(position),
        received: Lsn(position),
        replication_state: Some("streaming".to_owned()),
        received_timeline: Some(Timeline(2)),
        ..StandbyMonitor::default()
    };
    ServerStatus {
        postmaster_start_time: "2030-01-01 00:00:00.123456+00:00".to_owned(),
        postmaster_start_epoch: 1_893_456_000.123_456,
        server_version: 150_020,
        monitor: Monitor::Standby(monitor),
        replayed_timestamp: Some(("2030-01-01 00:00:01+00:00".to_owned(), 1_893_456_001.0)),
        latest_end_lsn: None,
        replication: Vec::new(),
    }
}

/// A primary that somebody streams from.
pub(crate) fn primary(position: u64) -> ServerStatus {
    ServerStatus {
        monitor: Monitor::Primary(PrimaryMonitor { timeline: Timeline(2), lsn: Lsn(position) }),
        replayed_timestamp: None,
        replication: vec![json!({
            "usename": "replicator", "application_name": "b", "client_addr": "127.0.0.1", "state": "streaming",
            "sync_state": "async", "sync_priority": 0,
        })],
        ..standby(0)
    }
}

#[async_trait]
impl Postgres for FakePostgres {
    fn local(&self) -> LocalState {
        self.local.borrow().clone()
    }

    fn subscribe(&self) -> watch::Receiver<LocalState> {
        self.local.subscribe()
    }

    async fn report(&self, _: Duration, deadline: Deadline) -> Arc<StatusReport> {
        self.queries.fetch_add(1, Ordering::SeqCst);
        let read_at = self.clock.now();
        // Long enough for others to come meanwhile.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let server = if self.hangs.load(Ordering::SeqCst) {
            tokio::time::sleep_until(deadline.instant()).await;
            None
        } else {
            self.server.lock().unwrap().clone()
        };
        Arc::new(StatusReport { read_at, server })
    }

    async fn postmaster_ended(&self) {
        nobody_asks()
    }
    async fn adopt(&self, _: Deadline) {
        nobody_asks()
    }
    async fn observe(&self, _: bool, _: Deadline) -> ServerObservation {
        nobody_asks()
    }
    async fn control_data(&self, _: Deadline) -> Result<ControlData, OperationFailed> {
        nobody_asks()
    }
    async fn history_file(&self, _: Timeline) -> Option<(Vec<HistoryLine>, jiff::Zoned)> {
        nobody_asks()
    }
    async fn own_timeline(&self, _: Deadline) -> Option<Timeline> {
        self.timeline_queries.fetch_add(1, Ordering::SeqCst);
        Some(Timeline(3))
    }
    async fn can_rewind(&self) -> bool {
        nobody_asks()
    }
    async fn observe_divergence(&self, _: &Upstream, _: Deadline) -> Result<DivergenceFacts, Inconclusive> {
        nobody_asks()
    }
    async fn recovery_diff(&self, _: &FollowPlan, _: Deadline) -> RecoveryDiff {
        nobody_asks()
    }
    async fn slot_exists_on(&self, _: &Upstream, _: &str, _: Deadline) -> Option<bool> {
        nobody_asks()
    }
    fn set_role(&self, _: Role) {
        nobody_asks()
    }
    fn set_state(&self, _: ServerState) {
        nobody_asks()
    }
    fn call(&self, _: CallbackEvent) {
        nobody_asks()
    }
    fn callback_called(&self) -> bool {
        nobody_asks()
    }
    async fn apply_settings(&self, _: Arc<EffectiveSettings>, _: bool) {
        nobody_asks()
    }
    async fn start(&self, _: Role, _: Option<Duration>, _: &Cancel) -> StartOutcome {
        nobody_asks()
    }
    async fn start_as_primary(&self, _: Option<Duration>, _: &Cancel) -> StartOutcome {
        nobody_asks()
    }
    async fn stop(&self, _: StopRequest, _: Option<mpsc::Sender<StopEvent>>) -> StopOutcome {
        nobody_asks()
    }
    async fn restart(&self, _: Duration, _: &Cancel) -> StartOutcome {
        nobody_asks()
    }
    async fn follow(&self, _: &FollowPlan, _: bool, _: Option<Duration>, _: &Cancel) -> StartOutcome {
        nobody_asks()
    }
    async fn run_pre_promote(&self, _: &Cancel) -> bool {
        nobody_asks()
    }
    async fn promote(&self, _: Duration, _: &Cancel) -> PromoteOutcome {
        nobody_asks()
    }
    async fn resume_replay(&self, _: Deadline) {
        nobody_asks()
    }
    async fn checkpoint(&self, _: &Cancel) -> bool {
        nobody_asks()
    }
    async fn write_wal_record(&self, _: Deadline) {
        nobody_asks()
    }
    async fn nudge(&self) {
        nobody_asks()
    }
    async fn synchronous_replication(&self, _: Deadline) -> Option<SyncSample> {
        nobody_asks()
    }
    async fn set_synchronous_names(&self, _: Option<&str>, _: Deadline) -> Result<Option<SyncSample>, OperationFailed> {
        nobody_asks()
    }
    async fn bootstrap(&self, _: &BootstrapSettings, _: &Cancel) -> Result<(), OperationFailed> {
        nobody_asks()
    }
    async fn post_bootstrap(&self, _: &BootstrapSettings, _: &Cancel) -> Result<(), OperationFailed> {
        nobody_asks()
    }
    async fn clone_from(&self, _: &CloneSource, _: &Cancel) -> Result<(), OperationFailed> {
        nobody_asks()
    }
    async fn rewind(&self, _: &Upstream, _: bool, _: &Cancel) -> RewindOutcome {
        nobody_asks()
    }
    async fn keep_wal(&self, _: &WalToKeep, _: &Cancel) -> Result<KeptWal, OperationFailed> {
        nobody_asks()
    }
    async fn single_user_recovery(&self, _: &Cancel) -> Result<(), OperationFailed> {
        nobody_asks()
    }
    async fn archives_wal(&self) -> bool {
        nobody_asks()
    }
    async fn archive_shutdown_checkpoint(&self, _: &Cancel) -> Result<(), OperationFailed> {
        nobody_asks()
    }
    async fn remove_data_directory(&self) -> Result<(), OperationFailed> {
        nobody_asks()
    }
    async fn move_data_directory_aside(&self) -> Result<(), OperationFailed> {
        nobody_asks()
    }
    async fn apply_slots(&self, _: &SlotPlan, _: Deadline) -> Vec<SlotObservation> {
        nobody_asks()
    }
    async fn tend_logical_slots(&self, _: &LogicalWork, _: &Cancel) -> LogicalReport {
        nobody_asks()
    }
    async fn read_logical_slots(&self, _: &Upstream, _: &[LogicalSlot], _: Deadline) -> Result<Vec<SlotState>, OperationFailed> {
        nobody_asks()
    }
    async fn write_logical_slots(&self, _: Vec<SlotState>) -> Result<(), OperationFailed> {
        nobody_asks()
    }
    async fn enforce_feedback(&self, _: bool) -> Result<(), OperationFailed> {
        nobody_asks()
    }
}

/// The REST API looks and never touches.
fn nobody_asks() -> ! {
    panic!("the REST API must not do this")
}
