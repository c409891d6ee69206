//! Paths of the API, and bodies for them.

use std::collections::BTreeMap;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use crate::cache::Kind;
use crate::config::Config;
use crate::object::Annotations;

/// The label that tells the groups of a Citus cluster apart.
const GROUP_LABEL: &str = "citus-group";

/// What may stand in a path or a query as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Where things are, and what every object has.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) namespace: String,
    pub(crate) use_endpoints: bool,
    /// On every object that is created.
    labels: BTreeMap<String, String>,
    /// Escaped.
    selector: String,
}

impl Paths {
    pub(crate) fn new(config: &Config, scope: &str, group: Option<u32>) -> Self {
        let mut labels = config.labels.clone();
        labels.insert(config.scope_label.clone(), scope.to_owned());
        if let Some(group) = group {
            labels.insert(GROUP_LABEL.to_owned(), group.to_string());
        }
        let selector = labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
        Self { namespace: config.namespace.clone(), use_endpoints: config.use_endpoints, selector: escaped(&selector), labels }
    }

    fn collection(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/{name}", escaped(&self.namespace))
    }

    /// Where objects are created.
    pub(crate) fn objects(&self) -> String {
        self.collection(if self.use_endpoints { "endpoints" } else { "configmaps" })
    }

    pub(crate) fn object(&self, name: &str) -> String {
        format!("{}/{}", self.objects(), escaped(name))
    }

    pub(crate) fn pod(&self, name: &str) -> String {
        format!("{}/{}", self.collection("pods"), escaped(name))
    }

    /// Where Services are created.
    pub(crate) fn services(&self) -> String {
        self.collection("services")
    }

    /// What belongs to this cluster.
    pub(crate) fn list(&self, kind: Kind) -> String {
        let collection = match kind {
            Kind::Objects => self.objects(),
            Kind::Pods => self.collection("pods"),
        };
        format!("{collection}?labelSelector={}", self.selector)
    }

    /// The object `name`, or what shall change about it.
    pub(crate) fn body(&self, name: &str, annotations: &Annotations, version: Option<&str>, more: Option<(&str, Value)>) -> Bytes {
        let annotations: Map<String, Value> =
            annotations.iter().map(|(name, value)| ((*name).to_owned(), value.clone().map_or(Value::Null, Value::String))).collect();
        let mut body = json!({"metadata": {"namespace": self.namespace, "name": name, "labels": self.labels, "annotations": annotations}});
        if let Some(version) = version {
            body["metadata"]["resourceVersion"] = version.into();
        }
        if let Some((key, value)) = more {
            body[key] = value;
        }
        Bytes::from(body.to_string())
    }

    /// A Service without addresses of its own, nor a selector: nobody but the agents touches its Endpoints.
    pub(crate) fn service(&self, name: &str) -> Bytes {
        let metadata = json!({"namespace": self.namespace, "name": name, "labels": self.labels});
        Bytes::from(json!({"metadata": metadata, "spec": {"clusterIP": "None"}}).to_string())
    }
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(section: Value, group: Option<u32>) -> Paths {
        Paths::new(&Config::from_section(section.as_object().unwrap()).unwrap(), "demo", group)
    }

    #[test]
    fn objects_are_selected_by_all_labels() {
        let paths = paths(json!({"labels": {"application": "patroni", "a/b": "c"}, "namespace": "pg", "use_endpoints": true}), None);
        let list = "/api/v1/namespaces/pg/endpoints?labelSelector=a%2Fb%3Dc%2Capplication%3Dpatroni%2Ccluster-name%3Ddemo";
        assert_eq!(paths.list(Kind::Objects), list);
        assert!(paths.list(Kind::Pods).starts_with("/api/v1/namespaces/pg/pods?labelSelector="));
    }

    #[test]
    fn a_group_is_a_label_as_well() {
        let paths = paths(json!({"labels": {"application": "patroni"}, "scope_label": "cluster"}), Some(1));
        assert_eq!(paths.object("demo-1-sync"), "/api/v1/namespaces/default/configmaps/demo-1-sync");
        let body: Value = serde_json::from_slice(&paths.body("x", &vec![("leader", None)], Some("5"), None)).unwrap();
        let labels = json!({"application": "patroni", "cluster": "demo", "citus-group": "1"});
        assert_eq!(body["metadata"]["labels"], labels);
        assert_eq!(body["metadata"]["annotations"], json!({"leader": null}));
        assert_eq!(body["metadata"]["resourceVersion"], "5");
    }
}
