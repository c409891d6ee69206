//! One leadership, from its acquisition to its end.
//!
//! ```text
//!   sent_at                       stop_at        valid_until
//!   ───┼──────────────────────────────┼───────────────┼────►
//!      │ the leadership is good       │ the work has  │ others
//!      │ and each renewal moves this ►│ to stop       │ may lead
//! ```
//!
//! Whoever looks after `stop_at` ends it, be it the task that renews or the one that works; both look at the same state, so
//! what has ended for one has ended for the other.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::{Clock, Error, LeaderLease, Moment};

/// The longest sleep without looking at the clock that counts suspend.
const LOOK: Duration = Duration::from_secs(1);

/// Why a leadership is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Its lease is about to end, and could not be renewed in time.
    #[error("the leader lock could not be renewed in time")]
    NotRenewed,
    /// The store says that the lock is not ours any more: somebody deleted it, or it expired early.
    #[error("the leader lock was taken away")]
    TakenAway,
}

/// What the one who works and the one who renews share.
pub(super) struct Term {
    clock: Arc<dyn Clock>,
    margin: Duration,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy)]
struct State {
    lease: LeaderLease,
    over: Option<Lost>,
    /// Nobody acts any more, although the lease may still be good.
    resigned: bool,
    /// The leadership was dropped.
    dropped: bool,
}

impl State {
    /// From when on nothing new may begin.
    fn stop_at(&self, margin: Duration) -> Moment {
        let length = self.lease.valid_until() - self.lease.sent_at();
        self.lease.valid_until().saturating_sub(margin.min(length / 2))
    }

    /// Whether the one who works may still do so.
    fn is_over(&self) -> bool {
        self.over.is_some() || self.resigned || self.dropped
    }
}

impl Term {
    /// The term that begins with `lease`; nothing if that is over already.
    pub(super) fn begin(clock: Arc<dyn Clock>, lease: LeaderLease, margin: Duration) -> Option<Arc<Self>> {
        let state = State { lease, over: None, resigned: false, dropped: false };
        let term = Self { clock, margin, state: watch::Sender::new(state) };
        (!term.is_over()).then(|| Arc::new(term))
    }

    /// The state as it is now: the clock may have ended the term since somebody looked last.
    fn look(&self) -> State {
        self.state.send_if_modified(|state| {
            let runs_out = !state.is_over() && self.clock.now() >= state.stop_at(self.margin);
            if runs_out {
                state.over = Some(Lost::NotRenewed);
            }
            runs_out
        });
        *self.state.borrow()
    }

    /// Takes in a renewal. One that comes when the term is over changes nothing.
    pub(super) fn extend(&self, lease: LeaderLease) {
        self.look();
        self.state.send_if_modified(|state| {
            let extends = !state.is_over() && lease.valid_until() > state.lease.valid_until();
            if extends {
                state.lease = lease;
            }
            extends
        });
    }

    /// Ends the term because the store says so.
    pub(super) fn take_away(&self) {
        self.state.send_if_modified(|state| {
            let ends = !state.is_over();
            if ends {
                state.over = Some(Lost::TakenAway);
            }
            ends
        });
    }

    /// When the request was sent that the lease is counted from.
    pub(super) fn proved_at(&self) -> Moment {
        self.state.borrow().lease.sent_at()
    }

    /// What is left until the term is over by the clock.
    pub(super) fn remaining(&self) -> Duration {
        self.state.borrow().stop_at(self.margin).saturating_since(self.clock.now())
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.look().is_over()
    }

    /// Whether nobody can be acting upon it any more: resigned, or the lease itself has ended.
    pub(super) fn is_vacant(&self) -> bool {
        let state = self.look();
        state.resigned || !state.lease.is_valid(self.clock.now())
    }

    /// Completes when it is over.
    pub(super) async fn over(&self) {
        self.until(|state| state.is_over(), |state| state.stop_at(self.margin)).await;
    }

    /// Completes when nobody can be acting upon it any more.
    pub(super) async fn vacant(&self) {
        self.until(|state| state.resigned, |state| state.lease.valid_until()).await;
    }

    /// Completes when `done` holds, or the clock has come to the moment that `at` says.
    async fn until(&self, done: impl Fn(&State) -> bool, at: impl Fn(&State) -> Moment) {
        let mut changes = self.state.subscribe();
        loop {
            changes.mark_unchanged();
            let state = self.look();
            let left = at(&state).saturating_since(self.clock.now());
            if done(&state) || left.is_zero() {
                return;
            }
            tokio::select! {
                biased;
                // Cannot fail: the sender is here.
                _ = changes.changed() => {}
                () = tokio::time::sleep(left.min(LOOK)) => {}
            }
        }
    }
}

