//! The `bootstrap` section.

use ha_engine::settings::{BootstrapMethod, BootstrapSettings, values};
use serde_json::Value;

use super::error::KeyError;
use super::postgresql::settings_of;
use super::section::Section;

/// Reads the section `bootstrap` of `root`. Nothing without one: such a node never initialises a cluster.
pub(super) fn read(root: &Section<'_>) -> Result<Option<BootstrapSettings>, KeyError> {
    if !root.map().contains_key("bootstrap") {
        return Ok(None);
    }
    let Some(section) = root.section("bootstrap")? else { return Ok(Some(BootstrapSettings::default())) };
    let post_bootstrap = match section.command("post_bootstrap")? {
        Some(command) => Some(command),
        None => section.command("post_init")?,
    };
    Ok(Some(BootstrapSettings {
        dcs: section.section("dcs")?.map(|dcs| dcs.map().clone()).unwrap_or_default(),
        method: method(&section)?,
        initdb: section.get("initdb").cloned().unwrap_or(Value::Null),
        pg_hba: section.texts("pg_hba")?.unwrap_or_default(),
        post_bootstrap,
    }))
}

/// A method without a section, or whose section has no command, means `initdb`.
fn method(section: &Section<'_>) -> Result<BootstrapMethod, KeyError> {
    let Some(name) = section.text("method")?.filter(|name| name != "initdb") else {
        return Ok(BootstrapMethod::Initdb);
    };
    let Some(options) = section.get(&name).filter(|value| value.is_object()).and(section.section(&name)?) else {
        return Ok(BootstrapMethod::Initdb);
    };
    let Some(command) = options.command("command")? else { return Ok(BootstrapMethod::Initdb) };
    let own = ["command", "no_params", "keep_existing_recovery_conf", "recovery_conf", "scope", "datadir"];
    let parameters = options
        .map()
        .iter()
        .filter(|(key, _)| !own.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), values::text(value)))
        .collect();
    Ok(BootstrapMethod::Custom {
        name,
        command,
        no_params: options.switch("no_params"),
        keep_existing_recovery_conf: options.switch("keep_existing_recovery_conf"),
        recovery_conf: options.section("recovery_conf")?.map(|settings| settings_of(settings.map())),
        parameters,
    })
}

/// The note about a setting that has no effect any more.
pub(super) const USERS_NOTE: &str = "User creation is not be supported starting from v4.0.0. Please use \
                                     \"bootstrap.post_bootstrap\" script to create users.";
