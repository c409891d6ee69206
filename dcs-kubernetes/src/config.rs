//! The options of the `kubernetes:` section.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `labels` | none; needed | what selects the objects of this cluster; put on every object that is created |
//! | `scope_label` | `cluster-name` | the label that holds the scope |
//! | `namespace` | `default` | the namespace of objects and pods |
//! | `use_endpoints` | `false` | Endpoints instead of ConfigMaps |
//! | `role_label` | `role` | the pods' label that says their role |
//! | `leader_label_value` | `primary` | its value on the leader |
//! | `standby_leader_label_value` | `primary` | its value on the leader of a standby cluster |
//! | `follower_label_value` | `replica` | its value on a running replica |
//! | `tmp_role_label` | none | a second label with the plain role |
//! | `bootstrap_labels` | none | labels of a pod while it initializes or copies a data directory |
//! | `pod_ip` | the pod's own | the leader's address in the Endpoints |
//! | `ports` | `[{port: 5432}]` | the ports in the Endpoints |
//! | `bypass_api_service` | `false` | agents talk to the API servers themselves |
//! | `cacert` | that of the pod, or of the kubeconfig | whom to trust |
//! | `retriable_http_codes` | none | answers that are worth another try, beside those that always are |
//! | `context` | `kind-kind` | which context of the kubeconfig |
//!
//! Values from the environment are text: numbers and truth values are read from text too.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dcs_core::options::{OptionError, Options};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::STORE;

/// Where a pod finds who it is.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How objects are called and marked, and how the API is reached. Holds no secrets: those are in files that it names.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) namespace: String,
    /// Without that of the scope.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) scope_label: String,
    pub(crate) use_endpoints: bool,
    pub(crate) pods: PodLabels,
    pub(crate) pod_ip: Option<String>,
    pub(crate) ports: Vec<Port>,
    pub(crate) bypass: bool,
    pub(crate) retriable: Vec<u16>,
    pub(crate) access: Access,
}

/// How the API is reached. This part of a [`Config`] can be exchanged while the store is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) cacert: Option<PathBuf>,
    pub(crate) context: String,
    /// What a pod sees there; its server is in the environment unless it is given.
    pub(crate) service_account: PathBuf,
    pub(crate) in_pod: Option<(String, u16)>,
    /// The kubeconfig to use wherever it is; from the environment if absent.
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// How pods say their role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodLabels {
    pub(crate) role: String,
    pub(crate) leader: String,
    pub(crate) standby_leader: String,
    pub(crate) follower: String,
    pub(crate) tmp_role: Option<String>,
    pub(crate) bootstrap: BTreeMap<String, String>,
}

/// A port in the Endpoints of the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Port {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<String>,
}

impl Config {
    /// Reads the section. Unknown options are left to whoever reads the file; nothing is looked up or opened.
    ///
    /// # Errors
    ///
    /// An option has a wrong form, or there are no `labels`.
    ///
    /// # Example
    ///
    /// ```
    /// let section = serde_json::json!({"labels": {"application": "patroni"}, "use_endpoints": true, "ports": [{"name": "postgresql", "port": 5432}]});
    /// dcs_kubernetes::Config::from_section(section.as_object().unwrap())?;
    /// # Ok::<(), dcs_core::options::OptionError>(())
    /// ```
    pub fn from_section(section: &Map<String, Value>) -> Result<Self, OptionError> {
        let section = Section(Options::new(STORE, section));
        let labels = section.texts_by_name("labels")?;
        if labels.is_empty() {
            return Err(section.0.error("labels", "there are none; name those that all objects of this cluster have, as `name: value`"));
        }
        let or = |key, default: &str| Ok(section.0.text(key)?.unwrap_or_else(|| default.to_owned()));
        Ok(Self {
            namespace: or("namespace", "default")?,
            labels,
            scope_label: or("scope_label", "cluster-name")?,
            use_endpoints: section.0.truth("use_endpoints")?.unwrap_or(false),
            pods: PodLabels {
                role: or("role_label", "role")?,
                leader: or("leader_label_value", "primary")?,
                standby_leader: or("standby_leader_label_value", "primary")?,
                follower: or("follower_label_value", "replica")?,
                tmp_role: section.0.text("tmp_role_label")?,
                bootstrap: section.texts_by_name("bootstrap_labels")?,
            },
            pod_ip: section.0.text("pod_ip")?,
            ports: section.ports()?,
            bypass: section.0.truth("bypass_api_service")?.unwrap_or(false),
            retriable: section.codes()?,
            access: Access {
                cacert: section.0.text("cacert")?.map(PathBuf::from),
                context: or("context", "kind-kind")?,
                service_account: PathBuf::from(SERVICE_ACCOUNT),
                in_pod: None,
                kubeconfig: None,
            },
        })
    }

