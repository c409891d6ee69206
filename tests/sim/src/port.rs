//! The engine's port to the simulated PostgreSQL of its node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::Deadline;
use dcs_core::model::{HistoryLine, Lsn, Role, ServerState, SystemId, Timeline};
use ha_engine::Cancel;
use ha_engine::decide::observation::{DataDir, Monitor, Postmaster, ServerObservation, SlotObservation, Upstream};
use ha_engine::decide::slots::{LogicalReport, LogicalSlot, LogicalWork, SlotPlan};
use ha_engine::decide::sync::sample::{CommitLevel, SyncSample};
use ha_engine::ports::{
    CallbackEvent, CloneSource, ControlData, DivergenceFacts, FollowPlan, Inconclusive, KeptWal, LocalState, OperationFailed, Postgres,
    PromoteOutcome, RecoveryDiff, RewindOutcome, ServerStatus, SlotState, StartOutcome, StatusReport, StopEvent, StopMode, StopOutcome,
    StopRequest, WalToKeep,
};
use ha_engine::settings::{BootstrapSettings, EffectiveSettings};
use tokio::sync::{mpsc, watch};

use crate::local::LocalServer;
use crate::server::{ControlState, Data, Phase, RELOADED, Server};
use crate::wal::Kind;
use crate::{building, looking};

/// How long a start may take if nobody says otherwise (`pg_ctl_timeout`).
const START: Duration = Duration::from_secs(60);
/// What a query over a local socket takes.
const QUERY: Duration = Duration::from_millis(2);
/// The limit of what waits without one.
const FOREVER: Duration = Duration::from_secs(86_400);

#[async_trait]
impl Postgres for LocalServer {
    fn local(&self) -> LocalState {
        self.local.borrow().clone()
    }

    fn subscribe(&self) -> watch::Receiver<LocalState> {
        self.local.subscribe()
    }

    async fn postmaster_ended(&self) {
        self.until(FOREVER, &Cancel::never(), |server, _| server.process.is_none().then_some(())).await;
    }

    async fn adopt(&self, _: Deadline) {
        let found = self.look(|server, _| {
            let data = server.data.as_ref()?;
            Some((data.standby, server.process.as_ref().map(|process| (process.answers(), process.phase == Phase::Production))))
        });
        match found {
            None => {}
            Some((standby, None)) => self.set_role(if standby { Role::Replica } else { Role::Demoted }),
            Some((_, Some((answers, primary)))) => {
                self.set_role(if primary { Role::Primary } else { Role::Replica });
                self.enter(if answers { ServerState::Running } else { ServerState::Starting });
            }
        }
    }

    async fn observe(&self, with_slots: bool, _: Deadline) -> ServerObservation {
        tokio::time::sleep(QUERY).await;
        self.take_over_finished_start();
        let local = self.local();
        self.look(|server, now| {
            let data = server.data.as_ref();
            let both = data.zip(server.process.as_ref());
            let asked = both.filter(|_| !local.state.is_starting());
            ServerObservation {
                state: local.state,
                role: local.role,
                since: local.since,
                postmaster: server.process.as_ref().map_or(Postmaster::None, |process| Postmaster::Running {
                    pid: i32::try_from(process.id).unwrap_or(i32::MAX),
                    started_at: process.started_at,
                }),
                data_dir: match data {
                    None => DataDir::Empty,
                    Some(data) => DataDir::Present { recovery_file: data.standby, backup_label: false },
                },
                system_id: data.and_then(|data| SystemId::parse(&data.system_id.to_string())),
                monitor: asked.map_or(Monitor::NotAsked, |(data, process)| looking::monitor(process, data, now)),
                slots: asked.filter(|_| with_slots).map(|(data, process)| looking::physical_slots(data, process)),
                major_version: data.map(|_| 150_000),
                pending_restart: BTreeMap::new(),
            }
        })
    }

    async fn report(&self, _: Duration, _: Deadline) -> Arc<StatusReport> {
        tokio::time::sleep(QUERY).await;
        let server = self.look(|server, now| {
            let (data, process) = (server.data.as_ref()?, server.process.as_ref()?);
            process.answers().then(|| ServerStatus {
                postmaster_start_time: process.started_at.to_string(),
                postmaster_start_epoch: 0.0,
                server_version: 150_020,
                monitor: looking::monitor(process, data, now),
                replayed_timestamp: None,
                latest_end_lsn: None,
                replication: Vec::new(),
            })
        });
        Arc::new(StatusReport { read_at: self.clock.now(), server })
    }

