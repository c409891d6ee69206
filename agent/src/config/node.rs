//! From the local configuration and the dynamic document to [`EffectiveSettings`].

use std::path::PathBuf;

use dcs_core::model::MemberName;
use ha_engine::settings::{EffectiveSettings, GlobalConfig, LeaseGuardMode, UnusableDocument};
use serde_json::{Map, Value};

use super::error::{ConfigError, KeyError, KeyPlace};
use super::local::LocalConfig;
use super::rest_api::RestApiSettings;
use super::section::Section;
use super::{bootstrap, merge, postgresql, tags, watchdog};

/// The settings of this node under `dynamic`, and what was adjusted or refused on the way.
pub(super) fn effective(local: &LocalConfig, dynamic: &Map<String, Value>) -> Result<(EffectiveSettings, Vec<String>), ConfigError> {
    let (mut global, mut warnings) = GlobalConfig::from_document(dynamic).map_err(unusable)?;
    let merged = merge::effective(dynamic, local.tree()).map_err(|error| local.located(error))?;
    warnings.extend(merged.warnings);
    let root = Section::root(&merged.tree, local.places());
    check_citus(&root)?;
    if let Some(guard) = lease_guard(&root)? {
        global.lease_guard = guard;
    }
    if let Some(directory) = keep_divergent_wal(&root)? {
        global.keep_divergent_wal = Some(directory);
    }
    let scope = root.required_text("scope")?;
    let (rest_api, _) = RestApiSettings::read(&root)?;
    let postgresql = postgresql::read(&root, &scope, global.standby_cluster.as_ref())?;
    let (watchdog, doubt) = watchdog::read(&root)?;
    warnings.extend(doubt);
    let settings = EffectiveSettings {
        global,
        name: MemberName::from(root.required_text("name")?),
        tags: tags::published(root.section("tags")?.map(|tags| tags.map().clone()).as_ref().unwrap_or(&Map::new())),
        api_url: rest_api.api_url(),
        bootstrap: bootstrap::read(&root)?,
        postgresql,
        watchdog,
        scope,
    };
    Ok((settings, warnings))
}

/// Everything that keeps an agent from starting with this configuration, as far as one problem does not hide another.
pub(super) fn problems(local: &LocalConfig) -> Vec<ConfigError> {
    let merged = match merge::effective(&Map::new(), local.tree()) {
        Ok(merged) => merged,
        Err(error) => return vec![local.located(error).into()],
    };
    let root = Section::root(&merged.tree, local.places());
    let scope = root.required_text("scope");
    // A missing name of the cluster must not hide what is wrong with the server.
    let postgresql = postgresql::read(&root, scope.as_deref().unwrap_or_default(), None).err();
    let of_keys = [
        scope.err(),
        root.required_text("name").err(),
        check_citus(&root).err(),
        lease_guard(&root).err(),
        keep_divergent_wal(&root).err(),
        RestApiSettings::read(&root).err(),
        bootstrap::read(&root).err(),
        postgresql,
        watchdog::check(&root).err(),
    ];
    let store = local.store().and_then(|store| Ok(crate::stores::check(&store)?));
    let others = [local.log().err(), local.ctl().err(), store.err()];
    of_keys.into_iter().flatten().map(ConfigError::from).chain(others.into_iter().flatten()).collect()
}

fn check_citus(root: &Section<'_>) -> Result<(), KeyError> {
    if !root.map().contains_key("citus") {
        return Ok(());
    }
    Err(root.error(
        "citus",
        "`citus` is not supported by this version".to_owned(),
        Some("remove the section `citus:`; this node cannot take part in a Citus cluster".to_owned()),
    ))
}

fn lease_guard(root: &Section<'_>) -> Result<Option<LeaseGuardMode>, KeyError> {
    let Some(guard) = root.section("quorate")?.and_then(|section| section.get("lease_guard").cloned()) else { return Ok(None) };
    let mode = LeaseGuardMode::parse(&guard);
    mode.map(Some).ok_or_else(|| root.error("quorate.lease_guard", "`quorate.lease_guard` must be automatic, off or on".to_owned(), None))
}

fn keep_divergent_wal(root: &Section<'_>) -> Result<Option<PathBuf>, KeyError> {
    let Some(directory) = root.section("quorate")?.and_then(|section| section.get("keep_divergent_wal").cloned()) else { return Ok(None) };
    match directory.as_str().map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(path) => Ok(Some(path)),
        None => Err(root.error(
            "quorate.keep_divergent_wal",
            "`quorate.keep_divergent_wal` must be the absolute path of a directory".to_owned(),
            Some("choose one outside the data directory, with room for the WAL of a failover".to_owned()),
        )),
    }
}

/// What an operator should know about the local configuration at start and after a reload: contradictions, settings
/// without effect, parts that this version does not have.
pub(super) fn remarks(local: &LocalConfig) -> Vec<(tracing::Level, String)> {
    let mut remarks = Vec::new();
    if let Some(Value::Object(configured)) = local.tree().get("tags") {
        remarks.extend(tags::contradictions(configured).into_iter().map(|line| (tracing::Level::WARN, line)));
    }
    if local.tree().get("bootstrap").and_then(|section| section.get("users")).is_some() {
        remarks.push((tracing::Level::ERROR, bootstrap::USERS_NOTE.to_owned()));
    }
    for key in ["ttl", "loop_wait", "retry_timeout", "standby_cluster"] {
        if let Some(place) = local.places().exact(key) {
            remarks.push((
                tracing::Level::INFO,
                format!("{place}: `{key}` has no effect here; it is set for the whole cluster, with `quoratectl edit-config`"),
            ));
        }
    }
    remarks
}

/// Refuses what this node cannot do and must not ignore.
pub(super) fn check_watchdog(local: &LocalConfig) -> Result<(), KeyError> {
    watchdog::check(&local.root())
}

fn unusable(error: UnusableDocument) -> KeyError {
    KeyError { problem: error.to_string(), key: error.key, place: KeyPlace::Dynamic, hint: None }
}

#[cfg(test)]
mod tests;
