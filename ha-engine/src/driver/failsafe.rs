//! Failsafe mode on the side of effects: the word that is given and asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::{Acquisition, Deadline, Error, LeaderLease, Moment};
use serde_json::{Map, Value};

use super::Engine;
use super::fence::Fence;
use crate::decide::action::Answer;
use crate::decide::failsafe::exclusion::{Claimed, Exclusion, FailsafeCall, Promise, Request, Settled, Wanted};
use crate::decide::failsafe::{Appeal, Extension};

/// The time before the end of a lease that is kept for asking all others, should the store fail: two requests of two
/// seconds each.
const FOR_THE_OTHERS: Duration = Duration::from_secs(4);

/// What is kept of that time for stopping in order.
const FOR_THE_STOP: Duration = Duration::from_secs(2);

/// The one place where this node's word is given, and where it is looked for before the lock is asked for. The loop and
/// whoever answers requests share it: a request must be answered while the loop waits for a store that does not. Nobody
/// waits here for more than a few instructions of the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedExclusion(Arc<Mutex<Exclusion>>);

impl SharedExclusion {
    fn hold(&self) -> MutexGuard<'_, Exclusion> {
        // Every operation leaves a whole value behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Exclusion::answer`].
    pub(crate) fn answer(&self, call: FailsafeCall, ttl: Duration, now: Moment) -> Result<(), Claimed> {
        self.hold().answer(call, ttl, now)
    }

    /// See [`Exclusion::promise`].
    pub(crate) fn promise(&self, ttl: Duration, now: Moment) -> Option<Promise> {
        self.hold().promise(ttl, now).cloned()
    }

    /// See [`Exclusion::begin`].
    pub(super) fn begin(&self, wanted: Wanted, ttl: Duration, now: Moment) -> Result<Request, Promise> {
        self.hold().begin(wanted, ttl, now)
    }

    /// See [`Exclusion::settle`].
    pub(super) fn settle(&self, request: Request, outcome: Settled) {
        self.hold().settle(request, outcome);
    }

    /// See [`Exclusion::see`].
    pub(super) fn see(&self, is_ours: bool, ttl: Duration, now: Moment) {
        self.hold().see(is_ours, ttl, now);
    }

    /// See [`Exclusion::let_go`].
    pub(super) fn let_go(&self) {
        self.hold().let_go();
    }
}

/// What an acquisition that has ended means for others who ask for this node's word.
pub(super) fn settled_by_acquisition(outcome: &Result<Acquisition, Error>) -> Settled {
    match outcome {
        Ok(Acquisition::Won(lease)) => Settled::Ours(*lease),
        Ok(Acquisition::Lost(_)) => Settled::NotOurs,
        Err(_) => Settled::Unknown,
    }
}

impl Engine {
    /// The word that binds this node now.
    pub(super) fn promise(&self) -> Option<Promise> {
        self.exclusion.promise(self.settings.global.ttl, self.clock.now())
    }

    /// Leave to ask the store for the lock.
    pub(super) fn begin(&self, wanted: Wanted) -> Result<Request, Promise> {
        self.exclusion.begin(wanted, self.settings.global.ttl, self.clock.now())
    }

    /// When a leader must be done with the store: in failsafe mode early enough to ask everybody else before it must stop.
    pub(super) fn store_must_answer_by(&self) -> Option<Moment> {
        let stop_at = self.stop_at()?;
        if !self.settings.global.failsafe_mode || !self.memory.failsafe.names_others(&self.me) {
            return Some(stop_at);
        }
        // With very short leases both get a half.
        let left = stop_at.saturating_since(self.cycle_started);
        Some(stop_at.saturating_sub(FOR_THE_OTHERS.min(left / 2)))
    }

    /// Asks all other members for their word, at most until this server must be stopped (hardening rule X7).
    pub(super) async fn ask_for_word(&self, appeal: &Appeal) -> Answer {
        let known = self.memory.lease;
        let started = self.clock.now();
        let budget = known.map_or(self.settings.global.retry_timeout, |lease| {
            let left = Fence::stop_at(lease).saturating_since(started);
            // After a "no" there should be time for a stop that lets the standbys have everything.
            left.saturating_sub(FOR_THE_STOP.min(left / 4))
        });
        let call = FailsafeCall {
            name: self.me.clone(),
            conn_url: self.postgres.local().conn_url,
            api_url: self.settings.api_url.clone(),
            slots: appeal.slots.clone(),
        };
        let deadline = Deadline::after(budget);
        let asked = deadline.bound("the word of all other members", self.peers.ask_for_word(&appeal.targets, &call, deadline)).await;
        let Ok(Some(positions)) = asked else { return Answer::Word(None) };
        // The fence may have been faster: what it has stopped does not lead any more.
        if known.is_some_and(|lease| self.clock.now() >= Fence::stop_at(lease)) {
            return Answer::Word(None);
        }
        Answer::Word(Some(Extension { lease: LeaderLease::granted(started, self.settings.global.ttl), positions }))
    }

    /// Writes the map of members that are asked.
    pub(super) async fn write_failsafe(&mut self, map: Map<String, Value>) {
        let outcome = self.dcs.write_failsafe(&map, self.short_write()).await;
        if let Err(error) = &outcome {
            tracing::error!("could not write the members of failsafe mode to the store: {}", error.chain());
        }
        let mut memory = self.memory.clone();
        memory.failsafe = memory.failsafe.after_write(map, outcome.is_ok());
        self.remember(memory);
    }
}
