//! Recovery settings: what a standby should follow, what it follows now, and how much has to be done about the difference.
//!
//! ```text
//!   FollowPlan ──for_plan──► Recovery ──render──► postgresql.conf, signal file
//!                               │
//!   pg_settings ─► Current ─────┴──diff──► nothing | reload | restart
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::ports::{FollowPlan, RecoveryDiff};
use crate::settings::PostgresSettings;

use super::conninfo::ConnInfo;
use super::files::Paths;
use super::gucs::{self, Checked};
use super::parameters::{self, Validated};
use super::reload::SettingRow;
use super::value;

/// Recovery settings as they are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovery {
    /// Whether the server is to stay a standby; otherwise recovery ends by itself.
    pub(crate) standby: bool,
    /// Where to stream from, with the password.
    pub(crate) primary_conninfo: Option<ConnInfo>,
    /// All other settings, by name in lower case.
    pub(crate) settings: BTreeMap<String, String>,
}

/// Targets are set to nothing, so that a leftover in an included file does not pause or promote a standby.
const TARGETS: [&str; 5] =
    ["recovery_target", "recovery_target_name", "recovery_target_time", "recovery_target_xid", "recovery_target_lsn"];

impl Recovery {
    /// The settings of the member `name` that follows `plan`. `recovery_conf` is what the operator configured
    /// (`Assembled::recovery_conf`).
    pub(crate) fn for_plan(
        plan: &FollowPlan,
        settings: &PostgresSettings,
        recovery_conf: &BTreeMap<String, String>,
        name: &str,
        major: u32,
    ) -> Self {
        let ours =
            |name: &str| name.starts_with("recovery_target") || matches!(name, "primary_conninfo" | "primary_slot_name" | "standby_mode");
        let mut wanted: BTreeMap<String, String> =
            recovery_conf.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).filter(|(name, _)| !ours(name)).collect();
        wanted.insert("recovery_target_timeline".to_owned(), "latest".to_owned());
        wanted.extend(TARGETS.map(|name| (name.to_owned(), String::new())));
        let primary_conninfo = plan.upstream.as_ref().map(|upstream| ConnInfo::primary(settings, upstream, name, major));
        if let Some(slot) = plan.slot.as_ref().filter(|_| primary_conninfo.is_some()) {
            wanted.insert("primary_slot_name".to_owned(), slot.clone());
        }
        wanted.extend(plan.overrides.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())));
        Self { standby: true, primary_conninfo, settings: wanted }
    }

    /// The settings that a custom bootstrap configures for its first start.
    pub(crate) fn from_recovery_conf(recovery_conf: &BTreeMap<String, String>) -> Self {
        let mut settings: BTreeMap<String, String> =
            recovery_conf.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
        let standby = settings.remove("standby_mode").and_then(|word| value::bool_word(&word)) == Some(true);
        let primary_conninfo = settings.remove("primary_conninfo").and_then(|text| ConnInfo::parse(&text));
        Self { standby, primary_conninfo, settings }
    }

    /// The settings of an adopted standby, so that the next rewrite of its configuration keeps them. `rows` holds recovery
    /// parameters that are set in our file, on the command line or in the environment.
    pub(crate) fn adopted<'a>(rows: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let conf = rows.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let recovery = Self::from_recovery_conf(&conf);
        Self { standby: true, primary_conninfo: recovery.primary_conninfo.filter(|info| !info.is_empty()), ..recovery }
    }

    /// Whether recovery ends in a promotion. It could not get there as a hot standby if a parameter was raised on the
    /// former primary meanwhile, so it is started without.
    pub(crate) fn ends_in_promotion(&self) -> bool {
        let pause = self.settings.get("pause_at_recovery_target").and_then(|word| value::bool_word(word));
        match self.settings.get("recovery_target_action") {
            Some(action) => action.eq_ignore_ascii_case("promote"),
            None => pause == Some(false),
        }
    }

    /// The lines of `postgresql.conf` for `version`, sorted by name. With a password file, it is named instead of the
    /// password.
    pub(crate) fn render(&self, version: u32, described: &BTreeSet<String>, passfile: Option<&Path>) -> Validated {
        let mut settings = self.settings.clone();
        if let Some(conninfo) = &self.primary_conninfo {
            settings.insert("primary_conninfo".to_owned(), with_passfile(conninfo, passfile).format(version));
        }
        settings.remove("standby_mode");
        if let Some(pause) = settings.remove("pause_at_recovery_target").and_then(|word| value::bool_word(&word)) {
            let action = if pause { "pause" } else { "promote" };
            settings.entry("recovery_target_action".to_owned()).or_insert_with(|| action.to_owned());
        }
        let mut validated = Validated::default();
        for (name, value) in &settings {
            let checked = match gucs::recovery(version, name) {
                Some(guc) => guc.check(name, value),
                None if described.contains(name) => Checked::Kept,
                None => parameters::unexpected(name, value),
            };
            validated.push(name, value, checked);
        }
        validated
    }
}

