//! Following another node: what would have to change, and changing it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use dcs_core::Deadline;
use dcs_core::model::Role;

use super::connection::{SqlError, text_array};
use super::recovery::{self, Comparison, Current, Receiver, Recovery};
use super::reload::SettingRow;
use super::start::{Callback, Start};
use super::{LocalPostgres, blocking};
use crate::cancel::Cancel;
use crate::ports::{CallbackEvent, FollowPlan, RecoveryDiff, StartOutcome};

/// What the current values were read under. As long as none of it changes, neither do they.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ReadUnder {
    postgresql_conf: Option<SystemTime>,
    auto_conf: Option<SystemTime>,
    passfile: Option<SystemTime>,
    postmaster: Option<i64>,
}

/// Recovery settings as the server has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CurrentRecovery {
    current: Current,
    under: ReadUnder,
}

impl LocalPostgres {
    fn wanted_recovery(&self, plan: &FollowPlan, major: u32) -> Recovery {
        let settings = self.settings();
        let recovery_conf = self.book().recovery_conf.clone();
        Recovery::for_plan(plan, &settings.postgresql, &recovery_conf, settings.name.as_str(), major)
    }

    pub(super) async fn compare_recovery(&self, plan: &FollowPlan, deadline: Deadline) -> RecoveryDiff {
        let paths = self.paths();
        let signal = paths.standby_signal.clone();
        if !blocking(move || signal.is_file()).await {
            return RecoveryDiff::Restart;
        }
        let Some(major) = self.major().await else { return RecoveryDiff::Restart };
        let starting = self.server_state().is_starting();
        let (current, receiver) = if starting {
            (self.book().current_recovery.clone().map(|known| known.current), None)
        } else {
            match self.current_recovery(deadline).await {
                Ok(current) => (Some(current), self.wal_receiver(deadline).await),
                Err(Unreadable::PostgresRestarted) => return RecoveryDiff::None,
                Err(Unreadable::Unknown) => return RecoveryDiff::Restart,
            }
        };
        // The look at an adopted server counts once it could be made.
        let first_look = !starting && std::mem::take(&mut self.book().reload_after_adoption);
        let wanted = self.wanted_recovery(plan, major);
        recovery::diff(&Comparison {
            wanted: &wanted,
            current: current.as_ref(),
            receiver: receiver.as_ref(),
            major,
            first_look,
            read_passfile: |path: &str| std::fs::read_to_string(path).ok(),
        })
    }

