//! Loading, and what may be stored (items 1 to 8).

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Scene;
use super::scene::Actor;
use crate::model::{FailoverRequest, Lsn, Status, SyncRecord};
use crate::{ErrorKind, Fate, InitializeWrite, Write};

pub(super) async fn a01_an_empty_prefix_loads_as_the_empty_view(scene: Scene) {
    let view = scene.member("a").await.view().await;
    assert!(view.is_empty() && view.damages.is_empty(), "{view:?}");
}

pub(super) async fn a02_what_one_member_writes_the_other_loads(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    for (writer, reader) in [(&a, &b), (&b, &a)] {
        write_everything(writer).await;
        let view = reader.view().await;
        assert_eq!(view, writer.view().await);
        assert_eq!(view.initialize.as_deref(), Some("7123456789012345678"));
        assert_eq!(view.leader_name(), Some(&writer.name));
        assert_eq!(view.config.and_then(|config| config.data), Some(config("one")));
        assert_eq!(view.status.last_lsn, Lsn(42));
        assert_eq!(view.failover.map(|key| key.request), Some(request(writer)));
        assert_eq!(view.sync.record, sync(writer));
        assert_eq!(view.history.map(|history| history.raw), Some(json!([[1, 42, "no recovery target specified"]])));
        assert_eq!(view.failsafe, Some(Value::Object(config("two"))));
        assert_eq!(view.members.iter().find(|member| member.name == writer.name).map(|m| &m.record), Some(&writer.record()));
        assert_eq!(view.damages, []);
        assert!(writer.releases().await);
    }
}

fn config(text: &str) -> Map<String, Value> {
    Map::from_iter([("text".to_owned(), text.into()), ("number".to_owned(), 1.into())])
}

fn request(writer: &Actor) -> FailoverRequest {
    FailoverRequest { leader: Some(writer.name.clone()), candidate: Some("c".into()), scheduled_at: None }
}

fn sync(writer: &Actor) -> SyncRecord {
    SyncRecord { leader: Some(writer.name.clone()), standbys: vec!["x".into(), "y".into()], quorum: 1 }
}

/// Each key once, in the order in which a cluster comes to life.
async fn write_everything(member: &Actor) {
    let (dcs, soon) = (&member.dcs, || member.soon());
    member.must("initialize", dcs.initialize(InitializeWrite::Overwrite, "7123456789012345678", soon()).await);
    member.wins().await;
    member.touch(&member.record()).await;
    member.must("write config", dcs.set_config(&config("one"), None, soon()).await);
    let slots = [("a".to_owned(), Lsn(40)), ("b".to_owned(), Lsn(41))].into();
    let status = Status { last_lsn: Lsn(42), slots: Some(slots), retain_slots: vec!["c".to_owned()] };
    member.must("write status", dcs.write_status(&status, false, soon()).await);
    member.must("write failsafe", dcs.write_failsafe(&config("two"), soon()).await);
    member.must("write failover", dcs.set_failover(&request(member), None, soon()).await);
    // Without a revision only if there is none to be had, as whoever writes it does.
    let seen = member.view().await.sync.revision;
    member.must("write sync", dcs.set_sync(&sync(member), seen.as_ref(), soon()).await);
    member.must("write history", dcs.set_history(&json!([[1, 42, "no recovery target specified"]]), soon()).await);
}

pub(super) async fn a03_foreign_keys_are_ignored_and_survive(scene: Scene) {
    let (a, hand) = (scene.member("a").await, scene.outside().await);
    // Below a member that is there, ZooKeeper lets nobody make a key.
    let foreign = ["foo", "members/x/b", "optime/other", "leaderx", "config2/x", "01/leader"];
    for key in foreign {
        hand.put(key, "somebody else's").await;
    }
    let view = a.view().await;
    assert!(view.is_empty() && view.damages.is_empty(), "{view:?}");
    write_everything(&a).await;
    assert!(a.releases().await);
    a.must("clear sync", a.dcs.delete_sync(None, a.soon()).await);
    a.must("cancel", a.dcs.cancel_initialization(a.soon()).await);
    for key in foreign {
        let entry = hand.get(key).await.unwrap_or_else(|| panic!("{key} is gone"));
        assert_eq!(entry.value, b"somebody else's", "{key}");
    }
    a.must("delete the cluster", a.dcs.delete_cluster(a.soon()).await);
}

pub(super) async fn a04_scopes_that_begin_alike_do_not_mix(scene: Scene) {
    let (short, long) = (scene.member_of("", "a").await, scene.member_of("2", "a").await);
    write_everything(&long).await;
    assert!(short.view().await.is_empty());
    short.view().await;
    long.must("write config", long.dcs.set_config(&config("changed"), None, long.soon()).await);
    let (wake, _) = short.waits(crate::Interest::FOLLOWER, Duration::from_secs(1)).await;
    assert_eq!(wake, crate::Wake::TimedOut, "a change of the other cluster");
    write_everything(&short).await;
    short.must("delete the cluster", short.dcs.delete_cluster(short.soon()).await);
    assert!(short.view().await.is_empty());
    assert_eq!(long.view().await.leader_name(), Some(&long.name));
}

