//! The one handle of this client, which its member key and the leader key hang on.
//!
//! ```text
//!            granted                refreshed, alone or in one transaction with the lock
//!   none ───────────────► held ────────────────────────────────────► held, counted from before it was sent
//!    ▲                     │ "the handle is gone"
//!    └─────────────────────┘ (a changed ttl replaces the handle; the old one ends by itself)
//! ```
//!
//! This only remembers; what is asked of the cluster is in `store.rs`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::model::HandleId;
use dcs_core::{Clock, Handle, LeaderLease, Moment, Timing};

use crate::command::Operation;

/// Remembers the handle and the last proof of its life.
#[derive(Debug)]
pub(crate) struct Keeper {
    clock: Arc<dyn Clock>,
    slot: Mutex<Slot>,
}

#[derive(Debug)]
struct Slot {
    timing: Timing,
    held: Option<Held>,
}

/// A handle that was alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) id: u64,
    /// How long it lives without being refreshed, as this client counts.
    ttl: Duration,
    /// Until when it certainly lives.
    pub(crate) lease: LeaderLease,
}

impl Held {
    pub(crate) fn handle(&self) -> Handle {
        Handle { id: handle_id(self.id), lease: self.lease }
    }
}

/// A handle as the contract names it.
pub(crate) fn handle_id(handle: u64) -> HandleId {
    HandleId::new(handle.to_string())
}

/// The operation that makes a handle for leases of `ttl`.
///
/// The log clock counts whole milliseconds. What it cuts off from the time of the grant must not end the handle before
/// the lease ends that is counted from before it was sent: so the handle lives one longer.
pub(crate) fn grant(ttl: Duration) -> Operation {
    let milliseconds = ttl.as_nanos().div_ceil(1_000_000).saturating_add(1);
    Operation::Grant { ttl_ms: u64::try_from(milliseconds).unwrap_or(u64::MAX) }
}

impl Keeper {
    pub(crate) fn new(timing: Timing, clock: Arc<dyn Clock>) -> Self {
        Self { clock, slot: Mutex::new(Slot { timing, held: None }) }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        // Nothing panics while it is held.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a request that is sent now proves is counted from here.
    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    pub(crate) fn timing(&self) -> Timing {
        self.slot().timing
    }

    pub(crate) fn set_timing(&self, timing: Timing) {
        self.slot().timing = timing;
    }

    /// The handle, as last proved. It may have another lifetime than is wanted now.
    pub(crate) fn held(&self) -> Option<Held> {
        self.slot().held
    }

    /// The handle, if it has the lifetime that is wanted now.
    pub(crate) fn usable(&self) -> Option<Held> {
        let slot = self.slot();
        slot.held.filter(|held| held.ttl == slot.timing.ttl)
    }

    /// The handle, if it is usable and was proved less than `loop_wait` ago.
    pub(crate) fn fresh(&self) -> Option<Held> {
        let loop_wait = self.timing().loop_wait;
        self.usable().filter(|held| self.now() - held.lease.sent_at() < loop_wait)
    }

    /// A request that was sent at `sent_at` made handle `id`, with leases of `ttl`, in the place of `before`.
    pub(crate) fn granted(&self, before: Option<Held>, id: u64, ttl: Duration, sent_at: Moment) -> Held {
        let new = Held { id, ttl, lease: LeaderLease::granted(sent_at, ttl) };
        let mut slot = self.slot();
        match slot.held {
            // Another task was faster. Keys must not hang on two handles; ours ends unused.
            Some(other) if Some(other.id) != before.map(|held| held.id) && other.ttl == ttl => other,
            _ => {
                slot.held = Some(new);
                tracing::debug!(handle = id, ?ttl, "the cluster made a handle");
                new
            }
        }
    }

    /// A request that was sent at `sent_at` refreshed `held`.
    pub(crate) fn proved(&self, held: Held, sent_at: Moment) -> Held {
        let proved = Held { lease: LeaderLease::granted(sent_at, held.ttl), ..held };
        let mut slot = self.slot();
        // Answers may come out of order.
        if let Some(current) = &mut slot.held
            && current.id == held.id
            && current.lease.sent_at() <= sent_at
        {
            *current = proved;
        }
        proved
    }

    /// The cluster said that handle `id` does not exist.
    pub(crate) fn forget(&self, id: u64) {
        let mut slot = self.slot();
        if slot.held.is_some_and(|held| held.id == id) {
            tracing::info!(handle = id, "our handle is gone");
            slot.held = None;
        }
    }
}
