//! The run loop: the one task that owns the engine's state.
//!
//! ```text
//!   startup ─► ┌─ load the view, renew the lock if it is mine (nothing slow in between)
//!              │  observe the server
//!              │  decide ◄─► answer asks
//!              │  effects, in order; start the long task
//!              │  publish member key and snapshot
//!              └─ sleep until the period is over, or something happens ─► shutdown
//! ```
//!
//! What can end the sleep: a change in the store, the end of the postmaster, a finished task, a command, a timer, a change
//! of the local state, a synchronous standby that came or went. There is no fixed sleep in the path of a switchover or failover.

mod act;
mod answers;
mod commands;
mod duty;
mod failsafe;
mod fence;
mod jobs;
mod lookout;
mod observe;
mod publish;
mod reloads;
mod shutdown;
mod slot_work;
mod startup;
#[cfg(test)]
mod tests;
mod watchdog;

use std::sync::Arc;
use std::time::Duration;

use dcs_core::model::{ClusterView, MemberName, Revision};
use dcs_core::{Clock, Dcs, Deadline, Interest, LeaderLease, MemberInterest, Moment};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};

pub(crate) use self::failsafe::SharedExclusion;
use self::fence::Fence;
use self::jobs::{RunningJob, TaskEvent};
use self::lookout::Lookout;
use self::slot_work::SlotWork;
use self::watchdog::Keeper;
use crate::decide::action::ExitReason;
use crate::decide::failsafe::FailsafeMemory;
use crate::decide::journal::{Record, Rule};
use crate::decide::memory::Memory;
use crate::decide::observation::ServerObservation;
use crate::handle::{Command, EngineHandle, Snapshot};
use crate::journal::Journal;
use crate::ports::{LeaseGuard, LocalState, Peers, Postgres, Watchdog};
use crate::settings::{EffectiveSettings, SettingsSource};

/// Commands that may wait for the engine. More than a human and a few tools ever send at once.
const MAILBOX: usize = 64;
/// Events of the one running task; it waits for the engine when there are more.
const TASK_EVENTS: usize = 16;
/// Bound of one write that is tried again next cycle.
const SHORT_WRITE: Duration = Duration::from_secs(2);

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts {
    /// The store.
    pub dcs: Arc<dyn Dcs>,
    /// The local PostgreSQL.
    pub postgres: Arc<dyn Postgres>,
    /// The other agents.
    pub peers: Arc<dyn Peers>,
    /// The watchdog device.
    pub watchdog: Arc<dyn Watchdog>,
    /// What stops the server when this program cannot.
    pub lease_guard: Arc<dyn LeaseGuard>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Where settings come from.
    pub source: Arc<dyn SettingsSource>,
    /// The settings to begin with.
    pub settings: Arc<EffectiveSettings>,
}

/// Why the engine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to, and ended in order.
    Shutdown,
    /// It cannot go on; what is said to the operator.
    Fatal(String),
}

/// The engine. [`Engine::run`] is the task that owns it.
#[derive(Debug)]
pub struct Engine {
    me: MemberName,
    dcs: Arc<dyn Dcs>,
    postgres: Arc<dyn Postgres>,
    peers: Arc<dyn Peers>,
    clock: Arc<dyn Clock>,
    source: Arc<dyn SettingsSource>,
    settings: Arc<EffectiveSettings>,
    /// The dynamic document that `settings` were made of, and its revision.
    dynamic: Map<String, Value>,
    config_revision: Option<Revision>,
    /// Settings changed and the server has not been told yet.
    unapplied_settings: bool,
    /// The dynamic document changed and the cache file has not been written yet.
    unsaved_dynamic: bool,
    /// The server must reload even if nothing changed.
    forced_reload: bool,
    /// Somebody asked for the local files to be read again.
    reload_requested: bool,
    memory: Memory,
    view: Option<Arc<ClusterView>>,
    view_loaded_at: Option<Moment>,
    dcs_last_seen: i64,
    server: Option<Arc<ServerObservation>>,
    job: Option<RunningJob>,
    /// The number of the next job: events of former ones are told apart by it.
    next_job: u64,
    job_events: mpsc::Receiver<(u64, TaskEvent)>,
    job_sender: mpsc::Sender<(u64, TaskEvent)>,
    /// Changes of the server's state that have not been published yet.
    changes: watch::Receiver<LocalState>,
    /// The CHECKPOINT after a promotion, beside the loop.
    checkpoint: Option<tokio::task::JoinHandle<bool>>,
    /// Settings that take longer to be taken into use than the loop can wait.
    applying: Option<tokio::task::JoinHandle<()>>,
    /// Work on logical slots, beside the loop.
    slot_work: SlotWork,
    /// The WAL record for waiting members, beside the loop.
    wal_record: Option<tokio::task::JoinHandle<()>>,
    fence: Fence,
    exclusion: SharedExclusion,
    started_at: Moment,
    watchdog: Keeper,
    lookout: Lookout,
    lease: watch::Sender<Option<LeaderLease>>,
    mailbox: mpsc::Receiver<Command>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    cycle_started: Moment,
    next_run: Moment,
    wake_at: Option<Moment>,
    watch_members: bool,
    last_message: String,
    /// What was changed, refused or found out, and why.
    journal: Journal,
    exit: Option<ExitReason>,
    shutting_down: bool,
    /// A watchdog is required and cannot be used.
    watchdog_failed: bool,
    /// This node is about to go away and must not be a synchronous standby meanwhile.
    off_duty: bool,
}