pub(super) async fn a05_damaged_values_load_as_the_specification_says(scene: Scene) {
    let (a, hand) = (scene.member("a").await, scene.outside().await);
    let garbage: [(&str, &[u8]); 9] = [
        ("config", b"[not an object]"),
        ("members/x", b"\xff\xfe"),
        ("members/legacy", b"postgres://h:5432/postgres?application_name=http://h:8008/patroni"),
        ("failover", br#"{"leader":"a","scheduled_at":"some day"}"#),
        ("sync", br#"{"leader":"a","quorum":"many"}"#),
        ("history", b"{}"),
        ("status", br#"{"optime":"x","slots":"{\"s\":7}","retain_slots":5}"#),
        ("failsafe", b"[1]"),
        ("leader", b"nobody-with-a-member-key"),
    ];
    for (key, value) in garbage {
        hand.put(key, value).await;
    }
    let view = a.view().await;
    let config = view.config.clone().expect("present, if invalid");
    assert_eq!(config.data, None);
    assert_eq!(view.leader_name().map(|name| name.as_str()), Some("nobody-with-a-member-key"));
    assert_eq!(view.leader_member(), None);
    assert_eq!(view.members.len(), 2);
    assert_eq!(view.member(&"legacy".into()).and_then(|member| member.record.api_url.as_deref()), Some("http://h:8008/patroni"));
    assert_eq!(view.member(&"x".into()).map(|member| member.record.state.clone()), Some(None));
    assert_eq!(view.failover, None);
    assert!(view.sync.is_empty() && view.sync.revision.is_some());
    assert_eq!(view.history.as_ref().map(|history| history.lines.len()), Some(0));
    let slots = [("s".to_owned(), Lsn(7))].into();
    assert_eq!(view.status, Status { last_lsn: Lsn(0), slots: Some(slots), retain_slots: Vec::new() });
    assert_eq!(view.failsafe, Some(json!([1])));
    assert!(view.damages.len() >= 6, "{:?}", view.damages);

    // What is damaged can be repaired with the revision that was read.
    let repaired = a.dcs.set_config(&Map::new(), Some(&config.revision), a.soon()).await;
    assert!(a.must("repair", repaired).is_applied());
}

pub(super) async fn a06_unicode_quotes_and_newlines_come_back(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let text = "ключ \"quoted\" \\ back\nnew\tline 😀 \u{7f} \u{0} 'x' %2F";
    let mut config = Map::new();
    config.insert(text.to_owned(), text.into());
    a.must("write config", a.dcs.set_config(&config, None, a.soon()).await);
    assert_eq!(b.view().await.config.and_then(|config| config.data), Some(config));
    let record = crate::model::MemberRecord { state: Some(text.to_owned()), ..a.record() };
    a.touch(&record).await;
    assert_eq!(b.view().await.member(&a.name).map(|member| member.record.clone()), Some(record));
}

pub(super) async fn a07_a_large_configuration_comes_back_and_a_huge_one_is_refused(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let large = |bytes: usize| Map::from_iter([("x".to_owned(), Value::from("y".repeat(bytes)))]);
    // Room for the names and quotes around it.
    for bytes in [512 * 1024, scene.profile.largest_config - 16] {
        let bytes = bytes.min(scene.profile.largest_config - 16);
        let before = b.view().await.config.map(|config| config.revision);
        let written = a.must("write", a.dcs.set_config(&large(bytes), before.as_ref(), a.soon()).await);
        assert!(written.is_applied());
        assert_eq!(b.view().await.config.and_then(|config| config.data), Some(large(bytes)));
    }
    let Some(too_large) = scene.profile.too_large else { return };
    let before = b.view().await;
    let error = a.dcs.set_config(&large(too_large), None, a.soon()).await.expect_err("it is beyond the limit");
    assert_eq!((error.kind, error.fate), (ErrorKind::Misconfigured, Fate::NotApplied), "{}", error.chain());
    assert_eq!(b.view().await, before);
    assert!(matches!(a.must("write", a.dcs.set_config(&large(1), None, a.soon()).await), Write::Applied(_)));
}

pub(super) async fn a08_fifty_members_load_completely(scene: Scene) {
    let (a, hand) = (scene.member("a").await, scene.outside().await);
    let names: Vec<_> = (0..50).map(|number| format!("member-{number:02}")).collect();
    for name in &names {
        hand.put(&format!("members/{name}"), r#"{"state":"running"}"#).await;
    }
    let view = a.view().await;
    assert_eq!(view.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), names);

    // One after the other vanishes while the cluster is being loaded.
    let vanish = async {
        for name in &names {
            hand.delete(&format!("members/{name}")).await;
        }
    };
    let load = async {
        let mut sizes = Vec::new();
        while sizes.last().is_none_or(|size| *size > 0) {
            sizes.push(a.view().await.members.len());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        sizes
    };
    let ((), sizes) = tokio::join!(vanish, load);
    assert!(sizes.is_sorted_by(|before, after| before >= after), "{sizes:?}");
}
