//! The cycle: looking, deciding, acting, within a budget.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::model::ClusterView;
use dcs_core::{Deadline, Error, Moment, Renewal};

use super::Engine;
use super::fence::Fence;
use crate::decide::action::{Answer, Answers, Ask, Step};
use crate::decide::failsafe::exclusion::{Settled, Wanted};
use crate::decide::journal::{Record, Rule};
use crate::decide::observation::{Monitor, Observation, Postmaster, RewindPolicy, StoreFailed};
use crate::decide::{self, Now};
use crate::settings::{EffectiveSettings, ReplicaMethod, SyncMode};

/// How long looking at the server may take: its statement timeout, twice, and a little.
const OBSERVE_SERVER: Duration = Duration::from_secs(6);
/// And how long it may take at least, however late it is: a server that is well answers in milliseconds.
const OBSERVE_AT_LEAST: Duration = Duration::from_secs(1);
/// More rounds of questions than any cycle asks; past it something is wrong with a rule.
const MOST_ROUNDS: usize = 32;

impl Engine {
    /// One HA decision, carried out.
    pub(super) async fn cycle(&mut self) {
        let started = self.clock.now();
        self.cycle_started = started;
        if self.fence.has_fired() {
            let what = "PostgreSQL was stopped: the leader lock could not be renewed before the lease on it was about to end";
            self.note(Record::new(Rule::DemoteLeaseEnded, what));
        }
        let mut view = self.load_view(started).await;
        let mut answers = Answers::default();
        // Nothing slow stands between a loaded view and the renewal.
        if let Ok(loaded) = view.clone()
            && loaded.leader_name() == Some(&self.me)
            && self.promise().is_none()
        {
            let renewal = self.renew(&loaded).await;
            // A store that cannot renew is a store that is lost, whatever it could tell a moment ago.
            if renewal.is_err() {
                view = Err(StoreFailed);
            }
            answers.add(Ask::RenewLock, Answer::Renewal(renewal));
        }
        let obs = self.observe(view).await;
        let decision = {
            let mut rounds = 0;
            loop {
                let now = Now { moment: self.clock.now(), wall: self.clock.wall() };
                match decide::decide(&obs, &self.settings.global, &self.memory, now, &answers) {
                    Step::Done(decision) => break decision,
                    Step::Ask(asks) => {
                        rounds += 1;
                        if rounds > MOST_ROUNDS {
                            tracing::error!(?asks, "Unexpected exception raised, please report it as a BUG");
                            self.wake_at = None;
                            return;
                        }
                        for (ask, answer) in self.answer(asks).await {
                            answers.add(ask, answer);
                        }
                    }
                }
            }
        };
        self.act(*decision, &obs).await;
    }

    /// The moment by which a primary that holds the lock must be stopped; nothing without a lease.
    pub(super) fn stop_at(&self) -> Option<Moment> {
        let now = self.clock.now();
        // A lease that has ended bounds nothing any more: the fence has done its work, and the store must be asked anew.
        self.memory.lease.filter(|lease| now < Fence::stop_at(*lease)).map(Fence::stop_at)
    }

    /// What is left of `retry_timeout`, and, for a leader, of the time before its lease ends.
    pub(super) fn store_deadline(&self) -> Deadline {
        let retry_timeout = self.settings.global.retry_timeout;
        let budget = match self.store_must_answer_by() {
            Some(limit) => retry_timeout.min(limit.saturating_since(self.clock.now())),
            None => retry_timeout,
        };
        Deadline::after(budget)
    }

    /// `deadline`, and for a leader no later than its server must be stopped: a loop that is busy with something else can
    /// neither renew the lock nor step down in order.
    pub(super) fn within_lease(&self, deadline: Deadline) -> Deadline {
        match self.stop_at() {
            Some(stop_at) => deadline.at_most(stop_at.saturating_since(self.clock.now())),
            None => deadline,
        }
    }

    /// What a leader does before a renewal leaves time for it: it ends by `min(start + R, limit − min(R, (limit − start)/2))`.
    pub(super) fn deadline_before_renewal(&self, started: Moment) -> Deadline {
        let retry_timeout = self.settings.global.retry_timeout;
        let budget = match self.store_must_answer_by() {
            Some(limit) => {
                let left = limit.saturating_since(started);
                retry_timeout.min(left.saturating_sub(retry_timeout.min(left / 2)))
            }
            None => retry_timeout,
        };
        Deadline::after(budget)
    }

    /// Whether the cycle has lasted for a period: what is left of a pass over synchronous standbys is done by the next one,
    /// after the renewal.
    pub(super) fn cycle_is_overdue(&self) -> bool {
        self.clock.now().saturating_since(self.cycle_started) >= self.settings.global.loop_wait
    }

    async fn load_view(&mut self, started: Moment) -> Result<Arc<ClusterView>, StoreFailed> {
        match self.dcs.load(self.deadline_before_renewal(started)).await {
            Ok(view) => Ok(self.take_view(view)),
            Err(error) => Err(self.store_failed(&error)),
        }
    }

    /// Takes a freshly loaded view into use; its configuration counts from this cycle on.
    pub(super) fn take_view(&mut self, view: ClusterView) -> Arc<ClusterView> {
        let view = Arc::new(view);
        self.report_damages(&view);
        self.view_loaded_at = Some(self.clock.now());
        self.dcs_last_seen = self.clock.wall().as_second();
        self.view = Some(Arc::clone(&view));
        self.take_config(&view);
        self.exclusion.see(view.leader_name() == Some(&self.me), self.settings.global.ttl, self.clock.now());
        let mut memory = self.memory.clone();
        memory.failsafe.map.clone_from(&view.failsafe);
        self.remember(memory);
        view
    }