    async fn control_data(&self, _: Deadline) -> Result<ControlData, OperationFailed> {
        let none = || OperationFailed("there is no control file to read".to_owned());
        if self.local().state == ServerState::CreatingReplica {
            return Err(none());
        }
        let control = self.look(|server, _| server.data.as_ref().map(|data| data.control.clone())).ok_or_else(none)?;
        Ok(ControlData {
            lines: vec![("Database cluster state".to_owned(), control.state.words().to_owned())],
            cluster_state: control.state.words().to_owned(),
            checkpoint: Lsn(control.checkpoint),
            checkpoint_timeline: Timeline::known(control.checkpoint_timeline),
            minimum_recovery_end: Lsn(control.minimum),
            minimum_recovery_timeline: Timeline::known(control.minimum_timeline),
            rewindable: true,
        })
    }

    async fn history_file(&self, timeline: Timeline) -> Option<(Vec<HistoryLine>, jiff::Zoned)> {
        let lines = self.look(|server, _| {
            let data = server.data.as_ref()?;
            (data.wal.timeline == timeline.0 && timeline.0 > 1).then(|| looking::history_lines(&data.wal))
        })?;
        Some((lines, self.clock.wall().to_zoned(jiff::tz::TimeZone::UTC)))
    }

    async fn own_timeline(&self, _: Deadline) -> Option<Timeline> {
        self.process(|process, data, _| process.answers().then_some(Timeline(data.wal.timeline)))?
    }

    async fn can_rewind(&self) -> bool {
        self.look(|server, _| server.data.is_some())
    }

    async fn observe_divergence(&self, leader: &Upstream, deadline: Deadline) -> Result<DivergenceFacts, Inconclusive> {
        let inconclusive = |reason: &str| Inconclusive(reason.to_owned());
        let local = self.look(|server, _| {
            let data = server.data.as_ref()?;
            let control = &data.control;
            match &server.process {
                Some(process) if process.answers() && matches!(process.phase, Phase::Recovery { .. }) => {
                    Some((data.wal.timeline, data.wal.replayed, true, None))
                }
                Some(process) if process.answers() => None,
                Some(_) if !self.local().state.is_starting() => None,
                _ => match control.state {
                    ControlState::InArchiveRecovery | ControlState::ShutDownInRecovery if control.minimum > 0 => {
                        Some((control.minimum_timeline, control.minimum, true, None))
                    }
                    ControlState::InArchiveRecovery | ControlState::ShutDownInRecovery | ControlState::ShutDown => {
                        Some((control.checkpoint_timeline, control.checkpoint, false, Some(control.checkpoint_end)))
                    }
                    _ => None,
                },
            }
        });
        let (timeline, lsn, in_recovery, end) = local.ok_or_else(|| inconclusive("the local position is unknown"))?;
        tokio::time::sleep(QUERY * 10).await;
        let theirs = building::ask(self, &leader.name, deadline, |process, data| {
            (process.phase == Phase::Production).then(|| (data.wal.timeline, looking::history_lines(&data.wal)))
        });
        let (leader_timeline, history) =
            theirs.await.flatten().ok_or_else(|| inconclusive("the leader cannot be used for a comparison now"))?;
        Ok(DivergenceFacts {
            local_timeline: Timeline(timeline),
            local_lsn: Lsn(lsn),
            local_in_recovery: in_recovery,
            checkpoint_end: end.map(Lsn),
            leader_timeline: Timeline(leader_timeline),
            leader_history: Some(history).filter(|_| timeline < leader_timeline),
        })
    }

    async fn recovery_diff(&self, plan: &FollowPlan, _: Deadline) -> RecoveryDiff {
        let wanted = plan.upstream.as_ref().map(|upstream| upstream.name.as_str());
        self.look(|server, _| match &server.data {
            Some(data) if !data.standby => RecoveryDiff::Restart,
            Some(data) if data.upstream == wanted && data.slot == plan.slot => RecoveryDiff::None,
            _ => RecoveryDiff::Reload,
        })
    }