fn with_passfile(conninfo: &ConnInfo, passfile: Option<&Path>) -> ConnInfo {
    match passfile.filter(|_| conninfo.get("password").is_some()) {
        Some(path) => conninfo.clone().with("passfile", path.to_string_lossy()),
        None => conninfo.clone(),
    }
}

/// The recovery parameters that are compared, for the query of the current values.
pub(crate) fn compared_names() -> Vec<String> {
    let not_compared = ["pause_at_recovery_target", "recovery_target_inclusive", "recovery_target_action", "standby_mode", "trigger_file"];
    let mut names: Vec<String> = gucs::recovery_names().filter(|name| !not_compared.contains(name)).map(str::to_owned).collect();
    names.sort_unstable();
    names
}

/// One recovery parameter of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CurrentSetting {
    value: String,
    /// A change needs a restart.
    restart: bool,
    /// It comes from `postgresql.conf` or `postgresql.auto.conf`.
    ours: bool,
}

/// Recovery settings as the server has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    settings: BTreeMap<String, CurrentSetting>,
    primary_conninfo: ConnInfo,
}

/// The server's `primary_conninfo` is not a connection string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unparsable;

impl Current {
    /// What `pg_settings` says about the compared parameters.
    ///
    /// # Errors
    ///
    /// `primary_conninfo` is set to something that cannot be read.
    pub(crate) fn from_rows(rows: &[SettingRow], paths: &Paths) -> Result<Self, Unparsable> {
        let files = [&paths.postgresql_conf, &paths.auto_conf];
        let ours = |row: &SettingRow| row.sourcefile.as_ref().is_some_and(|source| files.iter().any(|file| Path::new(source) == *file));
        let mut settings: BTreeMap<String, CurrentSetting> = rows
            .iter()
            .map(|row| {
                let setting = CurrentSetting { value: row.setting.clone(), restart: row.context == "postmaster", ours: ours(row) };
                (row.name.to_ascii_lowercase(), setting)
            })
            .collect();
        // The text may hold a password; only the parsed form is kept, which does not show it.
        let text = settings.get_mut("primary_conninfo").map(|setting| std::mem::take(&mut setting.value));
        let primary_conninfo = ConnInfo::parse(&text.unwrap_or_default()).ok_or(Unparsable)?;
        Ok(Self { settings, primary_conninfo })
    }

    /// What the server of `major` will say once it has read what was written for `recovery`.
    pub(crate) fn as_written(recovery: &Recovery, major: u32, passfile: Option<&Path>) -> Self {
        let settings = compared_names().into_iter().map(|name| {
            let written = recovery.settings.get(&name).and_then(|value| effective(major, &name, value));
            let value = match written {
                Some(value) => value,
                None if name == "recovery_min_apply_delay" => "0".to_owned(),
                None => String::new(),
            };
            let restart = gucs::recovery(major, &name).is_some_and(|guc| guc.postmaster);
            (name, CurrentSetting { value, restart, ours: true })
        });
        let conninfo = recovery.primary_conninfo.as_ref();
        Self { settings: settings.collect(), primary_conninfo: conninfo.map(|info| with_passfile(info, passfile)).unwrap_or_default() }
    }

    /// The password file that the server uses now: a change of it matters as much as one of the configuration.
    pub(crate) fn passfile(&self) -> Option<&str> {
        self.primary_conninfo.get("passfile").filter(|path| !path.is_empty())
    }
}

/// What the WAL receiver says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Receiver {
    /// Its slot.
    pub(crate) slot: Option<String>,
    /// Its connection string, with the password masked.
    pub(crate) conninfo: Option<String>,
}

/// Everything that the comparison looks at.
pub(crate) struct Comparison<'a, F> {
    /// What is wanted.
    pub(crate) wanted: &'a Recovery,
    /// What the server has, as last read; nothing if it was never read (it is starting since the agent began).
    pub(crate) current: Option<&'a Current>,
    /// The WAL receiver, if there is one and the server is not starting.
    pub(crate) receiver: Option<&'a Receiver>,
    /// The server's major version.
    pub(crate) major: u32,
    /// Whether this is the first look at an adopted server that runs: its configuration has to come under control.
    pub(crate) first_look: bool,
    /// Reads a password file.
    pub(crate) read_passfile: F,
}

