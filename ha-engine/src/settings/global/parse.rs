//! From the stored document to [`GlobalConfig`]: aliases, defaults, minimums, and the rule that binds the three timings.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{GlobalConfig, LeaseGuardMode, StandbyCluster, SyncMode};
use crate::settings::values;

/// The document cannot be used; the former configuration stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` in the dynamic configuration is {found}, and must be {wanted}")]
pub struct UnusableDocument {
    /// The offending key.
    pub key: String,
    /// Its value.
    pub found: String,
    /// What it should be.
    pub wanted: &'static str,
}

/// The three timings in seconds, after the rule was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timings {
    ttl: i64,
    loop_wait: i64,
    retry_timeout: i64,
}

impl GlobalConfig {
    /// Reads the dynamic configuration. Values that do not parse have their defaults; the warnings say what was adjusted,
    /// in the words that operators know.
    ///
    /// # Errors
    ///
    /// `ttl`, `loop_wait` or `retry_timeout` is not a number. [`GlobalConfig::with_modes_of`] is then what remains.
    pub fn from_document(document: &Map<String, Value>) -> Result<(Self, Vec<String>), UnusableDocument> {
        let mut warnings = Vec::new();
        let timings = timings(document, &mut warnings)?;
        let mut config = Self {
            document: document.clone(),
            ttl: seconds(timings.ttl),
            loop_wait: seconds(timings.loop_wait),
            retry_timeout: seconds(timings.retry_timeout),
            maximum_lag_on_failover: 0,
            max_timelines_history: 0,
            check_timeline: false,
            primary_start_timeout: Duration::ZERO,
            primary_stop_timeout: Duration::ZERO,
            synchronous_mode: SyncMode::Off,
            synchronous_mode_strict: false,
            synchronous_node_count: 1,
            maximum_lag_on_syncnode: 0,
            failsafe_mode: false,
            pause: false,
            member_slots_ttl: Duration::ZERO,
            slots: Map::new(),
            ignore_slots: Vec::new(),
            standby_cluster: None,
            lease_guard: LeaseGuardMode::Automatic,
            keep_divergent_wal: None,
        };
        config.read_modes(document);
        if let Some(unknown) = lease_guard(document).err() {
            warnings.push(format!("quorate.lease_guard={unknown} is not one of automatic, off, on; using automatic"));
        }
        Ok((config, warnings))
    }

    /// What is in force after [`GlobalConfig::from_document`] refused `document`: timings as before, everything else as
    /// the document says.
    #[must_use]
    pub fn with_modes_of(&self, document: &Map<String, Value>) -> Self {
        let mut config = self.clone();
        config.document = document.clone();
        config.read_modes(document);
        config
    }

    /// `document` with the timings that are really used. Kept in the cache file; the store keeps what was written.
    ///
    /// # Errors
    ///
    /// As for [`GlobalConfig::from_document`].
    pub fn adjusted_document(document: &Map<String, Value>) -> Result<Map<String, Value>, UnusableDocument> {
        let used = timings(document, &mut Vec::new())?;
        let mut adjusted = document.clone();
        for (key, default, value) in [("ttl", 30, used.ttl), ("loop_wait", 10, used.loop_wait), ("retry_timeout", 10, used.retry_timeout)] {
            if whole_seconds(document, key, default)? != value {
                adjusted.insert(key.to_owned(), value.into());
            }
        }
        Ok(adjusted)
    }

    fn read_modes(&mut self, document: &Map<String, Value>) {
        let int = |key: &str, default: i64| document.get(key).and_then(|value| values::int(value, None)).unwrap_or(default);
        let aliased = |key: &str, alias: &str, default: i64| seconds(int(if document.contains_key(key) { key } else { alias }, default));
        let word = |key: &str| document.get(key).and_then(values::bool_word).unwrap_or(false);

        self.standby_cluster = standby_cluster(document);
        self.maximum_lag_on_failover = int("maximum_lag_on_failover", 1_048_576);
        self.maximum_lag_on_syncnode = int("maximum_lag_on_syncnode", -1);
        self.max_timelines_history = usize::try_from(int("max_timelines_history", 0)).unwrap_or(0);
        self.check_timeline = word("check_timeline");
        self.primary_start_timeout = aliased("primary_start_timeout", "master_start_timeout", 300);
        self.primary_stop_timeout = aliased("primary_stop_timeout", "master_stop_timeout", 0);
        self.synchronous_mode = match document.get("synchronous_mode") {
            _ if self.standby_cluster.is_some() => SyncMode::Off,
            Some(Value::String(text)) if text.eq_ignore_ascii_case("quorum") => SyncMode::Quorum,
            Some(value) if values::bool_word(value) == Some(true) => SyncMode::On,
            _ => SyncMode::Off,
        };
        self.synchronous_mode_strict = word("synchronous_mode_strict");
        let least = i64::from(self.synchronous_mode_strict);
        let count = int("synchronous_node_count", 1).max(least).max(0);
        self.synchronous_node_count = u32::try_from(count).unwrap_or(u32::MAX);
        self.failsafe_mode = word("failsafe_mode");
        self.pause = word("pause");
        let kept = document.get("member_slots_ttl").and_then(|value| values::int(value, Some("s")));
        self.member_slots_ttl = seconds(kept.unwrap_or(1800));
        self.slots = ["permanent_replication_slots", "permanent_slots", "slots"]
            .into_iter()
            .filter_map(|key| document.get(key))
            .find(|value| values::is_set(value))
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        self.ignore_slots = document.get("ignore_slots").and_then(Value::as_array).cloned().unwrap_or_default();
        self.lease_guard = lease_guard(document).unwrap_or_default();
        let keep = document.get("quorate").and_then(|section| section.get("keep_divergent_wal"));
        self.keep_divergent_wal = keep.filter(|value| values::is_set(value)).map(|value| PathBuf::from(values::text(value)));
    }
}

