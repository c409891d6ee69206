//! What others want from the engine, and settings that change.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{ClusterView, DynamicConfig};

use super::{Engine, Next};
use crate::decide::action::Task;
use crate::decide::journal::{Record, Rule};
use crate::decide::observation::Postmaster;
use crate::decide::restart::{ScheduledRestart, refusal};
use crate::decide::{Follower, reinitialize_source};
use crate::handle::{Command, RestartAnswer};
use crate::settings::{EffectiveSettings, SettingsError};

impl Engine {
    pub(super) async fn obey(&mut self, command: Command) -> Next {
        match command {
            Command::Wake => Next::Run,
            Command::Reload => {
                self.reload_requested = true;
                Next::Run
            }
            Command::Note(record) => {
                self.note(record);
                Next::SleepOn
            }
            Command::Shutdown => {
                self.shutting_down = true;
                Next::Run
            }
            Command::Restart(request, reply) => {
                let answer = self.refuse_restart(&request).await;
                if let Some(answer) = answer {
                    // Who asked may have gone.
                    let _ = reply.send(answer);
                    return Next::SleepOn;
                }
                let timeout = request.timeout.unwrap_or(self.settings.global.primary_start_timeout);
                self.note(Record::new(Rule::RestartAsked, "a restart was asked for and begins"));
                let mut memory = self.memory.clone();
                memory.recovering = true;
                memory.start_timeout = Some(timeout);
                self.remember(memory);
                self.start_task(Task::Restart { timeout }, Some(reply));
                Next::Run
            }
            Command::ScheduleRestart { at, filters, reply } => {
                let free = self.memory.scheduled_restart.is_none();
                if !free {
                    self.note(Record::new(Rule::RestartRefused, "another restart is scheduled already").fact("asked_for", at));
                }
                if free {
                    self.note(Record::new(Rule::RestartScheduled, format!("a restart is scheduled at {at}")));
                    let postmaster_started_at = self.server.as_ref().and_then(|server| match server.postmaster {
                        Postmaster::Running { started_at, .. } => Some(started_at),
                        _ => None,
                    });
                    let mut memory = self.memory.clone();
                    memory.scheduled_restart = Some(ScheduledRestart { at, postmaster_started_at, filters });
                    self.remember(memory);
                    self.publish_change().await;
                }
                let _ = reply.send(free);
                Next::Run
            }
            Command::DeleteScheduledRestart(reply) => {
                let mut memory = self.memory.clone();
                let existed = memory.scheduled_restart.take().is_some();
                self.remember(memory);
                if existed {
                    self.note(Record::new(Rule::RestartCancelled, "the scheduled restart is cancelled on request"));
                    self.publish_change().await;
                }
                let _ = reply.send(existed);
                Next::SleepOn
            }
            Command::Reinitialize { force, from_leader, reply } => {
                let refusal = self.reinitialize(force, from_leader).await;
                let started = refusal.is_none();
                self.note(match &refusal {
                    Some(reason) => {
                        Record::new(Rule::ReinitializeRefused, format!("building this node anew was asked for and refused: {reason}"))
                    }
                    None => Record::new(Rule::Reinitialize, "this node is built anew on request; its data directory is removed"),
                });
                let _ = reply.send(refusal);
                if started { Next::Run } else { Next::SleepOn }
            }
        }
    }

    async fn refuse_restart(&mut self, request: &crate::handle::RestartRequest) -> Option<RestartAnswer> {
        if let Some(job) = &self.job {
            let task = job.name().to_owned();
            self.note(Record::new(Rule::RestartRefused, format!("a restart was asked for and refused: {task} is in progress")));
            return Some(RestartAnswer::Busy(task));
        }
        let server = self.server.clone()?;
        let version = match request.postgres_version {
            Some(_) => self.server_version().await,
            None => None,
        };
        let reason = refusal(request, &server, version.or(server.major_version))?;
        tracing::info!("not proceeding with the restart: {reason}");
        self.note(Record::new(Rule::RestartRefused, format!("a restart was asked for and refused: {reason}")));
        Some(RestartAnswer::ConditionsNotMet)
    }

    /// The version of the running server, e.g. 150018; nothing if it does not answer.
    pub(super) async fn server_version(&self) -> Option<u32> {
        let report = self.postgres.report(Duration::from_secs(1), self.short_write()).await;
        report.server.as_ref().map(|server| server.server_version)
    }

