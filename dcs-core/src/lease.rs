//! How long a node may believe that it holds the leader lock.

use std::time::Duration;

use crate::Moment;

/// Proof that the leader lock was ours, and until when that proof is good.
///
/// `valid_until` is counted from *before* the request was sent, so that it ends before the store can let the lock go.
/// Code that acts as primary holds one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderLease {
    sent_at: Moment,
    valid_until: Moment,
}

impl LeaderLease {
    /// The lease proved by a request that was sent at `sent_at` and succeeded, for a lock that lives `ttl`.
    pub fn granted(sent_at: Moment, ttl: Duration) -> Self {
        Self { sent_at, valid_until: sent_at + ttl }
    }

    /// The same proof for a lock that from now on lives `ttl` only. Whoever lowers the ttl shortens its lease *before* it
    /// tells the store: the next renewal may bind the lock to a shorter-lived handle without its answer arriving.
    #[must_use]
    pub fn shortened_to(self, ttl: Duration) -> Self {
        Self { valid_until: self.valid_until.min(self.sent_at + ttl), ..self }
    }

    /// When the request that proved it was sent.
    pub const fn sent_at(self) -> Moment {
        self.sent_at
    }

    /// The moment from which nothing may be concluded any more.
    pub const fn valid_until(self) -> Moment {
        self.valid_until
    }

    /// Whether it is still proof at `now`.
    pub fn is_valid(self, now: Moment) -> bool {
        now < self.valid_until
    }

    /// What is left of it at `now`; zero once it has ended.
    pub fn remaining(self, now: Moment) -> Duration {
        self.valid_until.saturating_since(now)
    }

    /// The one of two leases that ends later.
    #[must_use]
    pub fn latest(self, other: Self) -> Self {
        if other.valid_until > self.valid_until { other } else { self }
    }
}
