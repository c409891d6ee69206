//! The server parameters: put together from the settings, checked against the server's version, and passed on.
//!
//! ```text
//!   settings ──assemble──► Parameters ──validate──► postgresql.conf
//!                              └──raise_to_control_data──► command_line ──► postmaster
//! ```

use std::collections::{BTreeMap, BTreeSet};

use dcs_core::model::PendingRestart;

use crate::decide::observation::PendingRestarts;
use crate::ports::ControlData;
use crate::settings::{EffectiveSettings, PostgresSettings, SyncMode};

use super::gucs::{self, Checked};
use super::report::Line;
use super::value;

/// Parameters by name. Names are compared without regard to case, and kept as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters(BTreeMap<String, (String, String)>);

impl Parameters {
    /// The value of `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(&name.to_ascii_lowercase()).map(|(_, value)| value.as_str())
    }

    /// Whether `name` has a value.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(&name.to_ascii_lowercase())
    }

    /// Sets `name`, in any case it had before.
    pub(crate) fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        self.0.insert(name.to_ascii_lowercase(), (name, value.into()));
    }

    /// Takes `name` out.
    pub(crate) fn remove(&mut self, name: &str) -> Option<String> {
        self.0.remove(&name.to_ascii_lowercase()).map(|(_, value)| value)
    }

    /// Names and values, sorted by name as it is written.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut all: Vec<_> = self.0.values().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        all.sort_unstable();
        all.into_iter()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut parameters = Self::default();
        pairs.into_iter().for_each(|(name, value)| parameters.insert(name, value));
        parameters
    }
}

/// Who decides about `synchronous_standby_names`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SyncNames {
    /// The operator: synchronous mode is off.
    Configured,
    /// The agent, and this is what it decided last.
    Decided(String),
    /// The agent, which has not decided yet.
    Undecided {
        /// Strict mode on a primary: nothing is acknowledged until it is decided.
        wait_for_all: bool,
    },
}

impl SyncNames {
    /// The parameter.
    pub(crate) const PARAMETER: &'static str = "synchronous_standby_names";

    /// What holds for a standby.
    pub(crate) fn of_standby(settings: &EffectiveSettings) -> Self {
        match settings.global.synchronous_mode {
            SyncMode::Off => Self::Configured,
            SyncMode::On | SyncMode::Quorum => Self::Undecided { wait_for_all: false },
        }
    }

    /// Puts the parameter into `parameters`, or takes it out.
    pub(crate) fn apply(&self, parameters: &mut Parameters, settings: &PostgresSettings) {
        let configured: Parameters = settings.parameters.iter().collect();
        let value = match self {
            Self::Configured => configured.get(Self::PARAMETER),
            Self::Decided(names) => Some(names.as_str()).filter(|names| !names.is_empty()),
            Self::Undecided { wait_for_all } => wait_for_all.then_some("*"),
        };
        match value {
            Some(value) => parameters.insert(Self::PARAMETER, value),
            None => drop(parameters.remove(Self::PARAMETER)),
        }
    }
}

/// What the settings say, in the terms of one major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assembled {
    /// The server parameters.
    pub(crate) parameters: Parameters,
    /// The recovery settings of replicas; names in lower case.
    pub(crate) recovery_conf: BTreeMap<String, String>,
}

/// Puts the server parameters together for `major` (150000; nothing if it is not known yet).
pub(crate) fn assemble(settings: &PostgresSettings, major: Option<u32>, sync: &SyncNames) -> Assembled {
    let mut parameters: Parameters = settings.parameters.iter().collect();
    sync.apply(&mut parameters, settings);
    if parameters.get("wal_level").is_some_and(|level| level.eq_ignore_ascii_case("hot_standby")) {
        parameters.insert("wal_level", "replica");
    }
    if let Some(major) = major {
        convert_wal_keep(&mut parameters, major);
    }
    for name in ["hba_file", "ident_file"] {
        if let Some(path) = parameters.get(name).map(|path| settings.config_dir.join(path)) {
            parameters.insert(name, path.to_string_lossy());
        }
    }
    let recovery_conf = take_recovery_conf(&mut parameters, settings);
    Assembled { parameters, recovery_conf }
}

/// 13 counts the kept WAL in bytes, 12 in segments. A segment is taken to have 16 MB; whoever has others configures the
/// parameter of the version.
fn convert_wal_keep(parameters: &mut Parameters, major: u32) {
    if major >= 130_000 {
        let segments = parameters.remove("wal_keep_segments");
        if !parameters.contains("wal_keep_size") {
            let segments = segments.and_then(|text| value::parse_int(&text, None)).unwrap_or(8);
            parameters.insert("wal_keep_size", format!("{}MB", segments.saturating_mul(16)));
        }
    } else {
        let size = parameters.remove("wal_keep_size").unwrap_or_else(|| "128MB".to_owned());
        if !parameters.contains("wal_keep_segments") {
            let megabytes = value::parse_int(&size, Some("MB")).unwrap_or(0);
            parameters.insert("wal_keep_segments", (megabytes.saturating_add(8) / 16).to_string());
        }
    }
}

/// Recovery parameters among the server parameters replace the whole `recovery_conf`.
fn take_recovery_conf(parameters: &mut Parameters, settings: &PostgresSettings) -> BTreeMap<String, String> {
    let moved: BTreeMap<String, String> =
        gucs::recovery_names().filter_map(|name| parameters.remove(name).map(|value| (name.to_owned(), value))).collect();
    let mut recovery_conf = if moved.is_empty() {
        settings.recovery_conf.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
    } else {
        moved
    };
    if let Some(file) = recovery_conf.remove("trigger_file").filter(|file| !file.is_empty()) {
        recovery_conf.entry("promote_trigger_file".to_owned()).or_insert(file);
    }
    recovery_conf
}

