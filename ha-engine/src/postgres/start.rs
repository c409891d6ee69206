//! Starting, and restarting.

use std::path::PathBuf;
use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{Role, ServerState};
use tokio::time::Instant;

use super::book::Pending;
use super::postmaster::{Launch, PidFile, Process};
use super::walsender::{Readiness, knock};
use super::{LocalPostgres, PROGRAM, blocking, data_dir, parameters};
use crate::cancel::Cancel;
use crate::ports::{CallbackEvent, StartOutcome, StopHook, StopMode, StopOutcome, StopRequest};

/// How often a starting server is looked at: its pid file, which costs it nothing.
const POLL: Duration = Duration::from_millis(25);

/// How often it is knocked at although its pid file does not say that it is ready: every knock is a line in its log.
const KNOCK: Duration = Duration::from_secs(1);

/// How long a postmaster may take to end that was launched although a stop had been asked for.
const UNWANTED: Duration = Duration::from_secs(5);

/// What is called when the server is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callback {
    /// `on_start`
    OnStart,
    /// `on_restart`
    OnRestart,
    /// What was decided before.
    AsDecided,
}

/// A start in detail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// The role; found out from the data directory if absent.
    pub(super) role: Option<Role>,
    /// Overrides `pg_ctl_timeout`.
    pub(super) timeout: Option<Duration>,
    /// What is called.
    pub(super) callback: Callback,
}

/// A start that somebody else's stop, or a cancellation, has overtaken.
#[derive(Clone, Copy, Debug)]
struct Begun {
    stops: u64,
}

/// What became of waiting for a start.
enum Looked {
    /// It accepts connections.
    Running,
    /// It ended.
    Failed,
    /// Neither yet.
    Starting,
}

/// Marks a start as under way until it is dropped, also when the start is.
struct UnderWay<'a>(&'a LocalPostgres);

impl<'a> UnderWay<'a> {
    fn begin(server: &'a LocalPostgres) -> Self {
        server.book().start_under_way = true;
        Self(server)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.book().start_under_way = false;
    }
}

impl LocalPostgres {
    pub(super) async fn start_server(&self, start: Start, cancel: &Cancel) -> StartOutcome {
        let begun = Begun { stops: self.book().stops };
        self.start_begun(start, begun, cancel).await
    }

    /// Whether nobody has asked for a stop since `begun`, and nobody has cancelled the start.
    fn is_still_wanted(&self, begun: Begun, cancel: &Cancel) -> bool {
        !cancel.is_cancelled() && self.book().stops == begun.stops
    }

    /// A start as of `begun`: a stop that was asked for since then wins.
    async fn start_begun(&self, start: Start, begun: Begun, cancel: &Cancel) -> StartOutcome {
        let _under_way = UnderWay::begin(self);
        // After kill -9 a connection may hang that reports what is long gone.
        self.close_connections().await;
        let state = if self.book().stage.is_custom() { ServerState::StartingAfterCustomBootstrap } else { ServerState::Starting };
        if self.postmaster().await.is_some() {
            tracing::error!("Cannot start PostgreSQL because one is already running.");
            self.enter(state);
            return StartOutcome::Running;
        }
        match start.callback {
            Callback::OnStart => self.book().pending = Pending::Event(CallbackEvent::Start),
            Callback::OnRestart => self.book().pending = Pending::Event(CallbackEvent::Restart),
            Callback::AsDecided => {}
        }
        let role = match start.role {
            Some(role) => role,
            None => self.role_from_data_directory().await,
        };
        if !self.is_still_wanted(begun, cancel) {
            tracing::info!("PostgreSQL start cancelled.");
            self.enter(ServerState::Stopped);
            return StartOutcome::Failed;
        }
        let now = self.clock.now();
        self.state.send_modify(|local| {
            (local.state, local.since, local.role) = (state, now, role);
            local.pending_restart.clear();
        });
        let launch = match self.prepare_start(role).await {
            Ok(launch) => launch,
            Err(reason) => {
                tracing::error!("{reason}");
                self.enter(ServerState::StartFailed);
                return StartOutcome::Failed;
            }
        };
        if !self.is_still_wanted(begun, cancel) {
            tracing::info!("PostgreSQL start cancelled.");
            self.enter(ServerState::Stopped);
            return StartOutcome::Failed;
        }
        let process = match blocking(move || launch.spawn()).await {
            Ok(process) => process,
            Err(error) => {
                tracing::error!("Failed to start PostgreSQL: {error}");
                self.enter(ServerState::StartFailed);
                return StartOutcome::Failed;
            }
        };
        self.book().postmaster = Some(process.clone());
        if !self.is_still_wanted(begun, cancel) {
            // The stop came while the postmaster was being launched and could not see it.
            tracing::info!("PostgreSQL start cancelled.");
            self.end_unwanted(&process).await;
            return StartOutcome::Failed;
        }
        let timeout = start.timeout.unwrap_or_else(|| self.settings().postgresql.pg_ctl_timeout);
        self.wait_for_start(&process, timeout, cancel).await
    }

    /// Ends a postmaster that was launched although a stop had been asked for.
    async fn end_unwanted(&self, process: &Process) {
        process.signal_stop(StopMode::Immediate);
        if tokio::time::timeout(UNWANTED, process.ended()).await.is_err() {
            tracing::error!("the postmaster that was launched in spite of a stop is still there");
            return;
        }
        self.book().postmaster = None;
        self.enter(ServerState::Stopped);
    }

