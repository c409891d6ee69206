//! `--validate-config`: every finding at once.
//!
//! The checks and the order of their findings are those that people's deployment scripts know; see [`rules`]. Each line
//! begins with the place of the key. Unknown keys are not findings (the agent warns about them).

mod checks;
mod rules;

use std::path::Path;
use std::process::Command;

use ha_engine::settings::values;
use serde_json::{Map, Value};

use super::error::ConfigError;
use super::local::LocalConfig;
use super::tree::join;
use super::{node, yaml};

/// What the command line asks for besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct ValidateOptions {
    /// Ports that something listens on already are fine: the agent itself may be running.
    pub ignore_listen_port: bool,
}

/// Every finding, one line each. Empty means that an agent would start with this configuration.
pub fn validate(local: &LocalConfig, options: ValidateOptions) -> Vec<String> {
    let postgresql = local.tree().get("postgresql").and_then(Value::as_object);
    let text = |key: &str| postgresql.and_then(|section| section.get(key)?.as_str()).unwrap_or_default().to_owned();
    let bin_name = postgresql.and_then(|section| section.get("bin_name")?.as_object().cloned()).unwrap_or_default();
    let context = Context { options, bin_dir: text("bin_dir"), bin_name };
    let tree = Value::Object(local.tree().clone());
    let low_ttl = tree.pointer("/bootstrap/dcs/quorate/low_ttl").and_then(values::bool_word).unwrap_or(false);
    let outcomes = rules::root(low_ttl).check(&tree, &context).into_iter().filter(|outcome| !outcome.is_fine());
    let (paths, mut findings): (Vec<String>, Vec<String>) =
        outcomes.filter_map(|outcome| Some((outcome.path.clone(), line(local, outcome)?))).unzip();
    // The keys one by one were the one thing; now as a whole, and for this version. What was found already is not told again.
    for problem in node::problems(local) {
        let key = match &problem {
            ConfigError::Key(error) => error.key.as_str(),
            _ => "",
        };
        let text = problem.to_string();
        if !paths.iter().any(|path| is_within(path, key) || is_within(key, path)) && !findings.contains(&text) {
            findings.push(text);
        }
    }
    findings
}

/// Whether `path` is `outer`, or stands below it.
fn is_within(path: &str, outer: &str) -> bool {
    outer.is_empty() || path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The local configuration as YAML, keys sorted. Contains credentials, as the files do.
pub fn printed(local: &LocalConfig) -> String {
    yaml::block(&Value::Object(local.tree().clone()))
}

/// The major version that `program --version` prints: `postgres (PostgreSQL) 15.13 (Debian …)` is 15.
pub(super) fn major_version_of(program: &Path) -> Result<u32, String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| format!("`{}` can't be run: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap_or_default();
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().map_err(|_| format!("`{} --version` printed no version", program.display()))
}

/// `PLACE: KEY VALUE REASON`. Secrets are not shown.
fn line(local: &LocalConfig, outcome: Outcome) -> Option<String> {
    let Outcome { path, value, finding } = outcome;
    let reason = finding?.reason;
    let last = path.rsplit('.').next().unwrap_or_default();
    let secret = matches!(last, "password" | "keyfile_password" | "key_password" | "token" | "sslpassword");
    let value = match value {
        Some(_) if secret => "***".to_owned(),
        Some(value) => values::text(&value),
        None => String::new(),
    };
    let place = local.places().nearest(&path).cloned().or_else(|| local.places().first_source());
    let place = place.map(|place| format!("{place}: ")).unwrap_or_default();
    Some(format!("{place}{path} {value} {reason}"))
}

/// What checks may look at besides the value.
struct Context {
    options: ValidateOptions,
    bin_dir: String,
    bin_name: Map<String, Value>,
}

/// How bad a finding is: of several alternatives only the least severe findings are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Value,
    Type,
}

#[derive(Clone, Debug)]
struct Finding {
    reason: String,
    severity: Severity,
}

