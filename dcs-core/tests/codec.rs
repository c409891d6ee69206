//! Properties of the codec: what is written reads back, and nothing that could be stored makes it fail.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

use std::collections::BTreeMap;

use dcs_core::codec::{self, RawValue};
use dcs_core::keys::{self, ClusterPath, Key};
use dcs_core::model::{
    FailoverRequest, HandleId, HistoryLine, Lsn, MemberName, MemberRecord, PendingRestart, Revision, Status, SyncRecord, Tags, Timeline,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value};

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // Short ones: without a feature that costs time, the parser may be off by the last bit of a long one.
        any::<i16>().prop_map(|number| Value::from(f64::from(number) / 8.0)),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map("[a-z]{0,3}", inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Map<String, Value>> {
    btree_map("[a-z]{1,3}", json(), 0..6).prop_map(|map| map.into_iter().collect())
}

/// Names of fields and odd values for them, so that random objects look like what is stored.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let fields = prop::sample::select(vec![
        "leader",
        "member",
        "scheduled_at",
        "sync_standby",
        "quorum",
        "optime",
        "slots",
        "retain_slots",
        "tags",
        "state",
        "role",
        "conn_url",
        "conn_kwargs",
        "host",
        "port",
        "xlog_location",
        "timeline",
        "pending_restart",
        "pending_restart_reason",
        "pause",
        "version",
        "scheduled_restart",
        "checkpoint_after_promote",
    ]);
    btree_map(fields, json(), 0..8).prop_map(|map| {
        let map: Map<_, _> = map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Value::Object(map).to_string().into_bytes()
    })
}

fn stored() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..64), ".*".prop_map(String::into_bytes), json().prop_map(|v| v.to_string().into_bytes()), plausible()]
}

fn name() -> impl Strategy<Value = MemberName> {
    "[^,\\s:][^,]{0,8}[^,\\s]".prop_map(MemberName::from)
}

fn record() -> impl Strategy<Value = MemberRecord> {
    let texts = (option::of(".*"), option::of(".*"), option::of(".*"), option::of(".*"), option::of(".*"), option::of(".*"));
    let places = (option::of(any::<u64>()), option::of(any::<u64>()), option::of(any::<u64>()), option::of(1_u32..));
    let reasons = option::of(btree_map("[a-z_]{1,9}", (".*", ".*"), 0..3));
    (texts, places, reasons, object(), option::of(object()), any::<bool>(), option::of(any::<bool>())).prop_map(
        |(texts, places, reasons, tags, scheduled_restart, pause, checkpoint_after_promote)| MemberRecord {
            conn_url: texts.0,
            api_url: texts.1,
            state: texts.2,
            role: texts.3,
            version: texts.4,
            replication_state: texts.5,
            proxy_url: None,
            checkpoint_after_promote,
            tags: Tags(tags),
            pending_restart: reasons.map(|reasons| {
                let change = |(old_value, new_value)| PendingRestart { old_value, new_value };
                reasons.into_iter().map(|(name, values)| (name, change(values))).collect()
            }),
            xlog_location: places.0.map(Lsn),
            receive_lsn: places.1.map(Lsn),
            replay_lsn: places.2.map(Lsn),
            timeline: places.3.map(Timeline),
            scheduled_restart,
            pause,
            other: Map::new(),
        },
    )
}

