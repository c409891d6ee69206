//! `members/<name>`.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::{Decoded, json, kind, numbers};
use crate::model::{Lsn, MemberRecord, PendingRestart, Tags, Timeline};

/// The record as a JSON object: only what is there, in the order in which existing agents write it, then the fields
/// that this version does not know.
pub fn member_object(record: &MemberRecord) -> Map<String, Value> {
    let mut fields = Fields(Map::new());
    fields.text("conn_url", record.conn_url.as_deref());
    fields.text("api_url", record.api_url.as_deref());
    fields.text("state", record.state.as_deref());
    fields.text("role", record.role.as_deref());
    fields.text("version", record.version.as_deref());
    fields.text("proxy_url", record.proxy_url.as_deref());
    fields.value("checkpoint_after_promote", record.checkpoint_after_promote.map(Value::Bool));
    fields.value("tags", (!record.tags.0.is_empty()).then(|| Value::Object(record.tags.0.clone())));
    if let Some(reasons) = &record.pending_restart {
        fields.value("pending_restart", Some(Value::Bool(true)));
        let reasons = reasons
            .iter()
            .map(|(parameter, change)| (parameter.clone(), json!({"old_value": change.old_value, "new_value": change.new_value})));
        fields.value("pending_restart_reason", Some(Value::Object(reasons.collect())));
    }
    fields.lsn("xlog_location", record.xlog_location);
    fields.lsn("receive_lsn", record.receive_lsn);
    fields.lsn("replay_lsn", record.replay_lsn);
    fields.text("replication_state", record.replication_state.as_deref());
    fields.value("timeline", record.timeline.map(|timeline| timeline.0.into()));
    fields.value("scheduled_restart", record.scheduled_restart.clone().map(Value::Object));
    fields.value("pause", record.pause.then_some(Value::Bool(true)));
    for (key, value) in &record.other {
        fields.0.entry(key.as_str()).or_insert_with(|| value.clone());
    }
    fields.0
}

/// The record as stored.
pub fn encode_member(record: &MemberRecord) -> String {
    Value::Object(member_object(record)).to_string()
}

/// Reads a member key. A damaged value is an empty record; a field of the wrong type counts as absent and is kept among
/// the unknown ones.
pub fn decode_member(bytes: &[u8]) -> Decoded<MemberRecord> {
    if let Some(url) = std::str::from_utf8(bytes).ok().filter(|text| text.starts_with("postgres")) {
        return Decoded::good(from_url(url));
    }
    let mut fields = match json(bytes) {
        Ok(Value::Object(fields)) => fields,
        Ok(other) => {
            return Decoded::damaged(MemberRecord::default(), format!("it is {}, not an object", kind(&other)));
        }
        Err(problem) => return Decoded::damaged(MemberRecord::default(), problem),
    };
    let mut take = Taker { fields: &mut fields, wrong: Vec::new() };
    let mut record = MemberRecord {
        conn_url: take.text("conn_url"),
        api_url: take.text("api_url"),
        proxy_url: take.text("proxy_url"),
        state: take.text("state"),
        role: take.text("role"),
        version: take.text("version"),
        checkpoint_after_promote: take.field("checkpoint_after_promote", Value::as_bool),
        tags: Tags(take.object("tags").unwrap_or_default()),
        pending_restart: pending_restart(&mut take),
        xlog_location: take.field("xlog_location", numbers::lsn),
        receive_lsn: take.field("receive_lsn", numbers::lsn),
        replay_lsn: take.field("replay_lsn", numbers::lsn),
        replication_state: take.text("replication_state"),
        timeline: take.field("timeline", |value| u32::try_from(numbers::unsigned(value)?).ok()).and_then(Timeline::known),
        scheduled_restart: take.object("scheduled_restart"),
        pause: take.field("pause", Value::as_bool).unwrap_or(false),
        other: Map::new(),
    };
    let problem = (!take.wrong.is_empty()).then(|| format!("it has fields of the wrong type: {}", take.wrong.join(", ")));
    if record.conn_url.is_none() {
        record.conn_url = fields.get("conn_kwargs").and_then(url_of_parameters);
    }
    record.other = fields;
    Decoded::with(record, problem)
}

