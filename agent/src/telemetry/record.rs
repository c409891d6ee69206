//! One event, taken apart.

use std::error::Error;
use std::fmt::{self, Write as _};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::names;
use crate::config::LogLevel;

/// The level of records that end the process: an `error!` with the field `critical = true`.
const CRITICAL: &str = "critical";
/// The field whose value is the reason, and is shown apart.
const ERROR: &str = "error";

/// One event, as it waits to be written.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) time: Timestamp,
    pub(super) level: LogLevel,
    /// The component, e.g. `patroni.ha`.
    pub(super) name: String,
    pub(super) message: String,
    /// Why, with the causes of causes on lines of their own.
    pub(super) detail: Option<String>,
    pub(super) file: &'static str,
    pub(super) module: &'static str,
    pub(super) line: u32,
    pub(super) thread: String,
}

impl Record {
    /// Takes `event` apart.
    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = match *metadata.level() {
            Level::ERROR if fields.critical => LogLevel::Critical,
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warning,
            Level::INFO => LogLevel::Info,
            _ => LogLevel::Debug,
        };
        let mut message = fields.message;
        // A component that is named outright is one of the lines that people search for word by word.
        if !metadata.target().starts_with("patroni.") {
            message.push_str(&fields.tail);
        }
        let mut detail = fields.detail;
        if level < LogLevel::Error
            && let Some(reason) = detail.take()
        {
            let _ = write!(message, " error={}", quoted(&reason.replace("\n  caused by: ", ": ")));
        }
        Self {
            time: Timestamp::now(),
            level,
            name: names::component(metadata.target()),
            message,
            detail,
            file: metadata.file().unwrap_or_default(),
            module: metadata.module_path().unwrap_or_default(),
            line: metadata.line().unwrap_or_default(),
            thread: std::thread::current().name().unwrap_or("MainThread").to_owned(),
        }
    }

    /// A record of the log's own.
    pub(super) fn own(level: LogLevel, message: String) -> Self {
        Self {
            time: Timestamp::now(),
            level,
            name: "patroni.log".to_owned(),
            message,
            detail: None,
            file: file!(),
            module: module_path!(),
            line: line!(),
            thread: "log".to_owned(),
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    tail: String,
    detail: Option<String>,
    critical: bool,
}

impl Fields {
    fn add(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            ERROR => self.detail = Some(value.to_owned()),
            name => {
                let _ = write!(self.tail, " {name}={}", quoted(value));
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == CRITICAL {
            self.critical = value;
        } else {
            self.add(field, if value { "true" } else { "false" });
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            let _ = write!(text, "\n  caused by: {error}");
            cause = error.source();
        }
        self.add(field, &text);
    }
}

/// `value`, in quotes if it would not be one word otherwise.
fn quoted(value: &str) -> String {
    let plain = !value.is_empty() && value.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=');
    if plain { value.to_owned() } else { format!("{value:?}") }
}
