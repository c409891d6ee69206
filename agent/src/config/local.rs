//! The local configuration: loaded, checked for what is doubtful, and read into typed views.

use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

use super::ctl::CtlSettings;
use super::env::Environment;
use super::error::{ConfigError, KeyError, KeyPlace};
use super::log::LogSettings;
use super::merge;
use super::rest_api::RestApiSettings;
use super::schema;
use super::section::Section;
use super::source::{self, Origin};
use super::store::StoreSettings;
use super::tree::{Mapping, Places, deep_equal};

/// The local configuration of one node: files or variables, with the environment laid over.
#[derive(Clone)]
pub struct LocalConfig {
    origin: Origin,
    tree: Map<String, Value>,
    places: Places,
    warnings: Vec<String>,
    environment: Environment,
}

impl fmt::Debug for LocalConfig {
    /// Names of sections only: the values contain credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalConfig")
            .field("origin", &self.origin)
            .field("sections", &self.tree.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl LocalConfig {
    /// Loads the configuration for an agent: from `path` if it exists, else from the environment.
    ///
    /// # Errors
    ///
    /// It cannot be read or parsed, or nothing is configured at all.
    pub fn load(path: Option<&Path>, environment: Environment) -> Result<Self, ConfigError> {
        let config = Self::load_unchecked(path, environment)?;
        if config.tree.is_empty() {
            return Err(ConfigError::Empty);
        }
        Ok(config)
    }

    /// The same for the control tool and for checks, where nothing at all is a configuration too.
    ///
    /// # Errors
    ///
    /// It cannot be read or parsed.
    pub fn load_unchecked(path: Option<&Path>, environment: Environment) -> Result<Self, ConfigError> {
        let loaded = source::load(path, &environment)?;
        Ok(Self::new(loaded.origin, &loaded.tree, loaded.warnings, environment))
    }

    fn new(origin: Origin, tree: &Mapping, mut warnings: Vec<String>, environment: Environment) -> Self {
        warnings.extend(schema::unknown_keys(tree));
        Self { origin, tree: tree.to_map(), places: tree.places(), warnings, environment }
    }

    /// The same configuration with `change` made to its tree, as command line options do. Places stay those of the files.
    #[must_use]
    pub fn changed(mut self, change: impl FnOnce(&mut Map<String, Value>)) -> Self {
        change(&mut self.tree);
        self
    }

    /// Reads the files again, with the environment as it was at start. Nothing to read is `None`.
    ///
    /// # Errors
    ///
    /// They cannot be read or parsed, or have vanished.
    pub fn read_again(&self) -> Result<Option<Self>, ConfigError> {
        let Origin::Path(path) = &self.origin else { return Ok(None) };
        if !path.exists() {
            let error = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(ConfigError::Unreadable { path: path.clone(), error });
        }
        Self::load(Some(path), self.environment.clone()).map(Some)
    }

    /// Where it came from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The file or directory, if it came from one.
    pub fn path(&self) -> Option<&Path> {
        match &self.origin {
            Origin::Path(path) => Some(path),
            _ => None,
        }
    }

    /// The merged tree, as `--validate-config --print` shows it. Contains credentials.
    pub fn tree(&self) -> &Map<String, Value> {
        &self.tree
    }

    /// What is doubtful: unknown keys with the nearest known name, doubled keys, variables that could not be read.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The environment at start.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Whether both say the same.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        self.tree.len() == other.tree.len()
            && self.tree.iter().all(|(key, value)| other.tree.get(key).is_some_and(|other| deep_equal(value, other)))
    }

    /// Where every key stands.
    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    pub(super) fn root(&self) -> Section<'_> {
        Section::root(&self.tree, &self.places)
    }

    /// The REST API's settings, and what is doubtful about them.
    ///
    /// # Errors
    ///
    /// A key is missing or unusable.
    pub fn rest_api(&self) -> Result<(RestApiSettings, Vec<String>), ConfigError> {
        Ok(RestApiSettings::read(&self.root())?)
    }

    /// How other members are called.
    ///
    /// # Errors
    ///
    /// A key is unusable.
    pub fn ctl(&self) -> Result<CtlSettings, ConfigError> {
        Ok(CtlSettings::read(&self.root())?)
    }

    /// How is logged, and what is doubtful about it.
    ///
    /// # Errors
    ///
    /// A key is unusable.
    pub fn log(&self) -> Result<(LogSettings, Vec<String>), ConfigError> {
        Ok(LogSettings::read(&self.root())?)
    }

    /// The store, for an agent.
    ///
    /// # Errors
    ///
    /// No store is configured, or a key is missing or unusable.
    pub fn store(&self) -> Result<StoreSettings, ConfigError> {
        self.read_store(true)
    }

    /// The store, for the control tool, which has no member name.
    ///
    /// # Errors
    ///
    /// As for [`LocalConfig::store`].
    pub fn store_for_control_tool(&self) -> Result<StoreSettings, ConfigError> {
        self.read_store(false)
    }

    /// The section `raft`, whatever else is configured: for a witness, and for operating on the nodes themselves. It has
    /// neither a cluster nor a member name.
    ///
    /// # Errors
    ///
    /// There is no such section.
    pub fn raft(&self) -> Result<StoreSettings, ConfigError> {
        Ok(StoreSettings::read_raft(&self.root(), &self.places)?)
    }

    fn read_store(&self, needs_name: bool) -> Result<StoreSettings, ConfigError> {
        let merged = merge::effective(&Map::new(), &self.tree).map_err(|error| self.located(error))?;
        Ok(StoreSettings::read(&Section::root(&merged.tree, &self.places), &self.places, needs_name)?)
    }

    /// `error`, with the place of its key if it has none yet.
    pub(super) fn located(&self, mut error: KeyError) -> KeyError {
        if error.place == KeyPlace::Unknown
            && let Some(place) = self.places.nearest(&error.key)
        {
            error.place = KeyPlace::Local(place.clone());
        }
        error
    }
}
