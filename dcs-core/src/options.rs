//! The options of a store's section, read with errors that name the option.
//!
//! Values from the environment are text, so numbers and truth values are read from text too. Null and empty text count as
//! absent.

use std::fmt;

use serde_json::{Map, Value};

/// An option of a store's section cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError {
    /// The section.
    pub section: &'static str,
    /// The option; empty if it is about the section as a whole.
    pub key: &'static str,
    /// What is wrong with it, and what to do.
    pub problem: String,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { section, key, problem } = self;
        let dot = if key.is_empty() { "" } else { "." };
        write!(f, "`{section}{dot}{key}`: {problem}")
    }
}

impl std::error::Error for OptionError {}

/// A section, or a mapping in it.
///
/// ```
/// use dcs_core::options::Options;
///
/// let section = serde_json::json!({"port": "2379", "hosts": "a, b", "proxy": null});
/// let options = Options::new("etcd3", section.as_object().unwrap());
/// assert_eq!(options.texts("hosts", "host").unwrap(), ["a", "b"]);
/// assert_eq!(options.text("proxy").unwrap(), None);
/// assert_eq!(options.truth("port").unwrap_err().to_string(), "`etcd3.port`: `2379` is neither true nor false");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    section: &'static str,
    options: &'a Map<String, Value>,
}

impl<'a> Options<'a> {
    /// The options of `section`.
    pub fn new(section: &'static str, options: &'a Map<String, Value>) -> Self {
        Self { section, options }
    }

    /// An error about `key`.
    pub fn error(&self, key: &'static str, problem: impl Into<String>) -> OptionError {
        OptionError { section: self.section, key, problem: problem.into() }
    }

    /// The value, if there is one.
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.options.get(key).filter(|value| !value.is_null() && value.as_str().is_none_or(|text| !text.trim().is_empty()))
    }

    /// Text.
    ///
    /// # Errors
    ///
    /// It is neither text nor a number.
    pub fn text(&self, key: &'static str) -> Result<Option<String>, OptionError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            // A password of digits only, written without quotes.
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(self.error(key, "it must be text")),
        }
    }

    /// A truth value, in any of the words that YAML has for them.
    ///
    /// # Errors
    ///
    /// It is none of them.
    pub fn truth(&self, key: &'static str) -> Result<Option<bool>, OptionError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let text = match value {
            Value::Bool(truth) => return Ok(Some(*truth)),
            Value::String(text) => text.trim().to_ascii_lowercase(),
            other => other.to_string(),
        };
        match text.as_str() {
            "on" | "true" | "yes" | "1" => Ok(Some(true)),
            "off" | "false" | "no" | "0" => Ok(Some(false)),
            _ => Err(self.error(key, format!("`{text}` is neither true nor false"))),
        }
    }

    /// A whole number that is at least `least`.
    ///
    /// # Errors
    ///
    /// It is no number, or less than that.
    pub fn number(&self, key: &'static str, least: u64) -> Result<Option<u64>, OptionError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match text.trim().parse() {
            Ok(number) if number >= least => Ok(Some(number)),
            Ok(_) => Err(self.error(key, format!("it must be at least {least}"))),
            Err(_) => Err(self.error(key, format!("`{text}` is not a whole number"))),
        }
    }

    /// A list, or text with commas, of texts; `form` says in errors what they look like. Absent is empty.
    ///
    /// # Errors
    ///
    /// It is something else, or an element is not text.
    pub fn texts(&self, key: &'static str, form: &str) -> Result<Vec<&'a str>, OptionError> {
        let texts: Vec<&str> = match self.value(key) {
            None => Vec::new(),
            Some(Value::String(text)) => text.split(',').collect(),
            Some(Value::Array(list)) => {
                let texts = list.iter().map(Value::as_str).collect::<Option<_>>();
                texts.ok_or_else(|| self.error(key, format!("every element must be text of the form `{form}`")))?
            }
            Some(_) => return Err(self.error(key, format!("it must be a list, or text with commas, of `{form}`"))),
        };
        Ok(texts.into_iter().map(str::trim).filter(|text| !text.is_empty()).collect())
    }
}
