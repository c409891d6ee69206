//! Carrying out a decision.

use std::sync::Arc;

use dcs_core::model::{Lsn, Role};

use super::Engine;
use crate::cancel::Cancel;
use crate::decide::action::{Decision, DemoteKind, Effect, Severity, Task};
use crate::decide::memory::RewindState;
use crate::decide::observation::Observation;
use crate::decide::{Follower, plan_nobody};
use crate::ports::{StopHook, StopMode, StopOutcome, StopRequest};

impl Engine {
    pub(super) async fn act(&mut self, decision: Decision, obs: &Observation) {
        let Decision { memory, effects, task, message, wake_at, watch_members, sync_watch, journal } = decision;
        self.remember(memory);
        self.guard_lease();
        if !journal.is_empty() {
            // Before anything is carried out: a stop may take long, and somebody may ask why meanwhile.
            self.journal.take(journal, self.clock.wall());
            self.publish();
        }
        self.wake_at = wake_at;
        self.watch_members = watch_members;
        self.lookout.watch_for(sync_watch);
        let owner = self.view.as_ref().and_then(|view| view.leader_name().map(ToString::to_string));
        tracing::info!("Lock owner: {}; I am {}", owner.as_deref().unwrap_or("None"), self.me);
        // The long task starts before the member key is published, so that the key tells of it; effects before it stay
        // before it.
        let (first, last): (Vec<Effect>, Vec<Effect>) = effects.into_iter().partition(|effect| !matches!(effect, Effect::TouchMember));
        let demotes = first.iter().any(|effect| matches!(effect, Effect::Demote(_)));
        let cancels_promotion = self.is_promoting() && first.contains(&Effect::CancelTask);
        for effect in first {
            self.carry_out(effect, obs).await;
        }
        let became_primary = matches!(self.postgres.local().role, Role::Primary | Role::Promoted);
        if cancels_promotion && !demotes && became_primary && !self.is_paused() {
            // The request had been sent before the promotion could be cancelled.
            self.demote(DemoteKind::ImmediateNoLock, obs).await;
        }
        if let Some(task) = task {
            self.start_task(task, None);
        }
        let pause = if self.is_paused() { "PAUSE: " } else { "" };
        tracing::info!("{pause}{message}");
        self.last_message = message;
        self.guard_lease();
        if !last.is_empty() {
            self.touch_member().await;
        }
    }

    async fn carry_out(&mut self, effect: Effect, obs: &Observation) {
        match effect {
            Effect::Log(severity, text) => log(severity, &text),
            Effect::SetRole(role) => self.postgres.set_role(role),
            Effect::SetState(state) => self.postgres.set_state(state),
            Effect::TouchMember => {
                self.touch_member().await;
            }
            Effect::StopImmediately => {
                self.stop_immediately().await;
            }
            Effect::Demote(kind) => self.demote(kind, obs).await,
            Effect::CancelTask => {
                self.cancel_task().await;
            }
            Effect::ReleaseLock(last_lsn) => self.release_lock(last_lsn).await,
            Effect::WriteInitialize(how, system_id) => {
                let outcome = self.dcs.initialize(how, system_id.as_str(), self.short_write()).await;
                report("write the system identifier to the store", outcome);
            }
            Effect::CancelInitialize => {
                // Left behind, it would keep every node from ever bootstrapping this cluster.
                let deadline = self.store_deadline();
                report("remove the initialize key", self.dcs.cancel_initialization(deadline).await);
            }
            Effect::WriteConfig => {
                let outcome = self.dcs.set_config(&self.dynamic, None, self.short_write()).await;
                report("write the configuration to the store", outcome);
            }
            Effect::WriteStatus(status) => {
                let legacy = self.has_legacy_member();
                let outcome = self.dcs.write_status(&status, legacy, self.short_write()).await;
                report("write the status to the store", outcome);
            }
            Effect::WriteFailsafe(map) => self.write_failsafe(map).await,
            Effect::WriteHistory(history) => {
                let outcome = self.dcs.set_history(&history, self.short_write()).await;
                report("write the timeline history to the store", outcome);
            }
            Effect::Call(event) => self.postgres.call(event),
            Effect::ResumeReplay => self.postgres.resume_replay(self.short_write()).await,
            Effect::FollowByReload(plan) => {
                // Given up when it takes long: the next cycle compares again with what the server has.
                let patience = self.deadline_before_renewal(self.clock.now());
                if let Err(late) = patience.bound("follow another node", self.postgres.follow(&plan, true, None, &Cancel::never())).await {
                    tracing::warn!("{late}; trying again in the next cycle");
                }
            }
            Effect::MaintainSlots(plan) => {
                self.postgres.apply_slots(&plan, self.short_write()).await;
            }
            Effect::TendLogicalSlots(work) => self.slot_work.begin(&self.postgres, work),
            Effect::EnforceFeedback(on) => self.enforce_feedback(on).await,
            Effect::CheckpointAfterPromotion => self.checkpoint_after_promotion(),
            Effect::WriteWalRecord => self.write_wal_record(),
            Effect::UseConfiguredNames => {
                if let Err(error) = self.postgres.set_synchronous_names(None, self.within_lease(self.short_write())).await {
                    tracing::warn!("the configured synchronous_standby_names are not in force yet: {error}");
                }
            }
            Effect::Nudge => self.postgres.nudge().await,
            Effect::MoveDataDirectoryAside => {
                report("move the data directory aside", self.postgres.move_data_directory_aside().await);
            }
            Effect::RemoveDataDirectory => {
                report("remove the data directory", self.postgres.remove_data_directory().await);
            }
            Effect::DisableWatchdog => self.watchdog.disable().await,
            Effect::Exit(reason) => self.exit = Some(reason),
        }
    }

