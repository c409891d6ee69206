//! Something small that is done again with growing pauses, for as long as it has not helped.

use std::time::Duration;

use dcs_core::Moment;

/// How long the first pause is. Each one after it is twice as long as the one before: what lasts for an hour is done a
/// dozen times.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// When something is due, and how long it rests afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    due: Moment,
    pause: Duration,
}

impl Repeat {
    /// Due at `moment` for the first time.
    pub(super) const fn at(moment: Moment) -> Self {
        Self { due: moment, pause: FIRST_PAUSE }
    }

    /// Due after the first pause.
    pub(super) fn after_a_pause(now: Moment) -> Self {
        Self::at(now + FIRST_PAUSE)
    }

    pub(super) fn is_due(self, now: Moment) -> bool {
        now >= self.due
    }

    /// When it is due.
    pub(super) const fn due(self) -> Moment {
        self.due
    }

    /// Done at `now`.
    pub(super) fn done(self, now: Moment) -> Self {
        Self { due: now + self.pause, pause: self.pause.saturating_mul(2) }
    }
}
