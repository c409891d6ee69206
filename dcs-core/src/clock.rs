//! Two clocks: one that only moves forward, for what a lease is worth, and the wall clock, for what people read.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A point on a clock that never goes back and goes on while the machine sleeps.
///
/// Only differences mean something; moments of different machines cannot be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The origin of the clock. Before every moment that a running clock returns.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// The moment `since_origin` after the clock's origin.
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// Time since the clock's origin.
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// `self` less `span`, not before the origin.
    pub fn saturating_sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

impl Sub<Self> for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:.3}s", self.0.as_secs_f64())
    }
}

/// Where the time comes from. Real in the agent, virtual in simulations.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now, on the clock that judges leases and timeouts.
    fn now(&self) -> Moment;

    /// Now, on the wall clock. For schedules and published times only.
    fn wall(&self) -> jiff::Timestamp;
}

/// `CLOCK_BOOTTIME` and the system's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Moment {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
        Moment(Duration::from(time))
    }

    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

/// tokio's clock as a [`Clock`], for tests: with paused time, leases and timers move together.
#[cfg(feature = "memory")]
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    origin: tokio::time::Instant,
    wall: jiff::Timestamp,
}

#[cfg(feature = "memory")]
impl TokioClock {
    /// A clock whose origin is now, and whose wall time starts at `wall`.
    pub fn starting_at(wall: jiff::Timestamp) -> Self {
        Self { origin: tokio::time::Instant::now(), wall }
    }
}

#[cfg(feature = "memory")]
impl Default for TokioClock {
    fn default() -> Self {
        Self::starting_at(jiff::Timestamp::UNIX_EPOCH)
    }
}

#[cfg(feature = "memory")]
impl Clock for TokioClock {
    fn now(&self) -> Moment {
        Moment(self.origin.elapsed())
    }

    fn wall(&self) -> jiff::Timestamp {
        self.wall.checked_add(self.origin.elapsed()).unwrap_or(jiff::Timestamp::MAX)
    }
}
