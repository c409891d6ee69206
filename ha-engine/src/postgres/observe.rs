//! Looking at the server.

use std::path::PathBuf;
use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{HistoryLine, Role, ServerState, Timeline};

use super::book::Pending;
use super::connection::SqlError;
use super::walsender::{Readiness, Walsender, knock};
use super::{LocalPostgres, PROGRAM, blocking, data_dir, history, query};
use crate::cancel::Cancel;
use crate::decide::observation::{DataDir, Monitor, Postmaster, ServerObservation, SlotObservation};
use crate::ports::{ControlData, OperationFailed};
use crate::postgres::runner::Program;

/// Bound of one monitoring query; the server cancels it after 2 s by itself.
const MONITOR: Duration = Duration::from_secs(3);

impl LocalPostgres {
    pub(super) async fn observe_server(&self, with_slots: bool, deadline: Deadline) -> ServerObservation {
        let process = self.postmaster().await;
        if self.server_state().is_starting() {
            self.check_startup(process.as_ref(), deadline).await;
        }
        let (monitor, slots) = match &process {
            Some(process) if !process.single_user && !self.server_state().is_starting() => {
                self.monitor_with_retry(with_slots, deadline).await
            }
            _ => (Monitor::NotAsked, None),
        };
        if matches!(monitor, Monitor::Primary(_) | Monitor::Standby(_)) {
            self.believe_the_answer();
        }
        let data_dir = self.look_at_data_dir(deadline).await;
        let major_version = self.major().await;
        let system_id = if matches!(data_dir, DataDir::Present { .. }) { self.system_id(deadline).await } else { None };
        let local = self.state.borrow().clone();
        ServerObservation {
            state: local.state,
            role: local.role,
            since: local.since,
            postmaster: match process {
                None => Postmaster::None,
                Some(process) if process.single_user => Postmaster::SingleUser { pid: process.pid() },
                Some(process) => Postmaster::Running { pid: process.pid(), started_at: process.started_at },
            },
            data_dir,
            system_id,
            monitor,
            slots,
            major_version,
            pending_restart: local.pending_restart,
        }
    }

    /// A server that answers runs, whatever an earlier start or stop was thought to have come to. States of work that is under way stay.
    fn believe_the_answer(&self) {
        let now = self.clock.now();
        self.state.send_if_modified(|local| {
            let wrong =
                matches!(local.state, ServerState::StartFailed | ServerState::RestartFailed | ServerState::Stopped | ServerState::Crashed);
            if wrong {
                tracing::info!("PostgreSQL answers although its state was `{}`: taking it as running", local.state);
                (local.state, local.since) = (ServerState::Running, now);
            }
            wrong
        });
    }

    /// The data directory; what was seen last if the disk does not answer in time.
    async fn look_at_data_dir(&self, deadline: Deadline) -> DataDir {
        let path = self.data_dir();
        match deadline.bound("the data directory", blocking(move || data_dir::observe(&path))).await {
            Ok(seen) => {
                let mut book = self.book();
                if seen == DataDir::Empty {
                    (book.major, book.system_id) = (None, None);
                }
                book.data_dir = Some(seen.clone());
                seen
            }
            Err(late) => self.book().data_dir.clone().unwrap_or_else(|| DataDir::Inaccessible(late.to_string())),
        }
    }

    async fn system_id(&self, deadline: Deadline) -> Option<dcs_core::model::SystemId> {
        let known = self.book().system_id.clone();
        if known.is_some() {
            return known;
        }
        let found = self.read_control_data(deadline).await.ok()?.system_id();
        // While a cluster is being made its identifier may still change.
        if found.is_some() && !self.book().stage.is_bootstrap() {
            self.book().system_id.clone_from(&found);
        }
        found
    }

    /// The monitoring query, tried twice on a server that runs.
    async fn monitor_with_retry(&self, with_slots: bool, deadline: Deadline) -> (Monitor, Option<Vec<SlotObservation>>) {
        let mut failure = None;
        for _ in 0..2 {
            match self.ask_monitor(with_slots, deadline).await {
                Ok(answer) => return answer,
                Err(error) => {
                    tracing::debug!("Retry got exception: {error}");
                    // Another try would be cancelled as well, and a server that is busy needs no more work. One that is being
                    // stopped or restarted by us has a good reason to be silent.
                    let hopeless = error.is_cancelled() || deadline.has_passed() || self.server_state() != ServerState::Running;
                    failure = Some(error);
                    if hopeless {
                        break;
                    }
                }
            }
        }
        let Some(error) = failure else { return (Monitor::Failed, None) };
        match self.server_state() {
            state if state.is_starting() => return (Monitor::NotAsked, None),
            ServerState::Running => tracing::warn!("Retry got exception: {error}"),
            _ => return (Monitor::Failed, None),
        }
        if error.is_connection_problem() {
            match knock(&self.target(), deadline).await {
                Readiness::Rejecting if self.server_state() == ServerState::Running => {
                    self.enter(ServerState::Starting);
                    return (Monitor::NotAsked, None);
                }
                // It has died since this look began: the next one will say so.
                Readiness::Silent if self.book().postmaster.as_ref().is_none_or(|process| !process.is_alive()) => {
                    return (Monitor::Failed, None);
                }
                _ => {}
            }
        }
        tracing::warn!("Failed to determine PostgreSQL state from the connection, falling back to cached role");
        (Monitor::Failed, None)
    }