/// What agents of the first versions wrote: `postgres://…?application_name=<REST URL>`.
fn from_url(url: &str) -> MemberRecord {
    let (without_fragment, fragment) = match url.split_once('#') {
        Some((before, after)) => (before, Some(after)),
        None => (url, None),
    };
    let (base, query) = without_fragment.split_once('?').unwrap_or((without_fragment, ""));
    let fragment = fragment.filter(|text| !text.is_empty()).map_or(String::new(), |text| format!("#{text}"));
    let api_url =
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, value)| *name == "application_name" && !value.is_empty());
    MemberRecord {
        conn_url: Some(format!("{base}{fragment}")),
        api_url: api_url.map(|(_, value)| percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned()),
        ..MemberRecord::default()
    }
}

/// `conn_url` from the connection parameters that some agents published instead.
fn url_of_parameters(parameters: &Value) -> Option<String> {
    let host = parameters.get("host")?.as_str().filter(|host| !host.is_empty())?;
    let port = parameters.get("port").map_or(Some(5432), numbers::unsigned)?;
    let bracketed = host.contains(':') && !host.starts_with('[');
    let host = if bracketed { format!("[{host}]") } else { host.to_owned() };
    Some(format!("postgresql://{host}:{port}"))
}

fn pending_restart(take: &mut Taker<'_>) -> Option<BTreeMap<String, PendingRestart>> {
    let pending = take.field("pending_restart", Value::as_bool)?;
    let reasons = take.object("pending_restart_reason");
    pending.then(|| {
        let reasons = reasons.unwrap_or_default();
        reasons.into_iter().filter_map(|(parameter, change)| Some((parameter, one_reason(&change)?))).collect()
    })
}

fn one_reason(change: &Value) -> Option<PendingRestart> {
    let text = |key: &str| match change.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Null => None,
        other => Some(other.to_string()),
    };
    Some(PendingRestart { old_value: text("old_value")?, new_value: text("new_value")? })
}

/// Takes known fields out of an object, so that the unknown and the ill-typed ones remain.
struct Taker<'a> {
    fields: &'a mut Map<String, Value>,
    wrong: Vec<&'static str>,
}

impl Taker<'_> {
    fn field<T>(&mut self, key: &'static str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.fields.get(key)?;
        if value.is_null() {
            self.fields.shift_remove(key);
            return None;
        }
        let read = read(value);
        match read {
            Some(_) => drop(self.fields.shift_remove(key)),
            None => self.wrong.push(key),
        }
        read
    }

    fn text(&mut self, key: &'static str) -> Option<String> {
        self.field(key, |value| value.as_str().map(str::to_owned))
    }

    fn object(&mut self, key: &'static str) -> Option<Map<String, Value>> {
        self.field(key, |value| value.as_object().cloned())
    }
}

/// Puts only those fields into an object that are there.
struct Fields(Map<String, Value>);

