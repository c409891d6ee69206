//! Stepping down on request: nothing acknowledged may be lost, and the gap should be short.

use std::time::Duration;

use dcs_core::model::{ClusterView, FailoverRequest, Lsn, Role};
use dcs_core::{Deadline, Interest};
use tokio::sync::{mpsc, oneshot};

use super::{TaskEvent, Tools};
use crate::decide::{Bar, Follower, Successors, Verdict, disqualification, plan_nobody, verdict};
use crate::ports::{FollowPlan, Peers, ShutdownPosition, StopEvent, StopHook, StopMode, StopOutcome, StopRequest};

/// How often candidates are asked whether they have everything.
const ASK_CANDIDATES: Duration = Duration::from_millis(50);
/// How long one candidate may take to answer.
const PEER: Duration = Duration::from_secs(2);
/// How long the old primary waits for the new one before it starts as a standby of nobody.
const WAIT_FOR_LEADER: Duration = Duration::from_secs(5);

/// To whom the lock may go while the server stops.
struct Heirs<'a> {
    /// The cluster; nothing: to nobody.
    view: Option<&'a ClusterView>,
    /// What was asked for.
    request: Option<&'a FailoverRequest>,
    /// The position that is left behind in the store.
    told: fn(ShutdownPosition) -> Lsn,
}

impl Tools {
    /// Stops with a checkpoint, lets go of the lock as soon as a candidate has flushed the end of the shutdown checkpoint
    /// record, and follows whoever leads next. Whether PostgreSQL stopped.
    pub(super) async fn demote_gracefully(&self, request: &FailoverRequest) -> bool {
        tracing::info!("Demoting self (graceful)");
        let stop = StopRequest {
            mode: StopMode::Fast,
            checkpoint_first: true,
            hook: StopHook::Run,
            timeout: self.settings.global.stop_timeout(),
            part_of_restart: false,
        };
        let (events, heard) = mpsc::channel(4);
        let view = self.dcs.load(self.budget()).await.ok();
        let whom = Heirs { view: view.as_ref(), request: Some(request), told: |position| position.final_lsn };
        let (outcome, released) = tokio::join!(self.postgres.stop(stop, Some(events)), self.release_when_caught_up(heard, whom));
        let StopOutcome::Stopped(position) = outcome else {
            tracing::error!("PostgreSQL could not be stopped; keeping the leader key");
            return false;
        };
        self.watchdog.disable().await;
        self.postgres.set_role(Role::Demoted);
        if !released {
            // Nobody was seen to have everything while the server stopped: what is left to give is on disk now.
            self.release(position.map(|position| position.final_lsn)).await;
        }
        self.follow_next_leader().await;
        true
    }

    /// Stops a primary whose cluster follows another one from now on, and goes on as a standby. Whether PostgreSQL stopped.
    ///
    /// Where WAL is archived, the remote cluster may have nothing but the archive: then everything goes there, the end of the
    /// shutdown checkpoint included, however long that takes, and the lock stays here. Otherwise a member that has everything
    /// gets it.
    pub(super) async fn demote_cluster(&self, remote: &FollowPlan, leads: bool) -> bool {
        tracing::info!("Demoting self (demote-cluster)");
        let archives = self.postgres.archives_wal().await;
        let stop = StopRequest {
            mode: StopMode::Fast,
            checkpoint_first: false,
            hook: StopHook::Run,
            timeout: self.settings.global.stop_timeout().filter(|_| !archives),
            part_of_restart: false,
        };
        let (events, heard) = mpsc::channel(4);
        let view = match leads && !archives {
            true => self.dcs.load(self.budget()).await.ok(),
            false => None,
        };
        let heirs = Heirs { view: view.as_ref(), request: None, told: |position| position.checkpoint };
        let (outcome, released) = tokio::join!(self.postgres.stop(stop, Some(events)), self.release_when_caught_up(heard, heirs));
        if !matches!(outcome, StopOutcome::Stopped(_)) {
            tracing::error!("PostgreSQL could not be stopped; keeping the leader key");
            return false;
        }
        self.postgres.set_role(Role::Demoted);
        if !archives {
            tracing::info!("Not archiving latest checkpoint WAL file. Archiving is not configured.");
        } else if let Err(error) = self.postgres.archive_shutdown_checkpoint(&self.cancel).await {
            tracing::error!("Failed to archive WAL file with the shutdown checkpoint: {error}");
        }
        if self.has_left(remote).await {
            // Nothing is started on a history that the remote cluster does not share: the next cycle rewinds it.
            return true;
        }
        if released || !leads {
            self.follow_next_leader().await;
        } else if !self.cancel.is_cancelled() {
            self.postgres.follow(remote, false, None, &self.cancel).await;
        }
        true
    }

