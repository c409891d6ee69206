//! How the rest of the agent talks to the engine: commands go into its mailbox, an immutable snapshot comes out.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::model::{ClusterView, Lsn, MemberName, Role, ScheduledTime, ServerState, Tags};
use dcs_core::{Clock, Dcs, Deadline, LeaderLease, Moment};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};

use crate::decide::failsafe::FailsafeMemory;
use crate::decide::failsafe::exclusion::FailsafeCall;
use crate::decide::journal::Record;
use crate::decide::observation::{Monitor, PeerAnswer, PeerStatus, ServerObservation};
use crate::decide::restart::ScheduledRestart;
use crate::driver::SharedExclusion;
use crate::journal::Journal;
use crate::ports::{LocalState, Postgres};
use crate::settings::EffectiveSettings;

/// What the engine knows, at one moment. Written by the engine alone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The cluster as last loaded; nothing after a failed load.
    pub view: Option<Arc<ClusterView>>,
    /// When that view was loaded. It is good for `ttl`.
    pub view_loaded_at: Option<Moment>,
    /// Wall-clock second of the last good load; 0 if there was none.
    pub dcs_last_seen: i64,
    /// The settings in force.
    pub settings: Arc<EffectiveSettings>,
    /// Until when this node may believe to be the leader.
    pub lease: Option<LeaderLease>,
    /// Failsafe mode: the map as last known, and whether this node leads without the store.
    pub failsafe: FailsafeMemory,
    /// The last own position.
    pub last_wal_lsn: Option<Lsn>,
    /// The tags to tell whoever asks: those in force, and `nofailover` while the bare position of this node would keep
    /// Patroni's agents on a newer timeline from promoting.
    pub tags: Tags,
    /// The last observation of the server.
    pub server: Option<Arc<ServerObservation>>,
    /// The running task.
    pub task: Option<String>,
    /// A restart that waits for its time.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// When the next cycle is due.
    pub next_run: Moment,
    /// The line of the last cycle.
    pub message: String,
    /// The own timeline, as last known.
    pub timeline: Option<dcs_core::model::Timeline>,
    /// A watchdog is required and cannot be used: this node must not be promoted.
    pub watchdog_failed: bool,
    /// What was changed, refused or found out, and why.
    pub journal: Journal,
}

impl Snapshot {
    /// The view, if it is still good at `now`.
    pub fn fresh_view(&self, now: Moment) -> Option<&Arc<ClusterView>> {
        let loaded = self.view_loaded_at?;
        self.view.as_ref().filter(|_| now < loaded + self.settings.global.ttl)
    }

    /// Whether this node may believe to be the leader at `now`.
    pub fn is_leader(&self, now: Moment) -> bool {
        self.lease.is_some_and(|lease| lease.is_valid(now))
    }

    /// Whether the cluster is in maintenance mode.
    pub fn is_paused(&self) -> bool {
        self.settings.global.pause
    }
}

/// Why a leader without the store does not get this node's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWord {
    /// Failsafe mode is off.
    #[error("failsafe mode is off")]
    Off,
    /// This node is a primary, or has the lock, or may be about to get it.
    #[error("Running as a leader")]
    RunningAsLeader,
}

/// What a request for a restart wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestartRequest {
    /// Only if the node has this role.
    pub role: Option<String>,
    /// Only if the running server is older than this.
    pub postgres_version: Option<u32>,
    /// How long the start may take; `primary_start_timeout` if absent.
    pub timeout: Option<Duration>,
    /// Only if a restart is pending.
    pub restart_pending: bool,
}

/// What became of a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartAnswer {
    /// `restarted successfully`
    Restarted,
    /// `restart conditions are not satisfied`
    ConditionsNotMet,
    /// `<task> already in progress`
    Busy(String),
    /// `postgres is still starting`
    StillStarting,
    /// `restart failed`
    Failed,
}

