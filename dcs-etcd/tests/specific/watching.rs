//! The watch behind [`KeyValueStore::wait_for_changes`].

use std::time::Duration;

use dcs_core::conformance::proxy::Proxy;
use dcs_core::{ChangeKind, Changes, Consistency, Cursor, Deadline, Expect, KeyValueStore};
use dcs_etcd::Etcd;
use etcd_client::Client;
use serde_json::json;

use crate::support::{Cluster, can_run};
use crate::{LEADER, MEMBER, PREFIX, soon, store, store_with, wins};
use store_servers::conformance::TIMING;
use store_servers::etcd::Options;

async fn position(store: &Etcd) -> Cursor {
    store.read(PREFIX, Consistency::Relaxed, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain())).cursor
}

async fn wait(store: &Etcd, after: Cursor, patience: Duration) -> Changes {
    store.wait_for_changes(PREFIX, after, Deadline::after(patience)).await.expect("it never fails")
}

fn named(changes: &Changes) -> Vec<(&str, ChangeKind)> {
    changes.keys.iter().map(|change| (change.key.as_str(), change.kind)).collect()
}

async fn behind_a_link(cluster: &Cluster) -> (Etcd, Proxy) {
    let proxy = Proxy::start(cluster.addresses()[0]).await.expect("a port");
    let section = json!({"host": proxy.address().to_string(), "use_proxies": true});
    (store_with(section.as_object().expect("it is one"), TIMING), proxy)
}

#[tokio::test]
async fn what_changes_is_named_with_the_revision_that_its_writer_was_told() {
    if !can_run("what_changes_is_named_with_the_revision_that_its_writer_was_told") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let (a, b) = (store(&cluster), store(&cluster));
    let after = position(&a).await;
    wins(&b, "b").await;
    let changes = wait(&a, after, TIMING.retry_timeout).await;
    assert_eq!(named(&changes), [(LEADER, ChangeKind::Created)]);

    let written = b.put(LEADER, b"c", Expect::Any, soon()).await.expect("it can be written");
    let changes = wait(&a, changes.cursor, TIMING.retry_timeout).await;
    assert_eq!(named(&changes), [(LEADER, ChangeKind::Changed)]);
    let dcs_core::Write::Applied(revision) = written else { panic!("{written:?}") };
    assert_eq!(changes.keys[0].revision, Some(revision));

    let deleted = b.delete(LEADER, Expect::Any, soon()).await.expect("it can be deleted");
    let changes = wait(&a, changes.cursor, TIMING.retry_timeout).await;
    assert_eq!(named(&changes), [(LEADER, ChangeKind::Deleted)]);
    assert_eq!(deleted, dcs_core::Deletion::Deleted(changes.keys[0].revision.clone()));

    let nothing = wait(&a, changes.cursor, Duration::from_millis(300)).await;
    assert_eq!(nothing, Changes { cursor: nothing.cursor, ..Changes::default() });
}

#[tokio::test]
async fn an_expired_lease_reports_every_key_that_hung_on_it() {
    if !can_run("an_expired_lease_reports_every_key_that_hung_on_it") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let (a, b) = (store(&cluster), store(&cluster));
    wins(&b, "b").await;
    b.put_bound(MEMBER, b"{}", soon()).await.expect("it can be written");
    let handle = b.handle().expect("it has one");
    let after = position(&a).await;
    let id = handle.id.as_str().parse().expect("a number");
    cluster.direct().await.lease_client().revoke(id).await.expect("it can be revoked");
    // Both vanish at one revision: whoever hears of one has to hear of the other.
    let changes = wait(&a, after, TIMING.retry_timeout).await;
    let mut names = named(&changes);
    names.sort_unstable_by_key(|(key, _)| key.len());
    assert_eq!(names, [(LEADER, ChangeKind::Deleted), (MEMBER, ChangeKind::Deleted)]);
}

#[tokio::test]
async fn a_broken_watch_plays_back_what_it_missed() {
    if !can_run("a_broken_watch_plays_back_what_it_missed") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let (a, proxy) = behind_a_link(&cluster).await;
    let b = store(&cluster);
    let after = position(&a).await;
    assert_eq!(named(&wait(&a, after, Duration::from_millis(300)).await), []);
    proxy.cut();
    wins(&b, "b").await;
    proxy.heal();
    let changes = wait(&a, after, TIMING.retry_timeout).await;
    assert_eq!((named(&changes), changes.unnamed), (vec![(LEADER, ChangeKind::Created)], false));
}

async fn compact(direct: &mut Client, store: &Etcd) {
    for number in 0..10 {
        store.put(LEADER, format!("{number}").as_bytes(), Expect::Any, soon()).await.expect("it can be written");
    }
    let now = direct.get(LEADER, None).await.expect("etcd answers").header().expect("a header").revision();
    direct.compact(now, None).await.expect("it can be compacted");
}

#[tokio::test]
async fn a_compaction_while_the_watch_is_out_loses_no_wake_up() {
    if !can_run("a_compaction_while_the_watch_is_out_loses_no_wake_up") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let mut direct = cluster.direct().await;
    let b = store(&cluster);
    b.put(LEADER, b"b", Expect::Any, soon()).await.expect("it can be written");

    // The watch was running and broke.
    let (a, proxy) = behind_a_link(&cluster).await;
    let after = position(&a).await;
    assert_eq!(named(&wait(&a, after, Duration::from_millis(300)).await), []);
    // What the watch has not been told yet is lost with its connection.
    proxy.cut();
    proxy.break_connections();
    compact(&mut direct, &b).await;
    proxy.heal();
    let changes = wait(&a, after, TIMING.retry_timeout).await;
    assert!(changes.unnamed, "{changes:?}");
    assert!(changes.cursor > after);
    // And it goes on from there.
    let next = wait(&a, changes.cursor, Duration::from_millis(300)).await;
    b.put(MEMBER, b"{}", Expect::Any, soon()).await.expect("it can be written");
    let changes = wait(&a, next.cursor, TIMING.retry_timeout).await;
    assert!(named(&changes).contains(&(MEMBER, ChangeKind::Created)), "{changes:?}");

    // The watch was not running yet.
    let (late, _proxy) = behind_a_link(&cluster).await;
    let changes = wait(&late, after, TIMING.retry_timeout).await;
    assert!(changes.unnamed, "{changes:?}");
}

#[tokio::test]
async fn waiting_again_and_again_asks_etcd_nothing() {
    if !can_run("waiting_again_and_again_asks_etcd_nothing") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let a = store(&cluster);
    let mut after = position(&a).await;
    after = wait(&a, after, Duration::from_millis(300)).await.cursor;
    let before = cluster.requests();
    for _ in 0..20 {
        // Dropped half way, as when something else wakes the loop.
        let cut_short = tokio::time::timeout(Duration::from_millis(5), wait(&a, after, Duration::from_secs(5))).await;
        assert!(cut_short.is_err());
        after = wait(&a, after, Duration::from_millis(5)).await.cursor;
    }
    assert_eq!(cluster.requests(), before);
    assert_eq!(cluster.watches(), Some(1));
}
