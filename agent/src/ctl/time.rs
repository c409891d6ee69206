//! Times as the tool prints and reads them: local time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Zoned;
use jiff::tz::TimeZone;

use dcs_core::codec::{ScheduleError, parse_schedule};
use dcs_core::model::ScheduledTime;
use dcs_core::{BootClock, Clock};

use super::failure::Failure;

/// The clock and time zone of the person at the terminal.
#[derive(Clone, Debug)]
pub struct LocalTime {
    clock: Arc<dyn Clock>,
    zone: TimeZone,
}

impl LocalTime {
    /// The given clock, read in the given zone.
    pub fn new(clock: Arc<dyn Clock>, zone: TimeZone) -> Self {
        Self { clock, zone }
    }

    /// The system's clock and zone.
    pub fn system() -> Self {
        Self::new(Arc::new(BootClock), TimeZone::system())
    }

    fn now(&self) -> Zoned {
        self.clock.wall().to_zoned(self.zone.clone())
    }

    /// Now, for lines about events: `2031-01-02 03:04:05.67890`.
    pub fn event(&self) -> String {
        let now = self.now();
        format!("{}.{:05}", now.strftime("%Y-%m-%d %H:%M:%S"), now.subsec_nanosecond() / 10_000)
    }

    /// Now, in whole seconds: `2031-01-02 03:04:05`.
    pub fn seconds(&self) -> String {
        self.now().strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// Now, for log lines: `2031-01-02 03:04:05,678`.
    pub fn log(&self) -> String {
        let now = self.now();
        format!("{},{:03}", now.strftime("%Y-%m-%d %H:%M:%S"), now.subsec_nanosecond() / 1_000_000)
    }

    /// A moment of the past, in milliseconds: `2031-01-02 03:04:05.678`.
    pub fn millis(&self, moment: jiff::Timestamp) -> String {
        let moment = moment.to_zoned(self.zone.clone());
        format!("{}.{:03}", moment.strftime("%Y-%m-%d %H:%M:%S"), moment.subsec_nanosecond() / 1_000_000)
    }

    /// So long ago; nothing if there was no time then.
    pub fn ago(&self, span: Duration) -> Option<jiff::Timestamp> {
        self.clock.wall().checked_sub(span).ok()
    }

    /// One hour from now, as the example in prompts: `2031-01-02T04:04`.
    pub fn next_hour(&self) -> String {
        let next = self.now().saturating_add(Duration::from_secs(3600));
        next.strftime("%Y-%m-%dT%H:%M").to_string()
    }

    /// Reads the answer to "when?": nothing for `now` and for an empty answer. A time without offset is local.
    ///
    /// # Errors
    ///
    /// It is neither.
    pub fn scheduled(&self, text: &str) -> Result<Option<ScheduledTime>, Failure> {
        if text.is_empty() || text == "now" {
            return Ok(None);
        }
        let unreadable = || {
            Failure::error(format!("Unable to parse scheduled timestamp ({text}). It should be in an unambiguous format (e.g. ISO 8601)"))
        };
        match parse_schedule(text) {
            Ok(time) => Ok(Some(time)),
            Err(ScheduleError::NoTimeZone(civil)) => {
                let zoned = civil.to_zoned(self.zone.clone()).map_err(|_| unreadable())?;
                Ok(Some(ScheduledTime::from(&zoned)))
            }
            Err(ScheduleError::NotParsable) => Err(unreadable()),
        }
    }
}

/// A planned time with a blank between date and time: `2031-01-01 00:00:00+01:00`.
pub struct Spaced(pub ScheduledTime);

impl fmt::Display for Spaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string().replacen('T', " ", 1))
    }
}

/// Seconds as they were typed or configured, for people: `10`, `0.5`.
pub fn plain_seconds(duration: Duration) -> String {
    format!("{}", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dcs_core::{Clock, Moment};
    use jiff::tz::{Offset, TimeZone};

    use super::{LocalTime, Spaced};

    #[derive(Debug)]
    struct Fixed(&'static str);

    impl Clock for Fixed {
        fn now(&self) -> Moment {
            Moment::ZERO
        }

        fn wall(&self) -> jiff::Timestamp {
            self.0.parse().expect("a timestamp")
        }
    }

    fn two_hours_east(wall: &'static str) -> LocalTime {
        LocalTime::new(Arc::new(Fixed(wall)), TimeZone::fixed(Offset::constant(2)))
    }

    #[test]
    fn events_have_five_digits_and_local_time() {
        let time = two_hours_east("2030-12-31T22:59:58.0123456Z");
        assert_eq!(time.event(), "2031-01-01 00:59:58.01234");
        assert_eq!(time.seconds(), "2031-01-01 00:59:58");
        assert_eq!(time.log(), "2031-01-01 00:59:58,012");
        assert_eq!(time.next_hour(), "2031-01-01T01:59");
    }

    #[test]
    fn a_time_without_offset_is_local_and_now_is_no_time() {
        let time = two_hours_east("2030-01-01T00:00:00Z");
        for (typed, sent) in [
            ("2031-01-01T12:00", "2031-01-01T12:00:00+02:00"),
            ("2031-01-01 12:00:05+0100", "2031-01-01T12:00:05+01:00"),
            ("2031-01-01T12:00:00Z", "2031-01-01T12:00:00+00:00"),
        ] {
            assert_eq!(time.scheduled(typed).ok().flatten().map(|time| time.to_string()).as_deref(), Some(sent));
        }
        assert!(matches!(time.scheduled("now"), Ok(None)));
        assert!(matches!(time.scheduled(""), Ok(None)));
        assert_eq!(
            time.scheduled("soon").map(|_| ()).map_err(|failure| failure.to_string()),
            Err("Unable to parse scheduled timestamp (soon). It should be in an unambiguous format (e.g. ISO 8601)".to_owned())
        );
    }

    #[test]
    fn restarts_print_their_time_with_a_blank() {
        let time = two_hours_east("2030-01-01T00:00:00Z").scheduled("2031-01-01T00:00:00+01:00").ok().flatten();
        assert_eq!(time.map(|time| Spaced(time).to_string()).as_deref(), Some("2031-01-01 00:00:00+01:00"));
    }
}
