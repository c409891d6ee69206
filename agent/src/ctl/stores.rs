//! The stores of the configuration, opened by a client that only reads and writes single keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use dcs_core::{BootClock, Dcs, Timing};

use crate::config::LocalConfig;
use crate::stores;

use super::context::Stores;
use super::failure::Failure;
use super::settings::{self, Settings};

/// A cluster's name, and the Citus group in it.
type Address = (String, Option<u32>);

/// What the configuration names. One client for each cluster, kept for as long as the tool runs.
#[derive(Debug)]
pub(super) struct ConfiguredStores {
    config: LocalConfig,
    opened: Mutex<HashMap<Address, Arc<dyn Dcs>>>,
}

impl ConfiguredStores {
    /// The stores of `config`.
    pub(super) fn new(config: LocalConfig) -> Self {
        Self { config, opened: Mutex::default() }
    }

    /// Never held across an await.
    fn opened(&self) -> MutexGuard<'_, HashMap<Address, Arc<dyn Dcs>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Stores for ConfiguredStores {
    async fn open(&self, scope: &str, group: Option<u32>) -> Result<Arc<dyn Dcs>, Failure> {
        let address = (scope.to_owned(), group);
        if let Some(dcs) = self.opened().get(&address) {
            return Ok(Arc::clone(dcs));
        }
        let retry_timeout = Settings::of(&self.config).retry_timeout;
        let timing = Timing { ttl: Duration::from_secs(30), loop_wait: Duration::from_secs(10), retry_timeout };
        let config = self.config.clone().changed(|tree| {
            tree.insert("scope".to_owned(), Value::String(scope.to_owned()));
        });
        let store = config.store_for_control_tool().map_err(|error| settings::unusable(&error))?;
        let opened = stores::open_for_control_tool(&store, group, timing, Arc::new(BootClock)).await;
        let dcs = opened.map_err(|error| settings::unusable(&error.into()))?;
        self.opened().insert(address, Arc::clone(&dcs));
        Ok(dcs)
    }
}
