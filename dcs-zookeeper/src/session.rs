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
    /// How long it certainly lives after it was last heard of.
    lifetime: Duration,
    proof: Mutex<Proof>,
    /// A transaction that replaces the lock's node was sent, and it is not known whose node it replaced.
    replacing: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Proof {
    /// When the last request was sent that a server answered.
    heard: Moment,
    lease: LeaderLease,
}

impl Session {
    /// A session that a connection at `sent_at` made or resumed. `granted` is what the server gave it; `idle` is the longest
    /// time for which the client says nothing to a server.
    pub(crate) fn new(info: SessionInfo, asked: Duration, granted: Duration, idle: Duration, sent_at: Moment) -> Self {
        let lifetime = lifetime(asked.min(granted), idle);
        let proof = Proof { heard: sent_at, lease: LeaderLease::granted(sent_at, lifetime) };
        Self { id: info.id().0, info, asked, lifetime, proof: Mutex::new(proof), replacing: AtomicBool::new(false) }
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
        self.is_alive(sent_at);
        let lease = LeaderLease::granted(sent_at, self.lifetime);
        let mut proof = self.proof();
        proof.lease = proof.lease.latest(lease);
        lease
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
}