/// The remote cluster, if at least one of `host`, `port` and `restore_command` is set.
fn standby_cluster(document: &Map<String, Value>) -> Option<StandbyCluster> {
    let section = document.get("standby_cluster")?.as_object()?;
    let get = |key: &str| section.get(key).filter(|value| values::is_set(value)).map(values::text);
    let active = ["host", "port", "restore_command"].into_iter().any(|key| get(key).is_some());
    active.then(|| StandbyCluster {
        host: get("host"),
        port: section.get("port").and_then(|value| values::int(value, None)).and_then(|port| u16::try_from(port).ok()),
        primary_slot_name: get("primary_slot_name"),
        create_replica_methods: match section.get("create_replica_methods") {
            Some(Value::Array(names)) => names.iter().map(values::text).filter(|name| !name.is_empty()).collect(),
            Some(Value::String(names)) => names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            _ => Vec::new(),
        },
        restore_command: get("restore_command"),
        archive_cleanup_command: get("archive_cleanup_command"),
        recovery_min_apply_delay: get("recovery_min_apply_delay"),
    })
}

/// The mode of the lease guard, or the text that is not one. YAML turns `on` and `off` into booleans.
fn lease_guard(document: &Map<String, Value>) -> Result<LeaseGuardMode, String> {
    match document.get("quorate").and_then(|section| section.get("lease_guard")) {
        None | Some(Value::Null) => Ok(LeaseGuardMode::Automatic),
        Some(value) => LeaseGuardMode::parse(value).ok_or_else(|| values::text(value)),
    }
}

impl LeaseGuardMode {
    /// Reads `automatic`, `off` or `on`, also as the booleans that YAML makes of the latter.
    pub fn parse(value: &Value) -> Option<Self> {
        match values::bool_word(value) {
            Some(true) => Some(Self::On),
            Some(false) => Some(Self::Off),
            None if values::text(value).eq_ignore_ascii_case("automatic") => Some(Self::Automatic),
            None => None,
        }
    }
}

/// Applies `loop_wait + 2 * retry_timeout <= ttl` and the minimums.
fn timings(document: &Map<String, Value>, warnings: &mut Vec<String>) -> Result<Timings, UnusableDocument> {
    let low = document.get("quorate").and_then(|section| section.get("low_ttl")).and_then(values::bool_word).unwrap_or(false);
    let (least_ttl, least_retry) = if low { (5, 1) } else { (20, 3) };
    let mut at_least = |key: &'static str, default: i64, least: i64| {
        let value = whole_seconds(document, key, default)?;
        if value < least {
            warnings.push(format!("{key}={value} can't be smaller than {least}, adjusting..."));
        }
        Ok(value.max(least))
    };
    let loop_wait = at_least("loop_wait", 10, 1)?;
    let retry_timeout = at_least("retry_timeout", 10, least_retry)?;
    let ttl = at_least("ttl", 30, least_ttl)?;

    if 1 + 2 * retry_timeout > ttl {
        let shorter = (ttl - 1) / 2;
        warnings.push(format!(
            "Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl={ttl}. Adjusting loop_wait from \
             {loop_wait} to 1 and retry_timeout from {retry_timeout} to {shorter}"
        ));
        return Ok(Timings { ttl, loop_wait: 1, retry_timeout: shorter });
    }
    if loop_wait + 2 * retry_timeout > ttl {
        let shorter = ttl - 2 * retry_timeout;
        warnings.push(format!(
            "Violated the rule \"loop_wait + 2*retry_timeout <= ttl\", where ttl={ttl} and \
             retry_timeout={retry_timeout}. Adjusting loop_wait from {loop_wait} to {shorter}"
        ));
        return Ok(Timings { ttl, loop_wait: shorter, retry_timeout });
    }
    Ok(Timings { ttl, loop_wait, retry_timeout })
}

/// A number of seconds without unit. A fraction is cut off; more than ten years are ten years.
fn whole_seconds(document: &Map<String, Value>, key: &'static str, default: i64) -> Result<i64, UnusableDocument> {
    const TEN_YEARS: i64 = 315_360_000;
    let seconds = match document.get(key) {
        None => Some(default),
        Some(Value::Number(number)) => number.as_i64().or_else(|| number.as_f64().map(|float| float as i64)),
        Some(Value::String(text)) => text.trim().replace('_', "").parse().ok(),
        Some(_) => None,
    };
    seconds.map(|seconds| seconds.clamp(-TEN_YEARS, TEN_YEARS)).ok_or_else(|| UnusableDocument {
        key: key.to_owned(),
        found: document.get(key).map(values::text).unwrap_or_default(),
        wanted: "a whole number of seconds, without unit",
    })
}

/// A negative number of seconds is none.
fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}

#[cfg(test)]
mod tests;