impl Engine {
    /// An engine, and the handle to talk to it. Nothing happens before [`Engine::run`].
    pub fn new(parts: Parts) -> (Self, EngineHandle) {
        let Parts { dcs, postgres, peers, watchdog, lease_guard, clock, source, settings } = parts;
        let (commands, mailbox) = mpsc::channel(MAILBOX);
        let (job_sender, job_events) = mpsc::channel(TASK_EVENTS);
        let now = clock.now();
        let initial = Snapshot {
            view: None,
            view_loaded_at: None,
            dcs_last_seen: 0,
            settings: Arc::clone(&settings),
            lease: None,
            failsafe: FailsafeMemory::default(),
            last_wal_lsn: None,
            tags: settings.tags.clone(),
            server: None,
            task: None,
            scheduled_restart: None,
            next_run: now,
            message: String::new(),
            timeline: None,
            watchdog_failed: false,
            journal: Journal::default(),
        };
        let snapshot = watch::Sender::new(Arc::new(initial));
        let exclusion = SharedExclusion::default();
        let handle = EngineHandle {
            me: settings.name.clone(),
            mailbox: commands,
            snapshot: snapshot.subscribe(),
            dcs: Arc::clone(&dcs),
            postgres: Arc::clone(&postgres),
            clock: Arc::clone(&clock),
            exclusion: exclusion.clone(),
        };
        let engine = Self {
            me: settings.name.clone(),
            fence: Fence::start(Arc::clone(&clock), Arc::clone(&postgres), lease_guard),
            exclusion,
            started_at: now,
            lookout: Lookout::start(Arc::clone(&clock), Arc::clone(&postgres)),
            watchdog: Keeper::start(Arc::clone(&clock), watchdog, &settings),
            watchdog_failed: false,
            dcs,
            peers,
            clock,
            source,
            dynamic: settings.global.document.clone(),
            settings,
            config_revision: None,
            unapplied_settings: false,
            forced_reload: false,
            unsaved_dynamic: true,
            reload_requested: false,
            memory: Memory::default(),
            view: None,
            view_loaded_at: None,
            dcs_last_seen: 0,
            server: None,
            job: None,
            next_job: 0,
            changes: postgres.subscribe(),
            postgres,
            job_events,
            job_sender,
            checkpoint: None,
            applying: None,
            slot_work: SlotWork::default(),
            wal_record: None,
            lease: watch::Sender::new(None),
            mailbox,
            snapshot,
            cycle_started: now,
            next_run: now,
            wake_at: None,
            watch_members: false,
            last_message: String::new(),
            journal: Journal::default(),
            exit: None,
            shutting_down: false,
            off_duty: false,
        };
        (engine, handle)
    }

    /// Everything that comes before the first decision: waits for the store, makes sure that nobody else has this node's
    /// name, takes over a PostgreSQL that runs already. The REST API comes up after this: it would answer for the
    /// namesake otherwise.
    ///
    /// # Errors
    ///
    /// The agent must not run; what to tell the operator.
    pub async fn start(&mut self) -> Result<(), String> {
        match self.start_up().await {
            Some(fatal) => Err(fatal),
            None => {
                let state = self.postgres.local().state;
                self.note(Record::new(Rule::AgentStarted, "the agent began").fact("postgresql", state));
                Ok(())
            }
        }
    }

    /// Decides until somebody asks for the end, or until this node cannot go on. [`Engine::start`] comes first.
    pub async fn run(mut self) -> Ended {
        while !self.shutting_down {
            self.cycle().await;
            if let Some(exit) = self.exit.take() {
                tracing::error!("{}", exit.message);
                self.leave(&exit).await;
                return Ended::Fatal(exit.message);
            }
            self.apply_changed_settings().await;
            self.publish();
            self.sleep().await;
        }
        self.shut_down().await;
        Ended::Shutdown
    }

