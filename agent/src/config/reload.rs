//! The settings as the engine asks for them: the local configuration of the moment, under any dynamic document.

use std::sync::{Arc, Mutex, PoisonError};

use ha_engine::settings::{EffectiveSettings, GlobalConfig, SettingsError, SettingsSource};
use serde_json::{Map, Value};
use tracing::{Level, error, info, warn};

use super::cache;
use super::error::{ConfigError, KeyPlace};
use super::local::LocalConfig;
use super::node;
use super::tree::join;

/// The settings of one agent. Shared by the engine, which asks, and the agent, which reloads.
#[derive(Debug)]
pub struct AgentSettings {
    state: Mutex<State>,
    cached: Option<Map<String, Value>>,
    bootstrap: Map<String, Value>,
}

#[derive(Debug)]
struct State {
    local: Arc<LocalConfig>,
    /// The warnings that were logged last, so that they are logged once.
    warned: Vec<String>,
    /// The dynamic document that was accepted last: new files must go with it.
    dynamic: Map<String, Value>,
}

impl AgentSettings {
    /// Checks `local`, and loads the cached dynamic configuration. Logs what an operator should know.
    ///
    /// # Errors
    ///
    /// A key is missing or unusable, or asks for something that this version does not have.
    pub fn new(local: LocalConfig) -> Result<Self, ConfigError> {
        // First what is doubtful: a misspelt key often explains the missing one that is an error.
        log_remarks(&local);
        let (settings, _) = node::effective(&local, &Map::new())?;
        local.store()?;
        local.ctl()?;
        node::check_watchdog(&local)?;
        let data_dir = &settings.postgresql.data_dir;
        let cached = match cache::load(data_dir) {
            Ok(cached) => cached.filter(|document| !document.is_empty()),
            Err(error) => {
                error!(error = &error as &dyn std::error::Error, "Exception when loading file: {}", cache::path(data_dir).display());
                None
            }
        };
        let cached = cached.filter(|document| is_usable(&local, document, None));
        // A section that is used once must not keep an old cluster from starting.
        let bootstrap = settings.bootstrap.map(|section| section.dcs).filter(|document| is_usable(&local, document, Some("bootstrap.dcs")));
        let bootstrap = bootstrap.unwrap_or_default();
        let state = Mutex::new(State { local: Arc::new(local), warned: Vec::new(), dynamic: Map::new() });
        Ok(Self { state, cached, bootstrap })
    }

    /// The local configuration of the moment, for the parts of the agent that the engine knows nothing about.
    pub fn local(&self) -> Arc<LocalConfig> {
        Arc::clone(&self.lock().local)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the accepted document, and logs warnings that were not logged for the last one.
    fn accepted(&self, dynamic: &Map<String, Value>, warnings: Vec<String>) {
        let mut state = self.lock();
        state.dynamic.clone_from(dynamic);
        for line in &warnings {
            if !state.warned.contains(line) {
                warn!("{line}");
            }
        }
        state.warned = warnings;
    }
}

/// Whether `document` can be the dynamic configuration; if not, that is logged with where it stands.
fn is_usable(local: &LocalConfig, document: &Map<String, Value>, stands_at: Option<&str>) -> bool {
    let Err(mut error) = node::effective(local, document) else { return true };
    if let (ConfigError::Key(key), Some(prefix)) = (&mut error, stands_at)
        && let Some(place) = local.places().nearest(&join(prefix, &key.key))
    {
        key.place = KeyPlace::Local(place.clone());
    }
    error!(error = &error as &dyn std::error::Error, "Exception when setting dynamic_configuration");
    false
}

/// Logs what is doubtful about `local`.
fn log_remarks(local: &LocalConfig) {
    for line in local.warnings() {
        warn!("{line}");
    }
    for (level, line) in node::remarks(local) {
        match level {
            Level::ERROR => error!("{line}"),
            Level::WARN => warn!("{line}"),
            _ => info!("{line}"),
        }
    }
}

fn settings_error(error: &ConfigError) -> SettingsError {
    SettingsError { message: error.to_string() }
}

impl SettingsSource for AgentSettings {
    fn effective(&self, dynamic: &Map<String, Value>) -> Result<Arc<EffectiveSettings>, SettingsError> {
        let local = self.local();
        let (settings, warnings) = node::effective(&local, dynamic).map_err(|error| settings_error(&error))?;
        self.accepted(dynamic, warnings);
        Ok(Arc::new(settings))
    }

    fn reload_local(&self) -> Result<bool, SettingsError> {
        let current = self.local();
        let Some(next) = current.read_again().map_err(|error| settings_error(&error))? else { return Ok(false) };
        if next.says_the_same_as(&current) {
            return Ok(false);
        }
        let check = || -> Result<(), ConfigError> {
            let dynamic = self.lock().dynamic.clone();
            node::effective(&next, &dynamic)?;
            next.log()?;
            next.ctl()?;
            node::check_watchdog(&next)?;
            Ok(())
        };
        check().map_err(|error| settings_error(&error))?;
        log_remarks(&next);
        self.lock().local = Arc::new(next);
        Ok(true)
    }

    fn initial_dynamic(&self) -> Map<String, Value> {
        self.cached.clone().unwrap_or_else(|| self.bootstrap.clone())
    }

    fn store_dynamic_cache(&self, dynamic: &Map<String, Value>) -> Result<(), SettingsError> {
        let adjusted = GlobalConfig::adjusted_document(dynamic).map_err(|error| SettingsError { message: error.to_string() })?;
        let local = self.local();
        let (settings, _) = node::effective(&local, &Map::new()).map_err(|error| settings_error(&error))?;
        let data_dir = settings.postgresql.data_dir;
        cache::store(&data_dir, &adjusted)
            .map_err(|error| SettingsError { message: format!("{}: {error}", cache::path(&data_dir).display()) })
    }
}

#[cfg(test)]
mod tests;
