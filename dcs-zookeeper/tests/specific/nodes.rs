//! Nodes that are deleted and made again: their versions begin at zero each time.

use std::sync::Arc;

use dcs_core::{Deletion, Entry, Expect, KeyValueStore, LockRenewal, Timing, Write};
use serde_json::json;
use store_servers::zookeeper::Options;

use crate::meddler::{Hold, Meddler, Trick, op};
use crate::{LEADER, MEMBER, TIMING, can_run, direct, entry, existing, is_kept, renews, session, soon, store, store_with, wins};

const CONFIG: &str = "/service/demo/config";

#[tokio::test]
async fn of_two_writers_with_the_version_zero_one_wins() {
    if !can_run("of_two_writers_with_the_version_zero_one_wins") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let (a, b) = (store(&servers), store(&servers));
    for round in 0..20 {
        let key = format!("{CONFIG}{round}");
        let Ok(Write::Applied(new)) = a.put(&key, b"new", Expect::Absent, soon()).await else { panic!("it is new") };
        assert!(new.as_str().ends_with(".0"), "{new}");
        let (one, other) =
            tokio::join!(a.put(&key, b"a", Expect::Revision(&new), soon()), b.put(&key, b"b", Expect::Revision(&new), soon()));
        let won = [one, other].map(|write| write.expect("both are answered").is_applied());
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {round}");
        assert_eq!(existing(&a, &key).await.value, if won[0] { b"a" } else { b"b" });
    }
}

#[tokio::test]
async fn a_revision_does_not_fit_a_node_that_was_made_again() {
    if !can_run("a_revision_does_not_fit_a_node_that_was_made_again") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let a = store(&servers);
    let Ok(Write::Applied(old)) = a.put(CONFIG, b"old", Expect::Absent, soon()).await else { panic!("it is new") };
    assert_eq!(a.delete(CONFIG, Expect::Revision(&old), soon()).await.expect("deleted"), Deletion::Deleted(None));
    let Ok(Write::Applied(new)) = a.put(CONFIG, b"new", Expect::Absent, soon()).await else { panic!("it is gone") };
    assert_ne!(old, new);
    assert_eq!(a.put(CONFIG, b"late", Expect::Revision(&old), soon()).await.expect("answered"), Write::Refused);
    assert_eq!(a.delete(CONFIG, Expect::Revision(&old), soon()).await.expect("answered"), Deletion::Refused);
    assert_eq!(existing(&a, CONFIG).await, Entry { key: CONFIG.to_owned(), value: b"new".to_vec(), revision: new, handle: None });
}

#[tokio::test]
async fn a_key_that_belongs_to_a_session_becomes_permanent_and_the_reverse() {
    if !can_run("a_key_that_belongs_to_a_session_becomes_permanent_and_the_reverse") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let (a, b) = (store(&servers), store(&servers));
    let permanent = a.put(MEMBER, b"1", Expect::Any, soon()).await.expect("written");
    let bound = a.put_bound(MEMBER, b"2", soon()).await.expect("written");
    let there = existing(&b, MEMBER).await;
    assert_eq!((there.value.as_slice(), &there.revision), (b"2".as_slice(), &bound));
    assert_eq!(there.handle.map(|handle| handle.to_string()), Some(session(&a)));
    let taken = b.put_bound(MEMBER, b"3", soon()).await.expect("written");
    assert_eq!(existing(&a, MEMBER).await.handle.map(|handle| handle.to_string()), Some(session(&b)));
    assert_ne!(bound, taken);
    assert!(b.put(MEMBER, b"4", Expect::Any, soon()).await.expect("written").is_applied());
    assert_eq!(existing(&a, MEMBER).await.handle, None);
    assert_ne!(permanent, Write::Applied(existing(&a, MEMBER).await.revision));
}

#[tokio::test]
async fn an_earlier_process_s_lock_is_taken_over_without_a_gap() {
    if !can_run("an_earlier_process_s_lock_is_taken_over_without_a_gap") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let (before, after) = (store(&servers), store(&servers));
    wins(&before, "a").await;
    let seen = existing(&before, LEADER).await;
    let stale = Entry { revision: 7_u64.into(), ..seen.clone() };
    assert!(matches!(after.renew_lock(LEADER, "a", &stale, soon()).await, Ok(LockRenewal::Moved(now)) if now == seen));
    let watching = direct(&servers).await;
    let (stat, watch) = watching.check_and_watch_stat(LEADER).await.expect("watched");
    assert!(stat.is_some());
    assert!(is_kept(&after.renew_lock(LEADER, "a", &seen, soon()).await));
    // Nobody ever saw it missing: what the watch tells of is a write, which comes with the other two.
    assert_eq!(watch.changed().await.event_type, zookeeper_client::EventType::NodeDataChanged);
    let now = existing(&before, LEADER).await;
    assert_eq!(now.handle.map(|handle| handle.to_string()), Some(session(&after)));
    // The process of before does not get it back with what it saw.
    assert!(matches!(before.renew_lock(LEADER, "a", &seen, soon()).await, Ok(LockRenewal::Moved(_))));
}