    /// Everything before the launch: values, directories, files.
    async fn prepare_start(&self, role: Role) -> Result<Launch, String> {
        if self.major().await.is_none() {
            return Err("cannot start PostgreSQL: the version of the data directory is unknown".to_owned());
        }
        let mut parameters = self.book().parameters.clone();
        if role != Role::Primary {
            if let Ok(data) = self.read_control_data(Deadline::after(PROGRAM)).await {
                let raised = parameters::raise_to_control_data(&parameters, &data);
                raised.lines.iter().for_each(super::report::Line::emit);
                parameters = raised.parameters;
                self.state.send_modify(|local| local.pending_restart = raised.pending);
            }
            self.disable_hot_standby_for_bootstrap(&mut parameters);
        }
        self.check_directories(&parameters).await?;
        self.write_configuration_for_start(&parameters).await?;
        let paths = self.paths();
        Ok(Launch {
            program: self.program("postgres"),
            data_dir: self.data_dir(),
            config_file: paths.postgresql_conf.clone(),
            options: parameters::command_line(&parameters),
        })
    }

    async fn wait_for_start(&self, process: &Process, timeout: Duration, cancel: &Cancel) -> StartOutcome {
        let until = Instant::now() + timeout;
        let mut knocked = Instant::now();
        let data_dir = self.data_dir();
        let mut ended = std::pin::pin!(process.ended());
        let mut port_open = false;
        loop {
            let open = status_of(data_dir.clone(), process.pid()).await;
            port_open |= open.is_some();
            // `standby` is a server that will accept nobody before it is promoted.
            let ready = open.as_deref() == Some("ready");
            if ready || knocked.elapsed() >= KNOCK {
                knocked = Instant::now();
                match self.look_at_start(process).await {
                    Looked::Running => return StartOutcome::Running,
                    Looked::Failed => return StartOutcome::Failed,
                    Looked::Starting => {}
                }
            }
            if Instant::now() >= until {
                if !port_open {
                    tracing::warn!("Timed out waiting for PostgreSQL to start");
                }
                return StartOutcome::StillStarting;
            }
            // The server says that it is ready a moment before it is.
            let pause = if ready { POLL * 2 } else { POLL };
            tokio::select! {
                () = &mut ended => {
                    tracing::error!("postmaster is not running");
                    self.leave_starting(ServerState::StartFailed);
                    self.save_backups().await;
                    return StartOutcome::Failed;
                }
                () = cancel.cancelled() => return StartOutcome::StillStarting,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn look_at_start(&self, process: &Process) -> Looked {
        match knock(&self.target(), Deadline::after(Duration::from_secs(3))).await {
            Readiness::Accepting => {
                self.became_ready().await;
                Looked::Running
            }
            Readiness::Rejecting => Looked::Starting,
            Readiness::Silent if process.is_alive() => Looked::Starting,
            Readiness::Silent => {
                self.leave_starting(ServerState::StartFailed);
                self.save_backups().await;
                Looked::Failed
            }
        }
    }

    /// While the state is starting: looks whether it still is.
    pub(super) async fn check_startup(&self, process: Option<&Process>, deadline: Deadline) {
        if self.book().start_under_way {
            return;
        }
        match knock(&self.target(), deadline).await {
            Readiness::Accepting => self.became_ready().await,
            Readiness::Silent if process.is_none_or(|process| !process.is_alive()) => {
                self.leave_starting(ServerState::StartFailed);
                self.save_backups().await;
            }
            Readiness::Rejecting | Readiness::Silent => {}
        }
    }

    /// The server accepts connections: says so, once, and calls what is due.
    pub(super) async fn became_ready(&self) {
        if !self.leave_starting(ServerState::Running) {
            return;
        }
        let pending = std::mem::take(&mut self.book().pending);
        match pending {
            Pending::Unset => self.notify(CallbackEvent::Start),
            Pending::Event(event) => self.notify(event),
            Pending::Nothing => {}
        }
        if !self.book().stage.is_custom() {
            self.save_backups().await;
        }
    }

    /// The role that the data directory shows.
    pub(super) async fn role_from_data_directory(&self) -> Role {
        let path = self.data_dir();
        let (empty, recovery) = blocking(move || (data_dir::is_empty(&path).unwrap_or(true), data_dir::has_recovery_file(&path))).await;
        if empty || self.read_control_data(Deadline::after(PROGRAM)).await.is_err() {
            Role::Uninitialized
        } else if recovery {
            Role::Replica
        } else {
            Role::Primary
        }
    }

    pub(super) async fn restart_server(&self, start: Start, cancel: &Cancel) -> StartOutcome {
        self.enter(ServerState::Restarting);
        match start.callback {
            Callback::OnStart => self.book().pending = Pending::Event(CallbackEvent::Start),
            Callback::OnRestart => self.book().pending = Pending::Event(CallbackEvent::Restart),
            Callback::AsDecided => {}
        }
        // The stop below is our own.
        let begun = Begun { stops: self.book().stops + 1 };
        let stop = StopRequest { mode: StopMode::Fast, checkpoint_first: true, hook: StopHook::Run, timeout: None, part_of_restart: true };
        let outcome = match self.stop_server(stop, None).await {
            StopOutcome::Stopped(_) if cancel.is_cancelled() => StartOutcome::Failed,
            StopOutcome::Stopped(_) => self.start_begun(Start { callback: Callback::AsDecided, ..start }, begun, cancel).await,
            StopOutcome::Failed => StartOutcome::Failed,
        };
        let state = self.server_state();
        if outcome == StartOutcome::Failed && !state.is_starting() {
            tracing::warn!("restart failed ('{state}')");
            self.enter(ServerState::RestartFailed);
        }
        outcome
    }
}

/// What the postmaster `pid` says about itself in its pid file, once its port is open.
async fn status_of(data_dir: PathBuf, pid: i32) -> Option<String> {
    blocking(move || PidFile::read(&data_dir).filter(|file| file.pid == pid)?.status).await
}