impl Fields {
    fn value(&mut self, key: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.0.insert(key.to_owned(), value);
        }
    }

    fn text(&mut self, key: &str, text: Option<&str>) {
        self.value(key, text.map(Value::from));
    }

    fn lsn(&mut self, key: &str, lsn: Option<Lsn>) {
        self.value(key, lsn.map(|lsn| lsn.0.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_replica_publishes_no_absent_fields() {
        let record = MemberRecord {
            conn_url: Some("postgres://127.0.0.1:5432/postgres".into()),
            api_url: Some("http://127.0.0.1:8008/patroni".into()),
            state: Some("running".into()),
            role: Some("replica".into()),
            version: Some("4.1.4".into()),
            xlog_location: Some(Lsn(67_108_864)),
            timeline: Some(Timeline(1)),
            ..MemberRecord::default()
        };
        assert_eq!(
            encode_member(&record),
            r#"{"conn_url":"postgres://127.0.0.1:5432/postgres","api_url":"http://127.0.0.1:8008/patroni","state":"running","role":"replica","version":"4.1.4","xlog_location":67108864,"timeline":1}"#
        );
    }

    #[test]
    fn everything_that_can_be_said_comes_back() {
        let text = r#"{"conn_url":"c","api_url":"a","state":"running","role":"primary","version":"4.1.4","proxy_url":"p","checkpoint_after_promote":false,"tags":{"nosync":true},"pending_restart":true,"pending_restart_reason":{"max_connections":{"old_value":"100","new_value":"200"}},"xlog_location":1,"receive_lsn":2,"replay_lsn":3,"replication_state":"streaming","timeline":4,"scheduled_restart":{"schedule":"2030-01-01T00:00:00+00:00","postmaster_start_time":null},"pause":true,"something_new":[1]}"#;
        let decoded = decode_member(text.as_bytes());
        assert_eq!(decoded.problem, None);
        assert_eq!(encode_member(&decoded.value), text);
        assert_eq!(decoded.value.other.keys().collect::<Vec<_>>(), ["something_new"]);
    }

    #[test]
    fn a_value_that_is_no_object_is_a_member_without_data() {
        for text in ["", "hello", "[]", "5", "null", "{\"state\":", "\u{0}"] {
            let decoded = decode_member(text.as_bytes());
            assert_eq!(decoded.value, MemberRecord::default(), "{text:?}");
            assert!(decoded.problem.is_some(), "{text:?}");
        }
        assert_eq!(decode_member(b"\xff\xfe{}").value, MemberRecord::default());
    }

    #[test]
    fn the_url_of_the_first_versions_is_read() {
        let decoded = decode_member(b"postgres://repl:pw@127.0.0.1:5432/postgres?x=y&application_name=http%3A%2F%2F127.0.0.1:8008/patroni");
        assert_eq!(decoded.problem, None);
        assert_eq!(decoded.value.conn_url.as_deref(), Some("postgres://repl:pw@127.0.0.1:5432/postgres"));
        assert_eq!(decoded.value.api_url.as_deref(), Some("http://127.0.0.1:8008/patroni"));
        assert_eq!(decode_member(b"postgresql://h/db").value.api_url, None);
    }

    #[test]
    fn connection_parameters_stand_in_for_a_missing_url() {
        let url = |text: &str| decode_member(text.as_bytes()).value.conn_url;
        assert_eq!(url(r#"{"conn_kwargs":{"host":"h","port":5433}}"#).as_deref(), Some("postgresql://h:5433"));
        assert_eq!(url(r#"{"conn_kwargs":{"host":"::1","port":"1"}}"#).as_deref(), Some("postgresql://[::1]:1"));
        assert_eq!(url(r#"{"conn_kwargs":{"host":"h"}}"#).as_deref(), Some("postgresql://h:5432"));
        assert_eq!(url(r#"{"conn_kwargs":{"host":7}}"#), None);
        assert_eq!(url(r#"{"conn_kwargs":{"host":"h"},"conn_url":"u"}"#).as_deref(), Some("u"));
    }

    #[test]
    fn numbers_as_text_are_numbers_and_what_cannot_be_read_is_absent_but_kept() {
        let decoded = decode_member(br#"{"xlog_location":"42","replay_lsn":"x","timeline":"3","role":7,"tags":[1]}"#);
        assert_eq!(decoded.value.xlog_location, Some(Lsn(42)));
        assert_eq!(decoded.value.timeline, Some(Timeline(3)));
        assert_eq!((decoded.value.replay_lsn, decoded.value.role.as_deref()), (None, None));
        assert_eq!(decoded.value.other.keys().collect::<Vec<_>>(), ["replay_lsn", "role", "tags"]);
        let problem = decoded.problem.unwrap();
        assert!(problem.ends_with("role, tags, replay_lsn"), "{problem}");
    }

    #[test]
    fn nulls_are_absent_without_complaint() {
        let decoded = decode_member(br#"{"state":"running","timeline":null,"pause":null,"tags":null}"#);
        assert_eq!(decoded, Decoded::good(MemberRecord { state: Some("running".into()), ..MemberRecord::default() }));
    }
}