proptest! {
    #[test]
    fn nothing_that_could_be_stored_makes_reading_fail(entries in vec((0_usize..10, stored()), 0..10)) {
        let revision = Revision::from(1_u64);
        let handle = HandleId::new("h");
        let names = [
            Key::Initialize, Key::Config, Key::Leader, Key::Member("a"), Key::Failover, Key::Sync, Key::History,
            Key::Status, Key::LegacyOptime, Key::Failsafe,
        ];
        let raw = entries.iter().map(|(key, bytes)| {
            (names[*key], RawValue { bytes, revision: &revision, handle: Some(&handle) })
        });
        let view = codec::decode_view(raw);
        // Reading it as people will must not fail either.
        let _ = (view.system_id(), view.leader_member(), view.history.as_ref().map(|history| history.cluster_timeline()));
        for member in &view.members {
            let _ = (member.record.version_parts(), member.record.role(), member.record.tags.nofailover());
            let _ = codec::encode_member(&member.record);
        }
    }

    #[test]
    fn a_member_record_reads_back(record in record()) {
        let text = codec::encode_member(&record);
        prop_assert_eq!(codec::decode_member(text.as_bytes()).value, record);
    }

    #[test]
    fn unknown_fields_of_a_member_are_kept(object in object()) {
        let text = Value::Object(object.clone()).to_string();
        let again = codec::member_object(&codec::decode_member(text.as_bytes()).value);
        prop_assert!(codec::same_object(&again, &object), "{:?}", again);
    }

    #[test]
    fn a_status_reads_back(optime: u64, slots in btree_map("[a-z0-9_]{1,9}", any::<u64>(), 1..5), retain in vec(".*", 0..4)) {
        let slots: BTreeMap<_, _> = slots.into_iter().map(|(name, lsn)| (name, Lsn(lsn))).collect();
        let status = Status { last_lsn: Lsn(optime), slots: Some(slots), retain_slots: retain };
        prop_assert_eq!(codec::decode_status(codec::encode_status(&status).as_bytes()).value, status);
    }

    #[test]
    fn a_synchronous_state_reads_back(leader in name(), standbys in vec(name(), 0..4), quorum: u64) {
        let mut standbys = standbys;
        standbys.sort();
        let sync = SyncRecord { leader: Some(leader), standbys, quorum };
        prop_assert_eq!(codec::decode_sync(codec::encode_sync(&sync).as_bytes()).value, sync);
    }

    #[test]
    fn a_failover_request_reads_back(leader in option::of(name()), candidate in option::of(name()), at in option::of((0_i64..4_000_000_000, -1_400_i32..1_400))) {
        let time = at.map(|(second, minutes)| {
            let offset = jiff::tz::Offset::from_seconds(minutes * 60).unwrap();
            dcs_core::model::ScheduledTime::new(jiff::Timestamp::from_second(second).unwrap(), offset)
        });
        let request = FailoverRequest { leader, candidate, scheduled_at: time };
        prop_assert_eq!(codec::decode_failover(codec::encode_failover(&request).as_bytes()).value, request);
    }

    #[test]
    fn a_history_reads_back(lines in vec((1_u32.., any::<u64>(), ".*", option::of((".*", option::of(".*")))), 0..9)) {
        let lines: Vec<_> = lines.into_iter().map(|(timeline, lsn, reason, rest)| {
            let (timestamp, new_leader) = rest.map_or((None, None), |(timestamp, leader)| (Some(timestamp), leader));
            HistoryLine { timeline, lsn: Lsn(lsn), reason, timestamp, new_leader }
        }).collect();
        let text = codec::encode_history_lines(&lines).to_string();
        prop_assert_eq!(codec::decode_history(text.as_bytes()).value.1, lines);
    }

    #[test]
    fn a_patch_done_twice_changes_nothing_more(config in object(), patch in object()) {
        let mut once = config.clone();
        let changed = codec::merge_patch(&mut once, &patch);
        // A new object is stored with its nulls; the second time they mean removal.
        codec::merge_patch(&mut once, &patch);
        let mut twice = once.clone();
        prop_assert!(!codec::merge_patch(&mut twice, &patch));
        prop_assert_eq!(&once, &twice);
        prop_assert!(changed || codec::same_object(&config, &once));
    }

    #[test]
    fn equality_by_text_is_symmetric(left in json(), right in json()) {
        prop_assert!(codec::same_value(&left, &left));
        prop_assert_eq!(codec::same_value(&left, &right), codec::same_value(&right, &left));
    }

    #[test]
    fn no_text_makes_the_schedule_parser_fail_badly(text in ".*") {
        let _ = codec::parse_schedule(&text);
    }

    #[test]
    fn text_like_a_time_is_read_or_refused(text in "[0-9]{4}-?[0-9]{2}-?[0-9]{2}[T ]?[0-9]{2}:?[0-9]{2}(:?[0-9]{2}([.,][0-9]{0,12})?)? ?(Z|[+-][0-9]{2}:?[0-9]{0,2})?") {
        if let Ok(time) = codec::parse_schedule(&text) {
            let printed = codec::parse_schedule(&time.to_string()).unwrap();
            prop_assert_eq!(printed.instant().as_microsecond(), time.instant().as_microsecond());
        }
    }

    #[test]
    fn slot_names_are_always_valid(member in ".{0,80}") {
        let slot = keys::slot_name_from_member(&member);
        prop_assert!(slot.len() <= 63 && slot.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')));
    }

    #[test]
    fn keys_have_no_empty_part(namespace in "[/a-z]{0,8}", scope in "[/a-z]{0,4}[a-z]", relative in "[a-z/]{0,12}") {
        let path = ClusterPath::new(Some(&namespace), &scope);
        let key = path.key(Key::Leader);
        prop_assert!(key.starts_with('/') && !key.contains("//"), "{}", key);
        let absolute = format!("{}{relative}", path.prefix());
        if let Some(parsed) = path.parse(&absolute) {
            prop_assert_eq!(path.key(parsed), absolute);
        }
    }
}
