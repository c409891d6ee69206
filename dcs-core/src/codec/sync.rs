//! `sync`.

use serde_json::{Value, json as object};

use super::{Decoded, json, kind, numbers};
use crate::model::{MemberName, SyncRecord};

/// The record as stored: the standbys sorted and joined with commas, null if there are none.
pub fn encode_sync(sync: &SyncRecord) -> String {
    let mut standbys: Vec<_> = sync.standbys.iter().map(MemberName::as_str).collect();
    standbys.sort_unstable();
    let standbys = if standbys.is_empty() { Value::Null } else { standbys.join(",").into() };
    let leader = sync.leader.as_ref().map(MemberName::as_str);
    object!({"leader": leader, "sync_standby": standbys, "quorum": sync.quorum}).to_string()
}

/// Reads the synchronous state. Damaged content is the empty state; the caller keeps the key's revision.
pub fn decode_sync(bytes: &[u8]) -> Decoded<SyncRecord> {
    if bytes.is_empty() {
        return Decoded::good(SyncRecord::default());
    }
    match json(bytes) {
        Ok(Value::Object(object)) => match from_object(&object) {
            Ok(record) => Decoded::good(record),
            Err(problem) => Decoded::damaged(SyncRecord::default(), problem),
        },
        Ok(other) => Decoded::damaged(SyncRecord::default(), format!("it is {}, not an object", kind(&other))),
        Err(problem) => Decoded::damaged(SyncRecord::default(), problem),
    }
}

fn from_object(object: &serde_json::Map<String, Value>) -> Result<SyncRecord, String> {
    let leader = match object.get("leader") {
        None | Some(Value::Null) => return Ok(SyncRecord::default()),
        Some(Value::String(name)) if name.is_empty() => return Ok(SyncRecord::default()),
        Some(Value::String(name)) => MemberName::from(name.as_str()),
        Some(other) => return Err(format!("its leader is {}", kind(other))),
    };
    let mut standbys: Vec<_> = match object.get("sync_standby") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(names)) => names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(MemberName::from).collect(),
        Some(other) => return Err(format!("its `sync_standby` is {}", kind(other))),
    };
    standbys.sort_unstable();
    let quorum = match object.get("quorum") {
        None | Some(Value::Null) => 0,
        Some(quorum) => numbers::unsigned(quorum).ok_or("its quorum is not a number")?,
    };
    Ok(SyncRecord { leader: Some(leader), standbys, quorum })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(leader: &str, standbys: &[&str], quorum: u64) -> SyncRecord {
        let standbys = standbys.iter().map(|name| MemberName::from(*name)).collect();
        SyncRecord { leader: Some(leader.into()), standbys, quorum }
    }

    #[test]
    fn standbys_are_sorted_and_joined_and_null_if_there_are_none() {
        let text = encode_sync(&record("m", &["b", "a"], 1));
        assert_eq!(text, r#"{"leader":"m","sync_standby":"a,b","quorum":1}"#);
        assert_eq!(decode_sync(text.as_bytes()), Decoded::good(record("m", &["a", "b"], 1)));
        assert_eq!(encode_sync(&record("m", &[], 0)), r#"{"leader":"m","sync_standby":null,"quorum":0}"#);
    }

    #[test]
    fn a_missing_leader_is_the_empty_state() {
        for text in ["", "{}", r#"{"leader":null,"sync_standby":"a"}"#, r#"{"sync_standby":"a","quorum":"x"}"#] {
            assert_eq!(decode_sync(text.as_bytes()), Decoded::good(SyncRecord::default()), "{text}");
        }
    }

    #[test]
    fn damaged_content_is_the_empty_state_and_reported() {
        for text in [
            "x",
            "[]",
            "5",
            r#"{"leader":"a","quorum":"x"}"#,
            r#"{"leader":"a","quorum":-1}"#,
            r#"{"leader":"a","quorum":[]}"#,
            r#"{"leader":7}"#,
            r#"{"leader":"a","sync_standby":["b"]}"#,
        ] {
            let decoded = decode_sync(text.as_bytes());
            assert_eq!(decoded.value, SyncRecord::default(), "{text}");
            assert!(decoded.problem.is_some(), "{text}");
        }
    }

    #[test]
    fn blanks_and_an_old_value_without_quorum_are_read() {
        let decoded = decode_sync(br#"{"leader":"m","sync_standby":"b, a,"}"#);
        assert_eq!(decoded, Decoded::good(record("m", &["a", "b"], 0)));
        assert_eq!(decode_sync(br#"{"leader":"m","quorum":"2"}"#).value.quorum, 2);
    }
}