    /// Damaged values are reported when they appear, not in every cycle.
    fn report_damages(&self, view: &ClusterView) {
        let known = self.view.as_ref().map(|view| view.damages.as_slice()).unwrap_or_default();
        for damage in view.damages.iter().filter(|damage| !known.contains(damage)) {
            tracing::warn!("the value of `{}` in the store is damaged: {}", damage.key, damage.problem);
        }
    }

    pub(super) fn store_failed(&mut self, error: &Error) -> StoreFailed {
        tracing::error!("Error communicating with DCS: {}", error.chain());
        self.view = None;
        self.view_loaded_at = None;
        StoreFailed
    }

    /// Renews the lock that the view says is mine, and takes the lease into force at once.
    pub(super) async fn renew(&mut self, view: &ClusterView) -> Result<Renewal, StoreFailed> {
        let Some(leader) = &view.leader else {
            return Ok(Renewal::Lost);
        };
        let Ok(request) = self.begin(Wanted::Again) else {
            return Ok(Renewal::Lost);
        };
        let outcome = self.dcs.renew_leader(leader, self.store_deadline()).await;
        let now = self.clock.now();
        self.exclusion.settle(
            request,
            match &outcome {
                Ok(Renewal::Renewed(lease)) if lease.is_valid(now) => Settled::Ours(*lease),
                Ok(Renewal::Lost) => Settled::NotOurs,
                Ok(Renewal::Renewed(_)) | Err(_) => Settled::Unknown,
            },
        );
        match outcome {
            Ok(Renewal::Renewed(lease)) if !lease.is_valid(now) => {
                // An answer that comes after its own end proves nothing.
                tracing::error!("the renewal of the leader lock took longer than the lock lives");
                Err(StoreFailed)
            }
            Ok(Renewal::Renewed(lease)) => {
                let mut memory = self.memory.clone();
                memory.lease = Some(memory.lease.map_or(lease, |known| known.latest(lease)));
                self.remember(memory);
                self.guard_lease();
                self.publish();
                Ok(Renewal::Renewed(lease))
            }
            Ok(Renewal::Lost) => Ok(Renewal::Lost),
            Err(error) => Err(self.store_failed(&error)),
        }
    }

    /// Arms or disarms the fence, as role and lease say, and feeds the watchdog for a new lease.
    pub(super) fn guard_lease(&mut self) {
        use dcs_core::model::Role;

        let primary = matches!(self.postgres.local().role, Role::Primary | Role::Promoted);
        match self.memory.lease {
            // Whatever the role is now: a promotion or a start may make it a primary while the loop is busy.
            Some(lease) if !self.is_paused() => {
                let view = self.view.as_deref().or(self.memory.last_locked_view.as_deref());
                let guard = decide::lease_guard::is_wanted(&self.settings.global, view, &self.me);
                let postmaster = match self.server.as_ref().map(|server| server.postmaster) {
                    Some(Postmaster::Running { pid, started_at }) => Some((pid, started_at)),
                    _ => None,
                };
                self.fence.arm(lease, guard, postmaster);
                self.watchdog.feed(lease);
            }
            _ if self.is_paused() || !primary => self.fence.disarm(),
            // A primary whose belief was given up keeps the deadline it had.
            _ => {}
        }
    }

    async fn observe(&mut self, view: Result<Arc<ClusterView>, StoreFailed>) -> Observation {
        // Nothing is done about slots while the store is lost, unless the primary may go on.
        let with_slots = view.is_ok() || self.settings.global.failsafe_mode;
        let mut deadline = self.within_lease(Deadline::after(OBSERVE_SERVER));
        if let Some(limit) = self.store_must_answer_by() {
            // A server that is sick must not take the time in which the others can be asked.
            deadline = deadline.at_most(limit.saturating_since(self.clock.now()).max(OBSERVE_AT_LEAST));
        }
        let server = self.postgres.observe(with_slots, deadline).await;
        self.server = Some(Arc::new(server.clone()));
        let synchronous = match (self.settings.global.synchronous_mode, &server.monitor) {
            (SyncMode::Off, _) => None,
            (_, Monitor::Primary(_)) if self.lock_is_mine() => self.postgres.synchronous_replication(deadline).await,
            _ => None,
        };
        let watchdog = self.watchdog.observe().await;
        self.watchdog_failed = !watchdog.usable;
        let settings = Arc::clone(&self.settings);
        Observation {
            me: self.me.clone(),
            tags: settings.tags.clone(),
            api_url: settings.api_url.clone(),
            view,
            started_at: self.started_at,
            promise: self.promise(),
            rewind_policy: self.rewind_policy(&settings).await,
            server,
            task: self.job.as_ref().map(|job| job.describe()),
            watchdog,
            synchronous,
            slot_report: self.slot_work.take_report(),
            server_version: match self.memory.scheduled_restart {
                Some(_) => self.server_version().await,
                None => None,
            },
            callback_called: self.postgres.callback_called(),
            may_bootstrap: settings.bootstrap.is_some(),
            use_slots: settings.postgresql.use_slots,
            has_leaderless_method: settings
                .postgresql
                .create_replica_methods
                .iter()
                .any(|method| matches!(method, ReplicaMethod::Custom { no_leader: true, .. })),
        }
    }

    async fn rewind_policy(&self, settings: &EffectiveSettings) -> RewindPolicy {
        let postgresql = &settings.postgresql;
        let rebuild_diverged = postgresql.remove_data_directory_on_diverged_timelines;
        RewindPolicy {
            can_rewind: postgresql.use_pg_rewind && self.postgres.can_rewind().await,
            rebuild_diverged,
            rebuild_after_failure: rebuild_diverged || postgresql.remove_data_directory_on_rewind_failure,
        }
    }
}
