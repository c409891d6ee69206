//! `failover`.

use serde_json::{Map, Value};

use super::{Decoded, json, kind, parse_schedule};
use crate::model::{FailoverRequest, MemberName};

/// The request as stored: only what is set, so that an empty one is `{}`.
pub fn encode_failover(request: &FailoverRequest) -> String {
    let mut object = Map::new();
    if let Some(leader) = &request.leader {
        object.insert("leader".to_owned(), leader.as_str().into());
    }
    if let Some(candidate) = &request.candidate {
        object.insert("member".to_owned(), candidate.as_str().into());
    }
    if let Some(time) = &request.scheduled_at {
        object.insert("scheduled_at".to_owned(), time.to_string().into());
    }
    Value::Object(object).to_string()
}

/// Reads a request. Text that is not JSON is `leader[:member]`, as the first versions wrote it.
///
/// A request with a time that cannot be read is no request at all: without its time a planned switchover would start at
/// once. So is one whose names are not text.
pub fn decode_failover(bytes: &[u8]) -> Decoded<FailoverRequest> {
    let nothing = FailoverRequest::default;
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Decoded::damaged(nothing(), "it is not UTF-8");
    };
    if text.is_empty() {
        return Decoded::good(nothing());
    }
    match json(bytes) {
        Ok(Value::Object(object)) => match from_object(&object) {
            Ok(request) => Decoded::good(request),
            Err(problem) => Decoded::damaged(nothing(), problem),
        },
        Ok(other) => Decoded::damaged(nothing(), format!("it is {}, not an object", kind(&other))),
        Err(_) => {
            let mut names = text.split(':').map(|name| name.trim()).map(named);
            let leader = names.next().flatten();
            let candidate = names.next().flatten();
            Decoded::good(FailoverRequest { leader, candidate, scheduled_at: None })
        }
    }
}

fn from_object(object: &Map<String, Value>) -> Result<FailoverRequest, String> {
    let name = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) => Ok(named(name)),
        Some(other) => Err(format!("its `{key}` is {}, not a name; the request is ignored", kind(other))),
    };
    let scheduled_at = match object.get("scheduled_at") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) => match parse_schedule(text) {
            Ok(time) => Some(time),
            Err(error) => return Err(format!("its time `{text}` cannot be used ({error}); the request is ignored")),
        },
        Some(other) => return Err(format!("its time is {}; the request is ignored", kind(other))),
    };
    Ok(FailoverRequest { leader: name("leader")?, candidate: name("member")?, scheduled_at })
}

fn named(name: &str) -> Option<MemberName> {
    (!name.is_empty()).then(|| MemberName::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(leader: Option<&str>, candidate: Option<&str>, time: Option<&str>) -> FailoverRequest {
        FailoverRequest {
            leader: leader.map(MemberName::from),
            candidate: candidate.map(MemberName::from),
            scheduled_at: time.map(|time| parse_schedule(time).unwrap()),
        }
    }

    #[test]
    fn nothing_is_written_for_what_is_not_set() {
        assert_eq!(encode_failover(&FailoverRequest::default()), "{}");
        assert_eq!(encode_failover(&request(None, Some("b"), None)), r#"{"member":"b"}"#);
        let full = request(Some("a"), Some("b"), Some("2030-01-01T10:00:00+02:00"));
        let text = r#"{"leader":"a","member":"b","scheduled_at":"2030-01-01T10:00:00+02:00"}"#;
        assert_eq!(encode_failover(&full), text);
        assert_eq!(decode_failover(text.as_bytes()), Decoded::good(full));
    }

    #[test]
    fn json_of_another_kind_and_emptiness_ask_for_nothing() {
        for text in ["", "{}", "[]", "5", "null", "\"a\""] {
            assert!(decode_failover(text.as_bytes()).value.is_empty(), "{text}");
        }
    }

    #[test]
    fn the_legacy_form_is_leader_and_member_with_a_colon_between() {
        assert_eq!(decode_failover(b"a").value, request(Some("a"), None, None));
        assert_eq!(decode_failover(b" a : b ").value, request(Some("a"), Some("b"), None));
        assert_eq!(decode_failover(b":b").value, request(None, Some("b"), None));
        assert_eq!(decode_failover(b"a:b:c").value, request(Some("a"), Some("b"), None));
        assert!(decode_failover(b"\xff\xfe").value.is_empty());
    }

    #[test]
    fn a_request_whose_time_cannot_be_read_is_ignored_as_a_whole() {
        for time in ["\"tomorrow\"", "\"2030-01-01T10:00:00\"", "5", "{}"] {
            let text = format!(r#"{{"leader":"a","member":"b","scheduled_at":{time}}}"#);
            let decoded = decode_failover(text.as_bytes());
            assert!(decoded.value.is_empty(), "{text}");
            assert!(decoded.problem.is_some(), "{text}");
        }
        let without = decode_failover(br#"{"leader":"a","scheduled_at":null}"#);
        assert_eq!(without, Decoded::good(request(Some("a"), None, None)));
    }

    #[test]
    fn names_that_are_not_text_are_no_request() {
        let decoded = decode_failover(br#"{"leader":5,"member":"b"}"#);
        assert!(decoded.value.is_empty() && decoded.problem.is_some());
        assert_eq!(decode_failover(br#"{"leader":"","member":null}"#), Decoded::good(FailoverRequest::default()));
    }
}
