//! What can be wrong with a configuration: which key, where, and what to do about it.

use std::fmt;
use std::path::PathBuf;

use super::tree::Place;
use super::yaml::SyntaxError;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The path is something else than a file or a directory.
    #[error("invalid config path: `{0}` is neither directory nor file")]
    InvalidPath(PathBuf),
    /// A file or directory could not be read.
    #[error("can't read `{path}`: {error}")]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is not YAML.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A file is YAML, and not a mapping of keys to values (an empty file, for one).
    #[error("invalid config file {0}: it does not contain a dict\n\nhint: every file must contain `key: value` lines")]
    NotAMapping(String),
    /// Nothing is configured at all.
    #[error("Config is empty.")]
    Empty,
    /// One key is missing or has an unusable value.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// One key is missing or has an unusable value.
#[derive(Debug)]
pub struct KeyError {
    /// Its dotted path.
    pub key: String,
    /// Where it stands, or where it would have to stand.
    pub place: KeyPlace,
    /// What is wrong, as a sentence that names the key.
    pub problem: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Where an offending key stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    /// In a file or a variable.
    Local(Place),
    /// In the dynamic configuration in the store.
    Dynamic,
    /// Nowhere in particular.
    Unknown,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            KeyPlace::Local(place) => write!(f, "{place}: ")?,
            KeyPlace::Dynamic => f.write_str("dynamic configuration: ")?,
            KeyPlace::Unknown => {}
        }
        f.write_str(&self.problem)?;
        match &self.hint {
            Some(hint) => write!(f, "\n\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for KeyError {}
