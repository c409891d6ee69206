//! The one task of an election: it alone talks to the store.
//!
//! Each cycle reads the store and does one thing: tries for the lock, renews it, or lets it go. Between two cycles it waits
//! for a change in the store, for its term to end, or for somebody who wants something.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::Seen;
use super::term::{Leadership, Term};
use crate::model::{ClusterView, Leader, MemberName};
use crate::{Acquisition, Clock, Dcs, Deadline, Error, ErrorKind, Fate, Interest, Moment, Renewal, Timing};

/// How long a candidate that has just let the lock go leaves it to others, unless one of them takes it.
const COURTESY: Duration = Duration::from_secs(1);
/// The longest pause after something failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Somebody who wants to lead.
pub(super) struct Campaign {
    pub(super) margin: Duration,
    pub(super) reply: oneshot::Sender<Result<Leadership, Error>>,
}

/// A term, and who wants to hear how it ended.
struct Reign {
    term: Arc<Term>,
    released: oneshot::Sender<Result<(), Error>>,
}

/// What the task is up to.
enum Standing {
    /// Nobody wants to lead.
    Aside,
    Candidate(Campaign),
    /// Until the lock has been let go.
    Leader(Reign),
}

pub(super) struct Runner {
    dcs: Arc<dyn Dcs>,
    me: MemberName,
    clock: Arc<dyn Clock>,
    timing: Timing,
    campaigns: mpsc::Receiver<Campaign>,
    seen: watch::Sender<Seen>,
    /// When the store was read last.
    seen_at: Moment,
    /// The lock may be ours: an acquisition was confirmed or got no answer, and no release of it was confirmed since.
    unsettled: bool,
    /// Until then others may take the lock that was let go. They have to hear of it first, and whoever let it go would always
    /// be faster.
    courtesy: Moment,
    /// The last operation failed.
    failing: bool,
}

impl Runner {
    pub(super) fn new(
        dcs: Arc<dyn Dcs>,
        me: MemberName,
        clock: Arc<dyn Clock>,
        timing: Timing,
        campaigns: mpsc::Receiver<Campaign>,
    ) -> (Self, watch::Receiver<Seen>) {
        let seen = watch::Sender::new(Seen::Unknown);
        let observed = seen.subscribe();
        let seen_at = clock.now();
        let runner = Self { dcs, me, clock, timing, campaigns, seen, seen_at, unsettled: false, courtesy: seen_at, failing: false };
        (runner, observed)
    }

    /// Runs until nobody can want anything any more.
    pub(super) async fn run(mut self) {
        let mut standing = Standing::Aside;
        loop {
            let (next, pause) = self.cycle(standing).await;
            match self.rest(next, pause).await {
                Some(next) => standing = next,
                None => break,
            }
        }
        if self.unsettled {
            // The last attempt to let others in; the lock expires all the same.
            let _ = self.release().await;
        }
    }

    /// Reads the store and does what is to be done. Returns how long nothing else is.
    async fn cycle(&mut self, standing: Standing) -> (Standing, Duration) {
        if let Standing::Leader(reign) = standing {
            return self.reign(reign).await;
        }
        let view = match self.load(self.soon()).await {
            Ok(view) => view,
            Err(error) => return self.give_up_or_go_on(standing, error),
        };
        let free_or_mine = view.leader_name().is_none_or(|leader| *leader == self.me);
        let courtesy = self.courtesy.saturating_since(self.clock.now());
        match standing {
            Standing::Candidate(campaign) if view.is_unlocked() && !courtesy.is_zero() => (Standing::Candidate(campaign), courtesy),
            // A name of ours alone does not tell that the lock is: that may be an earlier process, whose lock expires.
            Standing::Candidate(campaign) if free_or_mine => self.attempt(campaign).await,
            Standing::Aside if self.unsettled && self.leads(&view).is_some() => match self.release().await {
                Ok(()) => (Standing::Aside, Duration::ZERO),
                Err(_) => (Standing::Aside, self.short_pause()),
            },
            standing => (standing, self.timing.loop_wait),
        }
    }

    /// Tries to take the lock.
    async fn attempt(&mut self, campaign: Campaign) -> (Standing, Duration) {
        let lease = match self.dcs.attempt_to_acquire_leader(self.soon()).await {
            Ok(Acquisition::Won(lease)) => lease,
            Ok(Acquisition::Lost(_)) => {
                self.succeeded();
                return (Standing::Candidate(campaign), self.timing.loop_wait);
            }
            Err(error) => {
                // Whoever gets no answer may hold the lock, and must not act on it. The next cycle finds out.
                self.unsettled |= error.fate == Fate::Unknown;
                return self.give_up_or_go_on(Standing::Candidate(campaign), error);
            }
        };
        self.succeeded();
        self.unsettled = true;
        let Some(term) = Term::begin(Arc::clone(&self.clock), lease, campaign.margin) else {
            // The answer took as long as the lease. Asking again brings a newer one.
            return (Standing::Candidate(campaign), self.short_pause());
        };
        let (released, outcome) = oneshot::channel();
        let leadership = Leadership::new(Arc::clone(&term), outcome);
        if let Err(Ok(unwanted)) = campaign.reply.send(Ok(leadership)) {
            // Nobody has seen it, so nobody acts upon it.
            unwanted.abandon();
        }
        self.show(Seen::Leader(self.me.clone()));
        let pause = self.until_renewal(&term);
        (Standing::Leader(Reign { term, released }), pause)
    }