    /// Starts building this node anew; the refusal, if it is refused.
    async fn reinitialize(&mut self, force: bool, from_leader: bool) -> Option<String> {
        let view = match self.dcs.load(Deadline::after(self.settings.global.retry_timeout)).await {
            Ok(view) => self.take_view(view),
            Err(error) => {
                self.store_failed(&error);
                return Some("the store is not available, can not reinitialize".to_owned());
            }
        };
        if view.is_unlocked() {
            return Some("Cluster has no leader, can not reinitialize".to_owned());
        }
        if view.leader_name() == Some(&self.me) {
            return Some("I am the leader, can not reinitialize".to_owned());
        }
        if force {
            self.cancel_task().await;
        }
        if let Some(job) = &self.job {
            return Some(format!("{} already in progress", job.name()));
        }
        let methods = &self.settings.postgresql.create_replica_methods;
        let source = reinitialize_source(&view, &self.me, from_leader, methods, fastrand::usize(..));
        let follow = Follower::of(&self.settings).plan(&view);
        self.start_task(Task::Reinitialize { name: "reinitialize".to_owned(), source, follow }, None);
        None
    }

    /// Takes the configuration of a loaded view into force: global settings at once, the others after the cycle.
    pub(super) fn take_config(&mut self, view: &ClusterView) {
        let Some(DynamicConfig { revision, data: Some(document) }) = &view.config else {
            return;
        };
        if self.config_revision.as_ref() == Some(revision) || document.is_empty() {
            return;
        }
        self.config_revision = Some(revision.clone());
        if *document == self.dynamic {
            return;
        }
        match self.source.effective(document) {
            Ok(settings) => {
                self.dynamic.clone_from(document);
                self.take_settings(settings);
                self.unsaved_dynamic = true;
            }
            Err(error) => {
                tracing::error!("Exception when setting dynamic_configuration: {error}");
                // What can be read of it counts all the same: a pause, above all.
                let settings =
                    EffectiveSettings { global: self.settings.global.with_modes_of(document), ..EffectiveSettings::clone(&self.settings) };
                self.settings = Arc::new(settings);
            }
        }
    }

    fn take_settings(&mut self, settings: Arc<EffectiveSettings>) {
        // The next renewal may bind the lock to a handle that lives shorter, without its answer arriving.
        if let Some(lease) = self.memory.lease {
            let mut memory = self.memory.clone();
            memory.lease = Some(lease.shortened_to(settings.global.ttl));
            self.remember(memory);
            self.guard_lease();
        }
        self.dcs.set_timing(settings.global.timing());
        self.watchdog.configure(&settings);
        self.settings = settings;
        self.unapplied_settings = true;
    }

    /// After a cycle: tells the server about new settings, and keeps the dynamic document in its cache file.
    pub(super) async fn apply_changed_settings(&mut self) {
        let reload = std::mem::take(&mut self.reload_requested);
        if reload {
            match self.reload_local().await {
                Ok(()) => {}
                Err(error) => {
                    tracing::error!("Exception when reloading local configuration, the former one stays in force: {error}")
                }
            }
        }
        self.forced_reload |= reload;
        if (self.unapplied_settings || self.forced_reload) && self.apply_settings_in_time(self.forced_reload).await {
            (self.unapplied_settings, self.forced_reload) = (false, false);
        }
        self.save_dynamic().await;
    }

    async fn reload_local(&mut self) -> Result<(), SettingsError> {
        let source = Arc::clone(&self.source);
        let changed = tokio::task::spawn_blocking(move || source.reload_local())
            .await
            .map_err(|error| SettingsError { message: format!("the configuration reader ended unexpectedly: {error}") })??;
        if !changed {
            tracing::info!("No local configuration items changed.");
            return Ok(());
        }
        let settings = self.source.effective(&self.dynamic)?;
        self.take_settings(settings);
        Ok(())
    }

    async fn save_dynamic(&mut self) {
        use dcs_core::model::Role;

        if !self.unsaved_dynamic || self.postgres.local().role == Role::Uninitialized {
            return;
        }
        let source = Arc::clone(&self.source);
        let document = self.settings.global.document.clone();
        let saved = tokio::task::spawn_blocking(move || source.store_dynamic_cache(&document)).await;
        match saved {
            Ok(Ok(())) => self.unsaved_dynamic = false,
            Ok(Err(error)) => tracing::error!("Exception when saving file: {error}"),
            Err(error) => {
                tracing::error!("the writer of the configuration cache ended unexpectedly: {error}")
            }
        }
    }
}
