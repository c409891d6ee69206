//! Settings that a program has in its code.

use std::sync::Arc;

use dcs_core::model::{MemberName, Tags};
use serde_json::{Map, Value};

use super::{BootstrapSettings, EffectiveSettings, GlobalConfig, PostgresSettings, SettingsError, SettingsSource, WatchdogSettings};

/// A [`SettingsSource`] without files, for programs that run an engine and have no configuration of an agent.
///
/// Of the dynamic configuration in the store only the cluster-wide settings ([`GlobalConfig`]) count; how the server is run
/// is up to the code. A new cluster begins with `bootstrap.dcs`.
#[derive(Debug)]
pub struct InCode(EffectiveSettings);

impl InCode {
    /// Settings of the node `name` of the cluster `scope`. Its peers are told to ask it at `api_url`, in whatever way they ask
    /// each other.
    ///
    /// # Errors
    ///
    /// `bootstrap.dcs` cannot be used.
    pub fn new(
        name: MemberName,
        scope: &str,
        api_url: &str,
        bootstrap: BootstrapSettings,
        postgresql: PostgresSettings,
    ) -> Result<Self, SettingsError> {
        Ok(Self(EffectiveSettings {
            global: global(&bootstrap.dcs)?,
            name,
            scope: scope.to_owned(),
            tags: Tags::default(),
            api_url: api_url.to_owned(),
            bootstrap: Some(bootstrap),
            postgresql,
            watchdog: WatchdogSettings::off(),
        }))
    }

    /// The same with a watchdog. Without this an engine uses none.
    #[must_use]
    pub fn with_watchdog(mut self, watchdog: WatchdogSettings) -> Self {
        self.0.watchdog = watchdog;
        self
    }

    /// The settings to begin with.
    pub fn settings(&self) -> Arc<EffectiveSettings> {
        Arc::new(self.0.clone())
    }
}

impl SettingsSource for InCode {
    fn effective(&self, dynamic: &Map<String, Value>) -> Result<Arc<EffectiveSettings>, SettingsError> {
        Ok(Arc::new(EffectiveSettings { global: global(dynamic)?, ..self.0.clone() }))
    }

    fn reload_local(&self) -> Result<bool, SettingsError> {
        Ok(false)
    }

    fn initial_dynamic(&self) -> Map<String, Value> {
        self.0.bootstrap.as_ref().map(|bootstrap| bootstrap.dcs.clone()).unwrap_or_default()
    }

    fn store_dynamic_cache(&self, _: &Map<String, Value>) -> Result<(), SettingsError> {
        Ok(())
    }
}

fn global(dynamic: &Map<String, Value>) -> Result<GlobalConfig, SettingsError> {
    let (global, warnings) = GlobalConfig::from_document(dynamic).map_err(|error| SettingsError { message: error.to_string() })?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(global)
}
