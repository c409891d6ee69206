//! Stopping.
//!
//! ```text
//!   [CHECKPOINT] ─► state `stopping` ─► before_stop ─► signal ─► clients gone ─► `shut down` ─► postmaster gone
//!                                                                    │               │
//!                                                               BackendsGone      ShutDown        (events, at most once each)
//! ```
//!
//! No lock is held meanwhile: a second stop sends its own signal at once, whatever the first one is waiting for.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{Lsn, ServerState};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connection::{Connection, PATIENT_OPTIONS};
use super::control::ClusterState;
use super::postmaster::{PidFile, Process, Signalled};
use super::runner::Program;
use super::{LocalPostgres, PROGRAM, blocking, waldump};
use crate::cancel::Cancel;
use crate::ports::{CallbackEvent, ControlData, ShutdownPosition, StopEvent, StopHook, StopMode, StopOutcome, StopRequest};

/// How often a stopping server is looked at.
const POLL: Duration = Duration::from_millis(50);

/// How the wait for a stopping postmaster ended.
enum Waited {
    Gone,
    Late,
}

/// What has been told about a stop.
struct Progress<'a> {
    events: Option<&'a mpsc::Sender<StopEvent>>,
    backends_gone: bool,
    /// The control file has been looked at for the last time: it says `shut down`, or will not.
    judged: bool,
    position: Option<ShutdownPosition>,
}

impl Progress<'_> {
    async fn tell(&mut self, event: StopEvent) {
        if let Some(events) = self.events {
            // A receiver that went away has heard enough.
            let _ = events.send(event).await;
        }
    }

    async fn tell_backends_gone(&mut self) {
        if !std::mem::replace(&mut self.backends_gone, true) {
            self.tell(StopEvent::BackendsGone).await;
        }
    }
}

impl LocalPostgres {
    pub(super) async fn stop_server(&self, request: StopRequest, events: Option<mpsc::Sender<StopEvent>>) -> StopOutcome {
        self.book().stops += 1;
        let mut progress = Progress { events: events.as_ref(), backends_gone: false, judged: false, position: None };
        let Some(process) = self.postmaster().await else {
            progress.tell_backends_gone().await;
            if !request.part_of_restart {
                self.enter(ServerState::Stopped);
            }
            return StopOutcome::Stopped(None);
        };
        if request.checkpoint_first && !self.server_state().is_starting() {
            self.checkpoint_before_stop(request.timeout).await;
        }
        if !request.part_of_restart {
            self.enter(ServerState::Stopping);
        }
        match request.hook {
            StopHook::Run => self.call_before_stop(None).await,
            StopHook::RunUntil(deadline) => self.call_before_stop(Some(deadline)).await,
            StopHook::Skip => {}
        }
        let stopped = self.end_postmaster(&process, &request, &mut progress).await;
        if stopped {
            self.close_connections().await;
            let first = self.forget_ended_postmaster(&process);
            if !request.part_of_restart {
                self.enter(ServerState::Stopped);
                if first {
                    self.notify(CallbackEvent::Stop);
                }
            }
            StopOutcome::Stopped(progress.position)
        } else {
            tracing::warn!("pg_ctl stop failed");
            self.enter(ServerState::StopFailed);
            StopOutcome::Failed
        }
    }

    /// False if another stop has done so before.
    fn forget_ended_postmaster(&self, process: &Process) -> bool {
        let mut book = self.book();
        let first = book.postmaster.as_ref().is_some_and(|known| known.pid() == process.pid());
        if first {
            (book.postmaster, book.running_version, book.current_recovery) = (None, None, None);
            book.unread = false;
        }
        first
    }

    /// Signals and waits; false if the postmaster could not be signalled.
    async fn end_postmaster(&self, process: &Process, request: &StopRequest, progress: &mut Progress<'_>) -> bool {
        match process.signal_stop(request.mode) {
            Signalled::Yes => {}
            Signalled::No => return false,
            Signalled::Gone => {
                progress.tell_backends_gone().await;
                return true;
            }
        }
        let limit = request.timeout.filter(|timeout| !timeout.is_zero());
        if let Waited::Late = self.wait_for_end(process, request.mode, limit, progress).await {
            tracing::warn!("Timeout during postmaster stop, aborting Postgres.");
            let aborted = request.mode == StopMode::Fast && {
                process.signal_stop(StopMode::Immediate);
                let wait = tokio::time::timeout(limit.unwrap_or_default(), process.ended());
                wait.await.is_ok()
            };
            if !aborted {
                process.kill().await;
            }
        }
        if request.mode == StopMode::Fast && !progress.judged {
            progress.position = self.shutdown_position_if_clean().await;
        }
        progress.tell_backends_gone().await;
        true
    }

