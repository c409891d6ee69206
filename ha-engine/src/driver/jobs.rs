//! Long work beside the loop: one task at a time, cancellable, telling the loop what it achieves.
//!
//! A task works on PostgreSQL and asks others; it never writes the lock. What only the loop may do (release the lock) it
//! asks of the loop, so that a release and a renewal can never cross.

mod demote;
mod give_up;
mod slots;

pub(super) use self::demote::ask_whether_somebody_has_everything;

use std::sync::Arc;
use std::time::Duration;

use dcs_core::model::{Lsn, Role};
use dcs_core::{Clock, Dcs, Deadline, LeaderLease, Moment};
use tokio::sync::{mpsc, oneshot, watch};

use super::fence::Fence;
use super::watchdog::Keeper;
use super::{Engine, Next};
use crate::cancel::{Cancel, CancelSource};
use crate::decide::action::Task;
use crate::decide::journal::{Record, Rule};
use crate::decide::memory::{Critical, Memory, RewindState};
use crate::decide::observation::{RunningTask, TaskKind};
use crate::handle::RestartAnswer;
use crate::ports::{
    CloneSource, FollowPlan, Peers, Postgres, PromoteOutcome, RewindOutcome, StartOutcome, StopHook, StopMode, StopOutcome, StopRequest,
};
use crate::settings::{BootstrapSettings, EffectiveSettings};

/// How long a new standby waits for its slot on the upstream before it starts anyway.
const WAIT_FOR_SLOT: Duration = Duration::from_secs(5);
/// How often it looks.
const LOOK_FOR_SLOT: Duration = Duration::from_millis(100);

/// The task that is running.
#[derive(Debug)]
pub(super) struct RunningJob {
    number: u64,
    name: String,
    kind: TaskKind,
    since: Moment,
    cancel: CancelSource,
    ended: watch::Receiver<bool>,
    /// Who waits for the result of a restart.
    reply: Option<oneshot::Sender<RestartAnswer>>,
}

