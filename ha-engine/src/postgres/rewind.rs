//! `pg_rewind`: making a diverged data directory follow its source again.

use std::time::Duration;

use dcs_core::Deadline;

use super::connection::{Connection, PATIENT_OPTIONS, SHORT_OPTIONS};
use super::external::missing_segment;
use super::runner::Program;
use super::{LocalPostgres, shown};
use crate::cancel::Cancel;
use crate::decide::observation::Upstream;
use crate::ports::{RewindOutcome, StopHook, StopMode, StopOutcome, StopRequest};

/// Bound of a small question to the source.
const QUESTION: Duration = Duration::from_secs(6);

/// How long `pg_rewind` may neither read nor write anything: a source that has gone silent must not keep the node for ever.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

impl LocalPostgres {
    pub(super) async fn rewind_to(&self, source: &Upstream, source_checkpointed: bool, cancel: &Cancel) -> RewindOutcome {
        let not_yet = |reason: String| RewindOutcome::NotYet(reason);
        if !self.stop_for_rewind().await {
            let reason = "Can not run pg_rewind because postgres is still running";
            tracing::warn!("{reason}");
            return not_yet(reason.to_owned());
        }
        self.archive_ready_wal(cancel).await;
        if cancel.is_cancelled() {
            return not_yet("cancelled".to_owned());
        }
        if let Err(reason) = self.check_source(source, source_checkpointed).await {
            return not_yet(reason);
        }
        match self.run_rewind(source, cancel).await {
            Some(true) => RewindOutcome::Done,
            None => not_yet("cancelled".to_owned()),
            Some(false) if self.is_not_in_recovery(source, Deadline::after(QUESTION)).await => {
                tracing::error!("Failed to rewind from healthy primary: {}", source.name);
                RewindOutcome::Failed
            }
            Some(false) => {
                let reason = format!("Failed to rewind because primary {} become unreachable", source.name);
                tracing::warn!("{reason}");
                // The attempt may have damaged the control file: then no other attempt can succeed.
                if self.rewind_possible().await { not_yet(reason) } else { RewindOutcome::Failed }
            }
        }
    }

    async fn stop_for_rewind(&self) -> bool {
        if self.postmaster().await.is_none() {
            return true;
        }
        let request =
            StopRequest { mode: StopMode::Fast, checkpoint_first: false, hook: StopHook::Run, timeout: None, part_of_restart: false };
        matches!(self.stop_server(request, None).await, StopOutcome::Stopped(_))
    }

    /// Whether the source is a primary whose control file already has its timeline: `pg_rewind` would take an older one for
    /// the truth. The reason if not.
    async fn check_source(&self, source: &Upstream, checkpointed: bool) -> Result<(), String> {
        if checkpointed {
            let healthy = self.is_not_in_recovery(source, Deadline::after(QUESTION)).await;
            return if healthy { Ok(()) } else { Err(format!("{} is not accessible or not a primary", source.name)) };
        }
        if !source.remote {
            let reason = format!("Waiting for checkpoint on {} before rewind", source.name);
            tracing::info!("{reason}");
            return Err(reason);
        }
        let settings = self.settings();
        let authentication = &settings.postgresql.authentication;
        // A superuser may run the checkpoint. Another user can only look whether there was one.
        let superuser = authentication.rewind() == &authentication.superuser;
        let checked = if superuser { self.checkpoint_on(source).await } else { self.has_checkpoint(source).await };
        checked.map_err(|reason| {
            tracing::warn!("Can not use {} for rewind: {reason}", source.name);
            format!("Can not use {} for rewind: {reason}", source.name)
        })
    }

