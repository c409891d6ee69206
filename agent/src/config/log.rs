//! The `log` section.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ha_engine::settings::values;
use serde_json::{Map, Value};

use super::error::KeyError;
use super::section::Section;

/// The format that is used when none is configured.
pub const DEFAULT_FORMAT: &str = "%(asctime)s %(levelname)s: %(message)s";

/// A level of importance, in the order of growing importance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happens.
    Info,
    /// What may need attention.
    Warning,
    /// What needs attention.
    Error,
    /// What ends the process.
    Critical,
}

impl LogLevel {
    /// Reads a level name, in the spellings of the reference: upper case, with two old names.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_uppercase().as_str() {
            "DEBUG" | "NOTSET" => Self::Debug,
            "INFO" => Self::Info,
            "WARNING" | "WARN" => Self::Warning,
            "ERROR" => Self::Error,
            "CRITICAL" | "FATAL" => Self::Critical,
            _ => return None,
        })
    }

    /// The name as printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
            Self::Critical => "CRITICAL",
        }
    }

    /// The number that goes with the name.
    pub const fn number(self) -> u8 {
        match self {
            Self::Debug => 10,
            Self::Info => 20,
            Self::Warning => 30,
            Self::Error => 40,
            Self::Critical => 50,
        }
    }
}

/// One field of a JSON record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogField {
    /// Where the value comes from: `asctime`, `levelname`, `message`, …
    pub source: String,
    /// The key it is printed under.
    pub key: String,
}

/// How records look.
#[derive(Clone, Debug, PartialEq)]
pub enum LogFormat {
    /// One line, from a text with `%(name)s` placeholders.
    Plain(String),
    /// One JSON object.
    Json {
        /// The fields in order.
        fields: Vec<LogField>,
        /// Fields with a fixed value, after the others.
        static_fields: Map<String, Value>,
    },
}

/// Where a log file goes, and when it is rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// The directory.
    pub dir: PathBuf,
    /// The mode of the file; `0666` less the umask if absent.
    pub mode: Option<u32>,
    /// The file is rotated before it would become larger; 0 means never.
    pub file_size: u64,
    /// How many rotated files are kept.
    pub file_num: usize,
}

/// The `log` section, read.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// How records look.
    pub format: LogFormat,
    /// How times look; a default with milliseconds if absent.
    pub dateformat: Option<String>,
    /// What is logged.
    pub level: LogLevel,
    /// What is logged by named components.
    pub loggers: BTreeMap<String, LogLevel>,
    /// Whether details of errors are shown only at DEBUG.
    pub details_at_debug: bool,
    /// How many records may wait to be written; 0 means that there is no limit.
    pub max_queue_size: usize,
    /// The file; stderr if absent.
    pub file: Option<LogFile>,
    /// Whether a routine line that repeats itself is printed once.
    pub deduplicate_heartbeat_logs: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: LogFormat::Plain(DEFAULT_FORMAT.to_owned()),
            dateformat: None,
            level: LogLevel::Info,
            loggers: BTreeMap::new(),
            details_at_debug: false,
            max_queue_size: 1000,
            file: None,
            deduplicate_heartbeat_logs: false,
        }
    }
}

