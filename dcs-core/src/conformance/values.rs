//! The permanent keys: compare-and-set and all that (items 33 to 45).

use serde_json::{Map, Value, json};

use super::Scene;
use super::scene::Actor;
use crate::model::{FailoverRequest, Revision, SyncRecord};
use crate::{InitializeWrite, Write};

fn config(number: u64) -> Map<String, Value> {
    Map::from_iter([("number".to_owned(), number.into())])
}

async fn write_config(member: &Actor, number: u64, expected: Option<&Revision>) -> Write {
    member.must("write config", member.dcs.set_config(&config(number), expected, member.soon()).await)
}

async fn stored_config(member: &Actor) -> (Map<String, Value>, Revision) {
    let config = member.view().await.config.expect("there is a configuration");
    (config.data.expect("it is an object"), config.revision)
}

pub(super) async fn a33_a_configuration_is_written_only_with_its_current_revision(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    write_config(&a, 1, None).await;
    let (_, first) = stored_config(&b).await;
    let Write::Applied(second) = write_config(&b, 2, Some(&first)).await else { panic!("the revision is current") };
    assert_eq!(write_config(&a, 3, Some(&first)).await, Write::Refused);
    assert_eq!(stored_config(&a).await, (config(2), second.clone()));
    assert!(write_config(&a, 3, Some(&second)).await.is_applied());
}

pub(super) async fn a34_two_writers_with_one_revision_have_one_winner(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    write_config(&a, 0, None).await;
    for round in 0..20 {
        let (_, seen) = stored_config(&a).await;
        let (one, two) = (round * 2 + 1, round * 2 + 2);
        let (first, second) = tokio::join!(write_config(&a, one, Some(&seen)), write_config(&b, two, Some(&seen)));
        assert!(first.is_applied() != second.is_applied(), "round {round}: {first:?} {second:?}");
        let winner = if first.is_applied() { one } else { two };
        assert_eq!(stored_config(&b).await.0, config(winner), "round {round}");
    }
}

pub(super) async fn a35_a_configuration_without_revision_overwrites_and_creates(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    assert!(write_config(&a, 1, None).await.is_applied());
    assert!(write_config(&b, 2, None).await.is_applied());
    assert_eq!(stored_config(&a).await.0, config(2));
}

fn switchover(leader: &str) -> FailoverRequest {
    FailoverRequest { leader: Some(leader.into()), candidate: None, scheduled_at: None }
}

pub(super) async fn a36_a_failover_request_is_cleared_only_if_it_is_the_one_acted_on(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let write = async |member: &Actor, request: &FailoverRequest, expected: Option<&Revision>| {
        member.must("write", member.dcs.set_failover(request, expected, member.soon()).await)
    };
    assert!(write(&a, &switchover("a"), None).await.is_applied());
    let first = b.view().await.failover.expect("it was written");
    assert_eq!(first.request, switchover("a"));

    // A newer request comes before the first one is cleared.
    assert!(write(&b, &switchover("b"), Some(&first.revision)).await.is_applied());
    assert_eq!(write(&a, &FailoverRequest::default(), Some(&first.revision)).await, Write::Refused);
    let second = a.view().await.failover.expect("it is still there");
    assert_eq!(second.request, switchover("b"));
    assert!(write(&a, &FailoverRequest::default(), Some(&second.revision)).await.is_applied());
    assert_eq!(b.view().await.failover, None);

    // Two clear the same one.
    assert!(write(&a, &switchover("c"), None).await.is_applied());
    let seen = a.view().await.failover.expect("it was written").revision;
    let (one, two) = (switchover("x"), switchover("y"));
    let (first, second) = tokio::join!(write(&a, &one, Some(&seen)), write(&b, &two, Some(&seen)));
    assert!(first.is_applied() != second.is_applied(), "{first:?} {second:?}");
}

fn sync(leader: &str, standbys: &[&str]) -> SyncRecord {
    SyncRecord { leader: Some(leader.into()), standbys: standbys.iter().map(|name| (*name).into()).collect(), quorum: 0 }
}

async fn write_sync(member: &Actor, record: &SyncRecord, expected: Option<&Revision>) -> Write {
    member.must("write sync", member.dcs.set_sync(record, expected, member.soon()).await)
}

async fn clear_sync(member: &Actor, expected: Option<&Revision>) -> bool {
    member.must("clear sync", member.dcs.delete_sync(expected, member.soon()).await)
}

pub(super) async fn a37_a_written_synchronous_state_can_be_written_again_without_a_load(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let mut expected: Option<Revision> = None;
    for standbys in [&["b"][..], &["b", "c"], &[]] {
        let record = sync("a", standbys);
        let Write::Applied(revision) = write_sync(&a, &record, expected.as_ref()).await else {
            panic!("the revision of the last write is current")
        };
        let seen = b.view().await.sync;
        assert_eq!((&seen.record, seen.revision.as_ref()), (&record, Some(&revision)));
        // The same again is another one: what was made for the former is refused from then on.
        let Write::Applied(again) = write_sync(&a, &record, Some(&revision)).await else { panic!("it is current") };
        assert_eq!(write_sync(&a, &sync("a", &["late"]), Some(&revision)).await, Write::Refused);
        assert_eq!(b.view().await.sync.record, record);
        expected = Some(again);
    }
}

