//! The lock deadline: a primary is stopped before its lease can end, whatever else is stuck.
//!
//! The fence is a task of its own with its own deadline. Only a success (renewal, acquisition) moves the deadline; pause,
//! release and the stop of PostgreSQL disarm it. It looks at the clock at least once a second, so that a machine that was
//! asleep finds out at once that its lease has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dcs_core::model::Role;
use dcs_core::{Clock, LeaderLease, Moment};
use tokio::sync::watch;

use crate::ports::{Hold, LeaseGuard, Postgres, StopHook, StopMode, StopOutcome, StopRequest};

/// Time reserved to cut clients off.
pub(super) const GUARD: Duration = Duration::from_secs(1);
/// The lease guard is the second to act: this long before the end of the lease. It needs about half of it.
const LAST_MOMENT: Duration = Duration::from_millis(700);
/// How often the fence looks whether there is a primary, once its deadline has passed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The longest the fence sleeps without looking at the clock that counts suspend.
const LOOK: Duration = Duration::from_secs(1);

/// Holds the deadline. The task ends when this is dropped.
#[derive(Debug)]
pub(super) struct Fence {
    deadline: watch::Sender<Option<Moment>>,
    /// Holds the same, should this process be unable to do anything.
    guard: Arc<dyn LeaseGuard>,
    fired: Arc<AtomicBool>,
}

impl Fence {
    /// Starts the task, not armed.
    pub(super) fn start(clock: Arc<dyn Clock>, postgres: Arc<dyn Postgres>, lease_guard: Arc<dyn LeaseGuard>) -> Self {
        let deadline = watch::Sender::new(None);
        let watched = deadline.subscribe();
        // Detached on purpose: it must outlive whatever the loop is doing, and ends with the sender.
        let fired = Arc::new(AtomicBool::new(false));
        drop(tokio::spawn(guard(clock, postgres, watched, Arc::clone(&fired))));
        Self { deadline, guard: lease_guard, fired }
    }

    /// The moment by which a primary with this lease must be stopped.
    pub(super) fn stop_at(lease: LeaderLease) -> Moment {
        lease.valid_until().saturating_sub(GUARD)
    }

    /// Arms the fence for a primary that holds `lease`, and the lease guard if it is wanted.
    pub(super) fn arm(&self, lease: LeaderLease, guard: bool, postmaster: Option<(i32, i64)>) {
        self.deadline.send_replace(Some(Self::stop_at(lease)));
        let until = lease.valid_until().saturating_sub(LAST_MOMENT);
        self.guard.hold(guard.then_some(Hold { until, postmaster }));
    }

    /// Whether it has stopped PostgreSQL since this was last asked.
    pub(super) fn has_fired(&self) -> bool {
        self.fired.swap(false, Ordering::Relaxed)
    }

    /// Nothing needs guarding.
    pub(super) fn disarm(&self) {
        self.deadline.send_replace(None);
        self.guard.hold(None);
    }
}

async fn guard(clock: Arc<dyn Clock>, postgres: Arc<dyn Postgres>, mut deadline: watch::Receiver<Option<Moment>>, fired: Arc<AtomicBool>) {
    loop {
        let armed = *deadline.borrow_and_update();
        let Some(stop_at) = armed else {
            if deadline.changed().await.is_err() {
                return;
            }
            continue;
        };
        let left = stop_at.saturating_since(clock.now());
        if !left.is_zero() {
            tokio::select! {
                changed = deadline.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(left.min(LOOK)) => {}
            }
            continue;
        }
        if matches!(postgres.local().role, Role::Primary | Role::Promoted) {
            tracing::error!("the leader lock could not be renewed in time: stopping PostgreSQL before another node can be promoted");
            let request = StopRequest {
                mode: StopMode::Immediate,
                checkpoint_first: false,
                hook: StopHook::Skip,
                timeout: Some(GUARD),
                part_of_restart: false,
            };
            if postgres.stop(request, None).await == StopOutcome::Failed {
                // Try again: nothing matters more.
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            postgres.set_role(Role::Demoted);
            fired.store(true, Ordering::Relaxed);
        }
        // Go on looking: a promotion or a start that was under way may make it a primary yet.
        tokio::select! {
            changed = deadline.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}
