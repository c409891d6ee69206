//! A planned time, as people wrote it.

use std::fmt;

use jiff::tz::Offset;
use jiff::{Timestamp, Zoned};

/// An instant together with the offset it was written with, so that it prints as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledTime {
    instant: Timestamp,
    offset: Offset,
}

impl ScheduledTime {
    /// The instant `instant`, printed with `offset`.
    pub const fn new(instant: Timestamp, offset: Offset) -> Self {
        Self { instant, offset }
    }

    /// The instant.
    pub const fn instant(self) -> Timestamp {
        self.instant
    }

    /// The offset it prints with.
    pub const fn offset(self) -> Offset {
        self.offset
    }
}

impl From<&Zoned> for ScheduledTime {
    fn from(zoned: &Zoned) -> Self {
        Self { instant: zoned.timestamp(), offset: zoned.offset() }
    }
}

impl fmt::Display for ScheduledTime {
    /// ISO 8601 with `T`, the fraction only if there is one, and the offset as `+HH:MM` (what Python's `isoformat`
    /// prints).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let civil = self.offset.to_datetime(self.instant);
        write!(f, "{}", civil.strftime("%Y-%m-%dT%H:%M:%S"))?;
        let micros = civil.subsec_nanosecond() / 1_000;
        if micros != 0 {
            write!(f, ".{micros:06}")?;
        }
        let seconds = self.offset.seconds();
        let sign = if seconds < 0 { '-' } else { '+' };
        let minutes = seconds.unsigned_abs() / 60;
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}