impl RunningJob {
    pub(super) fn describe(&self) -> RunningTask {
        RunningTask { name: self.name.clone(), kind: self.kind, since: self.since }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// What a task tells the loop.
#[derive(Debug)]
pub(super) enum TaskEvent {
    /// `pre_promote` has ended; whether it succeeded.
    PrePromote(bool),
    /// A stopped primary has nothing left to give: release the lock, with its final position if that is known.
    Release(Option<Lsn>, oneshot::Sender<()>),
    /// This node is about to go away: it must not be a synchronous standby. Whether that was published.
    LeaveDuty(oneshot::Sender<bool>),
    /// For the journal.
    Note(Record),
    /// The task has ended.
    Ended(TaskResult),
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TaskResult {
    /// A bootstrap: whether the data directory was made and started.
    Bootstrap(bool),
    /// What follows a bootstrap.
    PostBootstrap(bool),
    /// The first node of a standby cluster: whether it was copied and started.
    StandbyBootstrap(bool),
    /// A copy.
    Clone(bool),
    /// A start, a restart or a follow.
    Start(StartOutcome),
    /// Crash recovery.
    CrashRecovery(bool),
    /// A rewind.
    Rewind(RewindOutcome),
    /// A promotion.
    Promote(PromoteOutcome),
    /// A graceful demotion: whether PostgreSQL stopped.
    Demote(bool),
    /// Logical slots were copied, and the server was restarted for it; the names, none if nothing was done.
    CopySlots(Vec<String>),
}

impl TaskResult {
    /// For the journal.
    fn in_words(&self) -> String {
        let done = |done: &bool| if *done { "done" } else { "failed" };
        match self {
            Self::Bootstrap(ok)
            | Self::PostBootstrap(ok)
            | Self::StandbyBootstrap(ok)
            | Self::Clone(ok)
            | Self::CrashRecovery(ok)
            | Self::Demote(ok) => done(ok).to_owned(),
            Self::CopySlots(slots) if slots.is_empty() => "nothing was copied".to_owned(),
            Self::CopySlots(slots) => format!("copied {}", slots.join(", ")),
            Self::Start(StartOutcome::Running) => "PostgreSQL runs".to_owned(),
            Self::Start(StartOutcome::StillStarting) => "PostgreSQL is still starting".to_owned(),
            Self::Start(StartOutcome::Failed) => "PostgreSQL could not be started".to_owned(),
            Self::Rewind(RewindOutcome::Done) | Self::Promote(PromoteOutcome::Promoted) => "done".to_owned(),
            Self::Rewind(RewindOutcome::NotYet(reason)) => format!("not possible now: {reason}"),
            Self::Rewind(RewindOutcome::Failed) | Self::Promote(PromoteOutcome::Failed) => "failed".to_owned(),
            Self::Promote(PromoteOutcome::Requested) => "requested, and not finished yet".to_owned(),
            Self::Promote(PromoteOutcome::Cancelled) => "given up before it began".to_owned(),
        }
    }
}

/// What a task may use.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    pub(super) me: dcs_core::model::MemberName,
    pub(super) dcs: Arc<dyn Dcs>,
    pub(super) postgres: Arc<dyn Postgres>,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) watchdog: Keeper,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Arc<EffectiveSettings>,
    pub(super) lease: watch::Receiver<Option<LeaderLease>>,
    events: mpsc::Sender<(u64, TaskEvent)>,
    number: u64,
    pub(super) cancel: Cancel,
}

impl Engine {
    /// Starts a task; `false` if another one is still running.
    pub(super) fn start_task(&mut self, task: Task, reply: Option<oneshot::Sender<RestartAnswer>>) -> bool {
        if let Some(job) = &self.job {
            tracing::info!("Failed to run {}, {} is already in progress", task.name(), job.name);
            return false;
        }
        let number = self.next_job;
        self.next_job += 1;
        if matches!(task, Task::Promote) {
            let mut memory = self.memory.clone();
            memory.critical = Critical::Pending;
            self.remember(memory);
        }
        if matches!(task, Task::Promote | Task::CopyLogicalSlots { .. }) {
            self.slot_work.stop();
        }
        let cancel = CancelSource::new();
        let (done, ended) = watch::channel(false);
        let tools = Tools {
            me: self.me.clone(),
            dcs: Arc::clone(&self.dcs),
            postgres: Arc::clone(&self.postgres),
            peers: Arc::clone(&self.peers),
            watchdog: self.watchdog.clone(),
            clock: Arc::clone(&self.clock),
            settings: Arc::clone(&self.settings),
            lease: self.lease.subscribe(),
            events: self.job_sender.clone(),
            number,
            cancel: cancel.token(),
        };
        self.job = Some(RunningJob { number, name: task.name(), kind: kind_of(&task), since: self.clock.now(), cancel, ended, reply });
        // The handle is not kept: the task tells its end through `done` and an event, also when it panics (by the sender
        // being dropped).
        drop(tokio::spawn(async move {
            let result = tools.run(task).await;
            // The result is in the queue before the end is known, so that nobody starts something else in between.
            tools.tell(TaskEvent::Ended(result)).await;
            done.send_replace(true);
        }));
        true
    }

    /// Cancels the running task and waits for its end, for a leader at most until its server must be stopped. `false` if it
    /// has not ended by then: it then still counts as running, because two tasks on one data directory would ruin it.
    pub(super) async fn cancel_task(&mut self) -> bool {
        let Some(job) = &self.job else { return true };
        let number = job.number;
        tracing::warn!("Cancelling long running task {}", job.name);
        job.cancel.cancel();
        let limit = match self.stop_at() {
            Some(stop_at) => stop_at.saturating_since(self.clock.now()),
            None => self.settings.global.retry_timeout,
        };
        let mut ended = job.ended.clone();
        let deadline = tokio::time::Instant::now() + limit;
        let has_ended = loop {
            tokio::select! {
                biased;
                // The task may be waiting for us to take its events; what it asks for is not given any more.
                Some((teller, event)) = self.job_events.recv() => {
                    if teller == number && matches!(event, TaskEvent::Ended(_)) {
                        break true;
                    }
                }
                // A closed channel is an end too: the task has panicked.
                _ = ended.wait_for(|ended| *ended) => break true,
                () = tokio::time::sleep_until(deadline) => break false,
            }
        };
        if has_ended {
            self.finish_job(RestartAnswer::Failed);
        } else if let Some(job) = &self.job {
            tracing::warn!("{} was told to end and has not ended yet", job.name);
        }
        has_ended
    }

