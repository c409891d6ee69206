//! The section `consul`.

use std::sync::Arc;

use async_trait::async_trait;
use dcs_consul::Config;
use dcs_core::model::MemberName;

use super::{Access, Factory, Opened, Opening, Reload, User, failed, unusable};
use crate::config::{KeyError, StoreSettings};

pub(super) struct Consul;

fn config(settings: &StoreSettings) -> Result<Config, KeyError> {
    Config::from_section(&settings.options).map_err(|error| unusable(settings, &error))
}

#[async_trait]
impl Factory for Consul {
    fn check(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        config(settings).map(drop)
    }

    async fn open(&self, opening: Opening<'_>) -> Result<Opened, KeyError> {
        let Opening { settings, timing, .. } = opening;
        let (config, clock) = (config(settings)?, Arc::clone(&opening.clock));
        if opening.user == User::Agent {
            let name = MemberName::from(settings.name.as_str());
            let (store, dcs) = dcs_consul::open(config, timing, clock, opening.path(), &settings.scope, name);
            return Ok(Opened { dcs, access: Access::new(settings, Open(store)) });
        }
        let store = Arc::new(dcs_consul::Consul::new(config, timing, clock));
        Ok(opening.opened(Arc::clone(&store) as _, Open(store)))
    }
}

#[derive(Debug)]
struct Open(Arc<dcs_consul::Consul>);

#[async_trait]
impl Reload for Open {
    async fn follow(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        self.0.set_access(&config(settings)?).await.map_err(|error| failed(settings, &error))
    }
}
