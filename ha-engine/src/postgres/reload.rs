//! Taking changed parameters into use: what is different, what waits for a restart, what has to be written again.
//!
//! ```text
//!   names_to_query ──► pg_settings ──► plan ──► write, reload ──► pg_settings.pending_restart ──► after_reload
//! ```

use std::collections::{BTreeMap, BTreeSet};

use dcs_core::model::PendingRestart;

use crate::decide::observation::PendingRestarts;

use super::files::Paths;
use super::gucs;
use super::parameters::Parameters;
use super::report::Line;
use super::value::{bool_word, configured_equal, human, parse_int, parse_real, settings_equal};

/// One row of `pg_settings`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SettingRow {
    /// `name`
    pub(crate) name: String,
    /// `setting`: the value in base units.
    pub(crate) setting: String,
    /// `unit`
    pub(crate) unit: Option<String>,
    /// `vartype`
    pub(crate) vartype: String,
    /// `context`
    pub(crate) context: String,
    /// `sourcefile`
    pub(crate) sourcefile: Option<String>,
}

/// What the agent's own sessions set for themselves: `pg_settings` does not tell the server's value of these.
const SESSION: [&str; 3] = ["search_path", "statement_timeout", "pg_stat_statements.track"];

/// What the default of `wal_buffers` depends on.
const WAL_BUFFERS_DEPEND_ON: [&str; 3] = ["shared_buffers", "wal_segment_size", "wal_block_size"];

/// Whether changes of `name` are none of this module's business: recovery has its own comparison, and the command line
/// decides about `hot_standby`.
pub(crate) fn is_skipped(name: &str) -> bool {
    gucs::is_recovery(name) || name.eq_ignore_ascii_case("hot_standby")
}

/// The names, in lower case, that the query for rows with `pending_restart` leaves out.
pub(crate) fn skipped_names() -> Vec<String> {
    gucs::recovery_names().chain(["hot_standby"]).map(str::to_owned).collect()
}

/// The names, in lower case, whose rows of `pg_settings` [`plan`] needs; none if there is nothing to compare.
pub(crate) fn names_to_query(old: &Parameters, new: &Parameters) -> Vec<String> {
    let mut names: BTreeSet<String> = candidates(old, new).into_keys().collect();
    if names.contains("wal_buffers") {
        names.extend(WAL_BUFFERS_DEPEND_ON.map(str::to_owned));
    }
    names.into_iter().collect()
}

/// New parameters, and former ones that are gone; by name in lower case, with the name as written and the new value.
fn candidates(old: &Parameters, new: &Parameters) -> BTreeMap<String, (String, Option<String>)> {
    let kept = new.iter().map(|(name, value)| (name, Some(value.to_owned())));
    let gone = old.iter().filter(|(name, _)| !new.contains(name)).map(|(name, _)| (name, None));
    kept.chain(gone)
        .filter(|(name, _)| !is_skipped(name))
        .map(|(name, value)| (name.to_ascii_lowercase(), (name.to_owned(), value)))
        .collect()
}

/// Former and new settings of a running server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    /// The parameters that were in force.
    pub(crate) old: &'a Parameters,
    /// The parameters that are wanted.
    pub(crate) new: &'a Parameters,
    /// The rows of [`names_to_query`].
    pub(crate) rows: &'a [SettingRow],
    /// The new `use_unix_socket`.
    pub(crate) use_unix_socket: bool,
    /// Former and new lines of `pg_hba.conf`.
    pub(crate) hba: (Option<&'a [String]>, Option<&'a [String]>),
    /// Former and new lines of `pg_ident.conf`.
    pub(crate) ident: (Option<&'a [String]>, Option<&'a [String]>),
    /// Where the files are.
    pub(crate) paths: &'a Paths,
}

/// What a change of settings means.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ReloadPlan {
    /// The parameters from now on: the wanted ones without those that the server does not know.
    pub(crate) parameters: Parameters,
    /// `postgresql.conf` has to be written.
    pub(crate) conf_changed: bool,
    /// `pg_hba.conf` has to be written.
    pub(crate) hba_changed: bool,
    /// `pg_ident.conf` has to be written.
    pub(crate) ident_changed: bool,
    /// The server keeps listening at its former address until it is restarted: so must the agent.
    pub(crate) address_pending: bool,
    /// What waits for a restart.
    pub(crate) pending: PendingRestarts,
    /// What to tell the operator.
    pub(crate) lines: Vec<Line>,
}

/// Compares the wanted parameters with what the running server has.
pub(crate) fn plan(change: &Change<'_>) -> ReloadPlan {
    let mut plan = ReloadPlan { parameters: change.new.clone(), ..ReloadPlan::default() };
    let mut candidates = candidates(change.old, change.new);
    if candidates.get("wal_buffers").is_some_and(|(_, new)| same_wal_buffers(change.rows, new.as_deref())) {
        candidates.remove("wal_buffers");
    }
    for row in change.rows.iter().filter(|row| row.context != "internal") {
        if let Some((_, new)) = candidates.remove(&row.name.to_ascii_lowercase()) {
            plan.compare(change, row, new.as_deref());
        }
    }
    for (name, new) in candidates.into_values() {
        plan.unknown_to_server(change.old, &name, new.as_deref());
    }
    let listed =
        |lines: (Option<&[String]>, Option<&[String]>)| lines.1.is_some_and(|new| !new.is_empty() && lines.0.unwrap_or_default() != new);
    plan.hba_changed = listed(change.hba) && !change.paths.hba_redirected(change.new.get("hba_file"));
    plan.ident_changed = listed(change.ident) && !change.paths.ident_redirected(change.new.get("ident_file"));
    plan
}