/// Something that somebody wants from the engine.
#[derive(Debug)]
pub enum Command {
    /// Run the next cycle now.
    Wake,
    /// Read the local configuration again (SIGHUP, `POST /reload`).
    Reload,
    /// Restart PostgreSQL now.
    Restart(RestartRequest, oneshot::Sender<RestartAnswer>),
    /// Restart PostgreSQL later. `false`: another restart is scheduled already.
    ScheduleRestart {
        /// When.
        at: ScheduledTime,
        /// The conditions, as requested.
        filters: Map<String, Value>,
        /// Whether it was accepted.
        reply: oneshot::Sender<bool>,
    },
    /// Forget the scheduled restart. `false`: there was none.
    DeleteScheduledRestart(oneshot::Sender<bool>),
    /// Build this node anew. The answer is the refusal, if it is refused.
    Reinitialize {
        /// Cancel the running task first.
        force: bool,
        /// Copy the leader with `pg_basebackup`.
        from_leader: bool,
        /// Nothing: it was started. Otherwise why not.
        reply: oneshot::Sender<Option<String>>,
    },
    /// Leave a record in the journal: somebody above the engine has refused something.
    Note(Record),
    /// End in order: stop PostgreSQL and release the lock, unless paused. Said a second time: do not keep the lock any longer for
    /// a stop that takes its time.
    Shutdown,
}

/// The engine is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent is shutting down")]
pub struct EngineGone;

/// A cheap handle to the engine.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    /// The name of this node.
    pub me: MemberName,
    pub(crate) mailbox: mpsc::Sender<Command>,
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(crate) dcs: Arc<dyn Dcs>,
    pub(crate) postgres: Arc<dyn Postgres>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) exclusion: SharedExclusion,
}

impl EngineHandle {
    /// A handle to an engine that is not ours: for tests of what stands above the engine, and for programs that decide by
    /// themselves. Whoever holds the other ends of `mailbox` and `snapshot` plays the engine.
    pub fn assemble(
        me: MemberName,
        mailbox: mpsc::Sender<Command>,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        dcs: Arc<dyn Dcs>,
        postgres: Arc<dyn Postgres>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { me, mailbox, snapshot, dcs, postgres, clock, exclusion: SharedExclusion::default() }
    }

    /// What the engine knows now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// A receiver that tells when the snapshot changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// The store, for requests that need a fresh view or write a key.
    pub fn dcs(&self) -> &Arc<dyn Dcs> {
        &self.dcs
    }

    /// The local PostgreSQL, for its live state and status reports. Requests that change it go through commands.
    pub fn postgres(&self) -> &Arc<dyn Postgres> {
        &self.postgres
    }

    /// The clock that judges leases.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Proof that the local PostgreSQL is the primary of the cluster, as good as it is now: for programs that have something
    /// to do where the primary is and nowhere else. What is begun on the strength of it must end before it does.
    ///
    /// Nothing on every other node, while a promotion is under way, and for a primary that maintenance mode keeps going
    /// without the lock.
    pub fn primary_lease(&self) -> Option<LeaderLease> {
        let local = self.postgres.local();
        let lease = self.snapshot().lease.filter(|lease| lease.is_valid(self.clock.now()))?;
        (local.role == Role::Primary && local.state == ServerState::Running).then_some(lease)
    }

    /// What this node answers a peer that asks for its state, in whatever way they ask each other (see
    /// [`Peers::poll`](crate::ports::Peers::poll)). In the agent `GET /patroni` is that way.
    pub async fn answer_peer(&self, deadline: Deadline) -> PeerAnswer {
        let report = self.postgres.report(Duration::ZERO, deadline).await;
        let (in_recovery, position, timeline) = match report.server.as_ref().map(|server| &server.monitor) {
            Some(Monitor::Primary(primary)) => (false, Lsn::ZERO, Some(primary.timeline)),
            Some(Monitor::Standby(standby)) => {
                let timeline = match standby.received_timeline {
                    Some(timeline) => Some(timeline),
                    None => self.postgres.own_timeline(deadline).await,
                };
                (true, standby.received.max(standby.replayed), timeline)
            }
            _ => return PeerAnswer::Unreachable,
        };
        let snapshot = self.snapshot();
        PeerAnswer::Status(PeerStatus {
            in_recovery,
            position,
            timeline,
            tags: snapshot.tags.clone(),
            watchdog_failed: snapshot.watchdog_failed,
            scope: Some(snapshot.settings.scope.clone()),
            system_id: snapshot.view.as_ref().and_then(|view| view.system_id()).map(|id| id.to_string()),
        })
    }

