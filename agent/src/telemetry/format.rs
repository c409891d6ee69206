//! How a record looks: a line made from `%(name)s` placeholders, or a JSON object.

use std::fmt::Write as _;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::{Map, Value};

use super::record::Record;
use crate::config::{LogField, LogFormat, LogLevel, LogSettings};

/// Turns records into text.
#[derive(Clone, Debug)]
pub(super) struct Formatter {
    shape: Shape,
    dateformat: Option<String>,
    zone: TimeZone,
    started: Timestamp,
    /// Whether details are shown only if everything is logged.
    details_at_debug: bool,
    everything_is_logged: bool,
}

#[derive(Clone, Debug)]
enum Shape {
    Plain(Vec<Piece>),
    Json { fields: Vec<LogField>, static_fields: Map<String, Value> },
}

/// A piece of a plain format.
#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    /// `%(name)-8s`
    Value {
        name: String,
        left: bool,
        zero: bool,
        width: usize,
    },
}

impl Formatter {
    pub(super) fn new(settings: &LogSettings, zone: TimeZone, started: Timestamp) -> Self {
        let shape = match &settings.format {
            LogFormat::Plain(text) => Shape::Plain(pieces(text)),
            LogFormat::Json { fields, static_fields } => Shape::Json { fields: fields.clone(), static_fields: static_fields.clone() },
        };
        Self {
            shape,
            dateformat: settings.dateformat.clone(),
            zone,
            started,
            details_at_debug: settings.details_at_debug,
            everything_is_logged: settings.level == LogLevel::Debug,
        }
    }

    /// The line or lines of `record`, with the last line ended.
    pub(super) fn render(&self, record: &Record) -> String {
        let mut record = record.clone();
        if self.details_at_debug
            && let Some(detail) = record.detail.take()
        {
            if self.everything_is_logged {
                record.level = LogLevel::Debug;
                record.detail = Some(detail);
            } else {
                let detail = detail.replace("\n  caused by: ", ": ");
                let _ = write!(record.message, ", DETAIL: '{detail}'");
            }
        }
        match &self.shape {
            Shape::Plain(pieces) => self.plain(pieces, &record),
            Shape::Json { fields, static_fields } => self.json(fields, static_fields, &record),
        }
    }

    fn plain(&self, pieces: &[Piece], record: &Record) -> String {
        let mut line = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => line.push_str(text),
                Piece::Value { name, left, zero, width } => {
                    let value = self.value(name, record).map(|value| match value {
                        Value::String(text) => text,
                        other => other.to_string(),
                    });
                    let value = value.unwrap_or_default();
                    let _ = match (left, zero) {
                        (true, _) => write!(line, "{value:<width$}"),
                        (false, true) => write!(line, "{value:0>width$}"),
                        (false, false) => write!(line, "{value:>width$}"),
                    };
                }
            }
        }
        if let Some(detail) = &record.detail {
            line.push('\n');
            line.push_str(detail);
        }
        line.push('\n');
        line
    }

    fn json(&self, fields: &[LogField], static_fields: &Map<String, Value>, record: &Record) -> String {
        let mut object = Map::new();
        for field in fields {
            object.insert(field.key.clone(), self.value(&field.source, record).unwrap_or(Value::Null));
        }
        for (key, value) in static_fields {
            object.insert(key.clone(), value.clone());
        }
        if let Some(detail) = &record.detail {
            object.insert("exc_info".to_owned(), detail.clone().into());
        }
        // The spaces are those that people's parsers have always seen.
        let members: Vec<String> = object.iter().map(|(key, value)| format!("{}: {value}", Value::from(key.as_str()))).collect();
        format!("{{{}}}\n", members.join(", "))
    }

    /// The value behind a placeholder; nothing if there is no such placeholder.
    fn value(&self, name: &str, record: &Record) -> Option<Value> {
        let file_name = || record.file.rsplit('/').next().unwrap_or_default();
        let seconds = |time: Timestamp| time.as_nanosecond() as f64 / 1e9;
        Some(match name {
            "asctime" => self.time(record.time).into(),
            "levelname" => record.level.name().into(),
            "levelno" => record.level.number().into(),
            "message" => record.message.clone().into(),
            "name" => record.name.clone().into(),
            "module" => file_name().split('.').next().unwrap_or_default().into(),
            "filename" => file_name().into(),
            "pathname" => record.file.into(),
            "funcName" => record.module.rsplit("::").next().unwrap_or_default().into(),
            "lineno" => record.line.into(),
            "process" => std::process::id().into(),
            "processName" => "MainProcess".into(),
            "thread" | "threadName" => record.thread.clone().into(),
            "created" => seconds(record.time).into(),
            "msecs" => record.time.subsec_millisecond().into(),
            "relativeCreated" => ((seconds(record.time) - seconds(self.started)) * 1000.0).into(),
            _ => return None,
        })
    }

    /// Local time with milliseconds, or as configured.
    fn time(&self, time: Timestamp) -> String {
        let local = time.to_zoned(self.zone.clone());
        match &self.dateformat {
            Some(format) => formatted(format, &local),
            None => format!("{},{:03}", formatted("%Y-%m-%d %H:%M:%S", &local), local.millisecond()),
        }
    }
}