/// How much has to be done so that the server has the wanted settings. That `standby.signal` is there is the caller's to see:
/// without it only a restart helps.
pub(crate) fn diff<F: Fn(&str) -> Option<String>>(comparison: &Comparison<'_, F>) -> RecoveryDiff {
    let mut needed = if comparison.first_look { RecoveryDiff::Reload } else { RecoveryDiff::None };
    let Some(current) = comparison.current else { return needed };
    let wanted = &comparison.wanted.settings;
    for (name, setting) in &current.settings {
        let equal = match name.as_str() {
            "primary_conninfo" => same_upstream(comparison, current),
            "primary_slot_name" if comparison.wanted.primary_conninfo.is_none() => true,
            "primary_slot_name" => running_slot(comparison, setting) == wanted.get(name).map_or("", String::as_str),
            _ if left_to_others(name, setting, wanted) => true,
            _ => same_setting(name, setting, wanted.get(name), comparison.major),
        };
        if !equal && setting.restart {
            return RecoveryDiff::Restart;
        }
        if !equal {
            needed = RecoveryDiff::Reload;
        }
    }
    needed
}

/// What included files set and we do not is nobody's mistake.
fn left_to_others(name: &str, setting: &CurrentSetting, wanted: &BTreeMap<String, String>) -> bool {
    let may_be = matches!(
        name,
        "archive_cleanup_command" | "promote_trigger_file" | "recovery_end_command" | "recovery_min_apply_delay" | "restore_command"
    );
    may_be && !setting.ours && !wanted.contains_key(name)
}

fn same_setting(name: &str, setting: &CurrentSetting, wanted: Option<&String>, major: u32) -> bool {
    let wanted = wanted.and_then(|value| effective(major, name, value));
    match name {
        "recovery_min_apply_delay" => value::configured_equal("integer", Some("ms"), &setting.value, wanted.as_deref().unwrap_or("0")),
        _ => setting.value == wanted.unwrap_or_default(),
    }
}

/// What is written for a configured value. One that is dropped, or cut to its range, must not look like a difference for
/// ever.
fn effective(major: u32, name: &str, value: &str) -> Option<String> {
    match gucs::recovery(major, name).map(|guc| guc.check(name, value)) {
        Some(Checked::Dropped(_)) => None,
        Some(Checked::Clamped { value, .. }) => Some(value),
        Some(Checked::Kept) | None => Some(value.to_owned()),
    }
}

/// The slot that is streamed from: that of the WAL receiver, if there is one.
fn running_slot<'a, F>(comparison: &Comparison<'a, F>, setting: &'a CurrentSetting) -> &'a str {
    match comparison.receiver {
        Some(Receiver { slot: Some(slot), .. }) if !slot.is_empty() => slot,
        Some(Receiver { conninfo: Some(conninfo), .. }) if !conninfo.is_empty() => "",
        _ => &setting.value,
    }
}

fn same_upstream<F: Fn(&str) -> Option<String>>(comparison: &Comparison<'_, F>, current: &Current) -> bool {
    let configured = &current.primary_conninfo;
    let Some(wanted) = comparison.wanted.primary_conninfo.as_ref().filter(|info| !info.is_empty()) else {
        return configured.is_empty();
    };
    if configured.is_empty() {
        return false;
    }
    // Up to 16 the database of a replication connection does not matter.
    let mut wanted = wanted.clone();
    if comparison.major < 170_000 {
        wanted = wanted.without("dbname");
    }
    let receiver = comparison.receiver.and_then(|receiver| receiver.conninfo.as_deref()).and_then(ConnInfo::parse);
    let mut running = match receiver.filter(|info| !info.is_empty()) {
        Some(receiver) => as_configured(receiver, configured),
        None => configured.clone(),
    };
    if let (Some(passfile), None, Some(password)) = (running.get("passfile"), running.get("password"), wanted.get("password")) {
        if !has_lines((comparison.read_passfile)(passfile), &wanted) {
            return false;
        }
        running = running.clone().with("password", password);
    }
    running.satisfies(&wanted)
}

/// A WAL receiver masks its password, and always says `replication` for its database.
fn as_configured(receiver: ConnInfo, configured: &ConnInfo) -> ConnInfo {
    let mut running = receiver.without("dbname").without("password");
    for keyword in ["dbname", "password"] {
        if let Some(value) = configured.get(keyword) {
            running.set(keyword, value);
        }
    }
    running
}

fn has_lines(content: Option<String>, wanted: &ConnInfo) -> bool {
    let Some(content) = content else { return false };
    let wanted = wanted.passfile_lines().unwrap_or_default();
    content.lines().collect::<BTreeSet<_>>() == wanted.lines().collect::<BTreeSet<_>>()
}

#[cfg(test)]
mod tests;
