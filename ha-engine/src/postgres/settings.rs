//! Taking new settings into use while the server runs.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{Role, ServerState};

use super::connection::{SqlError, literal, text_array};
use super::parameters::{self, Parameters};
use super::recovery::Recovery;
use super::reload::{self, Change, PendingRow, ReloadPlan};
use super::report::Line;
use super::{LocalPostgres, cluster_wide, gucs, locked};
use crate::decide::observation::PendingRestarts;
use crate::settings::EffectiveSettings;

/// Bound of the questions to the server.
const QUESTION: Duration = Duration::from_secs(5);

/// How long the server's processes get at most to read their configuration before they are asked about it.
const SETTLE: Duration = Duration::from_secs(1);

/// When the process that answers has read its configuration.
const LOADED: &str = "SELECT pg_catalog.pg_conf_load_time()";

/// Parameters that nobody but the agent decides about; what a running server has does not matter.
const OURS: [&str; 3] = ["cluster_name", "listen_addresses", "port"];

impl LocalPostgres {
    pub(super) async fn adopt_settings(&self, settings: Arc<EffectiveSettings>, force_reload: bool) {
        let former = self.settings();
        if let Err(error) = self.make_sure_of_parameters().await {
            tracing::warn!("the parameters of the server that was found still could not be read: {error}");
            *locked(&self.settings) = settings;
            return;
        }
        // One after the other: both look into the book.
        let major = self.book().major;
        let assembled = parameters::assemble(&settings.postgresql, major, &self.sync_names(&settings));
        let custom = self.book().stage.is_custom();
        let running = self.server_state() == ServerState::Running && !custom;
        let plan = if running {
            match self.plan_reload(&former, &settings, assembled.parameters.clone()).await {
                Ok(plan) => plan,
                Err(error) => {
                    // What cannot be compared now is compared when the settings are next looked at; the files are written
                    // with the next start.
                    tracing::warn!("the running server's parameters could not be compared: {error}");
                    ReloadPlan { parameters: assembled.parameters, ..ReloadPlan::default() }
                }
            }
        } else {
            ReloadPlan { parameters: assembled.parameters, ..ReloadPlan::default() }
        };
        plan.lines.iter().for_each(Line::emit);
        *locked(&self.settings) = Arc::clone(&settings);
        let mut plan = plan;
        // It may have been decided anew while the server was asked.
        self.sync_names(&settings).apply(&mut plan.parameters, &settings.postgresql);
        {
            let mut book = self.book();
            (book.parameters, book.recovery_conf) = (plan.parameters.clone(), assembled.recovery_conf);
            // The program may be another one.
            book.rewind_program = None;
        }
        if !plan.address_pending {
            self.resolve_addresses();
        }
        if custom {
            tracing::info!("Skipping PostgreSQL configuration update while in custom bootstrap.");
            return;
        }
        let known = self.book().major.is_some();
        if !known || !(running || force_reload) {
            // There is nothing yet, or nothing that runs: the next start writes everything.
            return;
        }
        self.take_into_use(&plan, force_reload).await;
    }

    async fn plan_reload(&self, former: &EffectiveSettings, settings: &EffectiveSettings, new: Parameters) -> Result<ReloadPlan, SqlError> {
        let old = self.book().parameters.clone();
        let names = reload::names_to_query(&old, &new);
        let rows = if names.is_empty() { Vec::new() } else { self.setting_rows(&names, Deadline::after(QUESTION)).await? };
        let (former, settings) = (&former.postgresql, &settings.postgresql);
        Ok(reload::plan(&Change {
            old: &old,
            new: &new,
            rows: &rows,
            use_unix_socket: settings.use_unix_socket,
            hba: (former.pg_hba.as_deref(), settings.pg_hba.as_deref()),
            ident: (former.pg_ident.as_deref(), settings.pg_ident.as_deref()),
            paths: &super::files::Paths::new(settings),
        }))
    }

