//! The section `kubernetes`.

use std::sync::Arc;

use async_trait::async_trait;
use dcs_core::model::MemberName;
use dcs_kubernetes::{Config, Who};
use serde_json::Value;

use super::{Access, Factory, Opened, Opening, Reload, User, unusable};
use crate::config::{KeyError, StoreSettings};

pub(super) struct Kubernetes;

fn config(settings: &StoreSettings) -> Result<Config, KeyError> {
    let mut options = settings.options.clone();
    // The namespace of all clusters, if one is given, is that of Kubernetes.
    if let Some(namespace) = &settings.namespace {
        options.insert("namespace".to_owned(), Value::String(namespace.clone()));
    }
    Config::from_section(&options).map_err(|error| unusable(settings, &error))
}

#[async_trait]
impl Factory for Kubernetes {
    fn check(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        config(settings).map(drop)
    }

    async fn open(&self, opening: Opening<'_>) -> Result<Opened, KeyError> {
        let Opening { settings, user, timing, clock } = opening;
        let (who, group) = match user {
            User::Agent => (Who::Agent, None),
            User::ControlTool { group } => (Who::ControlTool, group),
        };
        let name = MemberName::from(settings.name.as_str());
        let store = Arc::new(dcs_kubernetes::Kubernetes::new(config(settings)?, &settings.scope, group, name, timing, clock, who));
        Ok(Opened { dcs: Arc::clone(&store) as _, access: Access::new(settings, Open(store)) })
    }
}

#[derive(Debug)]
struct Open(Arc<dcs_kubernetes::Kubernetes>);

#[async_trait]
impl Reload for Open {
    async fn follow(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        self.0.set_access(&config(settings)?);
        Ok(())
    }
}
