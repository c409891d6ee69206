//! What PostgreSQL knows about its own parameters, for every supported version: type, unit, range, labels, context.
//!
//! A value that PostgreSQL would refuse keeps it from starting, so values are checked before they are written. The tables
//! are PostgreSQL's own `pg_settings`, merged by `scripts/guc-table`; what only minor releases or distributions have is in
//! `exceptions.tsv`. Recovery parameters have a table of their own, because they are written in a section of their own.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::report::Line;
use super::value;

/// One parameter in one range of versions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Guc {
    /// Its name as PostgreSQL writes it.
    pub(crate) name: &'static str,
    /// The first version (e.g. 150002) that has it.
    from: u32,
    /// The first version that has it no more, or has it differently.
    before: u32,
    /// What values it takes.
    pub(crate) kind: Kind,
    /// Whether a change needs a restart.
    pub(crate) postmaster: bool,
}

/// What values a parameter takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// A boolean word.
    Bool,
    /// An integer in a range.
    Integer(Range),
    /// A real number in a range.
    Real(Range),
    /// One of these labels, in lower case.
    Enum(Vec<&'static str>),
    /// Anything.
    Text,
}

/// A range of numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Range {
    /// The base unit.
    pub(crate) unit: Option<&'static str>,
    /// The smallest value, as PostgreSQL prints it.
    pub(crate) min: &'static str,
    /// The largest value, as PostgreSQL prints it.
    pub(crate) max: &'static str,
}

/// What became of a configured value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// It is written as it is.
    Kept,
    /// It is out of range; the nearest value is written instead.
    Clamped {
        /// What is written.
        value: String,
        /// What is said about it.
        line: Line,
    },
    /// PostgreSQL would refuse it; it is not written.
    Dropped(Line),
}

impl Guc {
    /// Checks a configured value. `name` is the parameter as the operator wrote it.
    pub(crate) fn check(&self, name: &str, configured: &str) -> Checked {
        let invalid = |word: &str| {
            Checked::Dropped(Line::warning(format!(
                "Removing {word} parameter={name} from the config due to the invalid value={configured}"
            )))
        };
        match &self.kind {
            Kind::Text => Checked::Kept,
            Kind::Bool if value::bool_word(configured).is_some() => Checked::Kept,
            Kind::Bool => invalid("bool"),
            Kind::Enum(labels) if accepts_label(labels, configured) => Checked::Kept,
            Kind::Enum(_) => invalid("enum"),
            Kind::Integer(range) => match value::parse_int(configured, range.unit) {
                Some(number) => range.check(name, configured, number as f64),
                None => invalid("integer"),
            },
            Kind::Real(range) => match value::parse_real(configured, range.unit) {
                Some(number) => range.check(name, configured, number),
                None => invalid("real"),
            },
        }
    }
}

impl Range {
    fn check(&self, name: &str, configured: &str, number: f64) -> Checked {
        let clamped = |bound: &str, complaint: &str| {
            let unit = self.unit.unwrap_or_default();
            Checked::Clamped {
                value: bound.to_owned(),
                line: Line::warning(format!("Value={configured} of parameter={name} is too {complaint} to {bound}{unit}")),
            }
        };
        if self.min.parse().is_ok_and(|min: f64| number < min) {
            clamped(self.min, "low, increasing")
        } else if self.max.parse().is_ok_and(|max: f64| number > max) {
            clamped(self.max, "big, decreasing")
        } else {
            Checked::Kept
        }
    }
}

/// Labels that include `on` and `off` take every boolean word.
fn accepts_label(labels: &[&str], configured: &str) -> bool {
    let lower = configured.to_lowercase();
    labels.contains(&lower.as_str()) || (labels.contains(&"on") && value::bool_word(configured).is_some())
}

type Table = HashMap<String, Vec<Guc>>;

static SERVER: LazyLock<Table> = LazyLock::new(|| {
    let mut table = parse(include_str!("gucs/table.tsv"));
    table.extend(parse(include_str!("gucs/exceptions.tsv")));
    table
});

static RECOVERY: LazyLock<Table> = LazyLock::new(|| parse(include_str!("gucs/recovery.tsv")));

/// The server parameter `name` (in any case) as `version` has it; recovery parameters are not among them.
pub(crate) fn server(version: u32, name: &str) -> Option<&'static Guc> {
    if is_recovery(name) { None } else { find(&SERVER, version, name) }
}

/// The recovery parameter `name` (in any case) as `version` has it.
pub(crate) fn recovery(version: u32, name: &str) -> Option<&'static Guc> {
    find(&RECOVERY, version, name)
}

/// Whether `name` is, or was in some version, a recovery parameter.
pub(crate) fn is_recovery(name: &str) -> bool {
    RECOVERY.contains_key(&name.to_ascii_lowercase())
}

/// The names of all recovery parameters, of all versions.
pub(crate) fn recovery_names() -> impl Iterator<Item = &'static str> {
    RECOVERY.values().filter_map(|gucs| gucs.first()).map(|guc| guc.name)
}

fn find(table: &'static Table, version: u32, name: &str) -> Option<&'static Guc> {
    table.get(&name.to_ascii_lowercase())?.iter().find(|guc| (guc.from..guc.before).contains(&version))
}

fn parse(text: &'static str) -> Table {
    let mut table = Table::new();
    for guc in text.lines().filter(|line| !line.starts_with('#')).filter_map(parse_line) {
        table.entry(guc.name.to_ascii_lowercase()).or_default().push(guc);
    }
    table
}

fn parse_line(line: &'static str) -> Option<Guc> {
    let mut fields = line.split('\t');
    let mut next = || fields.next();
    let (name, from, before, vartype) = (next()?, next()?, next()?, next()?);
    let (unit, min, max, labels, context) = (next()?, next()?, next()?, next()?, next()?);
    let range = || Range { unit: Some(unit).filter(|unit| !unit.is_empty()), min, max };
    Some(Guc {
        name,
        from: if from.is_empty() { 0 } else { from.parse().ok()? },
        before: if before.is_empty() { u32::MAX } else { before.parse().ok()? },
        kind: match vartype {
            "bool" => Kind::Bool,
            "integer" => Kind::Integer(range()),
            "real" => Kind::Real(range()),
            "enum" => Kind::Enum(labels.split(',').collect()),
            _ => Kind::Text,
        },
        postmaster: context == "postmaster",
    })
}

#[cfg(test)]
mod tests;