    /// Whether the data here is known to have left the history of the remote member, and can be rewound.
    async fn has_left(&self, remote: &FollowPlan) -> bool {
        let Some(upstream) = remote.upstream.as_ref().filter(|_| self.settings.postgresql.use_pg_rewind) else { return false };
        if !self.postgres.can_rewind().await {
            return false;
        }
        match self.postgres.observe_divergence(upstream, self.budget()).await {
            Ok(facts) => verdict(&facts) == Verdict::Need,
            Err(reason) => {
                tracing::info!("{reason}");
                false
            }
        }
    }

    fn budget(&self) -> Deadline {
        Deadline::after(self.settings.global.retry_timeout)
    }

    /// Follows the events of a stop; once the server has written its shutdown checkpoint, asks the candidates until one of
    /// them has it. Whether the lock was released.
    async fn release_when_caught_up(&self, mut heard: mpsc::Receiver<StopEvent>, heirs: Heirs<'_>) -> bool {
        let position = loop {
            match heard.recv().await {
                Some(StopEvent::BackendsGone) => self.watchdog.disable().await,
                Some(StopEvent::ShutDown(position)) => break position,
                None => return false,
            }
        };
        let Some(view) = heirs.view else { return false };
        let successors = Successors::of(view, &self.settings.global, &self.me, heirs.request, false);
        loop {
            if ask_whether_somebody_has_everything(&*self.peers, &successors, &position).await {
                self.postgres.set_role(Role::Demoted);
                self.release(Some((heirs.told)(position))).await;
                return true;
            }
            tokio::select! {
                // The channel closes when the postmaster has gone.
                event = heard.recv() => if event.is_none() { return false },
                () = tokio::time::sleep(ASK_CANDIDATES) => {}
            }
        }
    }

    async fn release(&self, final_lsn: Option<Lsn>) {
        let (reply, done) = oneshot::channel();
        if self.tell(TaskEvent::Release(final_lsn, reply)).await {
            // Dropped without an answer: the engine is cancelling this task, and sees to the lock itself.
            let _ = done.await;
        }
    }

    /// Starts as a standby of the new leader; of nobody, if there is none for a while.
    async fn follow_next_leader(&self) {
        let deadline = Deadline::after(WAIT_FOR_LEADER);
        let mut plan = plan_nobody();
        while !self.cancel.is_cancelled() {
            if let Ok(view) = self.dcs.load(self.budget()).await {
                plan = Follower::of(&self.settings).plan(&view);
                // While nobody leads, members of a standby cluster would follow the remote one.
                if plan.upstream.as_ref().is_some_and(|upstream| !upstream.remote || !view.is_unlocked()) {
                    break;
                }
            }
            if deadline.has_passed() {
                break;
            }
            self.dcs.wait(Interest::FOLLOWER, deadline.remaining().min(Duration::from_secs(1))).await;
        }
        if !self.cancel.is_cancelled() {
            self.postgres.follow(&plan, false, None, &self.cancel).await;
        }
    }
}

/// Whether a node that may take over has flushed the end of the shutdown checkpoint record (hardening rule X13); where votes
/// are counted, as many as must vote for it.
pub(in crate::driver) async fn ask_whether_somebody_has_everything(
    peers: &dyn Peers,
    successors: &Successors,
    position: &ShutdownPosition,
) -> bool {
    if successors.targets.is_empty() {
        return false;
    }
    let bar = Bar { at_least: Some(position.checkpoint_end), last_lsn: position.checkpoint_end, ..Bar::default() };
    let answers = peers.poll(&successors.targets, Deadline::after(PEER)).await;
    successors.are_enough(answers.iter().filter(|(name, answer)| disqualification(name, answer, &bar).is_none()).count())
}
