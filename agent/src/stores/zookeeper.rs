//! The sections `zookeeper` and `exhibitor`: the same store, whose servers the configuration names or Exhibitor.

use std::sync::Arc;

use async_trait::async_trait;
use dcs_core::options::OptionError;
use dcs_zookeeper::Config;
use serde_json::{Map, Value};

use super::{Factory, Opened, Opening, Reload, failed, unusable};
use crate::config::{KeyError, StoreSettings};

/// How a section is read.
type Read = fn(&Map<String, Value>) -> Result<Config, OptionError>;

/// The store of a section that is read like this.
pub(super) struct ZooKeeper(Read);

/// Named by the configuration.
pub(super) const NAMED: ZooKeeper = ZooKeeper(Config::from_section);

/// Named by Exhibitor.
pub(super) const EXHIBITOR: ZooKeeper = ZooKeeper(Config::from_exhibitor_section);

fn config(read: Read, settings: &StoreSettings) -> Result<Config, KeyError> {
    read(&settings.options).map_err(|error| unusable(settings, &error))
}

#[async_trait]
impl Factory for ZooKeeper {
    fn check(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        config(self.0, settings).map(drop)
    }

    async fn open(&self, opening: Opening<'_>) -> Result<Opened, KeyError> {
        let config = config(self.0, opening.settings)?;
        let store = Arc::new(dcs_zookeeper::ZooKeeper::new(config, opening.timing, Arc::clone(&opening.clock)));
        Ok(opening.opened(Arc::clone(&store) as _, Open { store, read: self.0 }))
    }
}

#[derive(Debug)]
struct Open {
    store: Arc<dcs_zookeeper::ZooKeeper>,
    read: Read,
}

#[async_trait]
impl Reload for Open {
    async fn follow(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        self.store.set_access(&config(self.read, settings)?).await.map_err(|error| failed(settings, &error))
    }
}
