//! Points in time as people and other agents write them.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;

use crate::model::ScheduledTime;

/// Why a text is not a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// A date and time without offset: it means another instant on every node. The control tool reads it as local time.
    #[error("the time has no time zone")]
    NoTimeZone(DateTime),
    /// Not a date and time in an unambiguous form.
    #[error("not an unambiguous date and time")]
    NotParsable,
}

/// Reads a date and time with offset: ISO 8601 and RFC 3339, with `T` or blanks between date and time, seconds and
/// fraction optional, the offset as `Z`, `UTC`, `+hh`, `+hhmm` or `+hh:mm`, with or without blanks before it.
///
/// # Errors
///
/// See [`ScheduleError`]; the two cases have different answers in the REST API.
pub fn parse_schedule(text: &str) -> Result<ScheduledTime, ScheduleError> {
    let mut input = Input(text.trim());
    let civil = input.date_time().ok_or(ScheduleError::NotParsable)?;
    input.blanks();
    if input.0.is_empty() {
        return Err(ScheduleError::NoTimeZone(civil));
    }
    let offset = input.offset().filter(|_| input.0.is_empty()).ok_or(ScheduleError::NotParsable)?;
    let instant = offset.to_timestamp(civil).map_err(|_| ScheduleError::NotParsable)?;
    Ok(ScheduledTime::new(instant, offset))
}

/// What is still to be read.
struct Input<'a>(&'a str);

impl Input<'_> {
    fn date_time(&mut self) -> Option<DateTime> {
        let date = self.date()?;
        let separator = self.0.starts_with(['T', 't', ' ']);
        if !separator {
            return self.0.is_empty().then(|| date.to_datetime(Time::midnight()));
        }
        if !self.skip('T') && !self.skip('t') {
            self.blanks();
        }
        Some(date.to_datetime(self.time()?))
    }

    fn date(&mut self) -> Option<Date> {
        let year = self.digits(4)?;
        let dashes = self.skip('-');
        let month = self.digits(2)?;
        if dashes && !self.skip('-') {
            return None;
        }
        let day = self.digits(2)?;
        Date::new(i16::try_from(year).ok()?, small(month)?, small(day)?).ok()
    }

    fn time(&mut self) -> Option<Time> {
        let hour = self.digits(2)?;
        let colons = self.skip(':');
        let minute = self.digits(2)?;
        let more = if colons { self.skip(':') } else { self.0.starts_with(|next: char| next.is_ascii_digit()) };
        let second = if more { self.digits(2)? } else { 0 };
        let nanoseconds = if more && (self.skip('.') || self.skip(',')) { self.fraction()? } else { 0 };
        Time::new(small(hour)?, small(minute)?, small(second)?, nanoseconds).ok()
    }

    /// The digits after the decimal point, in nanoseconds; what is finer is cut off.
    fn fraction(&mut self) -> Option<i32> {
        let end = self.0.find(|next: char| !next.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        let padded = format!("{digits:0<9}");
        if digits.is_empty() { None } else { padded.get(..9)?.parse().ok() }
    }

    fn offset(&mut self) -> Option<Offset> {
        for name in ["Z", "UTC", "GMT"] {
            if self.0.eq_ignore_ascii_case(name) {
                self.0 = "";
                return Some(Offset::UTC);
            }
        }
        let sign = if self.skip('+') {
            1
        } else if self.skip('-') {
            -1
        } else {
            return None;
        };
        let hours = self.digits(2)?;
        let minutes = if self.skip(':') || !self.0.is_empty() { self.digits(2)? } else { 0 };
        if hours > 23 || minutes > 59 {
            return None;
        }
        Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
    }

    /// Exactly `count` decimal digits.
    fn digits(&mut self, count: usize) -> Option<i32> {
        let digits = self.0.get(..count).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        self.0 = &self.0[count..];
        digits.parse().ok()
    }

    fn skip(&mut self, expected: char) -> bool {
        let rest = self.0.strip_prefix(expected);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn blanks(&mut self) {
        self.0 = self.0.trim_start_matches(' ');
    }
}

fn small(number: i32) -> Option<i8> {
    i8::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_form_reads_as_the_same_instant() {
        let expected = "2030-05-06T07:08:00Z".parse::<jiff::Timestamp>().unwrap();
        for text in [
            "2030-05-06T07:08:00Z",
            "2030-05-06T07:08Z",
            "2030-05-06 07:08:00.000 UTC",
            "2030-05-06t07:08:00z",
            "2030-05-06T09:08:00+02:00",
            "2030-05-06 09:08+0200",
            "2030-05-06 09:08 +02",
            "2030-05-06T01:38:00-05:30",
            "20300506T070800Z",
            " 2030-05-06  07:08:00,0Z ",
        ] {
            assert_eq!(parse_schedule(text).map(ScheduledTime::instant), Ok(expected), "{text}");
        }
    }

    #[test]
    fn it_prints_as_it_was_given() {
        for text in ["2030-05-06T09:08:07+02:00", "2030-05-06T09:08:07.123456-05:30", "2030-05-06T09:08:07+00:00"] {
            assert_eq!(parse_schedule(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_time_without_zone_is_told_apart_from_no_time_at_all() {
        let civil = jiff::civil::date(2030, 5, 6).at(7, 8, 0, 0);
        assert_eq!(parse_schedule("2030-05-06T07:08:00"), Err(ScheduleError::NoTimeZone(civil)));
        assert_eq!(parse_schedule("2030-05-06 07:08"), Err(ScheduleError::NoTimeZone(civil)));
        assert!(matches!(parse_schedule("2030-05-06"), Err(ScheduleError::NoTimeZone(_))));
        for text in [
            "",
            "now",
            "tomorrow",
            "07:08",
            "2030-13-06T07:08:00Z",
            "2030-02-30T07:08:00Z",
            "2030-05-06T25:08:00Z",
            "2030-05-06T07:08:00+24:00",
            "2030-05-06T07:08:00+2",
            "2030-05-06T07:08:00.Z",
            "2030-05-06T07:08:00Z garbage",
            "2030-0506T07:08:00Z",
            "９９９９-05-06T07:08:00Z",
            "9999-12-31T23:59:59-23:59",
        ] {
            assert_eq!(parse_schedule(text), Err(ScheduleError::NotParsable), "{text}");
        }
    }
}
