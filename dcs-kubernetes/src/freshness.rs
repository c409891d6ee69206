//! When a load may go by what the watches told alone, and when it has to ask the server.
//!
//! A leader renews in every cycle, and the watch tells everybody. So whoever has heard something new within a cycle knows that
//! the server lives, that the watch follows, and how the lock is, without asking:
//!
//! ```text
//!   leader   ── renews ──────────────── renews ──────────────── (dead, or the server is)
//!                  ╲ watch                  ╲ watch
//!   follower ───────► loads ─────────────────► loads ─────────────────── asks
//! ```
//!
//! That is as old as one and a half cycles at most, so that a renewal may come late: a server that says nothing any more is
//! asked. Everybody asks as soon as nobody seems to hold the lock: what may lead to a promotion is read and not remembered.
//! Whoever holds the lock hears of its own renewals like everybody else, and proves by the next one that nothing has changed.

use std::time::Duration;

use dcs_core::Moment;

/// The least time that a watch has to tell what the server said when it was asked.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);

/// What the watches have told up to now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// All of them are open.
    pub(crate) follows: bool,
    /// How far that of the objects has come.
    pub(crate) version: u64,
    /// When it got there.
    pub(crate) at: Option<Moment>,
}

/// What loads have found out about the watches.
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    /// When the last load was, if it succeeded.
    loaded: Option<Moment>,
    /// When the watch of the objects was found to be behind what the server says, and how far it had to come.
    behind: Option<(u64, Moment)>,
}

impl Freshness {
    /// Whether what the watches told is as good as asking. A process that was stopped finds what its connections kept for it:
    /// that is news to nobody else, so a load that comes late asks.
    pub(crate) fn suffices(&self, told: Told, loop_wait: Duration, now: Moment) -> bool {
        let within = |at: Option<Moment>, bound: Duration| at.is_some_and(|at| now - at <= bound);
        let has_caught_up = self.behind.is_none_or(|(far, _)| told.version >= far);
        told.follows && has_caught_up && within(told.at, loop_wait * 3 / 2) && within(self.loaded, loop_wait * 2)
    }

    /// A load succeeds.
    pub(crate) fn loads(&mut self, now: Moment) {
        self.loaded = Some(now);
    }

    /// A load failed, or something that was told is not so: the next one asks.
    pub(crate) fn failed(&mut self) {
        self.loaded = None;
    }

    /// The server was asked and is at `version`, while the watch has `told` so much. Whether the watch has not even come as far
    /// as the server was a cycle ago: then it reports nothing any more.
    pub(crate) fn has_lost_track(&mut self, version: u64, told: u64, loop_wait: Duration, now: Moment) -> bool {
        match self.behind {
            _ if told >= version => self.behind = None,
            Some((far, since)) if told < far && now - since >= loop_wait.max(LEAST_PATIENCE) => {
                self.behind = None;
                return true;
            }
            Some((far, _)) if told < far => {}
            _ => self.behind = Some((version, now)),
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOP_WAIT: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    fn told(version: u64, seconds: u64) -> Told {
        Told { follows: true, version, at: Some(at(seconds)) }
    }

    fn loaded(seconds: u64) -> Freshness {
        let mut freshness = Freshness::default();
        freshness.loads(at(seconds));
        freshness
    }

    #[test]
    fn a_watch_that_was_silent_for_longer_than_a_cycle_and_a_half_does_not_suffice() {
        let freshness = loaded(100);
        assert!(freshness.suffices(told(5, 95), LOOP_WAIT, at(110)));
        assert!(!freshness.suffices(told(5, 94), LOOP_WAIT, at(110)));
    }

    #[test]
    fn a_watch_that_is_not_open_or_has_told_nothing_does_not_suffice() {
        let freshness = loaded(100);
        assert!(!freshness.suffices(Told { follows: false, ..told(6, 109) }, LOOP_WAIT, at(110)));
        assert!(!freshness.suffices(Told { at: None, ..told(6, 109) }, LOOP_WAIT, at(110)));
    }

    #[test]
    fn the_first_load_one_after_a_failure_and_one_that_comes_late_ask() {
        assert!(!Freshness::default().suffices(told(6, 109), LOOP_WAIT, at(110)));
        let mut freshness = loaded(100);
        assert!(freshness.suffices(told(6, 120), LOOP_WAIT, at(120)));
        assert!(!freshness.suffices(told(6, 121), LOOP_WAIT, at(121)), "it was stopped meanwhile");
        freshness.failed();
        assert!(!freshness.suffices(told(6, 109), LOOP_WAIT, at(110)));
    }

    #[test]
    fn a_watch_that_is_behind_does_not_suffice_until_it_has_caught_up_and_has_lost_track_after_a_cycle() {
        let mut freshness = loaded(100);
        assert!(!freshness.has_lost_track(9, 5, LOOP_WAIT, at(110)));
        freshness.loads(at(110));
        assert!(!freshness.suffices(told(6, 112), LOOP_WAIT, at(112)));
        assert!(freshness.suffices(told(9, 112), LOOP_WAIT, at(112)), "it came later");
        assert!(!freshness.has_lost_track(12, 6, LOOP_WAIT, at(119)), "not yet");
        assert!(freshness.has_lost_track(12, 6, LOOP_WAIT, at(120)));

        let mut freshness = loaded(100);
        assert!(!freshness.has_lost_track(9, 5, LOOP_WAIT, at(110)));
        // It has come as far as the server was then: it moves.
        assert!(!freshness.has_lost_track(12, 9, LOOP_WAIT, at(120)));
        assert!(!freshness.has_lost_track(12, 12, LOOP_WAIT, at(131)));
    }
}
