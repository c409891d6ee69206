//! How long a node may believe that it holds the leader lock.

use std::cmp::Ordering;
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

    /// The newer of two leases: the one whose proof was sent later, even if it ends earlier. The store may have cut the life
    /// of the lock short meanwhile, and then the older one is worth nothing any more. Of one and the same proof, what it
    /// was shortened to.
    #[must_use]
    pub fn latest(self, other: Self) -> Self {
        match other.sent_at.cmp(&self.sent_at) {
            Ordering::Greater => other,
            Ordering::Less => self,
            Ordering::Equal => Self { valid_until: self.valid_until.min(other.valid_until), ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_that_was_proved_later_counts_even_if_it_ends_earlier() {
        let start = Moment::default();
        let (older, newer) = (LeaderLease::granted(start, 30 * SECOND), LeaderLease::granted(start + 10 * SECOND, 5 * SECOND));
        assert_eq!((older.latest(newer), newer.latest(older)), (newer, newer));
    }

    #[test]
    fn the_same_proof_seen_again_does_not_undo_its_shortening() {
        let proof = LeaderLease::granted(Moment::default(), 30 * SECOND);
        let shortened = proof.shortened_to(20 * SECOND);
        assert_eq!((shortened.latest(proof), proof.latest(shortened)), (shortened, shortened));
    }
}