/// Parameters that the server takes, and what is said about the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Validated {
    /// Name and value, sorted by name.
    pub(crate) kept: Vec<(String, String)>,
    /// What was changed or left out.
    pub(crate) lines: Vec<Line>,
}

impl Validated {
    /// Takes `name` over as `checked` says.
    pub(crate) fn push(&mut self, name: &str, value: &str, checked: Checked) {
        match checked {
            Checked::Kept => self.kept.push((name.to_owned(), value.to_owned())),
            Checked::Clamped { value, line } => {
                self.kept.push((name.to_owned(), value));
                self.lines.push(line);
            }
            Checked::Dropped(line) => self.lines.push(line),
        }
    }
}

/// Checks server parameters before they are written for `version`. `described` holds what `postgres --describe-config`
/// lists, in lower case: what the table does not have is taken as it is if the server knows it.
pub(crate) fn validate(version: u32, parameters: &Parameters, described: &BTreeSet<String>) -> Validated {
    let mut validated = Validated::default();
    for (name, value) in parameters.iter().filter(|(name, _)| !gucs::is_recovery(name)) {
        let checked = match gucs::server(version, name) {
            Some(guc) => guc.check(name, value),
            None if name.contains('.') && is_identifier(name) => Checked::Kept,
            None if described.contains(&name.to_ascii_lowercase()) => Checked::Kept,
            None => unexpected(name, value),
        };
        validated.push(name, value, checked);
    }
    validated
}

/// What becomes of a parameter that nobody knows.
pub(crate) fn unexpected(name: &str, value: &str) -> Checked {
    Checked::Dropped(Line::warning(format!("Removing unexpected parameter={name} value={value} from the config")))
}

/// Whether `name` can stand in a configuration file: anything else would be a syntax error there, and the server would not
/// start.
fn is_identifier(name: &str) -> bool {
    name.split('.').all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii())
    })
}

/// The parameters that are given on the command line, where `ALTER SYSTEM` does not reach them, in this order.
const ON_COMMAND_LINE: [&str; 13] = [
    "listen_addresses",
    "port",
    "cluster_name",
    "wal_level",
    "hot_standby",
    "max_connections",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "track_commit_timestamp",
    "max_replication_slots",
    "max_worker_processes",
    "wal_log_hints",
];

/// The postmaster's arguments after `-D` and `--config-file`.
pub(crate) fn command_line(parameters: &Parameters) -> Vec<String> {
    ON_COMMAND_LINE.iter().filter_map(|name| parameters.get(name).map(|value| format!("--{name}={value}"))).collect()
}

/// Start values of a standby.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Raised {
    /// What the server is started with.
    pub(crate) parameters: Parameters,
    /// What waits for a restart with the configured values.
    pub(crate) pending: PendingRestarts,
    /// What was raised, or could not be looked up.
    pub(crate) lines: Vec<Line>,
}

/// A standby does not start with less than its primary had. What the control file says wins until the primary has been
/// restarted with less.
pub(crate) fn raise_to_control_data(parameters: &Parameters, control: &ControlData) -> Raised {
    let labels = [
        ("max_connections", "max_connections setting"),
        ("max_prepared_transactions", "max_prepared_xacts setting"),
        ("max_locks_per_transaction", "max_locks_per_xact setting"),
        ("max_worker_processes", "max_worker_processes setting"),
        ("max_wal_senders", "max_wal_senders setting"),
    ];
    let mut raised = Raised { parameters: parameters.clone(), pending: PendingRestarts::new(), lines: Vec::new() };
    for (name, label) in labels {
        let Some(recorded) = control.value(label) else {
            raised.lines.push(Line::warning(format!("{label} is missing from pg_controldata output")));
            continue;
        };
        let configured = parameters.get(name).and_then(|text| value::parse_int(text, None));
        let (Some(recorded), Some(configured)) = (value::parse_int(recorded, None), configured) else { continue };
        if recorded > configured {
            raised.parameters.insert(name, recorded.to_string());
            raised.lines.push(Line::info(format!(
                "{name} value in pg_controldata: {recorded}, in the global configuration: {configured}. \
                 pg_controldata value will be used. Setting 'Pending restart' flag"
            )));
            let pending = PendingRestart { old_value: recorded.to_string(), new_value: configured.to_string() };
            raised.pending.insert(name.to_owned(), pending);
        }
    }
    raised
}

/// The version in the output of `postgres --version`, e.g. 150018.
pub(crate) fn parse_version_output(text: &str) -> Option<u32> {
    let word = text.split_whitespace().nth(2)?;
    let mut numbers = word.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let major: u32 = numbers.next()?.ok().filter(|major| (10..1000).contains(major))?;
    // 15beta1 has no minor release yet.
    let minor = match word[major.to_string().len()..].starts_with('.') {
        true => numbers.next().and_then(Result::ok).unwrap_or(0),
        false => 0,
    };
    Some(major * 10_000 + minor.min(9999))
}

/// The names in the output of `postgres --describe-config`, in lower case.
pub(crate) fn parse_describe_config(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.split('\t').next()).map(str::to_ascii_lowercase).filter(|name| !name.is_empty()).collect()
}

/// The version that parameters are checked against: the running server's; else the program's, if it is of the data
/// directory's major; else the data directory's major; else the program's. Nothing if none is known.
pub(crate) fn effective_version(running: Option<u32>, program: Option<u32>, data_directory: Option<u32>) -> Option<u32> {
    running.or(match (program, data_directory) {
        (Some(program), Some(major)) if program / 10_000 == major / 10_000 => Some(program),
        (program, major) => major.or(program),
    })
}

#[cfg(test)]
mod tests;
