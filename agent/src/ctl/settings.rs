//! What the tool needs of the configuration, and where that is found.

mod url;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::{ConfigError, Environment, LocalConfig, STORES};

use super::arguments::Global;
use super::failure::Failure;

/// The bound of one retried store operation if none is configured.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);

/// What commands want to know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The default cluster.
    pub scope: Option<String>,
    /// Whether there is a `citus` section.
    pub citus: bool,
    /// The configured group.
    pub citus_group: Option<u32>,
    /// `retry_timeout`.
    pub retry_timeout: Duration,
    /// The configured store and its servers, for messages.
    pub servers: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { scope: None, citus: false, citus_group: None, retry_timeout: RETRY_TIMEOUT, servers: String::new() }
    }
}

impl Settings {
    /// Reads what is needed. Anything else in the configuration may be as wrong as it likes.
    pub fn of(config: &LocalConfig) -> Self {
        let tree = config.tree();
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let citus = tree.get("citus").and_then(Value::as_object);
        let group = citus.and_then(|citus| text(citus.get("group")?)?.parse().ok());
        let retry_timeout = tree.get("retry_timeout").and_then(|value| text(value)?.parse().ok());
        Self {
            scope: tree.get("scope").and_then(text).filter(|scope| !scope.is_empty()),
            citus: citus.is_some(),
            citus_group: group,
            retry_timeout: retry_timeout.map_or(RETRY_TIMEOUT, |seconds: u64| Duration::from_secs(seconds.max(1))),
            servers: servers(tree),
        }
    }

    /// How long one store operation may take.
    pub fn patience(&self) -> Duration {
        self.retry_timeout * 2
    }
}

/// The store and its servers as they were configured.
fn servers(tree: &Map<String, Value>) -> String {
    let Some((name, section)) = STORES.iter().find_map(|name| Some((name, tree.get(*name)?))) else {
        return "no store is configured".to_owned();
    };
    let address = ["hosts", "host", "url", "proxy", "srv"].iter().find_map(|key| section.get(*key));
    match address {
        Some(Value::Array(hosts)) => {
            let hosts: Vec<_> = hosts.iter().filter_map(Value::as_str).collect();
            format!("{name} at {}", hosts.join(", "))
        }
        Some(Value::String(host)) => format!("{name} at {host}"),
        _ => (*name).to_owned(),
    }
}

/// Finds and loads the configuration, with the store of `-d` in the place of the configured one.
///
/// # Errors
///
/// A named file is not there, a file cannot be read, or the store's URL means nothing.
pub fn load(global: &Global, environment: Environment) -> Result<LocalConfig, Failure> {
    let path = match &global.config_file {
        Some(path) if is_readable(path) => Some(path.clone()),
        Some(path) => {
            return Err(Failure::error(format!(
                "Provided config file {} not existing or no read rights. Check the -c/--config-file parameter",
                path.display()
            )));
        }
        None => usual_files().into_iter().find(|path| is_readable(path)),
    };
    match &path {
        Some(path) => tracing::debug!("Loading configuration from file {}", path.display()),
        None => tracing::debug!("There is no configuration file; using the environment"),
    }
    let config = LocalConfig::load_unchecked(path.as_deref(), environment).map_err(|error| unusable(&error))?;
    match global.dcs_url.as_deref().map(url::parse).transpose()? {
        Some(store) => Ok(config.changed(|tree| store.put_into(tree))),
        None => Ok(config),
    }
}

/// The failure for a configuration that cannot be used. That no store is configured at all has two lines of its own.
pub fn unusable(error: &ConfigError) -> Failure {
    match error {
        ConfigError::Key(error) if error.key.is_empty() => Failure::error(error.problem.clone()),
        error => Failure::error(error.to_string()),
    }
}

fn is_readable(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => fs::read_dir(path).is_ok(),
        Ok(_) => fs::File::open(path).is_ok(),
        Err(_) => false,
    }
}

/// Where a configuration is looked for if none is named: ours, then that of Patroni's tool.
fn usual_files() -> Vec<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME");
    let directory = if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Application Support"))
    } else {
        set("XDG_CONFIG_HOME").or_else(|| home().map(|home| home.join(".config")))
    };
    let names = ["quorate/quoratectl.yaml", "patroni/patronictl.yaml"];
    directory.map(|directory| names.map(|name| directory.join(name)).to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