    async fn checkpoint_on(&self, source: &Upstream) -> Result<(), &'static str> {
        let run = async {
            let deadline = Deadline::after(Duration::from_secs(86_400));
            let mut connection = Connection::open(&self.leader_target(source), "Patroni", PATIENT_OPTIONS, deadline).await?;
            let rows = connection.query("SELECT pg_catalog.pg_is_in_recovery()", deadline).await?;
            if rows.first().is_none_or(|row| row.flag(0)) {
                return Ok(false);
            }
            connection.query("CHECKPOINT", deadline).await.map(|_| true)
        };
        match run.await {
            Ok(true) => Ok(()),
            Ok(false) => Err("is_in_recovery=true"),
            Err(error) => {
                tracing::error!("Exception during CHECKPOINT: {error}");
                Err("not accessible or not healthy")
            }
        }
    }

    async fn has_checkpoint(&self, source: &Upstream) -> Result<(), &'static str> {
        let sql = "SELECT NOT pg_catalog.pg_is_in_recovery() AND pg_catalog.substr(pg_catalog.pg_walfile_name(\
             pg_catalog.pg_current_wal_lsn()), 1, 8) = pg_catalog.lpad(pg_catalog.upper(pg_catalog.to_hex(timeline_id)), 8, '0') \
             FROM pg_catalog.pg_control_checkpoint()";
        let deadline = Deadline::after(QUESTION);
        let ask = async {
            let mut connection = Connection::open(&self.leader_target(source), "Patroni", SHORT_OPTIONS, deadline).await?;
            connection.query(sql, deadline).await
        };
        match ask.await {
            Ok(rows) if rows.first().is_some_and(|row| row.flag(0)) => Ok(()),
            Ok(_) => Err("leader has not run a checkpoint yet"),
            Err(error) => {
                tracing::error!("Exception when working with leader: {error}");
                Err("not accessible or not healthy")
            }
        }
    }

    /// Runs `pg_rewind`, fetching WAL that it misses and cannot fetch itself. Nothing if it was cancelled.
    async fn run_rewind(&self, source: &Upstream, cancel: &Cancel) -> Option<bool> {
        let settings = self.settings();
        let settings = &settings.postgresql;
        let major = self.major().await.unwrap_or_default();
        let conninfo = super::conninfo::ConnInfo::for_upstream(source, settings.authentication.rewind(), &settings.database)
            .with("target_session_attrs", "read-write");
        let passfile = self.write_passfile(&conninfo).await;
        let dsn = conninfo.without("password").format(major);
        tracing::info!("running pg_rewind from {dsn}");

        let restore_command = self.configured_value("restore_command").await.filter(|command| !command.is_empty());
        // Before 15 it looked for the configuration in the data directory only.
        let restores_itself =
            restore_command.is_some() && (major >= 150_000 || (major >= 130_000 && settings.config_dir == settings.data_dir));
        let mut program = Program::new(self.program("pg_rewind"));
        if restores_itself {
            program = program.arg("--restore-target-wal");
            if major >= 150_000 && settings.config_dir != settings.data_dir {
                program = program.arg(format!("--config-file={}", shown(&self.paths().postgresql_conf)));
            }
        }
        let program = program
            .arg("-D")
            .arg(&settings.data_dir)
            .args(["--source-server", &dsn])
            .in_english()
            .patience(PATIENCE)
            .env("PGOPTIONS", "-c statement_timeout=0");
        let program = self.for_libpq(program, passfile.as_deref());
        let mut fetched = std::collections::BTreeSet::new();
        loop {
            let done = match program.run(cancel, None).await {
                Ok(done) => done,
                Err(error) => {
                    tracing::info!("pg_rewind exit code=None");
                    tracing::error!("{}", dcs_core::chain(&error));
                    return if cancel.is_cancelled() { None } else { Some(false) };
                }
            };
            tracing::info!("pg_rewind exit code={}", done.code());
            tracing::info!(" stdout={}", done.stdout);
            tracing::info!(" stderr={}", done.stderr);
            if done.success() {
                return Some(true);
            }
            let (Some(command), false) = (&restore_command, restores_itself) else { return Some(false) };
            let Some(missing) = missing_segment(&done.stderr).or_else(|| missing_segment(&done.stdout)) else {
                return Some(false);
            };
            // A segment that was fetched and is still missed would be fetched for ever.
            if !fetched.insert(missing.clone()) || !self.restore_segment(command, &missing, cancel).await {
                tracing::info!("Failed to fetch WAL segment {missing} required for pg_rewind");
                return Some(false);
            }
        }
    }
}
