//! Standing back for a leader, and taking the lock: a node does the one or the other, never both (hardening rule X20).
//!
//! A leader that has lost the store goes on if every other member promises not to race for the length of a lease. Its
//! request comes when it likes, also while the loop of this node waits for the store, and must be answered at once. So what
//! excludes each other lives in one value, and each of its operations is one step: a request is refused from before the
//! lock is asked for until nobody can believe any more that it is ours, and the lock is not asked for while a promise holds.
//!
//! ```text
//!            answer ── refused while a claim stands ──► promise, for ttl
//!             begin ── refused while a promise holds ─► request under way ── settle ─► ours until … / not ours / unknown
//!               see ── what a view shows ends a claim, or begins one
//! ```
//!
//! From this follows what the safety of failsafe mode needs: while a promise holds, this node has no lease, and cannot
//! get one. What it may have caused at the store before (a request that arrived late) makes nobody a leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dcs_core::model::{Lsn, MemberName};
use dcs_core::{LeaderLease, Moment};

/// What a leader without the store says of itself when it asks whether it may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailsafeCall {
    /// The leader.
    pub name: MemberName,
    /// How its server is reached.
    pub conn_url: String,
    /// How its agent is reached.
    pub api_url: String,
    /// The positions of its replication slots, and its own under the slot name of its own; nothing if it could not tell.
    pub slots: Option<BTreeMap<String, Lsn>>,
}

/// The word that was given to a leader without the store: this node does not race.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// To whom, and what it said of itself.
    pub to: Arc<FailsafeCall>,
    made_at: Moment,
    /// What the leader counts on, as far as was known when the promise was made.
    until: Moment,
}

impl Promise {
    /// Whether it binds this node at `now`. With a `ttl` that has grown meanwhile it binds for longer: the leader may have
    /// known that `ttl` already. With one that has shrunk it does not end earlier: the leader may not know of that.
    pub fn is_in_force(&self, ttl: Duration, now: Moment) -> bool {
        now < self.until.max(self.made_at + ttl)
    }
}

/// What a request for the lock wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A lock that nobody holds.
    New,
    /// The lock that the last view said is ours.
    Again,
}

/// A request for the lock that is under way. Comes from [`Exclusion::begin`], ends in [`Exclusion::settle`]; one that is
/// dropped counts as being under way for ever.
#[derive(Debug)]
#[must_use = "as long as it is not settled, every other leader is refused"]
pub struct Request(Wanted);

/// What became of a request for the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The lock is ours.
    Ours(LeaderLease),
    /// It is not.
    NotOurs,
    /// Nobody knows.
    Unknown,
}

/// This node claims the lock already: it cannot stand back for somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed;

/// The value; see the module.
#[derive(Clone, Debug, Default)]
pub struct Exclusion {
    /// A request is under way.
    under_way: bool,
    /// A request for a new lock may have succeeded; only a view can tell.
    unsettled: bool,
    /// Until then the lock counts as ours, unless a view shows that it is not.
    ours_until: Option<Moment>,
    promise: Option<Promise>,
}

impl Exclusion {
    /// Whether this node has, or may be about to get, the lock.
    pub fn claims(&self, now: Moment) -> bool {
        self.under_way || self.unsettled || self.ours_until.is_some_and(|until| now < until)
    }

    /// The promise that binds this node at `now`.
    pub fn promise(&self, ttl: Duration, now: Moment) -> Option<&Promise> {
        self.promise.as_ref().filter(|promise| promise.is_in_force(ttl, now))
    }

    /// A leader without the store asks whether it may go on.
    ///
    /// # Errors
    ///
    /// It may not: this node claims the lock itself. No promise was made.
    pub fn answer(&mut self, call: FailsafeCall, ttl: Duration, now: Moment) -> Result<(), Claimed> {
        if self.claims(now) {
            return Err(Claimed);
        }
        let earlier = self.promise.take().map_or(now, |earlier| earlier.until);
        self.promise = Some(Promise { to: Arc::new(call), made_at: now, until: earlier.max(now + ttl) });
        Ok(())
    }

    /// The lock is about to be asked for. Nothing may be sent to the store without the [`Request`].
    ///
    /// # Errors
    ///
    /// This node has promised not to. Nothing has changed.
    pub fn begin(&mut self, wanted: Wanted, ttl: Duration, now: Moment) -> Result<Request, Promise> {
        if let Some(promise) = self.promise(ttl, now) {
            return Err(promise.clone());
        }
        self.under_way = true;
        Ok(Request(wanted))
    }

    /// A request has ended. Only the lease that this was told of may be taken into force.
    pub fn settle(&mut self, request: Request, outcome: Settled) {
        self.under_way = false;
        match outcome {
            Settled::Ours(lease) => (self.unsettled, self.ours_until, self.promise) = (false, Some(lease.valid_until()), None),
            Settled::NotOurs => (self.unsettled, self.ours_until) = (false, None),
            // A lock that was ours ends when the last proof does; one that may be ours, when a view shows that it is not.
            Settled::Unknown => self.unsettled |= request.0 == Wanted::New,
        }
    }

    /// A view has been loaded, after whatever was asked for before; whether it says that the lock is ours.
    pub fn see(&mut self, is_ours: bool, ttl: Duration, now: Moment) {
        self.unsettled = false;
        self.ours_until = is_ours.then(|| self.ours_until.filter(|until| now < *until).unwrap_or(now + ttl));
    }

    /// The lock was let go.
    pub fn let_go(&mut self) {
        (self.unsettled, self.ours_until) = (false, None);
    }
}

#[cfg(test)]
mod tests;