impl LogSettings {
    /// Reads the section from the root of the local configuration. Also returns what is doubtful.
    pub(super) fn read(root: &Section<'_>) -> Result<(Self, Vec<String>), KeyError> {
        let mut warnings = Vec::new();
        let Some(section) = root.section("log")? else { return Ok((Self::default(), warnings)) };
        let dateformat = match section.get("dateformat") {
            None => None,
            Some(Value::String(text)) => Some(text.clone()).filter(|text| !text.is_empty()),
            Some(other) => {
                warnings.push(format!("Expected log dateformat to be a string, but got \"{}\"", kind(other)));
                None
            }
        };
        let format = match section.text("type")?.as_deref() {
            Some("json") => LogFormat::Json {
                fields: json_fields(section.get("format"), &mut warnings),
                static_fields: section.section("static_fields")?.map(|fields| fields.map().clone()).unwrap_or_default(),
            },
            _ => LogFormat::Plain(match section.get("format") {
                None => DEFAULT_FORMAT.to_owned(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => {
                    warnings.push(format!("Expected log format to be a string when log type is plain, but got \"{}\"", kind(other)));
                    DEFAULT_FORMAT.to_owned()
                }
            }),
        };
        let mut loggers = BTreeMap::new();
        if let Some(configured) = section.section("loggers")? {
            for name in configured.map().keys() {
                if let Some(level) = level(&configured, name)? {
                    loggers.insert(name.clone(), level);
                }
            }
        }
        let file = match section.path("dir")? {
            None => None,
            Some(dir) => Some(LogFile {
                dir,
                mode: section.integer("mode")?.and_then(|mode| u32::try_from(mode & 0o7777).ok()),
                file_size: at_least_zero(section.integer("file_size")?, 25_000_000),
                file_num: usize::try_from(at_least_zero(section.integer("file_num")?, 4)).unwrap_or(4),
            }),
        };
        let settings = Self {
            format,
            dateformat,
            level: level(&section, "level")?.unwrap_or(LogLevel::Info),
            loggers,
            details_at_debug: section.text("traceback_level")?.is_some_and(|level| level.eq_ignore_ascii_case("debug")),
            max_queue_size: usize::try_from(at_least_zero(section.integer("max_queue_size")?, 1000)).unwrap_or(1000),
            file,
            deduplicate_heartbeat_logs: section.switch("deduplicate_heartbeat_logs"),
        };
        Ok((settings, warnings))
    }
}

fn at_least_zero(number: Option<i64>, default: u64) -> u64 {
    number.map_or(default, |number| u64::try_from(number).unwrap_or(0))
}

fn level(section: &Section<'_>, key: &str) -> Result<Option<LogLevel>, KeyError> {
    let Some(text) = section.text(key)? else { return Ok(None) };
    LogLevel::parse(&text).map(Some).ok_or_else(|| {
        section.error(
            key,
            format!("`{text}` is not a level of logging (`{key}`)"),
            Some("use one of DEBUG, INFO, WARNING, ERROR, CRITICAL".to_owned()),
        )
    })
}

/// The fields of a JSON record: a text's placeholders, or a list of names and renamings.
fn json_fields(format: Option<&Value>, warnings: &mut Vec<String>) -> Vec<LogField> {
    let plain = |name: &str| LogField { source: name.to_owned(), key: name.to_owned() };
    let default = || placeholders(DEFAULT_FORMAT).map(plain).collect();
    let fields: Vec<LogField> = match format {
        None => return default(),
        Some(Value::String(text)) => placeholders(text).map(plain).collect(),
        Some(Value::Array(items)) => {
            let mut fields = Vec::new();
            for item in items {
                match item {
                    Value::String(name) => fields.push(plain(name)),
                    Value::Object(renamed) => {
                        for (source, key) in renamed {
                            match key {
                                Value::String(key) => {
                                    fields.push(LogField { source: source.clone(), key: key.clone() });
                                }
                                other => warnings.push(format!("Expected renamed log field to be a string, but got \"{}\"", kind(other))),
                            }
                        }
                    }
                    other => {
                        warnings.push(format!("Expected each item of log format to be a string or dictionary, but got \"{}\"", kind(other)))
                    }
                }
            }
            fields
        }
        Some(other) => {
            warnings.push(format!("Expected log format to be a string or a list, but got \"{}\"", kind(other)));
            return default();
        }
    };
    if fields.is_empty() { default() } else { fields }
}

/// The names in `%(name)s`, in order.
pub(crate) fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split("%(").skip(1).filter_map(|rest| rest.split_once(')').map(|(name, _)| name))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

/// The level that the control tool logs at: the last of its variables that is set.
pub fn control_tool_level(variables: impl Fn(&str) -> Option<String>) -> LogLevel {
    ["LOGLEVEL", "PATRONI_LOGLEVEL", "PATRONI_LOG_LEVEL"]
        .into_iter()
        .filter_map(variables)
        .filter_map(|name| LogLevel::parse(&values::text(&Value::String(name))))
        .next_back()
        .unwrap_or(LogLevel::Warning)
}