    async fn slot_exists_on(&self, upstream: &Upstream, slot: &str, deadline: Deadline) -> Option<bool> {
        building::ask(self, &upstream.name, deadline, |_, data| data.slots.contains(slot)).await
    }

    fn set_role(&self, role: Role) {
        self.local.send_if_modified(|local| std::mem::replace(&mut local.role, role) != role);
    }

    fn set_state(&self, state: ServerState) {
        self.enter(state);
    }

    fn call(&self, _: CallbackEvent) {}

    fn callback_called(&self) -> bool {
        true
    }

    async fn apply_settings(&self, _: Arc<EffectiveSettings>, _: bool) {}

    async fn start(&self, role: Role, timeout: Option<Duration>, cancel: &Cancel) -> StartOutcome {
        self.note("starts as a standby");
        let launched = self.change(|server, rng, now| server.launch(true, now, rng));
        self.started(Some(role), launched, timeout.unwrap_or(START), cancel).await
    }

    async fn start_as_primary(&self, timeout: Option<Duration>, cancel: &Cancel) -> StartOutcome {
        self.note("starts as a primary");
        let launched = self.change(|server, rng, now| server.launch(false, now, rng));
        self.started(Some(Role::Primary), launched, timeout.unwrap_or(START), cancel).await
    }