impl ReloadPlan {
    fn compare(&mut self, change: &Change<'_>, row: &SettingRow, new: Option<&str>) {
        let SettingRow { name, setting, vartype, .. } = row;
        let (unit, old) = (row.unit.as_deref(), change.old.get(name));
        if SESSION.contains(&name.to_ascii_lowercase().as_str()) {
            let same = match (old, new) {
                (Some(old), Some(new)) => configured_equal(vartype, unit, old, new),
                (old, new) => old == new,
            };
            if !same {
                self.changed(name, old.unwrap_or("None"), new, "");
            }
            return;
        }
        if new.is_some_and(|new| settings_equal(vartype, unit, setting, new)) {
            // It runs with the wanted value already. If something else was wanted before, that stands in the file.
            if let Some(old) = old.filter(|old| !settings_equal(vartype, unit, setting, old)) {
                self.changed(name, old, new, "");
            }
            return;
        }
        let running = human(setting, vartype, unit);
        if row.context != "postmaster" {
            self.changed(name, &running, new, "");
            return;
        }
        self.changed(name, &running, new, " (restart might be required)");
        self.address_pending |=
            matches!(name.as_str(), "listen_addresses" | "port") || (change.use_unix_socket && name == "unix_socket_directories");
        let new_value = new.map(|new| as_server_shows(new, vartype, unit)).unwrap_or_default();
        self.pending.insert(name.clone(), PendingRestart { old_value: running, new_value });
    }

    /// A parameter of an extension may be unknown because the extension is not loaded yet. Any other is a mistake.
    fn unknown_to_server(&mut self, old: &Parameters, name: &str, new: Option<&str>) {
        if name.contains('.') {
            let old = old.get(name);
            if new.is_none() || old != new {
                self.changed(name, old.unwrap_or("None"), new, "");
            }
        } else if new.is_some() {
            self.lines.push(Line::warning(format!("Removing invalid parameter `{name}` from postgresql.parameters")));
            self.parameters.remove(name);
        }
    }

    fn changed(&mut self, name: &str, old: &str, new: Option<&str>, remark: &str) {
        let new = new.unwrap_or("None");
        self.conf_changed = true;
        self.lines.push(Line::info(format!("Changed {name} from '{old}' to '{new}'{remark}")));
    }
}

/// A configured value as the server will show it, so that what was planned can be recognised after the reload.
fn as_server_shows(configured: &str, vartype: &str, unit: Option<&str>) -> String {
    let shown = match vartype {
        "bool" => bool_word(configured).map(|on| if on { "on" } else { "off" }.to_owned()),
        "integer" => parse_int(configured, unit).map(|number| human(&number.to_string(), vartype, unit)),
        "real" => parse_real(configured, unit).map(|number| human(&number.to_string(), vartype, unit)),
        _ => None,
    };
    shown.unwrap_or_else(|| configured.to_owned())
}

/// Whether `wal_buffers` stays the same number. -1, like nothing, stands for a 32nd of the shared buffers, at least 8 blocks
/// and at most one WAL segment.
fn same_wal_buffers(rows: &[SettingRow], new: Option<&str>) -> bool {
    let find = |name: &str| rows.iter().find(|row| row.name == name);
    let number = |name: &str| find(name).and_then(|row| parse_int(&row.setting, None));
    let Some(row) = find("wal_buffers") else { return false };
    let block = number("wal_block_size").filter(|size| *size > 0).unwrap_or(8192);
    // Before version 11 the segment's size was counted in blocks.
    let segment_unit = find("wal_segment_size").and_then(|row| row.unit.as_deref());
    let unit = segment_unit.filter(|unit| unit.starts_with(|c: char| c.is_ascii_digit()));
    let unit = unit.and_then(|unit| parse_int(unit, Some("B")));
    let segment = number("wal_segment_size").unwrap_or(16_777_216).saturating_mul(unit.unwrap_or(1)) / block;
    let default = (number("shared_buffers").unwrap_or(16_384) / 32).max(8).min(segment);
    let effective = |text: &str| match parse_int(text, row.unit.as_deref()) {
        Some(-1) => Some(default),
        number => number,
    };
    let new = effective(new.unwrap_or("-1"));
    new.is_some() && new == effective(&row.setting)
}

/// A row of `pg_settings` with `pending_restart`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PendingRow {
    /// `name`
    pub(crate) name: String,
    /// `current_setting(name)`
    pub(crate) current: String,
    /// `unit`
    pub(crate) unit: Option<String>,
    /// `vartype`
    pub(crate) vartype: String,
    /// What the server would start with: the output of `postgres -C`; nothing if that failed.
    pub(crate) new_value: Option<String>,
}

/// What waits for a restart after a reload, as the server sees it. What was not planned was changed past the agent.
pub(crate) fn after_reload(found: &[PendingRow], planned: &PendingRestarts) -> (PendingRestarts, Option<Line>) {
    let pending: PendingRestarts = found
        .iter()
        .map(|row| {
            let show = |text: &str| human(text, &row.vartype, row.unit.as_deref());
            let new_value = row.new_value.as_deref().map_or_else(|| "?".to_owned(), show);
            (row.name.clone(), PendingRestart { old_value: show(&row.current), new_value })
        })
        .collect();
    let bypassing: Vec<&str> =
        pending.iter().filter(|(name, change)| planned.get(*name) != Some(*change)).map(|(name, _)| name.as_str()).collect();
    let line = (!bypassing.is_empty()).then(|| {
        Line::info(format!(
            "PostgreSQL configuration parameters requiring restart ({}) seem to be changed bypassing Patroni config. \
             Setting 'Pending restart' flag",
            bypassing.join(", ")
        ))
    });
    (pending, line)
}

#[cfg(test)]
mod tests;
