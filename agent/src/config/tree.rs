//! A configuration tree that remembers where each part was written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ha_engine::settings::values;
use serde_json::{Map, Value};

/// Where configuration text comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// Where one key or value stands: a source, and line and column if the source has lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    source: Arc<Source>,
    position: Option<(u64, u64)>,
}

impl Place {
    /// The whole of `source`.
    pub fn of(source: &Arc<Source>) -> Self {
        Self { source: Arc::clone(source), position: None }
    }

    /// `line` and `column` of `source`, both counted from 1. Line 0 means unknown.
    pub fn at(source: &Arc<Source>, line: u64, column: u64) -> Self {
        Self { source: Arc::clone(source), position: (line > 0).then_some((line, column)) }
    }

    /// Where the text comes from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Line and column, both counted from 1.
    pub fn position(&self) -> Option<(u64, u64)> {
        self.position
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some((line, column)) => write!(f, "{}:{line}:{column}", self.source),
            None => self.source.fmt(f),
        }
    }
}

/// One part of the tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub content: Content,
    /// Where the value begins.
    pub place: Place,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Content {
    /// Null, a boolean, a number or a text.
    Scalar(Value),
    /// A list.
    List(Vec<Node>),
    /// A mapping.
    Mapping(Mapping),
}

/// Keys and values, in the order in which they were written.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    entries: Vec<Entry>,
}

/// One key with its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// The value.
    pub node: Node,
}

impl Node {
    /// A value without parts whose positions are known.
    pub fn from_value(value: Value, place: &Place) -> Self {
        let content = match value {
            Value::Array(items) => Content::List(items.into_iter().map(|item| Self::from_value(item, place)).collect()),
            Value::Object(map) => {
                let mut mapping = Mapping::default();
                for (key, value) in map {
                    mapping.insert(Entry { key, place: place.clone(), node: Self::from_value(value, place) });
                }
                Content::Mapping(mapping)
            }
            scalar => Content::Scalar(scalar),
        };
        Self { content, place: place.clone() }
    }

    /// The value without places.
    pub fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => items.iter().map(Self::to_value).collect(),
            Content::Mapping(mapping) => Value::Object(mapping.to_map()),
        }
    }

    fn is_null(&self) -> bool {
        matches!(self.content, Content::Scalar(Value::Null))
    }
}

impl Mapping {
    /// Its entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry under `key`.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Adds `entry`, or puts it where an entry of the same key was, and returns that one.
    pub fn insert(&mut self, entry: Entry) -> Option<Entry> {
        match self.entries.iter_mut().find(|known| known.key == entry.key) {
            Some(known) => Some(std::mem::replace(known, entry)),
            None => {
                self.entries.push(entry);
                None
            }
        }
    }

    /// Adds `value` under the nested keys of `path`, making mappings on the way.
    pub fn insert_at(&mut self, path: &[&str], value: Value, place: &Place) {
        let [key, rest @ ..] = path else { return };
        if rest.is_empty() {
            let node = Node::from_value(value, place);
            self.insert(Entry { key: (*key).to_owned(), place: place.clone(), node });
            return;
        }
        if !matches!(self.get(key).map(|entry| &entry.node.content), Some(Content::Mapping(_))) {
            let node = Node { content: Content::Mapping(Self::default()), place: place.clone() };
            self.insert(Entry { key: (*key).to_owned(), place: place.clone(), node });
        }
        let found = self.entries.iter_mut().find(|entry| entry.key == *key);
        if let Some(Entry { node: Node { content: Content::Mapping(inner), .. }, .. }) = found {
            inner.insert_at(rest, value, place);
        }
    }

    /// Lays `over` on top of this mapping: null removes a key, mappings are merged, anything else replaces. A value with
    /// the same text form stays as it was.
    pub fn patch(&mut self, over: Self) {
        for entry in over.entries {
            let position = self.entries.iter().position(|known| known.key == entry.key);
            match (position, entry) {
                (Some(position), entry) if entry.node.is_null() => {
                    self.entries.remove(position);
                }
                (None, entry) if entry.node.is_null() => {}
                (None, entry) => self.entries.push(entry),
                (Some(position), entry) => {
                    let known = &mut self.entries[position];
                    match (&mut known.node.content, entry) {
                        (Content::Mapping(known), Entry { node: Node { content: Content::Mapping(over), .. }, .. }) => known.patch(over),
                        (_, entry) => {
                            let replaces = matches!(entry.node.content, Content::Mapping(_))
                                || values::text(&known.node.to_value()) != values::text(&entry.node.to_value());
                            if replaces {
                                *known = entry;
                            }
                        }
                    }
                }
            }
        }
    }

