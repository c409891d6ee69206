//! Permanent slots, as the dynamic configuration has them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::super::observation::SlotObservation;
use crate::settings::{GlobalConfig, values};

/// The longest name of a slot.
const LONGEST_NAME: usize = 63;

/// What a slot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// For servers, which read WAL.
    Physical,
    /// For whoever reads decoded changes of one database.
    Logical {
        /// The database.
        database: String,
        /// The output plugin.
        plugin: String,
    },
}

impl Kind {
    /// As log lines show it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Physical => "{'type': 'physical'}".to_owned(),
            Self::Logical { database, plugin } => format!("{{'type': 'logical', 'database': '{database}', 'plugin': '{plugin}'}}"),
        }
    }
}

/// The configured permanent slots of this kind of cluster, and what is wrong with the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Permanent {
    /// By name.
    pub(super) slots: BTreeMap<String, Kind>,
    /// What to tell the operator.
    pub(super) errors: Vec<String>,
}

/// Whether PostgreSQL would take `name`.
pub(super) fn is_valid_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// Reads what is configured. Both words of `cluster_type` are honoured.
pub(super) fn permanent(cfg: &GlobalConfig) -> Permanent {
    let mut permanent = Permanent::default();
    let standby_cluster = cfg.standby_cluster.is_some();
    for (name, value) in &cfg.slots {
        if !is_valid_name(name) {
            permanent.errors.push(format!("Invalid permanent replication slot name '{name}'"));
            permanent.errors.push("Slot name may only contain lower case letters, numbers, and the underscore chars".to_owned());
            continue;
        }
        match kind(value) {
            Some(Kind::Physical) if value.get("cluster_type").is_some_and(|word| excludes(word, standby_cluster)) => {}
            // A standby cluster decodes nothing.
            Some(Kind::Logical { .. }) if standby_cluster => {}
            Some(kind) => drop(permanent.slots.insert(name.clone(), kind)),
            None => permanent.errors.push(format!("Bad value for slot '{name}' in permanent_slots: {}", values::text(value))),
        }
    }
    permanent
}

/// Whether a slot that is for the other kind of cluster is not for this one.
fn excludes(cluster_type: &Value, standby_cluster: bool) -> bool {
    cluster_type.as_str() == Some(if standby_cluster { "primary" } else { "standby" })
}

/// What the attributes describe; nothing if that is no slot.
fn kind(value: &Value) -> Option<Kind> {
    if !values::is_set(value) {
        return Some(Kind::Physical);
    }
    let attributes = value.as_object()?;
    let text = |key: &str| attributes.get(key).filter(|value| values::is_set(value)).map(values::text);
    let logical = || Some(Kind::Logical { database: text("database")?, plugin: text("plugin")? });
    match attributes.get("type") {
        None => Some(logical().unwrap_or(Kind::Physical)),
        Some(word) => match word.as_str()? {
            "physical" => Some(Kind::Physical),
            "logical" => logical(),
            _ => None,
        },
    }
}

/// Whether an entry of `ignore_slots` matches: every attribute that it has must be equal.
pub(super) fn is_ignored(slot: &SlotObservation, entries: &[Value]) -> bool {
    let kind = if slot.logical { "logical" } else { "physical" };
    let attributes = [
        ("name", Some(slot.name.as_str())),
        ("type", Some(kind)),
        ("database", slot.database.as_deref()),
        ("plugin", slot.plugin.as_deref()),
    ];
    let matches = |entry: &Map<String, Value>| {
        attributes.iter().all(|(attribute, have)| match entry.get(*attribute) {
            None | Some(Value::Null) => true,
            Some(Value::String(wanted)) => (wanted.is_empty() && *attribute != "name") || Some(wanted.as_str()) == *have,
            Some(_) => false,
        })
    };
    entries.iter().filter_map(Value::as_object).any(matches)
}