    async fn stop(&self, request: StopRequest, events: Option<mpsc::Sender<StopEvent>>) -> StopOutcome {
        let id = self.look(|server, _| server.process.as_ref().map(|process| process.id));
        let Some(id) = id else {
            self.enter(ServerState::Stopped);
            return StopOutcome::Stopped(None);
        };
        if request.checkpoint_first {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if !request.part_of_restart {
            self.enter(ServerState::Stopping);
        }
        self.note(&format!("stop ({:?})", request.mode));
        self.change(|server, rng, now| server.stop(request.mode, now, rng));
        let gone = |server: &Server| server.process.as_ref().is_none_or(|process| process.id != id);
        let clean = |server: &Server| {
            server
                .data
                .as_ref()
                .filter(|data| data.control.state == ControlState::ShutDown)
                .map(|data| looking::shutdown_position(&data.control))
        };
        let end = async {
            if let Some(events) = &events {
                let cut_off = |server: &Server, now: Duration| {
                    let clients_gone =
                        server.process.as_ref().and_then(|process| process.stopping).is_none_or(|stop| now >= stop.clients_gone_at);
                    clients_gone.then_some(())
                };
                while self.look(cut_off).is_none() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                // A receiver that went away has heard enough.
                let _ = events.send(StopEvent::BackendsGone).await;
                let judged = |server: &Server, _: Duration| if gone(server) { Some(None) } else { clean(server).map(Some) };
                if let Some(Some(position)) = self.until(FOREVER, &Cancel::never(), judged).await {
                    let _ = events.send(StopEvent::ShutDown(position)).await;
                }
            }
            self.until(FOREVER, &Cancel::never(), |server, _| gone(server).then_some(())).await;
        };
        if tokio::time::timeout(request.timeout.filter(|limit| !limit.is_zero()).unwrap_or(FOREVER), end).await.is_err() {
            self.note("the stop takes too long: aborting");
            self.change(|server, rng, now| server.stop(StopMode::Immediate, now, rng));
            self.until(FOREVER, &Cancel::never(), |server, _| gone(server).then_some(())).await;
        }
        if !request.part_of_restart {
            self.enter(ServerState::Stopped);
        }
        let position = self.look(|server, _| if server.process.is_none() { clean(server) } else { None });
        StopOutcome::Stopped(position.filter(|_| request.mode == StopMode::Fast))
    }

    async fn restart(&self, timeout: Duration, cancel: &Cancel) -> StartOutcome {
        let request = StopRequest {
            mode: StopMode::Fast,
            checkpoint_first: true,
            hook: ha_engine::ports::StopHook::Run,
            timeout: None,
            part_of_restart: true,
        };
        self.enter(ServerState::Restarting);
        self.stop(request, None).await;
        let standby = self.look(|server, _| server.data.as_ref().is_some_and(|data| data.standby));
        let launched = self.change(|server, rng, now| server.launch(standby, now, rng));
        self.started(None, launched, timeout, cancel).await
    }

    async fn follow(&self, plan: &FollowPlan, reload_only: bool, timeout: Option<Duration>, cancel: &Cancel) -> StartOutcome {
        let upstream = plan.upstream.as_ref().and_then(|upstream| crate::name_of(&upstream.name));
        self.note(&format!("follows {}", upstream.unwrap_or("nobody")));
        let exists = self.change(|server, _, now| {
            let Some(data) = &mut server.data else { return false };
            (data.upstream, data.slot) = (upstream, plan.slot.clone());
            if !reload_only {
                data.names.clear();
            }
            if let Some(process) = &mut server.process {
                process.receiver.next_attempt = now;
            }
            true
        });
        if !exists {
            return StartOutcome::Failed;
        }
        if reload_only {
            self.set_role(plan.role);
            return StartOutcome::Running;
        }
        if self.look(|server, _| server.process.is_some()) {
            let request = StopRequest {
                mode: StopMode::Fast,
                checkpoint_first: false,
                hook: ha_engine::ports::StopHook::Run,
                timeout: None,
                part_of_restart: true,
            };
            self.enter(ServerState::Restarting);
            self.stop(request, None).await;
        }
        self.start(plan.role, timeout, cancel).await
    }

    async fn run_pre_promote(&self, _: &Cancel) -> bool {
        true
    }

    async fn promote(&self, limit: Duration, cancel: &Cancel) -> PromoteOutcome {
        if cancel.is_cancelled() {
            return PromoteOutcome::Cancelled;
        }
        self.note("promotion requested");
        self.world.lock().check_promotion_request(self.me);
        if !self.change(|server, rng, now| server.promote(now, rng)) {
            return PromoteOutcome::Failed;
        }
        self.set_role(Role::Promoted);
        let done = |server: &Server, _: Duration| match &server.process {
            None => Some(false),
            Some(process) => (process.phase == Phase::Production).then_some(true),
        };
        match self.until(limit, cancel, done).await {
            Some(true) => {
                self.set_role(Role::Primary);
                PromoteOutcome::Promoted
            }
            Some(false) => PromoteOutcome::Failed,
            None => PromoteOutcome::Requested,
        }
    }

    async fn resume_replay(&self, _: Deadline) {}

    async fn checkpoint(&self, cancel: &Cancel) -> bool {
        let span = Duration::from_millis(self.world.lock().rng.u64(50..3_000));
        let id = self.process(|process, _, _| process.id);
        tokio::select! {
            biased;
            () = cancel.cancelled() => return false,
            () = tokio::time::sleep(span) => {}
        }
        self.change(|server, _, _| {
            let (Some(data), Some(process)) = (&mut server.data, &server.process) else { return false };
            let done = process.phase == Phase::Production && process.stopping.is_none() && Some(process.id) == id;
            if done {
                data.control.checkpoint_timeline = data.wal.timeline;
            }
            done
        })
    }

    async fn write_wal_record(&self, _: Deadline) {
        self.change(|server, _, now| {
            if server.is_writable(now)
                && let Some(data) = &mut server.data
            {
                data.wal.append(Kind::Noop, 40);
            }
        });
    }

    async fn synchronous_replication(&self, _: Deadline) -> Option<SyncSample> {
        tokio::time::sleep(QUERY).await;
        self.process(|process, data, now| {
            let answers = process.answers() && process.phase == Phase::Production;
            answers.then(|| SyncSample {
                level: CommitLevel::Flush,
                names: process.names_text.clone(),
                settled: now.saturating_sub(process.names_loaded_at) >= RELOADED && process.new_names.is_none(),
                flushed: Lsn(data.wal.flushed),
                commits_wait: process.commits.iter().any(|commit| commit.waits),
                walsenders: looking::walsenders(process),
            })
        })?
    }

    async fn set_synchronous_names(&self, text: Option<&str>, deadline: Deadline) -> Result<Option<SyncSample>, OperationFailed> {
        let wanted = text.unwrap_or_default().to_owned();
        let runs = self.local().state == ServerState::Running;
        self.note(&format!("synchronous_standby_names = '{wanted}'"));
        if !runs {
            self.change(|server, _, _| {
                if let Some(data) = &mut server.data {
                    data.names.clone_from(&wanted);
                }
            });
            return Err(OperationFailed("PostgreSQL is not running".to_owned()));
        }
        self.change(|server, rng, now| {
            if server.process.as_ref().is_none_or(|process| process.names_text != wanted || process.new_names.is_some()) {
                server.set_names(&wanted, now, rng);
            } else if let Some(data) = &mut server.data {
                data.names.clone_from(&wanted);
            }
        });
        let primary = self.local().role == Role::Primary;
        while !deadline.has_passed() {
            if primary {
                if let Some(sample) = self.synchronous_replication(deadline).await.filter(|sample| sample.settled && sample.names == wanted)
                {
                    return Ok(Some(sample));
                }
            } else if self.process(|process, _, _| process.names_text == wanted).unwrap_or(false) {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(OperationFailed("the server does not have it yet".to_owned()))
    }

    async fn nudge(&self) {
        self.change(|server, _, now| {
            if let Some(process) = &mut server.process {
                process.receiver.next_attempt = now;
            }
        });
    }

    async fn bootstrap(&self, _: &BootstrapSettings, cancel: &Cancel) -> Result<(), OperationFailed> {
        self.enter(ServerState::InitializingNewCluster);
        tokio::time::sleep(Duration::from_millis(700)).await;
        self.change(|server, rng, _| {
            if server.process.is_none() {
                server.data = Some(Data::new(7_000_000_000_000_000_000 + rng.u64(0..1_000_000)));
            }
        });
        match self.start_as_primary(None, cancel).await {
            StartOutcome::Running => Ok(()),
            _ => Err(OperationFailed("the new server did not start".to_owned())),
        }
    }

    async fn post_bootstrap(&self, _: &BootstrapSettings, _: &Cancel) -> Result<(), OperationFailed> {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(())
    }

    async fn clone_from(&self, source: &CloneSource, cancel: &Cancel) -> Result<(), OperationFailed> {
        building::copy(self, source, cancel).await
    }

    async fn rewind(&self, source: &Upstream, _: bool, cancel: &Cancel) -> RewindOutcome {
        building::rewind(self, source, cancel).await
    }

    async fn single_user_recovery(&self, _: &Cancel) -> Result<(), OperationFailed> {
        self.note("single-user recovery");
        tokio::time::sleep(Duration::from_millis(900)).await;
        self.change(|server, _, _| match (&server.process, &mut server.data) {
            (None, Some(data)) => {
                data.wal.flush();
                data.standby = false;
                data.shutdown_checkpoint();
                Ok(())
            }
            _ => Err(OperationFailed("the data directory is in use".to_owned())),
        })
    }

    async fn remove_data_directory(&self) -> Result<(), OperationFailed> {
        building::remove(self)
    }

    async fn move_data_directory_aside(&self) -> Result<(), OperationFailed> {
        building::remove(self)
    }

    async fn apply_slots(&self, plan: &SlotPlan, _: Deadline) -> Vec<SlotObservation> {
        self.change(|server, _, _| {
            let (Some(data), Some(process)) = (&mut server.data, &server.process) else { return Vec::new() };
            let dropped: BTreeSet<&str> = plan.drop.iter().map(|slot| slot.name.as_str()).collect();
            data.slots.retain(|name| !dropped.contains(name.as_str()) || process.walsenders.contains_key(name.as_str()));
            data.slots.extend(plan.create.iter().cloned());
            looking::physical_slots(data, process)
        })
    }

    // ---- what no scenario here asks for ------------------------------------------------------------------------------

    async fn keep_wal(&self, _: &WalToKeep, _: &Cancel) -> Result<KeptWal, OperationFailed> {
        Err(OperationFailed("there is no place to keep it".to_owned()))
    }

    async fn archives_wal(&self) -> bool {
        false
    }

    async fn archive_shutdown_checkpoint(&self, _: &Cancel) -> Result<(), OperationFailed> {
        Err(OperationFailed("there is no archive".to_owned()))
    }

    async fn tend_logical_slots(&self, _: &LogicalWork, _: &Cancel) -> LogicalReport {
        LogicalReport::default()
    }

    async fn read_logical_slots(&self, _: &Upstream, _: &[LogicalSlot], _: Deadline) -> Result<Vec<SlotState>, OperationFailed> {
        Ok(Vec::new())
    }

    async fn write_logical_slots(&self, _: Vec<SlotState>) -> Result<(), OperationFailed> {
        Ok(())
    }

    async fn enforce_feedback(&self, _: bool) -> Result<(), OperationFailed> {
        Ok(())
    }
}