    fn is_paused(&self) -> bool {
        self.settings.global.pause
    }

    /// Whether the last view says that the lock is mine.
    fn lock_is_mine(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.leader_name() == Some(&self.me))
    }

    /// Leaves a record in the journal between cycles.
    fn note(&mut self, record: Record) {
        self.journal.take(vec![record], self.clock.wall());
        self.publish();
    }

    fn short_write(&self) -> Deadline {
        Deadline::after(SHORT_WRITE.min(self.settings.global.retry_timeout))
    }

    /// Takes a new memory into force: what a lease is worth is told to the fence and to running work at once.
    fn remember(&mut self, memory: Memory) {
        self.memory = memory;
        self.lease.send_replace(self.memory.lease);
    }

    /// Sleeps until the period is over or something happens.
    async fn sleep(&mut self) {
        let period = self.settings.global.loop_wait;
        let now = self.clock.now();
        self.next_run = self.next_run + period;
        if self.next_run <= now {
            tracing::warn!("Loop time exceeded, rescheduling immediately.");
            self.next_run = now;
            // Nobody who waits for the loop may starve because its cycles take long.
            self.hear_what_waits().await;
            return;
        }
        self.guard_lease();
        let mut changes = self.changes.clone();
        loop {
            match self.wait_once(&mut changes).await {
                Next::Run => {
                    self.next_run = self.clock.now();
                    break;
                }
                Next::PeriodOver => break,
                Next::SleepOn => {}
            }
        }
        self.changes = changes;
    }

    /// Takes what is in the queues already, without waiting for more.
    async fn hear_what_waits(&mut self) {
        while let Ok((job, event)) = self.job_events.try_recv() {
            self.on_task_event(job, event).await;
        }
        while !self.shutting_down
            && let Ok(command) = self.mailbox.try_recv()
        {
            self.obey(command).await;
        }
    }

    async fn wait_once(&mut self, changes: &mut watch::Receiver<LocalState>) -> Next {
        let now = self.clock.now();
        let leads = self.lock_is_mine();
        let mut remaining = self.next_run.saturating_since(now);
        if remaining.is_zero() {
            return Next::PeriodOver;
        }
        let mut by_timer = false;
        if let Some(at) = self.wake_at {
            let until = at.saturating_since(now);
            if until <= remaining {
                remaining = until;
                by_timer = true;
            }
        }
        let mut interest = if leads { Interest::LEADER } else { Interest::FOLLOWER };
        if self.watch_members {
            interest.members = MemberInterest::Any;
        }
        let server_runs = self.server.as_ref().is_some_and(|server| server.postmaster.is_running());
        let watch_postmaster = server_runs && self.job.is_none();
        let dcs = Arc::clone(&self.dcs);
        let postgres = Arc::clone(&self.postgres);
        tokio::select! {
            biased;
            // What a task has achieved comes first: a decision on what was before it would be about another world.
            Some((job, event)) = self.job_events.recv() => self.on_task_event(job, event).await,
            command = self.mailbox.recv() => match command {
                Some(command) => self.obey(command).await,
                None => { self.shutting_down = true; Next::Run }
            },
            finished = finished(&mut self.checkpoint) => {
                self.checkpoint = None;
                self.on_checkpoint(finished);
                // A failed one is ordered again by the next cycle.
                if finished { Next::Run } else { Next::SleepOn }
            }
            () = reloads::ended(&mut self.applying) => {
                self.applying = None;
                // Newer ones may have been waiting.
                Next::Run
            }
            report = self.slot_work.ended() => if self.slot_work.keep(report) { Next::Run } else { Next::SleepOn },
            () = postgres.postmaster_ended(), if watch_postmaster => Next::Run,
            () = self.lookout.has_seen_something() => Next::Run,
            Ok(()) = changes.changed() => {
                self.publish_change().await;
                Next::SleepOn
            }
            wake = dcs.wait(interest, remaining) => match wake {
                dcs_core::Wake::Changed => Next::Run,
                dcs_core::Wake::TimedOut if by_timer => Next::Run,
                dcs_core::Wake::TimedOut => Next::PeriodOver,
            },
        }
    }
}

/// What follows a wake-up.
enum Next {
    /// Run a cycle now.
    Run,
    /// The period is over: run a cycle, in step with the former ones.
    PeriodOver,
    /// Nothing that needs a cycle.
    SleepOn,
}

/// Waits for work beside the loop, if there is any; `false` if it did not end well.
async fn finished(work: &mut Option<tokio::task::JoinHandle<bool>>) -> bool {
    match work {
        Some(work) => work.await.unwrap_or(false),
        None => std::future::pending().await,
    }
}
