//! YAML in and out. Nothing else knows which library reads it.
//!
//! The dialect is the one existing files were written for (YAML 1.1, see the module `plain`). Every key and value keeps its place;
//! a key that is written twice counts with its last value and is warned about.

mod plain;
mod write;

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{DefaultMessageFormatter, Location, Spanned};

pub use self::write::{block, float_text, flow};
use super::tree::{Content, Entry, Mapping, Node, Place, Source, join};

/// How deep lists and mappings may nest.
const MAX_DEPTH: usize = 64;

/// A parsed document.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it says.
    pub root: Node,
    /// What is doubtful: keys that are written twice.
    pub warnings: Vec<String>,
}

/// The text is not YAML. The message has line, column, and the line itself with a caret.
#[derive(Debug, thiserror::Error)]
#[error("{source_name} is not valid YAML{position}\n{details}")]
pub struct SyntaxError {
    source_name: String,
    position: String,
    details: String,
}

/// Reads `text`, which comes from `source`.
///
/// # Errors
///
/// The text is not YAML.
pub fn parse(text: &str, source: &Arc<Source>) -> Result<Document, SyntaxError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
        legacy_octal_numbers: true,
        emit_comments: false,
    };
    if text.trim().is_empty() {
        let root = Node { content: Content::Scalar(Value::Null), place: Place::of(source) };
        return Ok(Document { root, warnings: Vec::new() });
    }
    let parsed: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let position = error
            .location()
            .filter(|at| at.line() > 0)
            .map(|at| format!(" (line {}, column {})", at.line(), at.column()))
            .unwrap_or_default();
        let name = source.to_string();
        let details = error.render_with_options(serde_saphyr::render_options! {
            formatter: &DefaultMessageFormatter,
            source_name: Some(&name),
        });
        SyntaxError { position, details, source_name: name }
    })?;
    let mut reader = Reader { text, source, warnings: Vec::new() };
    let root = reader.node(parsed, "");
    Ok(Document { root, warnings: reader.warnings })
}

/// What the library hands over, before plain words are decided.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Mapping(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut mapping = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            mapping.push(entry);
        }
        Ok(Raw::Mapping(mapping))
    }
}

struct Reader<'a> {
    text: &'a str,
    source: &'a Arc<Source>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn place(&self, at: Location) -> Place {
        Place::at(self.source, at.line(), at.column())
    }

    fn node(&mut self, raw: Spanned<Raw>, path: &str) -> Node {
        let place = self.place(raw.referenced);
        let content = match raw.value {
            Raw::Scalar(value) => Content::Scalar(self.scalar(value, raw.defined)),
            Raw::List(items) => {
                Content::List(items.into_iter().enumerate().map(|(index, item)| self.node(item, &join(path, &index.to_string()))).collect())
            }
            Raw::Mapping(entries) => {
                let mut mapping = Mapping::default();
                for (key, value) in entries {
                    let path = join(path, &key.value);
                    let node = self.node(value, &path);
                    let place = self.place(key.referenced);
                    let entry = Entry { key: key.value, place: place.clone(), node };
                    if let Some(earlier) = mapping.insert(entry) {
                        self.warnings
                            .push(format!("{place}: `{path}` is written twice (first at {}); the last value counts", earlier.place));
                    }
                }
                Content::Mapping(mapping)
            }
        };
        Node { content, place }
    }

    /// Decides what a plain word means; quoted texts, block texts and tagged values are what the library made of them.
    fn scalar(&self, value: Value, at: Location) -> Value {
        if value.is_string() {
            return value;
        }
        let word = at.span().byte_offset().zip(at.span().byte_len()).and_then(|(start, length)| {
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            self.text.get(start..end)
        });
        match word.map(str::trim) {
            Some(word) if !word.starts_with(['"', '\'', '|', '>', '!', '&', '*']) => plain::resolve(word),
            _ => value,
        }
    }
}

#[cfg(test)]
mod tests;
