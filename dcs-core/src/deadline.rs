//! The only way time limits are passed.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// The instant by which an operation must have ended. Copied down every call, so that nobody starts a new ten seconds
/// inside somebody else's ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// A deadline passed before the operation had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer in time: {0}")]
pub struct DeadlineExpired(pub &'static str);

impl Deadline {
    /// The deadline `span` from now.
    pub fn after(span: Duration) -> Self {
        Self(Instant::now() + span)
    }

    /// The deadline at `instant`.
    pub const fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The instant itself, for timers.
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// What is left; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether nothing is left.
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The earlier of this deadline and one `span` from now.
    #[must_use]
    pub fn at_most(self, span: Duration) -> Self {
        Self(self.0.min(Instant::now() + span))
    }

    /// The earlier of two deadlines.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    /// Runs `future` until it ends or the deadline passes.
    ///
    /// # Errors
    ///
    /// [`DeadlineExpired`], naming `what` was waited for; the future has then been dropped.
    pub async fn bound<F: Future>(self, what: &'static str, future: F) -> Result<F::Output, DeadlineExpired> {
        tokio::time::timeout_at(self.0, future).await.map_err(|_| DeadlineExpired(what))
    }
}
