//! The dynamic configuration.

use serde_json::{Map, Value};

use super::Revision;

/// The `config` key.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicConfig {
    /// Revision of the key, usable to repair an invalid value by compare-and-set.
    pub revision: Revision,
    /// The object; nothing if the stored text is not a JSON object ("invalid"): then the last good one stays in force.
    pub data: Option<Map<String, Value>>,
}

impl DynamicConfig {
    /// Whether it is an object with something in it.
    pub fn is_usable(&self) -> bool {
        self.data.as_ref().is_some_and(|data| !data.is_empty())
    }
}