    /// The same for a pod whose credentials are in `service_account` (`token`, `ca.crt`) and whose API server is at `host` and
    /// `port`, whatever the environment says.
    #[must_use]
    pub fn in_pod(mut self, service_account: impl Into<PathBuf>, host: &str, port: u16) -> Self {
        self.access.service_account = service_account.into();
        self.access.in_pod = Some((host.to_owned(), port));
        self
    }

    /// The same with this kubeconfig, whatever the environment says.
    #[must_use]
    pub fn with_kubeconfig(mut self, path: impl Into<PathBuf>) -> Self {
        self.access.kubeconfig = Some(path.into());
        self
    }
}

/// What only this section has.
struct Section<'a>(Options<'a>);

impl Section<'_> {
    /// A mapping of texts. Numbers and truth values are labels too, as they are written.
    fn texts_by_name(&self, key: &'static str) -> Result<BTreeMap<String, String>, OptionError> {
        let wrong = || self.0.error(key, "it must be a mapping of names to texts");
        let mapping = match self.0.value(key) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(mapping)) => mapping.clone(),
            // As the environment has it: `{a: b}`, with or without the braces.
            Some(Value::String(text)) => pairs(text).ok_or_else(wrong)?,
            Some(_) => return Err(wrong()),
        };
        let text = |value: Value| match value {
            Value::String(text) => Some(text),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        };
        mapping.into_iter().map(|(name, value)| Ok((name, text(value).ok_or_else(wrong)?))).collect()
    }

    fn ports(&self) -> Result<Vec<Port>, OptionError> {
        let wrong = |what: &str| self.0.error("ports", format!("{what}; write a list of `{{name: postgresql, port: 5432}}`"));
        let parsed;
        let list = match self.0.value("ports") {
            None => return Ok(vec![Port { port: 5432, ..Port::default() }]),
            Some(Value::Array(list)) => list,
            Some(Value::String(text)) => {
                parsed = serde_json::from_str::<Vec<Value>>(text).map_err(|_| wrong("it is no list"))?;
                &parsed
            }
            Some(_) => return Err(wrong("it is no list")),
        };
        let one = |port: &Value| {
            let port = port.as_object().ok_or_else(|| wrong("an element is no mapping"))?;
            let text = |key| port.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
            let number = match port.get("port") {
                None | Some(Value::Null) => Some(5432),
                Some(Value::String(text)) => text.trim().parse().ok(),
                Some(number) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
            };
            let number = number.filter(|number| *number > 0).ok_or_else(|| wrong("a port is no number from 1 to 65535"))?;
            Ok(Port { name: text("name"), port: number, protocol: text("protocol") })
        };
        list.iter().map(one).collect()
    }

    fn codes(&self) -> Result<Vec<u16>, OptionError> {
        let key = "retriable_http_codes";
        let texts: Vec<String> = match self.0.value(key) {
            None => Vec::new(),
            Some(Value::Array(list)) => list.iter().map(|code| code.as_str().map_or_else(|| code.to_string(), str::to_owned)).collect(),
            Some(Value::String(text)) => text.split(',').map(str::to_owned).collect(),
            Some(other) => vec![other.to_string()],
        };
        let code = |text: &str| text.trim().parse().ok().filter(|code| (100..600).contains(code));
        texts.iter().map(|text| code(text).ok_or_else(|| self.0.error(key, format!("`{text}` is not an HTTP status code")))).collect()
    }
}

