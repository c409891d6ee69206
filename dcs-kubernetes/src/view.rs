//! Objects as the keys that every other store has, for the codec that all share.

use dcs_core::codec::{self, RawValue};
use dcs_core::keys::Key;
use dcs_core::model::{ClusterView, Revision};
use serde_json::{Map, Value};

use crate::cache::Content;
use crate::object::{Object, annotation};

/// One key's value as another store would have it.
struct Raw<'a> {
    key: Key<'a>,
    value: Vec<u8>,
    revision: Revision,
}

/// The view of what one read returned. Never fails.
pub(crate) fn view_of(content: &Content) -> ClusterView {
    let mut raws = Vec::new();
    if let Some(leader) = &content.leader {
        // An object without a leader, or with one that has expired, is there to be patched, and says nothing.
        if let Some(holder) = &content.holder {
            raws.push(Raw::new(Key::Leader, holder, leader));
        }
        if let Some(status) = gathered(leader, &[annotation::OPTIME, annotation::SLOTS, annotation::RETAIN_SLOTS]) {
            raws.push(Raw::new(Key::Status, &status, leader));
        }
        let failsafe = leader.annotation(annotation::FAILSAFE).filter(|text| !text.is_empty());
        raws.extend(failsafe.map(|text| Raw::new(Key::Failsafe, text, leader)));
    }
    if let Some(config) = &content.config {
        raws.push(Raw::new(Key::Config, text_or(config, annotation::CONFIG, "{}"), config));
        raws.push(Raw::new(Key::History, text_or(config, annotation::HISTORY, "[]"), config));
        raws.extend(config.annotation(annotation::INITIALIZE).map(|text| Raw::new(Key::Initialize, text, config)));
    }
    if let Some(failover) = &content.failover {
        let request = gathered(failover, &[annotation::LEADER, annotation::MEMBER, annotation::SCHEDULED_AT]);
        raws.extend(request.map(|request| Raw::new(Key::Failover, &request, failover)));
    }
    if let Some(sync) = &content.sync {
        let state = gathered(sync, &[annotation::LEADER, annotation::SYNC_STANDBY, annotation::QUORUM]);
        raws.push(Raw::new(Key::Sync, state.as_deref().unwrap_or("{}"), sync));
    }
    for pod in &content.pods {
        // A pod that has not said anything yet is a member without data.
        raws.push(Raw::new(Key::Member(&pod.metadata.name), text_or(pod, annotation::STATUS, "{}"), pod));
    }
    codec::decode_view(raws.iter().map(|raw| (raw.key, RawValue { bytes: &raw.value, revision: &raw.revision, handle: None })))
}

impl<'a> Raw<'a> {
    fn new(key: Key<'a>, value: &str, object: &Object) -> Self {
        Self { key, value: value.as_bytes().to_vec(), revision: object.revision() }
    }
}

/// Empty text is as good as none.
fn text_or<'a>(object: &'a Object, name: &str, default: &'a str) -> &'a str {
    object.annotation(name).filter(|text| !text.is_empty()).unwrap_or(default)
}

/// Those of the annotations that are there, as a JSON object of texts; nothing if none is.
fn gathered(object: &Object, names: &[&str]) -> Option<String> {
    let text = |name: &str| object.annotation(name).filter(|text| !text.is_empty());
    let there = names.iter().filter_map(|name| Some(((*name).to_owned(), Value::from(text(name)?))));
    let there: Map<String, Value> = there.collect();
    (!there.is_empty()).then(|| Value::Object(there).to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dcs_core::model::Lsn;
    use serde_json::json;

    use super::*;

    fn object(name: &str, annotations: Value) -> Arc<Object> {
        let object = json!({"metadata": {"name": name, "resourceVersion": "7", "annotations": annotations}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn no_objects_are_the_empty_view() {
        assert!(view_of(&Content::default()).is_empty());
    }

    #[test]
    fn every_annotation_is_read() {
        let leader = object(
            "s",
            json!({"leader": "a", "optime": "42", "slots": r#"{"b":7}"#, "retain_slots": r#"["c"]"#, "failsafe": r#"{"a":"u"}"#}),
        );
        let config =
            object("s-config", json!({"config": r#"{"ttl":30}"#, "history": r#"[[1,2,"x"]]"#, "initialize": "7123456789012345678"}));
        let failover = object("s-failover", json!({"leader": "a", "member": "b", "scheduled_at": "2030-01-01T00:00:00+00:00"}));
        let sync = object("s-sync", json!({"leader": "a", "sync_standby": "b,c", "quorum": "1"}));
        let content = Content {
            leader: Some(leader),
            holder: Some("a".to_owned()),
            config: Some(config),
            failover: Some(failover),
            sync: Some(sync),
            pods: vec![object("a", json!({"status": r#"{"state":"running"}"#})), object("b", json!(null))],
        };
        let view = view_of(&content);
        assert_eq!(view.damages, []);
        assert_eq!(view.leader_name().map(ToString::to_string).as_deref(), Some("a"));
        assert_eq!(view.status.last_lsn, Lsn(42));
        assert_eq!(view.status.slots, Some([("b".to_owned(), Lsn(7))].into()));
        assert_eq!(view.status.retain_slots, ["c"]);
        assert_eq!(view.failsafe, Some(json!({"a": "u"})));
        assert_eq!(view.config.and_then(|config| config.data).map(Value::Object), Some(json!({"ttl": 30})));
        assert_eq!(view.history.map(|history| history.lines.len()), Some(1));
        assert!(view.initialize.is_some());
        let request = view.failover.map(|key| key.request).unwrap();
        assert!(request.leader.is_some() && request.candidate.is_some() && request.scheduled_at.is_some());
        assert_eq!((view.sync.record.standbys.len(), view.sync.record.quorum), (2, 1));
        assert_eq!(view.members.len(), 2);
        assert_eq!(view.members[0].record.state.as_deref(), Some("running"));
    }

    #[test]
    fn objects_without_annotations_are_there_and_say_nothing() {
        let bare = || Some(object("x", json!({})));
        let content = Content { leader: bare(), config: bare(), failover: bare(), sync: bare(), ..Content::default() };
        let view = view_of(&content);
        assert_eq!(view.damages, []);
        assert!(view.is_unlocked() && view.failover.is_none() && view.initialize.is_none());
        assert!(view.config.is_some_and(|config| config.data.is_some_and(|data| data.is_empty())));
        assert_eq!(view.history.map(|history| history.raw), Some(json!([])));
        assert!(view.sync.is_empty() && view.sync.revision.is_some() && !view.sync.damaged);
    }
}