pub(super) async fn a38_two_synchronous_states_with_one_revision_have_one_winner(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let Write::Applied(seen) = write_sync(&a, &sync("a", &[]), None).await else { panic!("it was free") };
    let (one, two) = (sync("a", &["x"]), sync("a", &["y"]));
    let (first, second) = tokio::join!(write_sync(&a, &one, Some(&seen)), write_sync(&b, &two, Some(&seen)));
    assert!(first.is_applied() != second.is_applied(), "{first:?} {second:?}");
    let winner = if first.is_applied() { one } else { two };
    assert_eq!(b.view().await.sync.record, winner);
    assert_eq!(write_sync(&b, &sync("b", &[]), None).await, Write::Refused, "who has seen none does not write over one");
    assert_eq!(a.view().await.sync.record, winner);
}

pub(super) async fn a39_the_synchronous_state_is_cleared_only_with_its_current_revision(scene: Scene) {
    let a = scene.member("a").await;
    let Write::Applied(old) = write_sync(&a, &sync("a", &["b"]), None).await else { panic!("it was free") };
    let Write::Applied(current) = write_sync(&a, &sync("a", &["c"]), Some(&old)).await else { panic!("current") };
    assert!(!clear_sync(&a, Some(&old)).await);
    assert_eq!(a.view().await.sync.record, sync("a", &["c"]));
    assert!(clear_sync(&a, Some(&current)).await);
    let empty = a.view().await.sync;
    assert!(empty.is_empty() && !empty.damaged);
    assert!(write_sync(&a, &sync("a", &["b"]), empty.revision.as_ref()).await.is_applied());
    assert!(clear_sync(&a, None).await);
    assert!(clear_sync(&a, None).await, "clearing what is empty is harmless");
}

pub(super) async fn a40_a_revision_from_before_a_deletion_is_refused(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let Write::Applied(before) = write_sync(&a, &sync("a", &["b"]), None).await else { panic!("it was free") };
    assert!(clear_sync(&a, Some(&before)).await);
    assert_eq!(write_sync(&b, &sync("b", &[]), Some(&before)).await, Write::Refused, "it never creates");
    let now = b.view().await.sync.revision;
    assert!(write_sync(&b, &sync("b", &["a"]), now.as_ref()).await.is_applied());
    assert_eq!(write_sync(&a, &sync("a", &["b"]), Some(&before)).await, Write::Refused);
    assert!(!clear_sync(&a, Some(&before)).await);
    assert_eq!(a.view().await.sync.record, sync("b", &["a"]));
}

async fn initialize(member: &Actor, how: InitializeWrite, text: &str) -> bool {
    member.must("initialize", member.dcs.initialize(how, text, member.soon()).await).is_applied()
}

async fn cancel(member: &Actor) {
    member.must("cancel", member.dcs.cancel_initialization(member.soon()).await);
}

pub(super) async fn a41_one_of_many_bootstraps(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    assert!(initialize(&a, InitializeWrite::CreateOnly, "").await);
    assert!(!initialize(&b, InitializeWrite::CreateOnly, "").await);
    assert_eq!(b.view().await.initialize.as_deref(), Some(""));
    cancel(&a).await;
    for round in 0..100 {
        let (first, second) =
            tokio::join!(initialize(&a, InitializeWrite::CreateOnly, ""), initialize(&b, InitializeWrite::CreateOnly, ""));
        assert!(first != second, "round {round}: {first} {second}");
        cancel(if first { &a } else { &b }).await;
    }
}

pub(super) async fn a42_initialize_is_overwritten_cancelled_and_created_again(scene: Scene) {
    let a = scene.member("a").await;
    assert!(initialize(&a, InitializeWrite::CreateOnly, "").await);
    assert!(initialize(&a, InitializeWrite::Overwrite, "7123456789012345678").await);
    assert_eq!(a.view().await.system_id().map(|id| id.to_string()).as_deref(), Some("7123456789012345678"));
    assert!(!initialize(&a, InitializeWrite::CreateOnly, "").await);
    cancel(&a).await;
    assert_eq!(a.view().await.initialize, None);
    cancel(&a).await;
    assert!(initialize(&a, InitializeWrite::CreateOnly, "7123456789012345678").await);
}

pub(super) async fn a43_a_revision_of_one_key_is_none_of_another(scene: Scene) {
    let a = scene.member("a").await;
    write_config(&a, 1, None).await;
    let Write::Applied(of_sync) = write_sync(&a, &sync("a", &[]), None).await else { panic!("it was free") };
    let (_, of_config) = stored_config(&a).await;
    assert_eq!(write_config(&a, 2, Some(&of_sync)).await, Write::Refused);
    assert_eq!(write_sync(&a, &sync("b", &[]), Some(&of_config)).await, Write::Refused);
    assert!(!clear_sync(&a, Some(&of_config)).await);
}

pub(super) async fn a44_a_history_of_a_thousand_entries_comes_back(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let entry =
        |timeline: u32| json!([timeline, u64::from(timeline) << 24, "no recovery target specified", "2030-01-01T00:00:00+00:00", "a"]);
    let history = Value::Array((1..=1000).map(entry).collect());
    a.must("write history", a.dcs.set_history(&history, a.soon()).await);
    let seen = b.view().await.history.expect("it was written");
    assert_eq!((seen.lines.len(), &seen.raw), (1000, &history));
    assert_eq!(seen.cluster_timeline().map(|timeline| timeline.0), Some(1001));
    a.must("write history", a.dcs.set_history(&json!([]), a.soon()).await);
    assert_eq!(b.view().await.history.map(|history| history.raw), Some(json!([])));
}

pub(super) async fn a45_a_deleted_cluster_is_empty(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let delete = async || a.must("delete the cluster", a.dcs.delete_cluster(a.soon()).await);
    delete().await;
    a.wins().await;
    a.touch(&a.record()).await;
    write_config(&a, 1, None).await;
    initialize(&a, InitializeWrite::CreateOnly, "7123456789012345678").await;
    delete().await;
    assert!(b.view().await.is_empty());
    b.wins().await;
}