/// What one check of one value came to.
#[derive(Clone, Debug)]
struct Outcome {
    path: String,
    value: Option<Value>,
    finding: Option<Finding>,
}

impl Outcome {
    fn fine(value: &Value) -> Self {
        Self { path: String::new(), value: Some(value.clone()), finding: None }
    }

    fn wrong(value: Option<&Value>, reason: impl Into<String>, severity: Severity) -> Self {
        let finding = Finding { reason: reason.into(), severity };
        Self { path: String::new(), value: value.cloned(), finding: Some(finding) }
    }

    fn below(mut self, key: &str) -> Self {
        self.path = if self.path.is_empty() { key.to_owned() } else { join(key, &self.path) };
        self
    }

    fn is_fine(&self) -> bool {
        self.finding.is_none()
    }
}

/// The JSON types, as people call them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    Boolean,
    Integer,
    List,
    Mapping,
}

impl Type {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Boolean => value.is_boolean(),
            Self::Integer => value.is_i64() || value.is_u64() || value.is_boolean(),
            Self::List => value.is_array(),
            Self::Mapping => value.is_object(),
        }
    }

    fn complaint(self) -> &'static str {
        match self {
            Self::Text => "is not a string",
            Self::Boolean => "is not a boolean",
            Self::Integer => "is not an integer",
            Self::List => "is not a list",
            Self::Mapping => "is not a dictionary",
        }
    }
}

/// A check of one value: fine, or why not.
type Check = fn(&Value, &Context) -> Result<(), String>;

/// What a value must be.
enum Rule {
    /// Of a type.
    Is(Type),
    /// Of a type (if one is given), and then passing a check.
    Passes(Option<Type>, Check),
    /// A number within bounds, perhaps with a unit.
    Number { strictly: bool, least: Option<i64>, most: Option<i64>, unit: Option<&'static str>, aligned: Option<i64> },
    /// One of some words.
    Word { words: &'static [&'static str], exactly: bool },
    /// A mapping with these keys; others are not looked at.
    Keys(Vec<(Key, Rule)>),
    /// A list of at least one value, each like this.
    Each(Box<Rule>),
    /// Like one of these.
    Either(Vec<Rule>),
    /// A directory with PostgreSQL's programs; the empty text means `PATH`.
    BinDirectory,
}

