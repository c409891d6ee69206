//! Promotion, and the nudges that keep PostgreSQL from sleeping over it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::Role;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::connection::{Connection, PATIENT_OPTIONS};
use super::control::ClusterState;
use super::postmaster::{Process, Signalled};
use super::runner::Program;
use super::{LocalPostgres, PROGRAM, blocking, data_dir};
use crate::cancel::Cancel;
use crate::decide::observation::Monitor;
use crate::ports::{CallbackEvent, PromoteOutcome};

/// How often a promoting server's control file is looked at.
const POLL: Duration = Duration::from_millis(10);

/// When the first nudge follows the request; each pause after that is twice as long as the one before.
const FIRST_NUDGE: Duration = Duration::from_millis(20);

/// The longest pause between nudges.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

impl LocalPostgres {
    pub(super) async fn call_pre_promote(&self, cancel: &Cancel) -> bool {
        let settings = self.settings();
        let Some(command) = &settings.postgresql.pre_promote else { return true };
        let program = Program::new(&command.program).args(&command.arguments).loud();
        match program.run(cancel, None).await {
            Ok(done) => {
                tracing::info!("pre_promote script `{program}` exited with {}", done.code());
                done.success()
            }
            Err(error) => {
                tracing::error!("pre_promote script `{program}`: {error}");
                false
            }
        }
    }

    pub(super) async fn promote_server(&self, limit: Duration, cancel: &Cancel) -> PromoteOutcome {
        if self.role() == Role::Primary {
            return PromoteOutcome::Promoted;
        }
        if cancel.is_cancelled() {
            tracing::info!("PostgreSQL promote cancelled.");
            return PromoteOutcome::Cancelled;
        }
        let Some(process) = self.postmaster().await.filter(|process| !process.single_user) else {
            tracing::error!("PostgreSQL cannot be promoted because it is not running");
            return PromoteOutcome::Failed;
        };
        if self.role() != Role::Promoted {
            if let Err(error) = self.request_promotion(&process).await {
                tracing::error!("PostgreSQL cannot be promoted: {error}");
                return PromoteOutcome::Failed;
            }
            self.state.send_modify(|local| local.role = Role::Promoted);
            self.notify(CallbackEvent::RoleChange);
        }
        self.wait_for_promotion(&process, limit, cancel).await
    }

    /// What `pg_ctl promote` does, without the time of a process.
    async fn request_promotion(&self, process: &Process) -> io::Result<()> {
        let (path, process) = (self.data_dir(), process.clone());
        blocking(move || {
            match ClusterState::peek(&path) {
                // Somebody else promoted it: what was wanted is there.
                Some(ClusterState::InProduction) => return Ok(()),
                Some(ClusterState::InArchiveRecovery) | None => {}
                Some(_) => return Err(io::Error::other("it is not in standby mode")),
            }
            create_promote_file(&path)?;
            match process.signal(Signal::SIGUSR1) {
                Signalled::Yes => Ok(()),
                Signalled::Gone | Signalled::No => {
                    let _ = fs::remove_file(path.join("promote"));
                    Err(io::Error::other("the postmaster could not be signalled"))
                }
            }
        })
        .await
    }

    /// Waits until the control file says `in production`. The startup process may have begun to wait for WAL just before the
    /// request (up to `wal_retrieve_retry_interval`, 5 s by default) and looks at the request only then; a SIGHUP ends that
    /// wait. Repeating the request instead could leave a `promote` file behind.
    async fn wait_for_promotion(&self, process: &Process, limit: Duration, cancel: &Cancel) -> PromoteOutcome {
        let begin = Instant::now();
        let path = self.data_dir();
        let (mut nudge_at, mut pause, mut nudges) = (begin + FIRST_NUDGE, FIRST_NUDGE, 0_u32);
        let mut ended = std::pin::pin!(process.ended());
        loop {
            if self.is_in_production(&path).await {
                self.state.send_modify(|local| local.role = Role::Primary);
                return PromoteOutcome::Promoted;
            }
            let now = Instant::now();
            if now.duration_since(begin) >= limit {
                return PromoteOutcome::Requested;
            }
            if now >= nudge_at {
                if nudges == 0 {
                    tracing::info!("Waking up the startup process of PostgreSQL after the promotion request");
                }
                nudges += 1;
                process.signal(Signal::SIGHUP);
                pause = (pause * 2).min(LONGEST_PAUSE);
                nudge_at = now + pause;
            }
            tokio::select! {
                () = &mut ended => return PromoteOutcome::Failed,
                () = cancel.cancelled() => return PromoteOutcome::Requested,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    async fn is_in_production(&self, path: &Path) -> bool {
        let path = path.to_owned();
        match blocking(move || ClusterState::peek(&path)).await {
            Some(state) => state == ClusterState::InProduction,
            None => self
                .read_control_data(Deadline::after(PROGRAM))
                .await
                .is_ok_and(|data| ClusterState::from_words(&data.cluster_state) == ClusterState::InProduction),
        }
    }

    pub(super) async fn resume_wal_replay(&self, deadline: Deadline) {
        tracing::info!("Resuming paused WAL replay for PostgreSQL 14+");
        if let Err(error) = self.heartbeat.query(&self.target(), "SELECT pg_catalog.pg_wal_replay_resume()", deadline).await {
            tracing::warn!("WAL replay could not be resumed: {error}");
        }
    }

    /// Runs CHECKPOINT until the control file shows the timeline of the running primary.
    pub(super) async fn checkpoint_after_promotion(&self, cancel: &Cancel) -> bool {
        if self.control_file_is_current().await {
            return true;
        }
        let forever = Deadline::after(Duration::from_secs(365 * 86_400));
        let checkpoint = async {
            let mut connection = Connection::open(&self.target(), "Patroni", PATIENT_OPTIONS, forever).await?;
            connection.query("CHECKPOINT", forever).await
        };
        let result = tokio::select! {
            result = checkpoint => result,
            () = cancel.cancelled() => return false,
        };
        if let Err(error) = result {
            tracing::error!("Exception during CHECKPOINT: {error}");
        }
        self.control_file_is_current().await
    }

    async fn control_file_is_current(&self) -> bool {
        let deadline = Deadline::after(PROGRAM);
        let Ok((monitor, _)) = self.ask_monitor(false, deadline).await else { return false };
        let Ok(data) = self.read_control_data(deadline).await else { return false };
        matches!(monitor, Monitor::Primary(primary) if data.checkpoint_timeline == Some(primary.timeline))
    }

    /// Makes every process of the server read its configuration and look again at what it waits for; no callback.
    pub(super) async fn signal_reload(&self) -> bool {
        match self.postmaster().await {
            Some(process) if !process.single_user => process.signal(Signal::SIGHUP) == Signalled::Yes,
            _ => false,
        }
    }

    /// Reloads the server's configuration, and calls `on_reload` unless told otherwise.
    pub(super) async fn reload_server(&self, callback: bool) -> bool {
        let done = self.signal_reload().await;
        if done && callback {
            self.notify(CallbackEvent::Reload);
        }
        done
    }
}

fn create_promote_file(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = data_dir::file_mode(path).mode();
    OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(path.join("promote")).map(drop)
}
