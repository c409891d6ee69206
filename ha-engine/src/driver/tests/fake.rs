//! A PostgreSQL that only pretends: enough of one for the loop to start, stop, promote, copy and follow. It refuses what a real
//! server would refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::model::{HistoryLine, Lsn, Role, ServerState, SystemId, Timeline};
use dcs_core::{Clock, Deadline};
use tokio::sync::{mpsc, watch};

use crate::cancel::Cancel;
use crate::decide::observation::{
    DataDir, Monitor, Postmaster, PrimaryMonitor, ServerObservation, SlotObservation, StandbyMonitor, TransactionId, Upstream,
};
use crate::decide::slots::{LeaderSlots, LogicalReport, LogicalSlot, LogicalWork, SlotPlan};
use crate::decide::sync::names::{Kind, StandbyNames};
use crate::decide::sync::sample::{SyncSample, SyncWord, Walsender};
use crate::handle::EngineHandle;
use crate::ports::{
    CallbackEvent, CloneSource, ControlData, DivergenceFacts, FollowPlan, Inconclusive, KeptWal, LocalState, OperationFailed, Postgres,
    PromoteOutcome, RecoveryDiff, RewindOutcome, ShutdownPosition, SlotState, StartOutcome, StatusReport, StopEvent, StopMode, StopOutcome,
    StopRequest, WalToKeep,
};
use crate::settings::{BootstrapSettings, EffectiveSettings};

/// How long a start, a stop or a promotion takes.
const A_MOMENT: Duration = Duration::from_millis(50);
const SYSTEM_ID: &str = "7000000000000000001";

/// One server.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    pub(super) data: bool,
    pub(super) running: bool,
    pub(super) primary: bool,
    pub(super) timeline: u32,
    pub(super) lsn: u64,
    pub(super) following: Option<String>,
    /// Clients are cut off already; only the archiver is still busy.
    pub(super) stopping: bool,
    /// The monitoring query never returns.
    pub(super) stuck: bool,
    /// Its files cannot be written for now.
    pub(super) frozen: bool,
    /// The settings that were taken into use, told apart by one number.
    pub(super) applied: Vec<i64>,
    /// Its replication slots.
    pub(super) slots: BTreeSet<String>,
    /// Its logical slots, of the database `postgres` and the plugin `pgoutput`, with their positions.
    pub(super) logical_slots: BTreeMap<String, u64>,
    /// Its logical slots cannot be moved forward.
    pub(super) slots_are_broken: bool,
    /// `hot_standby_feedback` is forced on.
    pub(super) feeds_back: bool,
    /// How often it was started.
    pub(super) starts: u32,
    /// How many records were written for waiting standbys.
    pub(super) records: u32,
    /// Its WAL receiver gets nothing from whom it follows.
    pub(super) disconnected: bool,
    /// How often it was made to look again.
    pub(super) nudges: u32,
    /// Its `synchronous_standby_names`.
    pub(super) names: String,
    /// Every text it had before.
    pub(super) former_names: Vec<String>,
    /// Its WAL is archived.
    pub(super) archives: bool,
    /// How often the end of a shutdown was archived.
    pub(super) archived: u32,
    /// Its clients wait for standbys.
    pub(super) commits_wait: bool,
    /// What a comparison with the leader shows; `pg_rewind` works then.
    pub(super) divergence: Option<DivergenceFacts>,
    /// How long a clean stop takes before its checkpoint is written.
    pub(super) stop_takes: Duration,
    /// Another agent of this name answers.
    pub(super) has_namesake: bool,
    /// Its postmaster does not end, whatever is tried.
    pub(super) unstoppable: bool,
    /// Nothing can be copied aside.
    pub(super) disk_full: bool,
    /// From where on WAL was copied aside.
    pub(super) kept: Vec<Option<(Timeline, Lsn)>>,
    /// How often it was rewound, or a copy of another one was made over it.
    pub(super) rebuilt: u32,
}

