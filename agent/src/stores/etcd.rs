//! The sections `etcd3` and `etcd`: the two APIs of etcd, which do not see each other's keys.

use std::sync::Arc;

use async_trait::async_trait;
use dcs_etcd::{Etcd, v2};

use super::{Factory, Opened, Opening, Reload, failed, unusable};
use crate::config::{KeyError, StoreSettings};

/// The API of today.
pub(super) struct V3;

/// The API of old.
pub(super) struct V2;

fn config(settings: &StoreSettings) -> Result<dcs_etcd::Config, KeyError> {
    dcs_etcd::Config::from_section(&settings.options).map_err(|error| unusable(settings, &error))
}

fn config_of_v2(settings: &StoreSettings) -> Result<v2::Config, KeyError> {
    v2::Config::from_section(&settings.options).map_err(|error| unusable(settings, &error))
}

#[async_trait]
impl Factory for V3 {
    fn check(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        config(settings).map(drop)
    }

    async fn open(&self, opening: Opening<'_>) -> Result<Opened, KeyError> {
        let store = Arc::new(Etcd::new(config(opening.settings)?, opening.timing, Arc::clone(&opening.clock)));
        Ok(opening.opened(Arc::clone(&store) as _, OpenV3(store)))
    }
}

#[async_trait]
impl Factory for V2 {
    fn check(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        config_of_v2(settings).map(drop)
    }

    async fn open(&self, opening: Opening<'_>) -> Result<Opened, KeyError> {
        let store = Arc::new(v2::EtcdV2::new(config_of_v2(opening.settings)?, opening.timing, Arc::clone(&opening.clock)));
        Ok(opening.opened(Arc::clone(&store) as _, OpenV2(store)))
    }
}

#[derive(Debug)]
struct OpenV3(Arc<Etcd>);

#[async_trait]
impl Reload for OpenV3 {
    async fn follow(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        self.0.set_access(&config(settings)?).await.map_err(|error| failed(settings, &error))
    }
}

#[derive(Debug)]
struct OpenV2(Arc<v2::EtcdV2>);

#[async_trait]
impl Reload for OpenV2 {
    async fn follow(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        self.0.set_access(&config_of_v2(settings)?).await.map_err(|error| failed(settings, &error))
    }
}