    /// Waits for the end of the postmaster, at most `limit`, and tells what happens meanwhile.
    async fn wait_for_end(&self, process: &Process, mode: StopMode, limit: Option<Duration>, progress: &mut Progress<'_>) -> Waited {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let data_dir = self.data_dir();
        let mut ended = std::pin::pin!(process.ended());
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut clients = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = &mut ended => return Waited::Gone,
                _ = tick.tick() => {}
            }
            if !progress.backends_gone {
                let (process, data_dir) = (process.clone(), data_dir.clone());
                let seen = blocking(move || {
                    // Until the postmaster has taken notice of the signal it may still fork new backends.
                    let noticed = PidFile::read(&data_dir).and_then(|file| file.status).is_some_and(|status| status == "stopping");
                    noticed.then(|| process.client_backends())
                });
                match seen.await {
                    Some(backends) if backends.is_empty() => progress.tell_backends_gone().await,
                    Some(backends) => clients = backends,
                    None => {}
                }
            }
            if mode == StopMode::Fast && !progress.judged {
                self.judge_control_file(progress).await;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                if !progress.backends_gone && !clients.is_empty() {
                    let limit = limit.unwrap_or_default().as_secs();
                    tracing::warn!("Backends still alive after {limit}: {}", clients.join(", "));
                }
                return Waited::Late;
            }
        }
    }

    /// Looks whether the shutdown checkpoint is written. The postmaster may go on shipping WAL for a long time.
    async fn judge_control_file(&self, progress: &mut Progress<'_>) {
        let data_dir = self.data_dir();
        match blocking(move || ClusterState::peek(&data_dir)).await {
            Some(ClusterState::ShutDown) | None => {
                let Ok(data) = self.read_control_data(Deadline::after(PROGRAM)).await else { return };
                match ClusterState::from_words(&data.cluster_state) {
                    ClusterState::ShutDown => {
                        progress.judged = true;
                        let position = self.shutdown_position(&data).await;
                        progress.position = Some(position);
                        progress.tell(StopEvent::ShutDown(position)).await;
                        progress.tell_backends_gone().await;
                    }
                    ClusterState::ShutDownInRecovery => progress.judged = true,
                    _ => {}
                }
            }
            Some(ClusterState::ShutDownInRecovery) => progress.judged = true,
            Some(_) => {}
        }
    }

    /// Where a primary ended, if it stopped cleanly.
    async fn shutdown_position_if_clean(&self) -> Option<ShutdownPosition> {
        let data = self.read_control_data(Deadline::after(PROGRAM)).await.ok()?;
        if ClusterState::from_words(&data.cluster_state) != ClusterState::ShutDown {
            return None;
        }
        Some(self.shutdown_position(&data).await)
    }

    /// Where a cleanly stopped primary ended, with the help of `pg_waldump`.
    async fn shutdown_position(&self, data: &ControlData) -> ShutdownPosition {
        let checkpoint = data.checkpoint;
        let Some(timeline) = data.checkpoint_timeline else {
            return waldump::shutdown_position(checkpoint, None, None, None);
        };
        // With two records asked for, the first is the checkpoint and the complaint about the second tells its end.
        let (stdout, stderr) = self.dump_wal(timeline, checkpoint, 2).await.unwrap_or_default();
        let record = waldump::parse_record(&stdout);
        let end = waldump::checkpoint_end(&stdout, &stderr, checkpoint);
        let previous = match record.as_ref().and_then(|record| waldump::previous_to_read(checkpoint, record)) {
            Some(lsn) => self.wal_record(timeline, lsn).await,
            None => None,
        };
        waldump::shutdown_position(checkpoint, record.as_ref(), previous.as_ref(), end)
    }

    async fn wal_record(&self, timeline: dcs_core::model::Timeline, lsn: Lsn) -> Option<waldump::Record> {
        let (stdout, stderr) = self.dump_wal(timeline, lsn, 1).await?;
        stderr.trim().is_empty().then(|| waldump::parse_record(&stdout))?
    }

    /// What `pg_waldump` prints for `count` records from `lsn` on.
    pub(super) async fn dump_wal(&self, timeline: dcs_core::model::Timeline, lsn: Lsn, count: u8) -> Option<(String, String)> {
        let program = Program::new(self.program("pg_waldump"))
            .args(["-t", &timeline.to_string(), "-s", &lsn.to_string(), "-n", &count.to_string()])
            .env("PGDATA", self.data_dir())
            .in_english();
        match program.run(&Cancel::never(), Some(Deadline::after(PROGRAM))).await {
            Ok(done) => Some((done.stdout, done.stderr)),
            Err(error) => {
                tracing::error!("Failed to execute `{program}`: {error}");
                None
            }
        }
    }

    /// A checkpoint makes the one that follows short. What goes wrong does not keep a stop from happening.
    async fn checkpoint_before_stop(&self, timeout: Option<Duration>) {
        let deadline = Deadline::after(timeout.unwrap_or(Duration::from_secs(365 * 86_400)));
        let checkpoint = async {
            let mut connection = Connection::open(&self.target(), "Patroni", PATIENT_OPTIONS, deadline).await?;
            connection.query("CHECKPOINT", deadline).await
        };
        if let Err(error) = checkpoint.await {
            tracing::error!("Exception during CHECKPOINT: {error}");
        }
    }

    async fn call_before_stop(&self, deadline: Option<Deadline>) {
        let settings = self.settings();
        let Some(command) = &settings.postgresql.before_stop else { return };
        let program = Program::new(&command.program).args(&command.arguments).loud();
        match program.run(&Cancel::never(), deadline).await {
            Ok(done) => tracing::info!("before_stop script `{program}` exited with {}", done.code()),
            Err(error) => tracing::error!("Exception when calling `{program}`: {error}"),
        }
    }
}
