//! The section `kubernetes`.

use std::sync::Arc;

use async_trait::async_trait;
use dcs_core::model::MemberName;
use dcs_kubernetes::{Config, Who};
use serde_json::{Map, Value};

use super::{Access, Factory, Opened, Opening, Reload, User, unusable};
use crate::config::{KeyError, StoreSettings};

pub(super) struct Kubernetes;

fn config(settings: &StoreSettings) -> Result<Config, KeyError> {
    Config::from_section(&options(settings)).map_err(|error| unusable(settings, &error))
}

/// The section. The namespace of all clusters, if one is given, is that of Kubernetes.
fn options(settings: &StoreSettings) -> Map<String, Value> {
    let mut options = settings.options.clone();
    if let Some(namespace) = &settings.namespace {
        options.insert("namespace".to_owned(), Value::String(namespace.clone()));
    }
    options
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, LocalConfig};

    fn namespace(top_level: &str) -> Value {
        let text = format!("{{scope: demo, name: n1, {top_level} kubernetes: {{labels: {{a: b}}, namespace: inner}}}}");
        let environment = Environment::read([("PATRONI_CONFIGURATION", text.as_str())]);
        let settings = LocalConfig::load(None, environment).expect("YAML").store().expect("a section of a store");
        options(&settings).remove("namespace").expect("a namespace")
    }

    #[test]
    fn a_namespace_at_the_top_takes_the_place_of_that_of_the_section() {
        assert_eq!(namespace(""), "inner");
        assert_eq!(namespace("namespace: outer,"), "outer");
    }
}