/// All servers, by the name of their member.
#[derive(Debug, Default)]
pub(super) struct World {
    servers: Mutex<BTreeMap<String, Server>>,
    changed: watch::Sender<u64>,
    /// The agents, by the name of their member.
    agents: Mutex<BTreeMap<String, EngineHandle>>,
    /// The agents whose requests and answers are lost.
    unreachable: Mutex<BTreeSet<String>>,
}

impl World {
    pub(super) fn servers(&self) -> MutexGuard<'_, BTreeMap<String, Server>> {
        self.servers.lock().expect("no test panics while it holds the world")
    }

    pub(super) fn server(&self, name: &str) -> Server {
        self.servers().get(name).cloned().unwrap_or_default()
    }

    pub(super) fn change<T>(&self, name: &str, change: impl FnOnce(&mut Server) -> T) -> T {
        let result = change(self.servers().entry(name.to_owned()).or_default());
        self.changed.send_modify(|count| *count += 1);
        result
    }

    pub(super) fn add_agent(&self, handle: EngineHandle) {
        self.agents.lock().expect("no test panics while it holds the world").insert(handle.me.to_string(), handle);
    }

    /// Whether the agent of `name` can be asked.
    pub(super) fn set_reachable(&self, name: &str, reachable: bool) {
        let mut unreachable = self.unreachable.lock().expect("no test panics while it holds the world");
        if reachable {
            unreachable.remove(name)
        } else {
            unreachable.insert(name.to_owned())
        };
    }

    pub(super) fn agent(&self, name: &str) -> Option<EngineHandle> {
        if self.unreachable.lock().expect("no test panics while it holds the world").contains(name) {
            return None;
        }
        self.agents.lock().expect("no test panics while it holds the world").get(name).cloned()
    }

    /// The names of all servers that would take a write.
    pub(super) fn writable(&self) -> Vec<String> {
        self.servers()
            .iter()
            .filter(|(_, server)| server.running && !server.stopping && server.primary)
            .map(|(name, _)| name.clone())
            .collect()
    }
}

/// The server of one member, as its agent holds it.
#[derive(Debug)]
pub(super) struct FakePostgres {
    name: String,
    world: Arc<World>,
    clock: Arc<dyn Clock>,
    local: watch::Sender<LocalState>,
}

impl FakePostgres {
    pub(super) fn new(name: &str, world: &Arc<World>, clock: &Arc<dyn Clock>) -> Arc<Self> {
        let local = LocalState {
            state: ServerState::Stopped,
            role: Role::Uninitialized,
            since: clock.now(),
            pending_restart: BTreeMap::new(),
            conn_url: format!("postgres://{name}:5432/postgres"),
            proxy_url: None,
        };
        Arc::new(Self { name: name.to_owned(), world: Arc::clone(world), clock: Arc::clone(clock), local: watch::Sender::new(local) })
    }

    fn server(&self) -> Server {
        self.world.server(&self.name)
    }

    fn enter(&self, state: ServerState, role: Option<Role>) {
        let since = self.clock.now();
        self.local.send_modify(|local| {
            local.state = state;
            local.since = since;
            local.role = role.unwrap_or(local.role);
        });
    }