/// Between the look and the transaction the lock expires, and somebody else takes it. Both nodes have the version zero.
#[tokio::test]
async fn a_lock_taken_from_somebody_by_mistake_is_never_believed_in() {
    if !can_run("a_lock_taken_from_somebody_by_mistake_is_never_believed_in") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let meddler = Meddler::start(servers.addresses()[0]).await;
    // The transaction is held up for as long as the others need.
    let patient = Timing { retry_timeout: TIMING.retry_timeout * 5, ..TIMING };
    let (before, after, b) = (store(&servers), store_with(&json!({"hosts": meddler.host()}), patient), store(&servers));
    wins(&before, "a").await;
    let seen = existing(&after, LEADER).await;
    let hold = Arc::new(Hold::default());
    meddler.play(op::MULTI, Trick::Hold(Arc::clone(&hold)));
    let interfering = async {
        hold.arrived.notified().await;
        before.release_lock(LEADER, &seen, soon()).await.expect("released");
        wins(&b, "b").await;
        hold.released.notify_one();
    };
    let (renewal, ()) = tokio::join!(after.renew_lock(LEADER, "a", &seen, soon()), interfering);
    let error = renewal.expect_err("it is not known to be ours");
    assert!(error.chain().contains("somebody had taken the lock"), "{}", error.chain());
    // The other one has lost it, and is told so. Nobody gets it as long as it may still believe in it.
    let theirs = Entry { value: b"b".to_vec(), ..existing(&b, LEADER).await };
    assert!(matches!(b.renew_lock(LEADER, "b", &theirs, soon()).await, Ok(LockRenewal::Lost)));
    let begun = tokio::time::Instant::now();
    let kept = store_servers::eventually("the lock is ours", TIMING.ttl * 4, || async {
        match renews(&after, "a").await {
            Ok(LockRenewal::Kept(_)) => Ok(begun.elapsed()),
            other => Err(format!("{other:?}")),
        }
    });
    assert!(kept.await >= TIMING.ttl / 2, "it was believed in while the other one might be");
}

/// The transaction that takes the lock over from an earlier process is executed, and its answer vanishes.
#[tokio::test]
async fn a_takeover_without_answer_is_not_believed_in_before_its_session_has_expired() {
    if !can_run("a_takeover_without_answer_is_not_believed_in_before_its_session_has_expired") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let meddler = Meddler::start(servers.addresses()[0]).await;
    let (before, after) = (store(&servers), store_with(&json!({"hosts": meddler.host()}), TIMING));
    wins(&before, "a").await;
    let seen = existing(&after, LEADER).await;
    let first = session(&after);
    meddler.play(op::MULTI, Trick::CutAnswer);
    assert!(after.renew_lock(LEADER, "a", &seen, soon()).await.is_err());
    assert_eq!(existing(&before, LEADER).await.handle.map(|handle| handle.to_string()), Some(first.clone()));
    assert!(renews(&after, "a").await.is_err());
    let kept = store_servers::eventually("the lock is ours", TIMING.ttl * 4, || async {
        renews(&after, "a").await.map_err(|error| error.chain())
    });
    assert!(matches!(kept.await, LockRenewal::Kept(_)));
    assert_ne!(session(&after), first);
}

#[tokio::test]
async fn a_takeover_that_never_arrived_is_done_again() {
    if !can_run("a_takeover_that_never_arrived_is_done_again") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let meddler = Meddler::start(servers.addresses()[0]).await;
    let (before, after) = (store(&servers), store_with(&json!({"hosts": meddler.host()}), TIMING));
    wins(&before, "a").await;
    let seen = existing(&after, LEADER).await;
    meddler.play(op::MULTI, Trick::Cut);
    assert!(after.renew_lock(LEADER, "a", &seen, soon()).await.is_err());
    assert!(is_kept(&after.renew_lock(LEADER, "a", &seen, soon()).await));
    assert_eq!(entry(&before, LEADER).await.and_then(|entry| entry.handle).map(|handle| handle.to_string()), Some(session(&after)));
}