    /// The monitoring query, once.
    pub(super) async fn ask_monitor(
        &self,
        with_slots: bool,
        deadline: Deadline,
    ) -> Result<(Monitor, Option<Vec<SlotObservation>>), SqlError> {
        let Some(major) = self.major().await else {
            return Err(SqlError::Lost("the version of the data directory is unknown".to_owned()));
        };
        let sql = query::monitor_sql(major, self.role() == Role::StandbyLeader, with_slots);
        let (rows, version) = self.heartbeat.query(&self.target(), &sql, deadline.at_most(MONITOR)).await?;
        self.book().running_version = Some(version);
        let row = rows.first().ok_or_else(|| SqlError::Lost("an empty answer to the monitoring query".to_owned()))?;
        Ok(query::read_monitor(row, with_slots))
    }

    pub(super) async fn read_control_data(&self, deadline: Deadline) -> Result<ControlData, OperationFailed> {
        // While a copy is being made the control file is somebody else's.
        if self.server_state() == ServerState::CreatingReplica || self.major().await.is_none() {
            return Err(OperationFailed("there is no control file to read".to_owned()));
        }
        self.control.read(self.program("pg_controldata"), &self.data_dir(), deadline).await
    }

    pub(super) async fn read_history_file(&self, timeline: Timeline) -> Option<(Vec<HistoryLine>, jiff::Zoned)> {
        let path: PathBuf = self.data_dir().join("pg_wal").join(timeline.history_file());
        let (text, written) = blocking(move || {
            let written = std::fs::metadata(&path).ok()?.modified().ok()?;
            Some((std::fs::read_to_string(&path).ok()?, written))
        })
        .await?;
        let written = jiff::Timestamp::try_from(written).ok()?.to_zoned(jiff::tz::TimeZone::system());
        Some((history::parse(&text), written))
    }

    pub(super) async fn identify_own_timeline(&self, deadline: Deadline) -> Option<Timeline> {
        let ask = async { Walsender::open(&self.replication_target(), deadline).await?.identify(deadline).await };
        match ask.await {
            Ok(identity) => Some(identity.timeline),
            Err(error) => {
                tracing::error!("Can not fetch local timeline and lsn from replication connection: {}", dcs_core::chain(&error));
                None
            }
        }
    }

    pub(super) async fn rewind_possible(&self) -> bool {
        let known = self.book().rewind_program;
        let program = match known {
            Some(works) => works,
            None => {
                let help = Program::new(self.program("pg_rewind")).arg("--help");
                let works = help.run(&Cancel::never(), Some(Deadline::after(PROGRAM))).await.is_ok_and(|done| done.success());
                self.book().rewind_program = Some(works);
                works
            }
        };
        program && self.read_control_data(Deadline::after(PROGRAM)).await.is_ok_and(|data| data.rewindable)
    }

    /// Looks for a running postmaster and takes state and role from what is found.
    pub(super) async fn adopt_server(&self, deadline: Deadline) {
        self.major().await;
        let role = self.role_from_data_directory().await;
        let process = self.postmaster().await;
        let Some(process) = process.filter(|process| !process.single_user) else {
            let role = if role == Role::Primary { Role::Demoted } else { role };
            self.state.send_modify(|local| local.role = role);
            return;
        };
        self.state.send_modify(|local| local.role = role);
        {
            let mut book = self.book();
            // Finding a server is not starting one: nothing is called for it here, and it does not count as a call.
            book.pending = Pending::Nothing;
            book.reload_after_adoption = true;
        }
        self.enter(ServerState::Starting);
        self.check_startup(Some(&process), deadline).await;
        if self.server_state() == ServerState::Running {
            self.take_over_running_server(deadline).await;
        }
    }

    /// A server that accepts connections was found: its values become the known ones.
    async fn take_over_running_server(&self, deadline: Deadline) {
        let role = match self.ask_monitor(false, deadline).await {
            Ok((Monitor::Primary(_), _)) => Role::Primary,
            Ok(_) => Role::Replica,
            Err(error) => {
                tracing::warn!("the server that was found could not be asked: {error}");
                return;
            }
        };
        self.state.send_modify(|local| local.role = role);
        self.book().unread = true;
        if let Err(error) = self.load_running_parameters(role, deadline).await {
            // Written now, the files would lose what it has.
            tracing::warn!("the parameters of the server that was found could not be read: {error}");
            return;
        }
        let written = self.write_access_files().await;
        if role == Role::Primary {
            self.adopt_settings(self.settings(), written).await;
        } else if written {
            self.reload_server(true).await;
        }
    }
}
