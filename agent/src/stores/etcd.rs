//! The section `etcd3`.

use std::sync::Arc;

use async_trait::async_trait;
use dcs_etcd::{Config, Etcd};

use super::{Factory, Opened, Opening, Reload, failed, unusable};
use crate::config::{KeyError, StoreSettings};

pub(super) struct Etcd3;

fn config(settings: &StoreSettings) -> Result<Config, KeyError> {
    Config::from_section(&settings.options).map_err(|error| unusable(settings, &error))
}

#[async_trait]
impl Factory for Etcd3 {
    fn check(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        config(settings).map(drop)
    }

    async fn open(&self, opening: Opening<'_>) -> Result<Opened, KeyError> {
        let store = Arc::new(Etcd::new(config(opening.settings)?, opening.timing, Arc::clone(&opening.clock)));
        Ok(opening.opened(Arc::clone(&store) as _, Open(store)))
    }
}

#[derive(Debug)]
struct Open(Arc<Etcd>);

#[async_trait]
impl Reload for Open {
    async fn follow(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        self.0.set_access(&config(settings)?).await.map_err(|error| failed(settings, &error))
    }
}