    fn finish_job(&mut self, answer: RestartAnswer) {
        self.off_duty = false;
        if let Some(reply) = self.job.take().and_then(|job| job.reply) {
            // Who asked may have gone.
            let _ = reply.send(answer);
        }
    }

    /// Whether the running task is a promotion.
    pub(super) fn is_promoting(&self) -> bool {
        self.job.as_ref().is_some_and(|job| matches!(job.kind, TaskKind::Promote { .. }))
    }

    pub(super) async fn on_task_event(&mut self, teller: u64, event: TaskEvent) -> Next {
        if self.job.as_ref().is_none_or(|job| job.number != teller) {
            tracing::debug!(?event, "a task that counts as ended has said something");
            return Next::SleepOn;
        }
        match event {
            TaskEvent::PrePromote(ok) => {
                let mut memory = self.memory.clone();
                memory.critical = Critical::Done(ok);
                self.remember(memory);
                if let Some(job) = &mut self.job {
                    job.kind = TaskKind::Promote { pre_promote_pending: false };
                }
                Next::SleepOn
            }
            TaskEvent::Note(record) => {
                self.note(record);
                Next::SleepOn
            }
            TaskEvent::Release(final_lsn, reply) => {
                self.postgres.set_role(Role::Demoted);
                self.release_lock(final_lsn).await;
                // The task may have been cancelled meanwhile.
                let _ = reply.send(());
                self.touch_member().await;
                Next::SleepOn
            }
            TaskEvent::LeaveDuty(reply) => {
                self.off_duty = true;
                let published = self.touch_member().await;
                self.publish();
                // The task may have been cancelled meanwhile.
                let _ = reply.send(published);
                Next::SleepOn
            }
            TaskEvent::Ended(result) => {
                let answer = match &result {
                    TaskResult::Start(StartOutcome::Running) => RestartAnswer::Restarted,
                    TaskResult::Start(StartOutcome::StillStarting) => RestartAnswer::StillStarting,
                    _ => RestartAnswer::Failed,
                };
                let name = self.job.as_ref().map(|job| job.name.clone()).unwrap_or_default();
                self.finish_job(answer);
                self.note(Record::new(Rule::TaskEnded, format!("{name}: {}", result.in_words())));
                let memory = self.after_task(&result);
                self.remember(memory);
                self.settle_rewind_failure(&result).await;
                self.publish();
                if self.is_worth_a_cycle(&result) { Next::Run } else { Next::SleepOn }
            }
        }
    }

    /// Whether the next cycle should run at once. What failed, and would only be tried again, waits for the period; but a
    /// leader that cannot start its server must give the lock back at once.
    fn is_worth_a_cycle(&self, result: &TaskResult) -> bool {
        let failed = matches!(
            result,
            TaskResult::Start(StartOutcome::Failed)
                | TaskResult::Clone(false)
                | TaskResult::Rewind(RewindOutcome::NotYet(_) | RewindOutcome::Failed)
        );
        // Trying these again at once would only fail again, lock or not.
        let hopeless = matches!(result, TaskResult::Promote(PromoteOutcome::Failed) | TaskResult::Demote(false));
        let nothing_done = matches!(result, TaskResult::CopySlots(names) if names.is_empty());
        !nothing_done && !hopeless && (!failed || self.lock_is_mine())
    }

    /// What the end of a task means for the next decisions.
    fn after_task(&self, result: &TaskResult) -> Memory {
        let mut memory = self.memory.clone();
        match result {
            TaskResult::Bootstrap(true) | TaskResult::CrashRecovery(_) => {}
            TaskResult::Bootstrap(false) => memory.critical = Critical::Done(false),
            TaskResult::PostBootstrap(ok) => memory.critical = Critical::Done(*ok),
            // There is nothing left to be done in a copy.
            TaskResult::StandbyBootstrap(ok) => {
                memory.critical = Critical::Done(*ok);
                memory.rewind = RewindState::Initial;
            }
            TaskResult::Clone(_) => memory.rewind = RewindState::Initial,
            TaskResult::Start(_) => {}
            TaskResult::Rewind(RewindOutcome::Done) => {
                memory.rewind = RewindState::Success;
            }
            TaskResult::Rewind(RewindOutcome::Failed) => memory.rewind = RewindState::Failed,
            TaskResult::Rewind(RewindOutcome::NotYet(_)) => {}
            TaskResult::Promote(_) => memory.rewind = RewindState::Initial,
            TaskResult::Demote(_) => memory.critical = Critical::Idle,
            TaskResult::CopySlots(names) => memory.slots.copied(names, self.clock.now()),
        }
        memory.managed = true;
        memory
    }

