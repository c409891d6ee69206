//! The parameters that have to be the same on all nodes: only the dynamic configuration may set them, within limits that keep
//! replication working.

use serde_json::Value;

use super::value::{bool_word, parse_int, text_form};

/// One cluster-wide parameter.
#[derive(Clone, Copy, Debug)]
pub struct ClusterWide {
    /// Its name.
    pub name: &'static str,
    /// Its value if the dynamic configuration has none, or a bad one; nothing if it comes from the node's own settings, or
    /// depends on the major.
    pub default: Option<&'static str>,
    /// The value named in the warning about a bad one.
    fallback: &'static str,
    rule: Rule,
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    /// Never accepted: the node's own settings decide.
    Never,
    OneOf(&'static [&'static str]),
    True,
    Boolean,
    AtLeast(i64, Option<&'static str>),
}

const fn parameter(name: &'static str, default: Option<&'static str>, rule: Rule) -> ClusterWide {
    let fallback = match default {
        Some(default) => default,
        None => "None",
    };
    ClusterWide { name, default, fallback, rule }
}

/// All of them.
pub const CLUSTER_WIDE: [ClusterWide; 15] = [
    parameter("listen_addresses", None, Rule::Never),
    parameter("port", None, Rule::Never),
    parameter("cluster_name", None, Rule::Never),
    parameter("wal_level", Some("hot_standby"), Rule::OneOf(&["hot_standby", "replica", "logical"])),
    parameter("hot_standby", Some("on"), Rule::True),
    parameter("max_connections", Some("100"), Rule::AtLeast(25, None)),
    parameter("max_wal_senders", Some("10"), Rule::AtLeast(3, None)),
    ClusterWide { default: None, ..parameter("wal_keep_segments", Some("8"), Rule::AtLeast(1, None)) },
    ClusterWide { default: None, ..parameter("wal_keep_size", Some("128MB"), Rule::AtLeast(16, Some("MB"))) },
    parameter("max_prepared_transactions", Some("0"), Rule::AtLeast(0, None)),
    parameter("max_locks_per_transaction", Some("64"), Rule::AtLeast(32, None)),
    parameter("track_commit_timestamp", Some("off"), Rule::Boolean),
    parameter("max_replication_slots", Some("10"), Rule::AtLeast(4, None)),
    parameter("max_worker_processes", Some("8"), Rule::AtLeast(2, None)),
    parameter("wal_log_hints", Some("on"), Rule::Boolean),
];

/// The cluster-wide parameter `name`, in any case.
pub fn find(name: &str) -> Option<&'static ClusterWide> {
    CLUSTER_WIDE.iter().find(|parameter| parameter.name.eq_ignore_ascii_case(name))
}

impl ClusterWide {
    /// The value to use for what the dynamic configuration says; whole numbers are written in decimal.
    ///
    /// # Errors
    ///
    /// The value cannot be used: the default applies, and the error is the warning to log.
    pub fn accept(&self, value: &Value) -> Result<Value, String> {
        let text = text_form(value);
        let accepted = match self.rule {
            Rule::Never => None,
            Rule::OneOf(words) => (value.is_string() && words.iter().any(|word| word.eq_ignore_ascii_case(&text))).then(|| value.clone()),
            Rule::True => (bool_word(&text) == Some(true)).then(|| value.clone()),
            Rule::Boolean => bool_word(&text).map(|_| value.clone()),
            Rule::AtLeast(minimum, unit) => parse_int(&text, unit)
                .filter(|number| *number >= minimum)
                // What has a unit stays as it is: the number alone would be read in another one.
                .map(|_| parse_int(&text, None).map_or_else(|| value.clone(), Value::from)),
        };
        accepted.ok_or_else(|| format!("postgresql parameter {}={text} failed validation, defaulting to {}", self.name, self.fallback))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn accept(name: &str, value: &Value) -> Result<Value, String> {
        find(name).expect("a cluster-wide parameter").accept(value)
    }

    /// C13-1, C13-2
    #[test]
    fn bad_values_are_refused_with_the_default() {
        let refused = [
            ("max_connections", json!(10), "10", "100"),
            ("max_connections", json!("many"), "many", "100"),
            ("wal_level", json!("minimal"), "minimal", "hot_standby"),
            ("wal_level", json!(1), "1", "hot_standby"),
            ("hot_standby", json!(false), "False", "on"),
            ("wal_log_hints", json!("maybe"), "maybe", "on"),
            ("port", json!(5433), "5433", "None"),
            ("wal_keep_size", json!("1MB"), "1MB", "128MB"),
            ("max_wal_senders", json!(null), "None", "10"),
        ];
        for (name, value, shown, default) in refused {
            let text = format!("postgresql parameter {name}={shown} failed validation, defaulting to {default}");
            assert_eq!(accept(name, &value), Err(text));
        }
    }

    #[test]
    fn good_values_are_taken_and_numbers_normalised() {
        let taken = [
            ("max_connections", json!("0x100"), json!(256)),
            ("max_connections", json!(25), json!(25)),
            ("Max_Connections", json!("200"), json!(200)),
            ("wal_level", json!("LOGICAL"), json!("LOGICAL")),
            ("wal_level", json!("replica"), json!("replica")),
            ("hot_standby", json!("yes"), json!("yes")),
            ("track_commit_timestamp", json!(true), json!(true)),
            ("wal_keep_size", json!("1GB"), json!("1GB")),
            ("wal_keep_size", json!(64), json!(64)),
        ];
        for (name, value, expected) in taken {
            assert_eq!(accept(name, &value), Ok(expected), "{name}={value}");
        }
    }

    #[test]
    fn every_default_would_be_accepted() {
        for parameter in CLUSTER_WIDE.iter().filter(|parameter| !matches!(parameter.rule, Rule::Never)) {
            assert!(parameter.accept(&json!(parameter.fallback)).is_ok(), "{parameter:?}");
        }
        assert!(find("work_mem").is_none());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in any::<String>(), number in any::<f64>()) {
            for parameter in &CLUSTER_WIDE {
                let _ = (parameter.accept(&json!(text)), parameter.accept(&json!(number)), parameter.accept(&json!([text])));
            }
        }
    }
}