/// `a: b, c: d`, with or without braces around it.
fn pairs(text: &str) -> Option<Map<String, Value>> {
    if let Ok(Value::Object(object)) = serde_json::from_str(text) {
        return Some(object);
    }
    let text = text.trim();
    let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
    let unquoted = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
    let pair = |pair: &str| pair.split_once(':').map(|(name, value)| (unquoted(name), Value::String(unquoted(value))));
    text.split(',').filter(|pair| !pair.trim().is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(section: Value) -> Result<Config, OptionError> {
        Config::from_section(section.as_object().unwrap())
    }

    fn with(key: &str, value: Value) -> Result<Config, OptionError> {
        let mut section = json!({"labels": {"application": "patroni"}});
        section[key] = value;
        read(section)
    }

    #[test]
    fn what_is_not_set_is_as_in_existing_clusters() {
        let config = read(json!({"labels": {"application": "patroni"}})).unwrap();
        assert_eq!((config.namespace.as_str(), config.scope_label.as_str()), ("default", "cluster-name"));
        assert!(!config.use_endpoints && !config.bypass);
        let PodLabels { role, leader, standby_leader, follower, tmp_role, bootstrap } = config.pods;
        assert_eq!([role, leader, standby_leader, follower], ["role", "primary", "primary", "replica"]);
        assert!(tmp_role.is_none() && bootstrap.is_empty());
        assert_eq!(config.ports, [Port { port: 5432, ..Port::default() }]);
        assert_eq!(config.access.context, "kind-kind");
        assert!(config.retriable.is_empty());
    }

    #[test]
    fn labels_may_be_a_mapping_or_text() {
        let expected = BTreeMap::from([("a".to_owned(), "b".to_owned()), ("c".to_owned(), "1".to_owned())]);
        for labels in [json!({"a": "b", "c": 1}), json!("{a: b, c: 1}"), json!("a: b, c: '1'"), json!(r#"{"a":"b","c":"1"}"#)] {
            assert_eq!(read(json!({"labels": labels})).unwrap().labels, expected, "{labels}");
        }
    }

    #[test]
    fn codes_may_be_a_number_a_list_or_text() {
        for codes in [json!([403, "502"]), json!("403, 502"), json!(["403", 502])] {
            assert_eq!(with("retriable_http_codes", codes).unwrap().retriable, [403, 502]);
        }
        assert_eq!(with("retriable_http_codes", json!(502)).unwrap().retriable, [502]);
    }

    #[test]
    fn ports_have_names_and_protocols() {
        let ports = with("ports", json!([{"name": "postgresql", "port": "5433", "protocol": "TCP"}, {}])).unwrap().ports;
        let full = Port { name: Some("postgresql".to_owned()), port: 5433, protocol: Some("TCP".to_owned()) };
        assert_eq!(ports, [full, Port { port: 5432, ..Port::default() }]);
        assert_eq!(with("ports", json!(r#"[{"port":1}]"#)).unwrap().ports[0].port, 1);
    }

    #[test]
    fn every_complaint_names_its_key() {
        let none = "`kubernetes.labels`: there are none; name those that all objects of this cluster have, as `name: value`";
        assert_eq!(read(json!({})).unwrap_err().to_string(), none);
        assert_eq!(read(json!({"labels": {}})).unwrap_err().to_string(), none);
        let cases = [
            ("labels", json!([1]), "`kubernetes.labels`: it must be a mapping of names to texts"),
            ("labels", json!({"a": []}), "`kubernetes.labels`: it must be a mapping of names to texts"),
            ("bootstrap_labels", json!("x"), "`kubernetes.bootstrap_labels`: it must be a mapping of names to texts"),
            ("use_endpoints", json!("maybe"), "`kubernetes.use_endpoints`: `maybe` is neither true nor false"),
            ("retriable_http_codes", json!("x"), "`kubernetes.retriable_http_codes`: `x` is not an HTTP status code"),
            ("retriable_http_codes", json!(7), "`kubernetes.retriable_http_codes`: `7` is not an HTTP status code"),
            ("ports", json!(5432), "`kubernetes.ports`: it is no list; write a list of `{name: postgresql, port: 5432}`"),
            (
                "ports",
                json!([{"port": 0}]),
                "`kubernetes.ports`: a port is no number from 1 to 65535; write a list of `{name: postgresql, port: 5432}`",
            ),
        ];
        for (key, value, expected) in cases {
            assert_eq!(with(key, value).unwrap_err().to_string(), expected);
        }
    }
}