/// How a key may appear.
enum Key {
    Required(&'static str),
    Optional(&'static str),
    /// Checked even if it is absent, as if it were the empty text.
    OrEmpty(&'static str),
    /// At least one of these, each with a rule of its own.
    OneOf(Vec<(&'static str, Rule)>),
    /// Not two of these, each with a rule of its own.
    NotTwoOf(Vec<(&'static str, Rule)>),
}

impl Rule {
    fn check(&self, value: &Value, context: &Context) -> Vec<Outcome> {
        let of_type = |wanted: Type| {
            vec![if wanted.fits(value) { Outcome::fine(value) } else { Outcome::wrong(Some(value), wanted.complaint(), Severity::Type) }]
        };
        match self {
            Self::Is(wanted) => of_type(*wanted),
            Self::Passes(Some(wanted), _) if !wanted.fits(value) => of_type(*wanted),
            Self::Passes(_, check) => vec![passed(value, check(value, context))],
            Self::Number { strictly: true, .. } if !Type::Integer.fits(value) => of_type(Type::Integer),
            Self::Number { least, most, unit, aligned, .. } => {
                let fits = values::int(value, *unit).is_some_and(|number| {
                    least.is_none_or(|least| number >= least)
                        && most.is_none_or(|most| number <= most)
                        && aligned.is_none_or(|aligned| number % aligned == 0)
                });
                vec![passed(value, checks::wrong_unless(fits))]
            }
            Self::Word { words, exactly } => {
                let fits = value
                    .as_str()
                    .is_some_and(|text| words.iter().any(|word| if *exactly { *word == text } else { word.eq_ignore_ascii_case(text) }));
                vec![passed(value, checks::wrong_unless(fits))]
            }
            Self::Keys(keys) => match value {
                Value::Object(map) => keys.iter().flat_map(|(key, rule)| key.check(rule, map, context)).collect(),
                _ => of_type(Type::Mapping),
            },
            Self::Each(rule) => match value {
                Value::Array(items) if items.is_empty() => {
                    vec![Outcome::wrong(Some(value), "is an empty list", Severity::Value)]
                }
                Value::Array(items) => items.iter().enumerate().flat_map(|(index, item)| each(rule, index, item, context)).collect(),
                _ => of_type(Type::List),
            },
            Self::Either(rules) => either(rules, value, context),
            Self::BinDirectory => match value.as_str() {
                Some(directory) => checks::bin_directory(directory, context)
                    .into_iter()
                    .map(|reason| Outcome::wrong(None, reason, Severity::Value))
                    .collect(),
                None => Vec::new(),
            },
        }
    }
}

fn passed(value: &Value, result: Result<(), String>) -> Outcome {
    match result {
        Ok(()) => Outcome::fine(value),
        Err(detail) => Outcome::wrong(Some(value), format!("didn't pass validation: {detail}"), Severity::Value),
    }
}

fn each(rule: &Rule, index: usize, item: &Value, context: &Context) -> Vec<Outcome> {
    let outcomes = rule.check(item, context).into_iter();
    outcomes.map(|outcome| Outcome { value: Some(item.clone()), ..outcome }.below(&index.to_string())).collect()
}

/// Fine if one alternative is fine as a whole; otherwise the least severe findings of all of them.
fn either(rules: &[Rule], value: &Value, context: &Context) -> Vec<Outcome> {
    let mut results = Vec::new();
    for rule in rules {
        let outcomes = rule.check(value, context);
        if outcomes.iter().all(Outcome::is_fine) && !outcomes.is_empty() {
            return Vec::new();
        }
        results.extend(outcomes.into_iter().filter(|outcome| !outcome.is_fine()));
    }
    let least = results.iter().filter_map(|outcome| outcome.finding.as_ref()).map(|finding| finding.severity).min();
    results.retain(|outcome| outcome.finding.as_ref().map(|finding| finding.severity) == least);
    results
}

impl Key {
    fn check(&self, rule: &Rule, map: &Map<String, Value>, context: &Context) -> Vec<Outcome> {
        let below = |key: &str, rule: &Rule, value: &Value| -> Vec<Outcome> {
            rule.check(value, context).into_iter().map(|outcome| outcome.below(key)).collect()
        };
        let missing = |key: &str| Outcome::wrong(None, "is not defined.", Severity::Value).below(key);
        match self {
            Self::Required(key) => map.get(*key).map_or_else(|| vec![missing(key)], |value| below(key, rule, value)),
            Self::Optional(key) => map.get(*key).map_or_else(Vec::new, |value| below(key, rule, value)),
            Self::OrEmpty(key) => below(key, rule, map.get(*key).unwrap_or(&Value::String(String::new()))),
            Self::OneOf(keys) if keys.iter().all(|(key, _)| !map.contains_key(*key)) => keys.iter().map(|(key, _)| missing(key)).collect(),
            Self::NotTwoOf(keys) if keys.iter().filter(|(key, _)| map.contains_key(*key)).count() > 1 => {
                let names: Vec<String> = keys.iter().map(|(key, _)| format!("'{key}'")).collect();
                let reason = format!("Multiple of ({}) provided", names.join(", "));
                vec![Outcome::wrong(None, reason, Severity::Value)]
            }
            Self::OneOf(keys) | Self::NotTwoOf(keys) => keys
                .iter()
                .filter_map(|(key, rule)| Some((key, rule, map.get(*key)?)))
                .flat_map(|(key, rule, value)| below(key, rule, value))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