    /// After a failed rewind a setting may say that the node is built anew.
    async fn settle_rewind_failure(&mut self, result: &TaskResult) {
        if *result != TaskResult::Rewind(RewindOutcome::Failed) {
            return;
        }
        let postgresql = &self.settings.postgresql;
        let key = if postgresql.remove_data_directory_on_rewind_failure {
            "remove_data_directory_on_rewind_failure"
        } else if postgresql.remove_data_directory_on_diverged_timelines {
            "remove_data_directory_on_diverged_timelines"
        } else {
            return;
        };
        tracing::warn!("{key} is set. removing...");
        self.note(Record::new(Rule::RewindRemoved, format!("the rewind failed and {key} is set: the data directory is removed")));
        match self.postgres.remove_data_directory().await {
            Ok(()) => {
                let mut memory = self.memory.clone();
                memory.rewind = RewindState::Initial;
                self.remember(memory);
            }
            Err(error) => tracing::error!("could not remove the data directory: {error}"),
        }
    }
}

const fn kind_of(task: &Task) -> TaskKind {
    match task {
        Task::Promote => TaskKind::Promote { pre_promote_pending: true },
        Task::CrashRecovery => TaskKind::CrashRecovery,
        Task::Restart { .. } => TaskKind::Restart,
        Task::StartPrimaryAfterFailure { .. } => TaskKind::StartAfterFailure,
        Task::Demote { .. } | Task::DemoteCluster { .. } => TaskKind::Demote,
        _ => TaskKind::Other,
    }
}

impl Tools {
    async fn run(&self, task: Task) -> TaskResult {
        match task {
            Task::Bootstrap => TaskResult::Bootstrap(self.bootstrap().await),
            Task::BootstrapStandbyLeader { source, follow } => {
                let name = match &source.node {
                    Some(remote) => format!("bootstrap clone from remote member {}", remote.name),
                    None => "bootstrap clone from the archive".to_owned(),
                };
                TaskResult::StandbyBootstrap(self.clone_node(&name, source, &follow).await)
            }
            Task::PostBootstrap => TaskResult::PostBootstrap(self.post_bootstrap().await),
            Task::Clone { name, source, follow } => TaskResult::Clone(self.clone_node(&name, source, &follow).await),
            Task::Reinitialize { source, follow, .. } => {
                // Hardening rule X16.
                self.leave_sync_duty().await;
                let request = StopRequest {
                    mode: StopMode::Immediate,
                    checkpoint_first: false,
                    hook: StopHook::Skip,
                    timeout: Some(self.settings.global.retry_timeout),
                    part_of_restart: false,
                };
                if self.postgres.stop(request, None).await == StopOutcome::Failed {
                    tracing::error!("PostgreSQL could not be stopped; its data directory is left as it is");
                    return TaskResult::Clone(false);
                }
                if !self.account_for_wal("building this node anew", None).await {
                    return TaskResult::Clone(false);
                }
                let from = source
                    .node
                    .as_ref()
                    .map_or_else(|| "bootstrap (without leader)".to_owned(), |node| format!("bootstrap from '{}'", node.name));
                TaskResult::Clone(self.clone_node(&from, source, &follow).await)
            }
            Task::StartPrimaryAfterFailure { .. } if !self.may_be_primary() => {
                tracing::warn!("not starting as primary: the leader lock was not confirmed in time");
                TaskResult::Start(StartOutcome::Failed)
            }
            Task::StartPrimaryAfterFailure { timeout } => TaskResult::Start(self.postgres.start_as_primary(timeout, &self.cancel).await),
            Task::CrashRecovery => {
                let outcome = self.postgres.single_user_recovery(&self.cancel).await;
                if let Err(error) = &outcome {
                    tracing::error!("{error}");
                }
                TaskResult::CrashRecovery(outcome.is_ok())
            }
            Task::Rewind { source, checkpointed } => {
                if !self.account_for_wal(&format!("rewinding to {}", source.name), Some(&source)).await {
                    return TaskResult::Rewind(RewindOutcome::NotYet("the WAL that it gives up could not be kept".to_owned()));
                }
                let outcome = self.postgres.rewind(&source, checkpointed, &self.cancel).await;
                if let RewindOutcome::NotYet(reason) = &outcome {
                    tracing::info!("{reason}");
                }
                TaskResult::Rewind(outcome)
            }
            Task::Follow { plan, .. } => TaskResult::Start(self.postgres.follow(&plan, false, None, &self.cancel).await),
            Task::Promote => TaskResult::Promote(self.promote().await),
            Task::Restart { timeout } => {
                self.leave_sync_duty().await;
                TaskResult::Start(self.postgres.restart(timeout, &self.cancel).await)
            }
            Task::DemoteCluster { remote, leads } => TaskResult::Demote(self.demote_cluster(&remote, leads).await),
            Task::Demote { request, .. } => TaskResult::Demote(self.demote_gracefully(&request).await),
            Task::CopyLogicalSlots { leader, slots } => TaskResult::CopySlots(self.copy_logical_slots(&leader, &slots).await),
        }
    }

