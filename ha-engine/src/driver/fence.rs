//! The lock deadline: a primary is stopped before its lease can end, whatever else is stuck.
//!
//! The fence is a task of its own with its own deadline. Only a success (renewal, acquisition) moves the deadline; pause,
//! release and the stop of PostgreSQL disarm it. It looks at the clock ten times a second, so that a machine that was
//! asleep finds out at once that its lease has ended.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::model::Role;
use dcs_core::{Clock, LeaderLease, Moment};
use tokio::sync::watch;

use crate::ports::{Postgres, StopHook, StopMode, StopOutcome, StopRequest};

/// Time reserved to cut clients off.
pub(super) const GUARD: Duration = Duration::from_secs(1);
/// How often the fence looks whether there is a primary, once its deadline has passed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The longest the fence sleeps without looking at the clock that counts suspend: timers stand still while the machine sleeps,
/// and what is left of the guard when it wakes up must be enough for the stop.
const LOOK: Duration = Duration::from_millis(100);

/// Holds the deadline. The task ends when this is dropped.
#[derive(Debug)]
pub(super) struct Fence {
    deadline: watch::Sender<Option<Moment>>,
}

impl Fence {
    /// Starts the task, not armed.
    pub(super) fn start(clock: Arc<dyn Clock>, postgres: Arc<dyn Postgres>) -> Self {
        let deadline = watch::Sender::new(None);
        let watched = deadline.subscribe();
        // Detached on purpose: it must outlive whatever the loop is doing, and ends with the sender.
        drop(tokio::spawn(guard(clock, postgres, watched)));
        Self { deadline }
    }

    /// The moment by which a primary with this lease must be stopped.
    pub(super) fn stop_at(lease: LeaderLease) -> Moment {
        lease.valid_until().saturating_sub(GUARD)
    }

    /// Arms the fence for a primary that holds `lease`.
    pub(super) fn arm(&self, lease: LeaderLease) {
        self.deadline.send_replace(Some(Self::stop_at(lease)));
    }

    /// Nothing needs guarding.
    pub(super) fn disarm(&self) {
        self.deadline.send_replace(None);
    }
}

async fn guard(clock: Arc<dyn Clock>, postgres: Arc<dyn Postgres>, mut deadline: watch::Receiver<Option<Moment>>) {
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
                biased;
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
        }
        // Go on looking: a promotion or a start that was under way may make it a primary yet.
        tokio::select! {
            biased;
            changed = deadline.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}