/// `strftime`; what the format does not know stays as it is written.
fn formatted(format: &str, time: &Zoned) -> String {
    let config = jiff::fmt::strtime::Config::new().lenient(true);
    let mut text = String::new();
    match jiff::fmt::strtime::BrokenDownTime::from(time).format_with_config(&config, format, &mut jiff::fmt::StdFmtWrite(&mut text)) {
        Ok(()) => text,
        Err(_) => format.to_owned(),
    }
}

/// Takes a format with `%(name)s` placeholders and `%%` apart. What is not a placeholder is text.
fn pieces(format: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = format;
    while let Some(position) = rest.find('%') {
        text.push_str(&rest[..position]);
        rest = &rest[position..];
        if let Some(after) = rest.strip_prefix("%%") {
            text.push('%');
            rest = after;
        } else if let Some((piece, after)) = placeholder(rest) {
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(piece);
            rest = after;
        } else {
            text.push('%');
            rest = &rest[1..];
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    pieces
}

/// `%(name)` with flags, width, precision and a letter.
fn placeholder(text: &str) -> Option<(Piece, &str)> {
    let (name, rest) = text.strip_prefix("%(")?.split_once(')')?;
    let flags = rest.find(|c: char| !matches!(c, '-' | '+' | ' ' | '#' | '0')).unwrap_or(rest.len());
    let (flags, rest) = rest.split_at(flags);
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (width, rest) = rest.split_at(digits);
    let rest = match rest.strip_prefix('.') {
        Some(precision) => precision.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let letter = rest.chars().next().filter(char::is_ascii_alphabetic)?;
    let width = width.parse().unwrap_or(0_usize).min(1000);
    let piece = Piece::Value { name: name.to_owned(), left: flags.contains('-'), zero: flags.contains('0'), width };
    Some((piece, &rest[letter.len_utf8()..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config::DEFAULT_FORMAT;

    fn record() -> Record {
        let mut record = Record::own(LogLevel::Info, "no action. I am (n1), a secondary".to_owned());
        record.time = "2025-01-02T03:04:05.067Z".parse().expect("a time");
        record.name = "patroni.ha".to_owned();
        record
    }

    fn render(settings: &LogSettings, record: &Record) -> String {
        Formatter::new(settings, TimeZone::UTC, Timestamp::UNIX_EPOCH).render(record)
    }

    fn plain(format: &str) -> LogSettings {
        LogSettings { format: LogFormat::Plain(format.to_owned()), ..LogSettings::default() }
    }

    #[test]
    fn the_default_line_has_local_time_with_milliseconds() {
        assert_eq!(render(&plain(DEFAULT_FORMAT), &record()), "2025-01-02 03:04:05,067 INFO: no action. I am (n1), a secondary\n");
    }

    #[test]
    fn the_time_is_that_of_the_zone() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let line = Formatter::new(&plain("%(asctime)s"), zone, Timestamp::UNIX_EPOCH).render(&record());
        assert_eq!(line, "2025-01-02 05:04:05,067\n");
    }

    #[test]
    fn placeholders_may_be_padded_and_unknown_ones_are_empty() {
        assert_eq!(
            render(&plain("[%(levelname)-8s|%(levelno)04d|%(name)12s|%(nothing)s] 100%% %x"), &record()),
            "[INFO    |0020|  patroni.ha|] 100% %x\n"
        );
    }

    #[test]
    fn a_configured_time_has_no_milliseconds() {
        let settings = LogSettings { dateformat: Some("%d.%m.%Y %H:%M".to_owned()), ..plain("%(asctime)s") };
        assert_eq!(render(&settings, &record()), "02.01.2025 03:04\n");
    }

    #[test]
    fn json_has_its_fields_in_order_then_the_static_ones_then_the_detail() {
        let field = |source: &str, key: &str| LogField { source: source.to_owned(), key: key.to_owned() };
        let static_fields = json!({"app": "x"}).as_object().expect("an object").clone();
        let settings = LogSettings {
            format: LogFormat::Json { fields: vec![field("message", "message"), field("levelname", "level")], static_fields },
            ..LogSettings::default()
        };
        let mut record = record();
        record.message = "M".to_owned();
        assert_eq!(render(&settings, &record), "{\"message\": \"M\", \"level\": \"INFO\", \"app\": \"x\"}\n");
        record.detail = Some("why".to_owned());
        assert!(render(&settings, &record).ends_with(", \"app\": \"x\", \"exc_info\": \"why\"}\n"));
    }

    #[test]
    fn a_detail_follows_its_line_or_is_part_of_it() {
        let mut record = record();
        (record.level, record.message, record.detail) = (LogLevel::Error, "it failed".to_owned(), Some("a\n  caused by: b".to_owned()));
        let shown = plain("%(levelname)s: %(message)s");
        assert_eq!(render(&shown, &record), "ERROR: it failed\na\n  caused by: b\n");
        let hidden = LogSettings { details_at_debug: true, ..shown.clone() };
        assert_eq!(render(&hidden, &record), "ERROR: it failed, DETAIL: 'a: b'\n");
        let debug = LogSettings { level: LogLevel::Debug, ..hidden };
        assert_eq!(render(&debug, &record), "DEBUG: it failed\na\n  caused by: b\n");
    }

    proptest! {
        #[test]
        fn no_format_makes_a_line_fail(format in "(%|%\\(|message|\\)|[-0-9.sd a-z]|\\PC){0,20}", date in "(%|[A-Za-z%]|\\PC){0,8}") {
            let settings = LogSettings { dateformat: Some(date), ..plain(&format!("%(asctime)s{format}")) };
            let _ = render(&settings, &record());
        }
    }
}
