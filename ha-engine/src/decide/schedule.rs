//! Actions that wait for their time (rules of section 4.4).

use std::time::Duration;

use dcs_core::model::ScheduledTime;
use jiff::Timestamp;

/// What to do about a scheduled action now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// More than a period away.
    Waiting {
        /// Seconds to go.
        seconds: i64,
    },
    /// Within the next period: look again after this time.
    Soon(Duration),
    /// Now.
    Now,
    /// So long ago that nobody can mean it any more.
    Stale,
}

/// Judges a scheduled action. No sleeping: an action that is due within the period gets a timer.
pub(crate) fn due(at: ScheduledTime, now: Timestamp, loop_wait: Duration) -> Due {
    let millis = at.instant().as_millisecond() - now.as_millisecond();
    let period = i64::try_from(loop_wait.as_millis()).unwrap_or(i64::MAX);
    let oldest = -(period.saturating_mul(3) / 2 / 1000 * 1000);
    match millis {
        away if away > period => Due::Waiting { seconds: away / 1000 },
        away if away < oldest => Due::Stale,
        away if away <= 0 => Due::Now,
        away => Due::Soon(Duration::from_millis(away.unsigned_abs())),
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::Offset;

    use super::*;

    fn judged(offset_seconds: i64) -> Due {
        let now = Timestamp::from_second(1_800_000_000).expect("in range");
        let at = Timestamp::from_second(1_800_000_000 + offset_seconds).expect("in range");
        due(ScheduledTime::new(at, Offset::UTC), now, Duration::from_secs(10))
    }

    #[test]
    fn an_action_waits_until_its_period_comes() {
        assert_eq!(judged(11), Due::Waiting { seconds: 11 });
        assert_eq!(judged(10), Due::Soon(Duration::from_secs(10)));
        assert_eq!(judged(3), Due::Soon(Duration::from_secs(3)));
    }

    #[test]
    fn an_action_that_was_just_missed_is_still_done() {
        assert_eq!(judged(0), Due::Now);
        assert_eq!(judged(-15), Due::Now);
    }

    #[test]
    fn an_action_missed_by_more_than_one_and_a_half_periods_is_stale() {
        assert_eq!(judged(-16), Due::Stale);
    }
}
