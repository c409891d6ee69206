//! From configuration to a store: one `match`, one cargo feature each.

use std::sync::Arc;

use dcs_core::adapter::KeyValueDcs;
use dcs_core::keys::ClusterPath;
use dcs_core::model::MemberName;
use dcs_core::{Clock, Consistency, Dcs, KeyValueStore, Timing};

use crate::config::{ConfigError, KeyError, StoreSettings};

/// The sections that this build can use.
pub fn available() -> Vec<&'static str> {
    let mut names = Vec::new();
    if cfg!(feature = "etcd") {
        names.push("etcd3");
    }
    names
}

/// Opens the configured store. Nothing is sent yet.
///
/// # Errors
///
/// The section names a store that is not built in, or has an unusable value.
pub fn open(settings: &StoreSettings, timing: Timing, clock: Arc<dyn Clock>) -> Result<Arc<dyn Dcs>, ConfigError> {
    if !settings.ignored.is_empty() {
        tracing::warn!("Several stores are configured; `{}` is used, and `{}` not", settings.section, settings.ignored.join("`, `"));
    }
    let store: Arc<dyn KeyValueStore> = match settings.section {
        #[cfg(feature = "etcd")]
        "etcd3" => Arc::new(dcs_etcd::Etcd::new(etcd_config(settings)?, timing, Arc::clone(&clock))),
        _ => return Err(refusal(settings).into()),
    };
    let path = ClusterPath::new(settings.namespace.as_deref(), &settings.scope);
    let dcs = KeyValueDcs::new(store, clock, path, MemberName::from(settings.name.as_str()), timing);
    // A person asks once and wants the truth; an agent asks all the time, and confirms what matters by writing.
    let consistency = if settings.control_tool { Consistency::Linearizable } else { Consistency::Relaxed };
    Ok(Arc::new(dcs.with_consistency(consistency)))
}

/// Checks that [`open`] would know what to do, without opening anything.
///
/// # Errors
///
/// As for [`open`].
pub fn check(settings: &StoreSettings) -> Result<(), ConfigError> {
    match settings.section {
        #[cfg(feature = "etcd")]
        "etcd3" => Ok(etcd_config(settings).map(drop)?),
        _ => Err(refusal(settings).into()),
    }
}

#[cfg(feature = "etcd")]
fn etcd_config(settings: &StoreSettings) -> Result<dcs_etcd::Config, KeyError> {
    dcs_etcd::Config::from_section(&settings.options).map_err(|error| settings.key_error(error.key, error.to_string()))
}

/// Why the section cannot be used.
fn refusal(settings: &StoreSettings) -> KeyError {
    let section = settings.section;
    let (problem, hint) = if section == "etcd" {
        (
            "`etcd:` is the etcd v2 API, which this version does not have".to_owned(),
            "if your servers are etcd 3.4 or newer, rename the section to `etcd3:`. The two APIs do not see each other's keys: do it \
             on all nodes of the cluster at once"
                .to_owned(),
        )
    } else {
        let available = available().join(", ");
        (format!("the store `{section}` is not built into this version yet"), format!("configure one of: {available}"))
    };
    KeyError { hint: Some(hint), ..settings.key_error("", problem) }
}