    /// Members older than 2.1.0 read the leader's position from a key of its own.
    fn has_legacy_member(&self) -> bool {
        let Some(view) = &self.view else { return false };
        view.members.iter().filter_map(|member| member.record.version_parts()).any(|version| version.as_slice() < [2, 1, 0].as_slice())
    }

    pub(super) async fn stop_immediately(&mut self) -> StopOutcome {
        let request = StopRequest {
            mode: StopMode::Immediate,
            checkpoint_first: false,
            hook: StopHook::Skip,
            timeout: Some(self.settings.global.retry_timeout),
            part_of_restart: false,
        };
        self.stop_and_disarm(request).await
    }

    /// Releases the lock, unless PostgreSQL might still acknowledge something.
    pub(super) async fn release_lock(&mut self, last_lsn: Option<Lsn>) {
        match self.dcs.release_leader(last_lsn, self.store_deadline_without_lease()).await {
            Ok(true) => {
                self.exclusion.let_go();
                tracing::info!("Leader key released");
            }
            Ok(false) => {
                self.exclusion.let_go();
                tracing::info!("the leader key was not ours to release");
            }
            Err(error) => tracing::error!("could not release the leader key: {}", error.chain()),
        }
        let mut memory = self.memory.clone();
        memory.lease = None;
        self.remember(memory);
        self.fence.disarm();
        self.view = None;
        self.view_loaded_at = None;
        self.publish();
    }

    fn store_deadline_without_lease(&self) -> dcs_core::Deadline {
        dcs_core::Deadline::after(self.settings.global.retry_timeout)
    }

    /// Demotions in the foreground; the graceful one is a task.
    async fn demote(&mut self, kind: DemoteKind, obs: &Observation) {
        tracing::info!("Demoting self ({})", kind.as_str());
        let request = match kind {
            DemoteKind::Offline => StopRequest {
                mode: StopMode::Fast,
                checkpoint_first: false,
                hook: StopHook::RunUntil(self.store_deadline()),
                timeout: self.settings.global.stop_timeout(),
                part_of_restart: false,
            },
            _ => StopRequest {
                mode: StopMode::Immediate,
                checkpoint_first: false,
                // Hardening rule X12: nothing precedes the stop signal.
                hook: StopHook::Skip,
                timeout: Some(self.settings.global.retry_timeout),
                part_of_restart: false,
            },
        };
        let outcome = self.stop_and_disarm(request).await;
        if outcome == StopOutcome::Failed {
            // Hardening rule X19: a server that is still there keeps its lock and its fence.
            tracing::error!("PostgreSQL could not be stopped; keeping the leader key until it is");
            return;
        }
        self.postgres.set_role(Role::Demoted);
        let mut memory = self.memory.clone();
        memory.lease = None;
        self.remember(memory);
        self.fence.disarm();
        if kind == DemoteKind::Immediate {
            self.release_lock(None).await;
        }
        if kind != DemoteKind::Offline && self.memory.rewind == RewindState::Check && obs.rewind_policy.can_rewind {
            // The data may have diverged: the next cycle compares before anything is started on it.
            self.next_run = self.clock.now();
            self.dcs.wake();
            return;
        }
        let plan = match (&kind, &obs.view) {
            (DemoteKind::Offline, _) | (_, Err(_)) => plan_nobody(),
            (_, Ok(view)) => Follower::of(&self.settings).plan(view),
        };
        // If a cancelled task still lingers, the rows for a stopped server start it later.
        if self.start_task(Task::Follow { name: "starting after demotion", plan }, None) {
            let mut memory = self.memory.clone();
            memory.recovering = true;
            self.remember(memory);
        }
    }

    /// A CHECKPOINT beside the loop; others may rewind from here once it has ended.
    fn checkpoint_after_promotion(&mut self) {
        if self.checkpoint.is_some() {
            return;
        }
        let postgres = Arc::clone(&self.postgres);
        self.checkpoint = Some(tokio::spawn(async move { postgres.checkpoint(&Cancel::never()).await }));
    }

    /// A WAL record beside the loop; it ends by its deadline, and at most one is under way.
    fn write_wal_record(&mut self) {
        if self.wal_record.as_ref().is_some_and(|record| !record.is_finished()) {
            return;
        }
        let (postgres, deadline) = (Arc::clone(&self.postgres), self.within_lease(self.short_write()));
        self.wal_record = Some(tokio::spawn(async move { postgres.write_wal_record(deadline).await }));
    }

    pub(super) fn on_checkpoint(&mut self, done: bool) {
        if done && self.postgres.local().role == Role::Primary {
            let mut memory = self.memory.clone();
            memory.rewind = RewindState::Checkpoint;
            self.remember(memory);
        }
    }
}

fn log(severity: Severity, text: &str) {
    match severity {
        Severity::Debug => tracing::debug!("{text}"),
        Severity::Info => tracing::info!("{text}"),
        Severity::Warning => tracing::warn!("{text}"),
        Severity::Error => tracing::error!("{text}"),
    }
}

/// A write whose failure is repaired by the next cycle.
fn report<T, E: std::fmt::Display>(what: &str, outcome: Result<T, E>) {
    if let Err(error) = outcome {
        tracing::error!("could not {what}: {error}");
    }
}