    /// A leader that has lost the store asks whether it may go on. If so, this node does not race for `ttl` from now on; the
    /// result is its position, if known. Answered at once, whatever the loop is waiting for.
    ///
    /// # Errors
    ///
    /// It may not, as far as this node has a say.
    pub fn give_word(&self, call: FailsafeCall) -> Result<Option<Lsn>, NoWord> {
        let snapshot = self.snapshot();
        let global = &snapshot.settings.global;
        if !global.failsafe_mode {
            return Err(NoWord::Off);
        }
        let local = self.postgres.local();
        // Somebody with the name of this node cannot be its leader.
        if may_write(&local) || call.name == self.me {
            return Err(NoWord::RunningAsLeader);
        }
        self.exclusion.answer(call, global.ttl, self.clock.now()).map_err(|_| NoWord::RunningAsLeader)?;
        Ok(snapshot.last_wal_lsn)
    }

    /// Whether failsafe mode is active here: this node leads without the store, or has given its word to one that does.
    pub fn failsafe_is_active(&self) -> bool {
        let (snapshot, now) = (self.snapshot(), self.clock.now());
        let ttl = snapshot.settings.global.ttl;
        snapshot.failsafe.is_active(ttl, now) || self.exclusion.promise(ttl, now).is_some()
    }

    /// Sends a command.
    ///
    /// # Errors
    ///
    /// The engine has ended.
    pub async fn send(&self, command: Command) -> Result<(), EngineGone> {
        self.mailbox.send(command).await.map_err(|_| EngineGone)
    }

    /// Runs the next cycle now. Never waits; a full mailbox means that a cycle is due anyway.
    pub fn wake(&self) {
        self.dcs.wake();
        // A full mailbox already wakes the loop, and a closed one has nothing to wake.
        let _ = self.mailbox.try_send(Command::Wake);
    }

    /// Leaves a record in the journal. Never waits; a mailbox that is full has more urgent things in it.
    pub fn note(&self, record: Record) {
        // Lost only if the engine has more to do than it can, or is gone.
        let _ = self.mailbox.try_send(Command::Note(record));
    }

    /// Restarts PostgreSQL and waits for the result.
    ///
    /// # Errors
    ///
    /// The engine has ended.
    pub async fn restart(&self, request: RestartRequest) -> Result<RestartAnswer, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Restart(request, reply)).await?;
        answer.await.map_err(|_| EngineGone)
    }

    /// Schedules a restart; `false` if there is one already.
    ///
    /// # Errors
    ///
    /// The engine has ended.
    pub async fn schedule_restart(&self, at: ScheduledTime, filters: Map<String, Value>) -> Result<bool, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::ScheduleRestart { at, filters, reply }).await?;
        answer.await.map_err(|_| EngineGone)
    }

    /// Forgets the scheduled restart; `false` if there was none.
    ///
    /// # Errors
    ///
    /// The engine has ended.
    pub async fn delete_scheduled_restart(&self) -> Result<bool, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::DeleteScheduledRestart(reply)).await?;
        answer.await.map_err(|_| EngineGone)
    }

    /// Builds this node anew. The refusal, if it was refused.
    ///
    /// # Errors
    ///
    /// The engine has ended.
    pub async fn reinitialize(&self, force: bool, from_leader: bool) -> Result<Option<String>, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Reinitialize { force, from_leader, reply }).await?;
        answer.await.map_err(|_| EngineGone)
    }
}

/// Whether the server takes writes, or may be about to.
fn may_write(local: &LocalState) -> bool {
    let is_down =
        matches!(local.state, ServerState::Stopped | ServerState::Crashed | ServerState::StartFailed | ServerState::RestartFailed);
    matches!(local.role, Role::Primary | Role::Promoted) && !is_down
}