    /// The values without places.
    pub fn to_map(&self) -> Map<String, Value> {
        self.entries.iter().map(|entry| (entry.key.clone(), entry.node.to_value())).collect()
    }

    /// Where every key and list item stands, by dotted path.
    pub fn places(&self) -> Places {
        let mut places = Places::default();
        places.collect("", self);
        places
    }
}

/// Where every key stands, by dotted path (`postgresql.pg_hba.0`).
#[derive(Clone, Debug, Default)]
pub struct Places(BTreeMap<String, Place>);

impl Places {
    fn collect(&mut self, prefix: &str, mapping: &Mapping) {
        for entry in &mapping.entries {
            let path = join(prefix, &entry.key);
            self.collect_node(&path, &entry.node);
            self.0.insert(path, entry.place.clone());
        }
    }

    fn collect_node(&mut self, path: &str, node: &Node) {
        match &node.content {
            Content::Scalar(_) => {}
            Content::Mapping(mapping) => self.collect(path, mapping),
            Content::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = join(path, &index.to_string());
                    self.collect_node(&path, item);
                    self.0.insert(path, item.place.clone());
                }
            }
        }
    }

    /// Where `path` stands, or the nearest of its ancestors that stands somewhere.
    pub fn nearest(&self, path: &str) -> Option<&Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.0.get(path) {
                return Some(place);
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    /// Where `path` itself stands.
    pub fn exact(&self, path: &str) -> Option<&Place> {
        self.0.get(path)
    }

    /// The source of anything at all, files first; for messages about something that is missing.
    pub fn first_source(&self) -> Option<Place> {
        let file = self.0.values().find(|place| matches!(place.source(), Source::File(_)));
        file.or_else(|| self.0.values().next()).map(|place| Place::of(&place.source))
    }
}

/// `prefix.key`, or `key` at the root.
pub(super) fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// Whether two values say the same: mappings by their keys, everything else by its text form (`2` equals `"2"`).
pub fn deep_equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len() && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| deep_equal(value, other)))
        }
        (Value::Object(_), _) | (_, Value::Object(_)) => false,
        (left, right) => values::text(left) == values::text(right),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mapping(value: Value) -> Mapping {
        let place = Place::of(&Arc::new(Source::Variable("TEST".into())));
        match Node::from_value(value, &place).content {
            Content::Mapping(mapping) => mapping,
            _ => panic!("an object was expected"),
        }
    }

    fn patched(base: Value, over: Value) -> Value {
        let mut base = mapping(base);
        base.patch(mapping(over));
        Value::Object(base.to_map())
    }

    #[test]
    fn null_removes_mappings_merge_and_the_rest_replaces() {
        assert_eq!(
            patched(json!({"a": 1, "b": {"c": 1, "d": [1, 2]}, "e": 5}), json!({"a": null, "b": {"d": [3]}, "e": {"f": 1}})),
            json!({"b": {"c": 1, "d": [3]}, "e": {"f": 1}})
        );
        assert_eq!(patched(json!({}), json!({"a": null, "b": {"c": null}})), json!({"b": {"c": null}}));
    }

    #[test]
    fn values_with_the_same_text_stay_as_they_were() {
        assert_eq!(patched(json!({"a": 2}), json!({"a": "2"})), json!({"a": 2}));
    }

    #[test]
    fn equality_is_that_of_text_forms() {
        assert!(deep_equal(&json!({"a": 2}), &json!({"a": "2"})));
        assert!(!deep_equal(&json!({"a": null}), &json!({})));
        assert!(!deep_equal(&json!({"a": {}}), &json!({"a": null})));
        assert!(!deep_equal(&json!({"a": [1]}), &json!({"a": ["1"]})));
    }

    #[test]
    fn places_name_the_nearest_thing_that_was_written() {
        let source = Arc::new(Source::File("a.yml".into()));
        let mut tree = Mapping::default();
        tree.insert_at(&["postgresql", "listen"], json!("x"), &Place::at(&source, 3, 7));
        let places = tree.places();
        assert_eq!(places.nearest("postgresql.listen.nothing").expect("an ancestor").to_string(), "a.yml:3:7");
        assert!(places.nearest("restapi").is_none());
    }
}