    /// Tells the loop something; `false` if the loop has gone.
    pub(super) async fn tell(&self, event: TaskEvent) -> bool {
        self.events.send((self.number, event)).await.is_ok()
    }

    /// Whether there is proof, for long enough to act on it, that the lock is still ours; in pause none is needed.
    fn may_be_primary(&self) -> bool {
        let lease = *self.lease.borrow();
        self.settings.global.pause || lease.is_some_and(|lease| self.clock.now() < Fence::stop_at(lease))
    }

    fn how_to_bootstrap(&self) -> BootstrapSettings {
        self.settings.bootstrap.clone().unwrap_or_default()
    }

    async fn bootstrap(&self) -> bool {
        match self.postgres.bootstrap(&self.how_to_bootstrap(), &self.cancel).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("{error}");
                false
            }
        }
    }

    async fn post_bootstrap(&self) -> bool {
        match self.postgres.post_bootstrap(&self.how_to_bootstrap(), &self.cancel).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("{error}");
                false
            }
        }
    }

    async fn clone_node(&self, name: &str, mut source: CloneSource, follow: &FollowPlan) -> bool {
        if source.methods.is_empty() {
            source.methods = self.settings.postgresql.create_replica_methods.clone();
        }
        let from = name.strip_prefix("bootstrap ").unwrap_or(name);
        if let Err(error) = self.postgres.as_ref().clone_from(&source, &self.cancel).await {
            tracing::error!("failed to bootstrap {from}: {error}");
            return false;
        }
        tracing::info!("bootstrapped {from}");
        self.wait_for_slot(follow).await;
        self.postgres.follow(follow, false, None, &self.cancel).await != StartOutcome::Failed
    }

    /// A standby whose slot is not there yet would fail its first connection and then wait five seconds.
    async fn wait_for_slot(&self, plan: &FollowPlan) {
        let (Some(upstream), Some(slot)) = (&plan.upstream, &plan.slot) else {
            return;
        };
        let deadline = Deadline::after(WAIT_FOR_SLOT);
        let mut told = false;
        while !deadline.has_passed() && !self.cancel.is_cancelled() {
            if self.postgres.slot_exists_on(upstream, slot, deadline).await != Some(false) {
                return;
            }
            if !told {
                told = true;
                tracing::info!("waiting for replication slot {slot} on {}", upstream.name);
            }
            tokio::time::sleep(LOOK_FOR_SLOT).await;
        }
    }

    async fn promote(&self) -> PromoteOutcome {
        let ready = self.postgres.run_pre_promote(&self.cancel).await && !self.cancel.is_cancelled();
        if !self.tell(TaskEvent::PrePromote(ready)).await || !ready {
            return PromoteOutcome::Cancelled;
        }
        if !self.may_be_primary() {
            tracing::warn!("not promoting: the leader lock was not confirmed in time");
            return PromoteOutcome::Cancelled;
        }
        self.postgres.promote(self.settings.global.loop_wait, &self.cancel).await
    }
}