    /// Writes what changed, reloads, and publishes what waits for a restart.
    async fn take_into_use(&self, plan: &ReloadPlan, force: bool) {
        let failed = |file: &str, error: std::io::Error| tracing::error!("{file} could not be written: {error}");
        if (plan.conf_changed || force)
            && let Err(error) = self.write_postgresql_conf(None).await
        {
            failed("postgresql.conf", error);
        }
        if (plan.hba_changed || force)
            && let Err(error) = self.write_hba().await
        {
            failed("pg_hba.conf", error);
        }
        if (plan.ident_changed || force)
            && let Err(error) = self.write_ident().await
        {
            failed("pg_ident.conf", error);
        }
        let mut pending = plan.pending.clone();
        if force || plan.conf_changed || plan.hba_changed || plan.ident_changed {
            tracing::info!("Reloading PostgreSQL configuration.");
            let before = self.loaded_at().await;
            self.reload_server(true).await;
            if self.server_state() == ServerState::Running {
                self.wait_for_reload(before).await;
                match self.pending_after_reload(&pending).await {
                    Ok(found) => pending = found,
                    Err(error) => tracing::warn!("Exception '{error}' when running query"),
                }
            }
        } else {
            tracing::info!("No PostgreSQL configuration items changed, nothing to reload.");
        }
        self.state.send_if_modified(|local| {
            let changed = local.pending_restart != pending;
            local.pending_restart = pending;
            changed
        });
    }

    async fn loaded_at(&self) -> Option<String> {
        if self.server_state() != ServerState::Running {
            return None;
        }
        let (rows, _) = self.heartbeat.query(&self.target(), LOADED, Deadline::after(QUESTION)).await.ok()?;
        rows.first()?.text(0).map(str::to_owned)
    }

    /// Every process reads the configuration by itself. Waits until the one that answers us has done so.
    async fn wait_for_reload(&self, before: Option<String>) {
        let limit = Deadline::after(SETTLE);
        while !limit.has_passed() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = self.loaded_at().await;
            if now.is_some() && now != before {
                return;
            }
        }
    }

    /// What the server itself says about parameters that wait for a restart.
    async fn pending_after_reload(&self, planned: &PendingRestarts) -> Result<PendingRestarts, SqlError> {
        let sql = format!(
            "SELECT name, pg_catalog.current_setting(name), unit, vartype FROM pg_catalog.pg_settings \
             WHERE pending_restart AND pg_catalog.lower(name) <> ALL({})",
            text_array(reload::skipped_names())
        );
        let (rows, _) = self.heartbeat.query(&self.target(), &sql, Deadline::after(QUESTION)).await?;
        let mut found = Vec::new();
        for row in &rows {
            let text = |column| row.text(column).unwrap_or_default().to_owned();
            let name = text(0);
            let new_value = self.configured_value(&name).await;
            found.push(PendingRow { name, current: text(1), unit: row.text(2).map(str::to_owned), vartype: text(3), new_value });
        }
        let (pending, line) = reload::after_reload(&found, planned);
        line.iter().for_each(Line::emit);
        Ok(pending)
    }

    /// Reads what a server that was found has in force, if that has not worked yet: written before, its files would lose that.
    pub(super) async fn make_sure_of_parameters(&self) -> Result<(), SqlError> {
        let unread = self.server_state() == ServerState::Running && self.book().unread;
        if unread { self.load_running_parameters(self.role(), Deadline::after(QUESTION)).await } else { Ok(()) }
    }

    /// Takes the values of a server that was found running as the known ones, so that only what differs counts as a change
    /// and a rewrite of its files keeps what it has.
    pub(super) async fn load_running_parameters(&self, role: Role, deadline: Deadline) -> Result<(), SqlError> {
        let cluster_wide = cluster_wide::CLUSTER_WIDE.iter().map(|parameter| parameter.name);
        let sql = format!(
            "SELECT name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings \
             WHERE (source IN ('command line', 'environment variable') OR sourcefile = {} \
             OR pg_catalog.lower(name) = ANY({})) AND pg_catalog.lower(name) <> ALL({})",
            literal(&self.paths().postgresql_conf.to_string_lossy()),
            text_array(cluster_wide),
            text_array(OURS),
        );
        let (rows, _) = self.heartbeat.query(&self.target(), &sql, deadline).await?;
        let pairs: Vec<(&str, &str)> = rows.iter().filter_map(|row| Some((row.text(0)?, row.text(1).unwrap_or_default()))).collect();
        let (recovery, server): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(name, _)| gucs::is_recovery(name));
        let mut book = self.book();
        let ours: Vec<(String, String)> =
            OURS.iter().filter_map(|name| Some(((*name).to_owned(), book.parameters.get(name)?.to_owned()))).collect();
        let mut parameters: Parameters = server.into_iter().collect();
        for (name, value) in ours {
            parameters.insert(name, value);
        }
        book.parameters = parameters;
        book.unread = false;
        if role != Role::Primary {
            book.recovery = Some(Recovery::adopted(recovery));
        }
        Ok(())
    }
}
