//! What the servers answer, in their own form.

use dcs_core::Entry;
use dcs_core::model::{HandleId, Revision};
use serde::Deserialize;

use crate::history::Header;
use crate::wire::Headed;

/// Codes of errors that are answers to a question, not failures.
pub(super) mod code {
    /// There is no such key.
    pub(crate) const KEY_NOT_FOUND: u32 = 100;
    /// The condition does not hold.
    pub(crate) const COMPARE_FAILED: u32 = 101;
    /// The key exists, and must not.
    pub(crate) const KEY_EXISTS: u32 = 105;
    /// The changes that a watch asks for are forgotten.
    pub(crate) const INDEX_CLEARED: u32 = 401;
}

/// A key or a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Node {
    pub(super) key: String,
    pub(super) value: Option<String>,
    pub(super) dir: bool,
    pub(super) nodes: Vec<Node>,
    pub(super) ttl: Option<i64>,
    pub(super) modified_index: u64,
    pub(super) created_index: u64,
}

/// What was done, and to what.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    pub(super) action: String,
    pub(super) node: Node,
    #[serde(default)]
    pub(super) prev_node: Option<Node>,
}

/// A no, in etcd's words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message} (code {error_code}){}{cause}", if cause.is_empty() { "" } else { ": " })]
pub(super) struct Problem {
    pub(super) error_code: u32,
    #[serde(default)]
    pub(super) message: String,
    #[serde(default)]
    pub(super) cause: String,
    #[serde(default)]
    pub(super) index: u64,
}

/// A definite answer: yes with what was done, or one of the [codes](code).
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) header: Header,
    pub(super) outcome: Result<Event, Problem>,
}

impl Headed for Reply {
    fn header(&self) -> Option<Header> {
        Some(self.header)
    }
}

impl Node {
    /// The key as the contract has it; nothing for a directory.
    pub(super) fn entry(&self) -> Option<Entry> {
        let value = self.value.as_ref().filter(|_| !self.dir)?;
        Some(Entry {
            key: self.key.clone(),
            value: value.clone().into_bytes(),
            revision: Revision::from(self.modified_index),
            handle: self.ttl.map(|_| HandleId::new(self.created_index.to_string())),
        })
    }

    /// All keys in this directory and those below it.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut found = Vec::new();
        let mut open = vec![self];
        while let Some(node) = open.pop() {
            found.extend(node.entry());
            open.extend(&node.nodes);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_with_everything_below_it() {
        let text = r#"{"action":"get","node":{"key":"/service/demo","dir":true,"nodes":[
            {"key":"/service/demo/leader","value":"a","expiration":"2026-11-21T18:45:10.669955059Z","ttl":5,"modifiedIndex":5,"createdIndex":4},
            {"key":"/service/demo/initialize","value":"","modifiedIndex":9,"createdIndex":9},
            {"key":"/service/demo/members","dir":true,"nodes":[
                {"key":"/service/demo/members/a","value":"{}","ttl":50,"modifiedIndex":7,"createdIndex":6}],"modifiedIndex":6,"createdIndex":6}],
            "modifiedIndex":4,"createdIndex":4}}"#;
        let event: Event = serde_json::from_str(text).unwrap();
        let mut entries = event.node.entries();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        let entry = |key: &str, value: &str, revision: u64, life: Option<&str>| Entry {
            key: format!("/service/demo/{key}"),
            value: value.into(),
            revision: revision.into(),
            handle: life.map(HandleId::new),
        };
        let expected = [entry("initialize", "", 9, None), entry("leader", "a", 5, Some("4")), entry("members/a", "{}", 7, Some("6"))];
        assert_eq!(entries, expected);
    }

    #[test]
    fn a_problem_tells_its_code_and_cause() {
        let text = r#"{"errorCode":101,"message":"Compare failed","cause":"[b != a]","index":5}"#;
        let problem: Problem = serde_json::from_str(text).unwrap();
        assert_eq!((problem.error_code, problem.index), (code::COMPARE_FAILED, 5));
        assert_eq!(problem.to_string(), "Compare failed (code 101): [b != a]");
    }
}