    /// The server's values, read again if something changed since.
    async fn current_recovery(&self, deadline: Deadline) -> Result<Current, Unreadable> {
        let known = self.book().current_recovery.clone();
        let passfile = known.as_ref().and_then(|known| known.current.passfile().map(PathBuf::from));
        let under = self.circumstances(passfile).await;
        if let Some(known) = &known
            && known.under == under
        {
            return Ok(known.current.clone());
        }
        let paths = self.paths();
        let rows = match self.setting_rows(&recovery::compared_names(), deadline).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::debug!("recovery settings could not be read: {error}");
                let same_files = known.is_some_and(|known| ReadUnder { postmaster: under.postmaster, ..known.under } == under);
                let lost = error.is_connection_problem();
                return Err(if same_files && lost { Unreadable::PostgresRestarted } else { Unreadable::Unknown });
            }
        };
        let current = Current::from_rows(&rows, &paths).map_err(|_| Unreadable::Unknown)?;
        // The values may name another password file than the one that was looked at.
        let under = self.circumstances(current.passfile().map(PathBuf::from)).await;
        self.book().current_recovery = Some(CurrentRecovery { current: current.clone(), under });
        Ok(current)
    }

    async fn circumstances(&self, passfile: Option<PathBuf>) -> ReadUnder {
        let postmaster = self.postmaster().await.map(|process| process.started_at);
        let paths = self.paths();
        blocking(move || {
            let modified = |path: &std::path::Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
            ReadUnder {
                postgresql_conf: modified(&paths.postgresql_conf),
                auto_conf: modified(&paths.auto_conf),
                passfile: passfile.as_deref().and_then(modified),
                postmaster,
            }
        })
        .await
    }

    /// Rows of `pg_settings` by name in lower case.
    pub(super) async fn setting_rows(&self, names: &[String], deadline: Deadline) -> Result<Vec<SettingRow>, SqlError> {
        let sql = format!(
            "SELECT name, setting, unit, vartype, context, sourcefile FROM pg_catalog.pg_settings \
             WHERE pg_catalog.lower(name) = ANY({})",
            text_array(names)
        );
        let (rows, _) = self.heartbeat.query(&self.target(), &sql, deadline).await?;
        let row = |row: &super::connection::Row| {
            let text = |column| row.text(column).unwrap_or_default().to_owned();
            SettingRow {
                name: text(0),
                setting: text(1),
                unit: row.text(2).map(str::to_owned),
                vartype: text(3),
                context: text(4),
                sourcefile: row.text(5).map(str::to_owned),
            }
        };
        Ok(rows.iter().map(row).collect())
    }

    /// The WAL receiver, if there is one.
    async fn wal_receiver(&self, deadline: Deadline) -> Option<Receiver> {
        let sql = "SELECT slot_name, conninfo FROM pg_catalog.pg_stat_get_wal_receiver() WHERE pid IS NOT NULL";
        let (rows, _) = self.heartbeat.query(&self.target(), sql, deadline).await.ok()?;
        let row = rows.first()?;
        Some(Receiver { slot: row.text(0).map(str::to_owned), conninfo: row.text(1).map(str::to_owned) })
    }

    pub(super) async fn follow_plan(
        &self,
        plan: &FollowPlan,
        reload_only: bool,
        timeout: Option<Duration>,
        cancel: &Cancel,
    ) -> StartOutcome {
        let Some(major) = self.major().await else {
            tracing::error!("cannot follow another node: the version of the data directory is unknown");
            return StartOutcome::Failed;
        };
        if let Err(error) = self.set_recovery(self.wanted_recovery(plan, major)).await {
            tracing::error!("recovery settings could not be written: {error}");
            return StartOutcome::Failed;
        }
        let role = self.role();
        let changes_role = self.book().callback_called
            && (matches!(role, Role::Primary | Role::Demoted)
                || matches!((role, plan.role), (Role::StandbyLeader, Role::Replica) | (Role::Replica, Role::StandbyLeader)));
        if changes_role {
            self.book().pending = super::book::Pending::Nothing;
        }
        let start =
            |callback| Start { role: Some(plan.role), timeout, callback: if changes_role { Callback::AsDecided } else { callback } };
        if !reload_only {
            self.forget_synchronous_names();
        }
        let outcome = if self.postmaster().await.is_none() {
            self.start_server(start(Callback::OnStart), cancel).await
        } else if reload_only {
            self.follow_by_reload(plan, changes_role, major).await
        } else {
            self.restart_server(start(Callback::OnRestart), cancel).await
        };
        if changes_role {
            self.notify(CallbackEvent::RoleChange);
        }
        outcome
    }

    async fn follow_by_reload(&self, plan: &FollowPlan, changes_role: bool, major: u32) -> StartOutcome {
        if let Err(error) = self.write_postgresql_conf(None).await {
            tracing::error!("postgresql.conf could not be written: {error}");
            return StartOutcome::Failed;
        }
        if !self.reload_server(!changes_role).await {
            return StartOutcome::Failed;
        }
        self.remember_written(major).await;
        if changes_role {
            self.state.send_modify(|local| local.role = plan.role);
        }
        StartOutcome::Running
    }

    /// The server needs a moment to read what was written. Until something changes again, it has what was written.
    async fn remember_written(&self, major: u32) {
        let Some(recovery) = self.book().recovery.clone() else { return };
        let passfile = self.settings().postgresql.pgpass.clone();
        let current = Current::as_written(&recovery, major, Some(&passfile));
        let under = self.circumstances(current.passfile().map(PathBuf::from)).await;
        self.book().current_recovery = Some(CurrentRecovery { current, under });
    }
}

/// Why the current values are not known.
enum Unreadable {
    /// The connection was lost, and nothing but the server's start time changed: the values are what they were.
    PostgresRestarted,
    /// Anything else.
    Unknown,
}