    /// Renews the lock while the term lasts, lets it go when nobody acts upon it any more.
    async fn reign(&mut self, reign: Reign) -> (Standing, Duration) {
        if reign.term.is_vacant() {
            let outcome = self.release().await;
            let pause = if outcome.is_ok() { Duration::ZERO } else { self.short_pause() };
            // Whoever dropped the leadership does not listen. A failed release is tried again while nobody wants to lead.
            let _ = reign.released.send(outcome);
            return (Standing::Aside, pause);
        }
        let view = match self.load(self.in_time(&reign.term)).await {
            Ok(view) => view,
            Err(error) => return self.give_up_or_go_on(Standing::Leader(reign), error),
        };
        if reign.term.is_over() {
            return (Standing::Leader(reign), self.timing.loop_wait);
        }
        let Some(leader) = self.leads(&view) else {
            // Deleted, or somebody else's. It is not taken back, not even if it is free: somebody may have led meanwhile.
            tracing::warn!(leader = ?view.leader_name(), "the leader lock of {} was taken away", self.me);
            reign.term.take_away();
            return (Standing::Leader(reign), Duration::ZERO);
        };
        match self.dcs.renew_leader(leader, self.in_time(&reign.term)).await {
            Ok(Renewal::Renewed(lease)) => {
                self.succeeded();
                reign.term.extend(lease);
                let pause = self.until_renewal(&reign.term);
                (Standing::Leader(reign), pause)
            }
            Ok(Renewal::Lost) => {
                tracing::warn!("the leader lock of {} was lost", self.me);
                reign.term.take_away();
                (Standing::Leader(reign), Duration::ZERO)
            }
            Err(error) => self.give_up_or_go_on(Standing::Leader(reign), error),
        }
    }

    /// Waits until there is something to do. Nothing once nobody can want anything any more.
    async fn rest(&mut self, standing: Standing, pause: Duration) -> Option<Standing> {
        let change = self.dcs.wait(Interest::LOCK, pause);
        match standing {
            Standing::Aside => tokio::select! {
                biased;
                campaign = self.campaigns.recv() => campaign.map(Standing::Candidate),
                _ = change => Some(Standing::Aside),
            },
            Standing::Candidate(mut campaign) => tokio::select! {
                biased;
                () = campaign.reply.closed() => Some(Standing::Aside),
                _ = change => Some(Standing::Candidate(campaign)),
            },
            Standing::Leader(reign) => {
                let ends = async { if reign.term.is_over() { reign.term.vacant().await } else { reign.term.over().await } };
                tokio::select! {
                    biased;
                    () = ends => {}
                    _ = change => {}
                }
                Some(Standing::Leader(reign))
            }
        }
    }

    async fn load(&mut self, deadline: Deadline) -> Result<ClusterView, Error> {
        let view = self.dcs.load(deadline).await?;
        self.succeeded();
        self.seen_at = self.clock.now();
        self.show(view.leader_name().cloned().map_or(Seen::Nobody, Seen::Leader));
        Ok(view)
    }

    /// Lets the lock go, if it is ours.
    async fn release(&mut self) -> Result<(), Error> {
        match self.dcs.release_leader(None, self.soon()).await {
            Ok(released) => {
                self.unsettled = false;
                if released {
                    self.courtesy = self.clock.now() + COURTESY.min(self.timing.loop_wait);
                }
                self.succeeded();
                Ok(())
            }
            Err(error) => {
                self.failed(&error);
                Err(error)
            }
        }
    }

    /// After an error: a campaign that cannot succeed ends with it, everything else is tried again soon.
    fn give_up_or_go_on(&mut self, standing: Standing, error: Error) -> (Standing, Duration) {
        self.failed(&error);
        match (standing, error.kind) {
            (Standing::Candidate(campaign), ErrorKind::Denied | ErrorKind::Malformed | ErrorKind::Misconfigured) => {
                // If nobody listens any more the error was logged all the same.
                let _ = campaign.reply.send(Err(error));
                (Standing::Aside, self.short_pause())
            }
            (standing, _) => (standing, self.short_pause()),
        }
    }

    /// Tells about a failure once, until something succeeds.
    fn failed(&mut self, error: &Error) {
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!(error = error.chain(), "the election of {} still cannot go on", self.me);
        } else {
            tracing::info!(error = error.chain(), "the election of {} cannot go on; trying again", self.me);
        }
        if self.clock.now() >= self.seen_at + self.timing.ttl {
            self.show(Seen::Unknown);
        }
    }

    fn succeeded(&mut self) {
        self.failing = false;
    }

    fn show(&self, seen: Seen) {
        self.seen.send_if_modified(|before| {
            let differs = *before != seen;
            *before = seen;
            differs
        });
    }

    /// The lock as it was loaded, if our name is on it.
    fn leads<'a>(&self, view: &'a ClusterView) -> Option<&'a Leader> {
        view.leader.as_ref().filter(|leader| leader.name == self.me)
    }

    fn soon(&self) -> Deadline {
        Deadline::after(self.timing.retry_timeout)
    }

    /// The deadline of what is only worth something while the term lasts.
    fn in_time(&self, term: &Term) -> Deadline {
        if term.is_over() { self.soon() } else { self.soon().at_most(term.remaining()) }
    }

    /// How long until the lock is to be renewed.
    fn until_renewal(&self, term: &Term) -> Duration {
        (term.proved_at() + self.timing.loop_wait).saturating_since(self.clock.now())
    }

    fn short_pause(&self) -> Duration {
        PAUSE_AFTER_FAILURE.min(self.timing.loop_wait)
    }
}