    /// Waits until files can be written.
    async fn disk(&self) {
        let mut changes = self.world.changed.subscribe();
        while self.server().frozen {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn launch(&self, primary: bool, role: Role) -> StartOutcome {
        self.enter(ServerState::Starting, Some(role));
        tokio::time::sleep(A_MOMENT).await;
        let started = self.world.change(&self.name, |server| {
            server.running = server.data;
            server.primary = primary;
            server.starts += 1;
            server.data
        });
        if !started {
            self.enter(ServerState::StartFailed, None);
            return StartOutcome::Failed;
        }
        self.enter(ServerState::Running, None);
        StartOutcome::Running
    }
}

fn physical_slot(name: &str) -> SlotObservation {
    SlotObservation {
        name: name.to_owned(),
        logical: false,
        database: None,
        plugin: None,
        active: false,
        xmin: None,
        catalog_xmin: None,
        restart_lsn: Some(Lsn(1)),
        confirmed_flush_lsn: None,
        lost: false,
    }
}

fn logical_slot((name, position): (&String, &u64)) -> SlotObservation {
    SlotObservation {
        logical: true,
        database: Some("postgres".to_owned()),
        plugin: Some("pgoutput".to_owned()),
        catalog_xmin: Some(TransactionId(700)),
        confirmed_flush_lsn: Some(Lsn(*position)),
        ..physical_slot(name)
    }
}

impl Server {
    fn all_slots(&self) -> Vec<SlotObservation> {
        let physical = self.slots.iter().map(|name| physical_slot(name));
        physical.chain(self.logical_slots.iter().map(logical_slot)).collect()
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

    async fn postmaster_ended(&self) {
        let mut changes = self.world.changed.subscribe();
        while self.server().running {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn adopt(&self, _: Deadline) {
        let server = self.server();
        if server.running {
            self.enter(ServerState::Running, Some(if server.primary { Role::Primary } else { Role::Replica }));
        }
    }

    async fn observe(&self, with_slots: bool, deadline: Deadline) -> ServerObservation {
        let server = self.server();
        if server.stuck {
            tokio::time::sleep_until(deadline.instant()).await;
        }
        let local = self.local();
        let monitor = match (server.running, server.primary) {
            _ if server.stuck => Monitor::Failed,
            _ if server.stopping => Monitor::Failed,
            (false, _) => Monitor::NotAsked,
            (true, true) => Monitor::Primary(PrimaryMonitor { timeline: Timeline(server.timeline), lsn: Lsn(server.lsn) }),
            (true, false) => Monitor::Standby(StandbyMonitor {
                replayed: Lsn(server.lsn),
                received: Lsn(server.lsn),
                received_timeline: Timeline::known(server.timeline),
                replication_state: server.following.as_ref().filter(|_| !server.disconnected).map(|_| "streaming".to_owned()),
                ..StandbyMonitor::default()
            }),
        };
        ServerObservation {
            state: local.state,
            role: local.role,
            since: local.since,
            postmaster: if server.running { Postmaster::Running { pid: 1, started_at: 1 } } else { Postmaster::None },
            data_dir: if server.data { DataDir::Present { recovery_file: !server.primary, backup_label: false } } else { DataDir::Empty },
            system_id: SystemId::parse(SYSTEM_ID).filter(|_| server.data),
            monitor,
            slots: (with_slots && server.running).then(|| server.all_slots()),
            major_version: Some(150_000),
            pending_restart: BTreeMap::new(),
        }
    }

    async fn report(&self, _: Duration, _: Deadline) -> Arc<StatusReport> {
        Arc::new(StatusReport { read_at: self.clock.now(), server: None })
    }

    async fn control_data(&self, _: Deadline) -> Result<ControlData, OperationFailed> {
        let server = self.server();
        let state = if server.primary { "in production" } else { "shut down in recovery" };
        Ok(ControlData {
            lines: Vec::new(),
            cluster_state: state.to_owned(),
            checkpoint: Lsn(server.lsn),
            checkpoint_timeline: Timeline::known(server.timeline),
            minimum_recovery_end: Lsn(server.lsn),
            minimum_recovery_timeline: Timeline::known(server.timeline),
            rewindable: false,
        })
    }

    async fn history_file(&self, _: Timeline) -> Option<(Vec<HistoryLine>, jiff::Zoned)> {
        None
    }

    async fn own_timeline(&self, _: Deadline) -> Option<Timeline> {
        Timeline::known(self.server().timeline)
    }

    async fn can_rewind(&self) -> bool {
        self.server().divergence.is_some()
    }

    async fn observe_divergence(&self, _: &Upstream, _: Deadline) -> Result<DivergenceFacts, Inconclusive> {
        self.server().divergence.ok_or_else(|| Inconclusive("not compared here".to_owned()))
    }

    async fn recovery_diff(&self, plan: &FollowPlan, _: Deadline) -> RecoveryDiff {
        let wanted = plan.upstream.as_ref().map(|upstream| upstream.name.clone());
        if self.server().following == wanted { RecoveryDiff::None } else { RecoveryDiff::Reload }
    }

    async fn slot_exists_on(&self, _: &Upstream, _: &str, _: Deadline) -> Option<bool> {
        Some(true)
    }

    fn set_role(&self, role: Role) {
        self.local.send_if_modified(|local| std::mem::replace(&mut local.role, role) != role);
    }

    fn set_state(&self, state: ServerState) {
        self.enter(state, None);
    }

    fn call(&self, _: CallbackEvent) {}

    fn callback_called(&self) -> bool {
        true
    }

    async fn apply_settings(&self, settings: Arc<EffectiveSettings>, _: bool) {
        self.disk().await;
        self.world.change(&self.name, |server| server.applied.push(settings.global.maximum_lag_on_failover));
    }

    async fn start(&self, role: Role, _: Option<Duration>, _: &Cancel) -> StartOutcome {
        self.launch(false, role).await
    }

    async fn start_as_primary(&self, _: Option<Duration>, _: &Cancel) -> StartOutcome {
        self.launch(true, Role::Primary).await
    }

    async fn stop(&self, request: StopRequest, events: Option<mpsc::Sender<StopEvent>>) -> StopOutcome {
        let before = self.server();
        if !before.running {
            return StopOutcome::Stopped(None);
        }
        self.enter(ServerState::Stopping, None);
        if before.unstoppable {
            self.enter(ServerState::StopFailed, None);
            return StopOutcome::Failed;
        }
        let position = ShutdownPosition { checkpoint: Lsn(before.lsn), checkpoint_end: Lsn(before.lsn), final_lsn: Lsn(before.lsn) };
        let clean = before.primary && request.mode == StopMode::Fast;
        self.world.change(&self.name, |server| server.stopping = true);
        if clean && let Some(events) = events {
            let _ = events.send(StopEvent::BackendsGone).await;
            tokio::time::sleep(before.stop_takes).await;
            let _ = events.send(StopEvent::ShutDown(position)).await;
            // The archiver is still busy.
            tokio::time::sleep(A_MOMENT * 10).await;
        }
        self.world.change(&self.name, |server| (server.running, server.stopping) = (false, false));
        self.enter(ServerState::Stopped, None);
        StopOutcome::Stopped(clean.then_some(position))
    }

    async fn restart(&self, _: Duration, _: &Cancel) -> StartOutcome {
        let primary = self.server().primary;
        self.launch(primary, self.local().role).await
    }

    async fn follow(&self, plan: &FollowPlan, reload_only: bool, _: Option<Duration>, _: &Cancel) -> StartOutcome {
        self.disk().await;
        let upstream = plan.upstream.as_ref().map(|upstream| upstream.name.clone());
        let ahead = upstream.as_deref().map(|name| self.world.server(name));
        self.world.change(&self.name, |server| {
            server.following = upstream;
            if let Some(ahead) = ahead.filter(|ahead| ahead.running) {
                server.lsn = server.lsn.max(ahead.lsn);
                server.timeline = server.timeline.max(ahead.timeline);
            }
        });
        if reload_only {
            return StartOutcome::Running;
        }
        self.launch(false, plan.role).await
    }

    async fn run_pre_promote(&self, _: &Cancel) -> bool {
        true
    }

    async fn promote(&self, _: Duration, _: &Cancel) -> PromoteOutcome {
        self.set_role(Role::Promoted);
        tokio::time::sleep(A_MOMENT).await;
        self.world.change(&self.name, |server| {
            server.primary = true;
            server.timeline += 1;
            server.following = None;
        });
        self.set_role(Role::Primary);
        PromoteOutcome::Promoted
    }

    async fn resume_replay(&self, _: Deadline) {}

    async fn checkpoint(&self, _: &Cancel) -> bool {
        true
    }

    async fn write_wal_record(&self, _: Deadline) {
        self.world.change(&self.name, |server| server.records += 1);
    }

    async fn synchronous_replication(&self, _: Deadline) -> Option<SyncSample> {
        let server = self.server();
        if !server.running || !server.primary || server.stuck {
            return None;
        }
        let names = StandbyNames::parse(&server.names).expect("what an agent sets is usable");
        let word = if names.kind == Kind::Quorum { SyncWord::Quorum } else { SyncWord::Sync };
        let streams =
            |other: &Server| other.running && !other.primary && !other.disconnected && other.following.as_deref() == Some(&self.name);
        let walsender = |name: &str, other: &Server| {
            let position = Some(Lsn(other.lsn));
            Walsender {
                application_name: name.to_owned(),
                sync: if names.everybody || names.names.contains(name) { word } else { SyncWord::Async },
                written: position,
                flushed: position,
                replayed: position,
            }
        };
        let others = self.world.servers().clone();
        let walsenders = others.iter().filter(|(_, other)| streams(other)).map(|(name, other)| walsender(name, other));
        Some(SyncSample {
            names: server.names.clone(),
            settled: true,
            flushed: Lsn(server.lsn),
            commits_wait: server.commits_wait,
            walsenders: walsenders.collect(),
            ..SyncSample::default()
        })
    }

    async fn set_synchronous_names(&self, text: Option<&str>, deadline: Deadline) -> Result<Option<SyncSample>, OperationFailed> {
        tokio::time::sleep(A_MOMENT).await;
        self.world.change(&self.name, |server| {
            let former = std::mem::replace(&mut server.names, text.unwrap_or_default().to_owned());
            server.former_names.push(former);
        });
        Ok(self.synchronous_replication(deadline).await)
    }

    async fn nudge(&self) {
        self.world.change(&self.name, |server| server.nudges += 1);
    }

    async fn bootstrap(&self, _: &BootstrapSettings, _: &Cancel) -> Result<(), OperationFailed> {
        self.world.change(&self.name, |server| {
            *server = Server { data: true, timeline: 1, lsn: 1000, ..Server::default() };
        });
        self.launch(true, Role::Primary).await;
        Ok(())
    }

    async fn post_bootstrap(&self, _: &BootstrapSettings, _: &Cancel) -> Result<(), OperationFailed> {
        Ok(())
    }

    async fn clone_from(&self, source: &CloneSource, _: &Cancel) -> Result<(), OperationFailed> {
        let from = source.node.as_ref().map(|node| self.world.server(&node.name)).filter(|server| server.running);
        let Some(from) = from else { return Err(OperationFailed("the source is down".to_owned())) };
        tokio::time::sleep(A_MOMENT).await;
        self.world.change(&self.name, |server| {
            *server = Server {
                rebuilt: server.rebuilt + 1,
                kept: server.kept.clone(),
                running: false,
                primary: false,
                following: None,
                slots: BTreeSet::new(),
                logical_slots: BTreeMap::new(),
                applied: Vec::new(),
                ..from
            }
        });
        Ok(())
    }

    async fn rewind(&self, _: &Upstream, _: bool, _: &Cancel) -> RewindOutcome {
        self.world.change(&self.name, |server| {
            server.rebuilt += 1;
            server.divergence = None;
        });
        RewindOutcome::Failed
    }

    async fn keep_wal(&self, wal: &WalToKeep, _: &Cancel) -> Result<KeptWal, OperationFailed> {
        self.world.change(&self.name, |server| {
            if server.disk_full {
                return Err(OperationFailed("no space left on device".to_owned()));
            }
            server.kept.push(wal.since);
            Ok(KeptWal { directory: wal.directory.join("copy"), segments: 1 })
        })
    }

    async fn single_user_recovery(&self, _: &Cancel) -> Result<(), OperationFailed> {
        Ok(())
    }

    async fn archives_wal(&self) -> bool {
        self.server().archives
    }

    async fn archive_shutdown_checkpoint(&self, _: &Cancel) -> Result<(), OperationFailed> {
        self.world.change(&self.name, |server| {
            assert!(!server.running, "the last file is complete only when the server is down");
            server.archived += 1;
        });
        Ok(())
    }

    async fn remove_data_directory(&self) -> Result<(), OperationFailed> {
        self.world.change(&self.name, |server| *server = Server::default());
        Ok(())
    }

    async fn move_data_directory_aside(&self) -> Result<(), OperationFailed> {
        self.remove_data_directory().await
    }

    async fn apply_slots(&self, plan: &SlotPlan, _: Deadline) -> Vec<SlotObservation> {
        self.world.change(&self.name, |server| {
            server.slots.retain(|name| plan.drop.iter().all(|drop| drop.name != *name));
            server.logical_slots.retain(|name, _| plan.drop.iter().all(|drop| drop.name != *name));
            server.slots.extend(plan.create.iter().cloned());
            server.all_slots()
        })
    }

    async fn tend_logical_slots(&self, work: &LogicalWork, _: &Cancel) -> LogicalReport {
        tokio::time::sleep(A_MOMENT).await;
        let leader = work.look.as_ref().and_then(|look| {
            let leader = self.world.server(&look.leader.name);
            let kept = |_: &String| (look.physical.clone(), self.server().feeds_back.then_some(TransactionId(700)));
            leader.running.then(|| LeaderSlots {
                physical: look.physical.clone(),
                catalog_xmins: leader
                    .slots
                    .get(&look.physical)
                    .map(kept)
                    .into_iter()
                    .chain(leader.logical_slots.keys().map(|name| (name.clone(), Some(TransactionId(700)))))
                    .collect(),
                sends_feedback: self.server().feeds_back,
            })
        });
        self.world.change(&self.name, |server| {
            let mut report = LogicalReport { leader, ..LogicalReport::default() };
            for slot in &work.create {
                server.logical_slots.insert(slot.name.clone(), server.lsn);
                report.created.push(slot.name.clone());
            }
            for (slot, target) in &work.advance {
                if server.slots_are_broken {
                    report.broken.push(slot.name.clone());
                } else {
                    server.logical_slots.insert(slot.name.clone(), target.0);
                    report.advanced.push(slot.name.clone());
                }
            }
            report
        })
    }

    async fn read_logical_slots(&self, leader: &Upstream, slots: &[LogicalSlot], _: Deadline) -> Result<Vec<SlotState>, OperationFailed> {
        let leader = self.world.server(&leader.name);
        if !leader.running {
            return Err(OperationFailed("the leader is down".to_owned()));
        }
        let state = |slot: &LogicalSlot| {
            let position = leader.logical_slots.get(&slot.name)?;
            Some(SlotState { name: slot.name.clone(), content: position.to_be_bytes().to_vec() })
        };
        Ok(slots.iter().filter_map(state).collect())
    }

    async fn write_logical_slots(&self, slots: Vec<SlotState>) -> Result<(), OperationFailed> {
        self.world.change(&self.name, |server| {
            assert!(!server.running, "a server that runs would not see them, and would overwrite them");
            for slot in slots {
                let position = slot.content.try_into().map(u64::from_be_bytes).expect("eight bytes");
                server.logical_slots.insert(slot.name, position);
            }
        });
        Ok(())
    }

    async fn enforce_feedback(&self, on: bool) -> Result<(), OperationFailed> {
        self.world.change(&self.name, |server| server.feeds_back = on);
        Ok(())
    }
}