/// Proof of being the leader, renewed in the background as long as it is held.
///
/// Dropping it ends the renewals, and others can lead when the lease has run out: up to a ttl later, because nothing tells
/// whether work that it allowed still goes on. [`Leadership::resign`] tells that it does not, and lets others in at once.
pub struct Leadership {
    term: Arc<Term>,
    /// What became of the lock.
    released: oneshot::Receiver<Result<(), Error>>,
}

impl Leadership {
    pub(super) fn new(term: Arc<Term>, released: oneshot::Receiver<Result<(), Error>>) -> Self {
        Self { term, released }
    }

    /// Gives it up before anybody has seen it.
    pub(super) fn abandon(self) {
        self.term.state.send_modify(|state| state.resigned = true);
    }

    /// The proof, as good as it is now. Ask at each moment of acting; hand it to those who act, to be compared with the
    /// clock again there, or its end to whoever can refuse what comes too late.
    ///
    /// # Errors
    ///
    /// The leadership is over, for good. What was begun must end before the last proof does.
    pub fn lease(&self) -> Result<LeaderLease, Lost> {
        let state = self.term.look();
        state.over.map_or(Ok(state.lease), Err)
    }

    /// Completes when the leadership is over: the margin before the lease can end, or as soon as the store says that the lock
    /// is somebody else's.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn lost(&self) -> Lost {
        self.term.over().await;
        // Only the clock can have ended it without a reason having been noted.
        self.term.look().over.unwrap_or(Lost::NotRenewed)
    }

    /// Does `work` while the leadership lasts. If that ends first the work is dropped where it is waiting: so it must not
    /// block the thread, and what it has spawned it must end itself.
    ///
    /// # Errors
    ///
    /// The leadership was lost before the work had ended.
    pub async fn hold<T>(&self, work: impl Future<Output = T>) -> Result<T, Lost> {
        tokio::select! {
            biased;
            lost = self.lost() => Err(lost),
            done = work => Ok(done),
        }
    }

    /// Gives the lock up, so that somebody else can lead at once. All work that acted as leader must have ended before. A
    /// campaign of the same candidate leaves it to the others for a second.
    ///
    /// # Errors
    ///
    /// The lock may still be there. It is tried again in the background; at the latest it expires.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take it back.
    pub async fn resign(mut self) -> Result<(), Error> {
        self.term.state.send_modify(|state| state.resigned = true);
        // Without the task that would have told it there is nobody who renews either.
        (&mut self.released).await.unwrap_or(Ok(()))
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.term.state.send_modify(|state| state.dropped = true);
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership").field("lease", &self.lease()).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "memory"))]
mod tests {
    use super::*;
    use crate::TokioClock;

    const TTL: Duration = Duration::from_secs(20);
    const MARGIN: Duration = Duration::from_secs(2);

    fn term() -> (Arc<dyn Clock>, Arc<Term>, Leadership) {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let lease = LeaderLease::granted(clock.now(), TTL);
        let term = Term::begin(Arc::clone(&clock), lease, MARGIN).expect("a fresh lease");
        let leadership = Leadership::new(Arc::clone(&term), oneshot::channel().1);
        (clock, term, leadership)
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_comes_too_late_changes_nothing() {
        for late in [Duration::ZERO, MARGIN / 2, TTL] {
            let (clock, term, leadership) = term();
            tokio::time::advance(TTL - MARGIN + late).await;
            // Nobody has looked at the clock since, and the new lease is a good one.
            term.extend(LeaderLease::granted(clock.now(), TTL));
            assert_eq!(leadership.lease(), Err(Lost::NotRenewed), "{late:?} after it was over");
            assert_eq!(leadership.lost().await, Lost::NotRenewed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_proof_does_not_shorten_a_newer_one() {
        let (clock, term, leadership) = term();
        let older = leadership.lease();
        tokio::time::advance(TTL / 2).await;
        let newer = LeaderLease::granted(clock.now(), TTL);
        term.extend(newer);
        term.extend(older.expect("it was good"));
        assert_eq!(leadership.lease(), Ok(newer));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_reason_stays() {
        let (_, term, leadership) = term();
        term.take_away();
        tokio::time::advance(TTL * 2).await;
        assert_eq!(leadership.lost().await, Lost::TakenAway);
        assert!(term.is_over() && term.is_vacant());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_over_when_it_comes_is_not_handed_out() {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let lease = LeaderLease::granted(clock.now(), TTL);
        tokio::time::advance(TTL - MARGIN).await;
        assert!(Term::begin(clock, lease, MARGIN).is_none());
    }
}
