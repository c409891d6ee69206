//! From configuration to a store: one `match`, one cargo feature each.

use std::sync::Arc;

use dcs_core::{Clock, Dcs, Timing};

use crate::config::{KeyError, StoreSettings};

/// The sections that this build can use.
pub fn available() -> Vec<&'static str> {
    let mut names = Vec::new();
    if cfg!(feature = "etcd") {
        names.push("etcd3");
    }
    names
}

/// Checks that [`open`] would know what to do, without opening anything.
///
/// # Errors
///
/// The section names a store that is not built in, or has an unusable value.
pub fn check(settings: &StoreSettings) -> Result<(), KeyError> {
    match settings.section {
        "etcd3" if cfg!(feature = "etcd") => Ok(()),
        other => Err(refusal(settings, other)),
    }
}

/// Opens the configured store.
///
/// # Errors
///
/// The section names a store that is not built in, or has an unusable value.
pub fn open(settings: &StoreSettings, timing: Timing, clock: Arc<dyn Clock>) -> Result<Arc<dyn Dcs>, KeyError> {
    check(settings)?;
    if !settings.ignored.is_empty() {
        tracing::warn!("Several stores are configured; `{}` is used, and `{}` not", settings.section, settings.ignored.join("`, `"));
    }
    let _ = (timing, clock);
    Err(refusal(settings, settings.section))
}

/// Why a section cannot be used.
fn refusal(settings: &StoreSettings, section: &str) -> KeyError {
    if section == "etcd" {
        return settings.error(
            "`etcd:` is the etcd v2 API, which this version does not have",
            "if your servers are etcd 3.4 or newer, rename the section to `etcd3:`. The two APIs do not see each \
             other's keys: do it on all nodes of the cluster at once",
        );
    }
    let available = available().join(", ");
    settings.error(format!("the store `{section}` is not built into this version yet"), format!("configure one of: {available}"))
}
