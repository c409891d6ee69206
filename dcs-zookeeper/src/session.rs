//! The one session of this process, which the member key and the leader key hang on.
//!
//! ```text
//!            connect                 every answer: alive; every answer of a majority: lease counted anew
//!   none ───────────────► session ──────────────────────────────────────────────────────────────────►
//!    ▲                     │    ▲
//!    │   "session expired" │    │ resumed at the next server, with its keys
//!    └─────────────────────┘    └──── connection lost or silent
//! ```
//!
//! A session outlives its connections. Only a server's word ends it: a lost connection never does. A changed ttl is
//! another session; the old one is left alone and expires by itself, after its keys have moved.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::model::HandleId;
use dcs_core::{Handle, LeaderLease, Moment};
use zookeeper_client::SessionInfo;

/// What a follower of ZooKeeper's leader may hold back of the news that a session is alive: half a tick, which is one
/// second with the usual `tickTime` of two.
const RELAY: Duration = Duration::from_secs(1);

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: i64,
    /// What resumes it.
    pub(crate) info: SessionInfo,
    /// The ttl that was asked for.
    pub(crate) asked: Duration,
    proof: Mutex<Proof>,
    /// A transaction that replaces the lock's node was sent, and it is not known whose node it replaced.
    replacing: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Proof {
    /// When the last request was sent that a server answered.
    heard: Moment,
    /// What the last connection was granted: every server clamps the session by its own limits, at every connect.
    granted: Duration,
    /// How long it certainly lives after it was last heard of on that connection.
    lifetime: Duration,
    lease: LeaderLease,
}

impl Proof {
    fn new(granted: Duration, idle: Duration, sent_at: Moment) -> Self {
        let lifetime = lifetime(granted, idle);
        Self { heard: sent_at, granted, lifetime, lease: LeaderLease::granted(sent_at, lifetime) }
    }

    fn is_resumed(&mut self, granted: Duration, idle: Duration, sent_at: Moment) {
        self.granted = granted;
        self.lifetime = lifetime(granted, idle);
        self.lease = self.lease.shortened_to(self.lifetime);
        self.is_proved(sent_at);
    }

    fn is_proved(&mut self, sent_at: Moment) -> LeaderLease {
        self.heard = self.heard.max(sent_at);
        let lease = LeaderLease::granted(sent_at, self.lifetime);
        self.lease = self.lease.latest(lease);
        lease
    }
}

impl Session {
    /// A session that a connection at `sent_at` made. `granted` is what the server gave it; `idle` is the longest time for
    /// which the client says nothing to a server.
    pub(crate) fn new(info: SessionInfo, asked: Duration, granted: Duration, idle: Duration, sent_at: Moment) -> Self {
        let proof = Proof::new(asked.min(granted), idle, sent_at);
        Self { id: info.id().0, info, asked, proof: Mutex::new(proof), replacing: AtomicBool::new(false) }
    }

    /// A connection at `sent_at` has resumed it, and from now on it lives as long as that connection was granted. Returns
    /// what it was granted before.
    pub(crate) fn is_resumed(&self, granted: Duration, idle: Duration, sent_at: Moment) -> Duration {
        let mut proof = self.proof();
        let before = proof.granted;
        proof.is_resumed(self.asked.min(granted), idle, sent_at);
        before
    }

    fn proof(&self) -> MutexGuard<'_, Proof> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn handle_id(&self) -> HandleId {
        handle_id(self.id)
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle { id: self.handle_id(), lease: self.proof().lease }
    }

    /// When a request was sent that was the last to be answered.
    pub(crate) fn heard(&self) -> Moment {
        self.proof().heard
    }

    /// A request that was sent at `sent_at` was answered.
    pub(crate) fn is_alive(&self, sent_at: Moment) {
        let mut proof = self.proof();
        proof.heard = proof.heard.max(sent_at);
    }

    /// A request that was sent at `sent_at` was answered by a majority, which would have refused it if the session were gone.
    pub(crate) fn is_proved(&self, sent_at: Moment) -> LeaderLease {
        self.proof().is_proved(sent_at)
    }

    /// From now until [`Session::has_replaced`] it is not known whose node the lock of this session replaced.
    pub(crate) fn begins_to_replace(&self) {
        self.replacing.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_replaced(&self) {
        self.replacing.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_replacing(&self) -> bool {
        self.replacing.load(Ordering::SeqCst)
    }
}

/// A session as the contract names it: its number, as other agents read it from the nodes.
pub(crate) fn handle_id(session: i64) -> HandleId {
    HandleId::new(session.to_string())
}

/// What a proof of a session is worth: `granted`, less the age that the last news of it may have at ZooKeeper's leader.
///
/// A session is kept alive by what its server tells the leader every half a tick, not by the requests that the leader
/// executes for it. If the server is cut off right after a request, the leader's last news is from before it: at worst
/// of the client's last ping, and half a tick old by then.
fn lifetime(granted: Duration, idle: Duration) -> Duration {
    granted.saturating_sub(idle).saturating_sub(RELAY.min(granted / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_proof_is_worth_less_than_the_session_by_what_the_leader_may_not_have_heard() {
        assert_eq!(lifetime(30 * SECOND, 2 * SECOND), 27 * SECOND);
        assert_eq!(lifetime(2 * SECOND, SECOND), SECOND / 2);
        assert_eq!(lifetime(SECOND, 2 * SECOND), Duration::ZERO);
    }

    fn worth(lease: LeaderLease) -> Duration {
        lease.valid_until() - lease.sent_at()
    }

    #[test]
    fn a_resumed_session_is_worth_what_its_last_connection_was_granted() {
        let at = |seconds| Moment::from_origin(seconds * SECOND);
        let mut proof = Proof::new(30 * SECOND, 2 * SECOND, at(0));
        assert_eq!(worth(proof.is_proved(at(5))), 27 * SECOND);
        proof.is_resumed(10 * SECOND, 2 * SECOND, at(6));
        assert_eq!((proof.lease.sent_at(), proof.lease.valid_until()), (at(6), at(13)), "a longer proof was kept");
        assert_eq!(worth(proof.is_proved(at(7))), 7 * SECOND);
        // What the connection before was asked is answered only now.
        assert_eq!(worth(proof.is_proved(at(4))), 7 * SECOND);
        assert_eq!(proof.lease.sent_at(), at(7));
        // It pings less often.
        proof.is_resumed(10 * SECOND, 4 * SECOND, at(8));
        assert_eq!(worth(proof.is_proved(at(8))), 5 * SECOND);
        proof.is_resumed(30 * SECOND, 2 * SECOND, at(9));
        assert_eq!(worth(proof.is_proved(at(9))), 27 * SECOND);
    }

    #[test]
    fn a_proof_that_was_sent_after_the_connection_began_is_shortened_too() {
        let at = |seconds| Moment::from_origin(seconds * SECOND);
        let mut proof = Proof::new(30 * SECOND, 2 * SECOND, at(8));
        proof.is_resumed(10 * SECOND, 2 * SECOND, at(6));
        assert_eq!((proof.lease.sent_at(), proof.lease.valid_until()), (at(8), at(15)));
    }
}
