//! The one lease of a process.

use std::time::Duration;

use dcs_core::adapter::KeyValueDcs;
use dcs_core::keys::ClusterPath;
use dcs_core::model::{Lsn, MemberRecord, Status};
use dcs_core::{Acquisition, BootClock, Dcs, Deletion, KeyValueStore, LockRenewal, Renewal, Timing};
use serde_json::json;

use crate::support::{Cluster, can_run};
use crate::{LEADER, MEMBER, entry, existing, quick, renews, soon, store, store_with, wins};
use store_servers::conformance::TIMING;
use store_servers::etcd::Options;

fn lease_of(entry: &dcs_core::Entry) -> i64 {
    entry.handle.as_ref().and_then(|handle| handle.as_str().parse().ok()).expect("it hangs on a lease")
}

#[tokio::test]
async fn member_and_leader_hang_on_one_lease_and_the_member_outlives_the_lock() {
    if !can_run("member_and_leader_hang_on_one_lease_and_the_member_outlives_the_lock") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let a = store(&cluster);
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.expect("it can be written");
    let (leader, member) = (existing(&a, LEADER).await, existing(&a, MEMBER).await);
    assert_eq!(lease_of(&leader), lease_of(&member));

    let released = a.release_lock(LEADER, &leader, soon()).await.expect("it can be released");
    assert!(matches!(released, Deletion::Deleted(Some(_))), "{released:?}");
    assert_eq!(entry(&a, LEADER).await, None);
    assert_eq!(existing(&a, MEMBER).await, member);
}

#[tokio::test]
async fn a_lease_revoked_by_hand_is_replaced_and_the_lock_taken_back_if_nobody_else_did() {
    if !can_run("a_lease_revoked_by_hand_is_replaced_and_the_lock_taken_back_if_nobody_else_did") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let (a, b) = (store(&cluster), store(&cluster));
    let direct = cluster.direct().await;
    wins(&a, "a").await;
    // With an open stream of keepalives, and without one.
    for opened in [false, true] {
        if opened {
            assert!(matches!(renews(&a, "a").await, Ok(LockRenewal::Kept(_))));
        }
        let seen = existing(&a, LEADER).await;
        direct.lease_client().revoke(lease_of(&seen)).await.expect("it can be revoked");
        assert_eq!(entry(&a, LEADER).await, None);
        let renewal = a.renew_lock(LEADER, "a", &seen, soon()).await.expect("etcd answers");
        assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");
        let now = existing(&a, LEADER).await;
        assert_ne!(now.handle, seen.handle);
        assert_eq!(a.handle().map(|handle| handle.id), now.handle);
    }

    let seen = existing(&a, LEADER).await;
    direct.lease_client().revoke(lease_of(&seen)).await.expect("it can be revoked");
    wins(&b, "b").await;
    let renewal = a.renew_lock(LEADER, "a", &seen, soon()).await.expect("etcd answers");
    assert_eq!(renewal, LockRenewal::Lost);
    assert_eq!(existing(&b, LEADER).await.value, b"b");
}

#[tokio::test]
async fn a_keepalive_that_finds_no_lease_is_never_a_proof_of_life() {
    if !can_run("a_keepalive_that_finds_no_lease_is_never_a_proof_of_life") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let a = store_with(&cluster.section(json!({})), Timing { loop_wait: Duration::ZERO, ..TIMING });
    let direct = cluster.direct().await;
    // The first answer comes from the opening of a stream, later ones from the stream.
    for _ in 0..3 {
        let before = a.ensure_handle(soon()).await.expect("a lease");
        let id: i64 = before.id.as_str().parse().expect("a number");
        direct.lease_client().revoke(id).await.expect("it can be revoked");
        let after = a.ensure_handle(soon()).await.expect("a lease");
        assert_ne!(before.id, after.id);
        assert!(after.lease.sent_at() > before.lease.sent_at());
        // Opens the stream of the new one.
        assert_eq!(a.ensure_handle(soon()).await.expect("a lease").id, after.id);
    }
}

#[tokio::test]
async fn writing_with_a_dead_lease_says_so_and_changes_nothing() {
    if !can_run("writing_with_a_dead_lease_says_so_and_changes_nothing") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let a = store(&cluster);
    let handle = a.ensure_handle(soon()).await.expect("a lease");
    let id: i64 = handle.id.as_str().parse().expect("a number");
    cluster.direct().await.lease_client().revoke(id).await.expect("it can be revoked");
    let error = a.put_bound(MEMBER, b"{}", soon()).await.expect_err("the lease is gone");
    assert_eq!((error.kind, error.fate), (dcs_core::ErrorKind::HandleGone, dcs_core::Fate::NotApplied));
    assert_eq!(entry(&a, MEMBER).await, None);
    assert_eq!(a.handle(), None);

    // An acquire gets a new one by itself. etcd must survive a transaction with a dead lease, too.
    let handle = a.ensure_handle(soon()).await.expect("a lease");
    let id: i64 = handle.id.as_str().parse().expect("a number");
    cluster.direct().await.lease_client().revoke(id).await.expect("it can be revoked");
    wins(&a, "a").await;
    assert_ne!(existing(&a, LEADER).await.handle, Some(handle.id));
}

#[tokio::test]
async fn ten_unchanged_cycles_leave_the_lock_and_the_member_as_they_are() {
    if !can_run("ten_unchanged_cycles_leave_the_lock_and_the_member_as_they_are") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let a = store_with(&cluster.section(json!({})), quick());
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.expect("it can be written");
    let before = (existing(&a, LEADER).await, existing(&a, MEMBER).await);
    for _ in 0..10 {
        tokio::time::sleep(quick().loop_wait).await;
        match a.renew_lock(LEADER, "a", &before.0, soon()).await {
            Ok(LockRenewal::Kept(grip)) => assert_eq!(grip.written, None),
            other => panic!("{other:?}"),
        }
        a.ensure_handle(soon()).await.expect("a lease");
    }
    assert_eq!((existing(&a, LEADER).await, existing(&a, MEMBER).await), before);
}

#[tokio::test]
async fn a_leaders_cycle_is_four_requests_and_a_followers_two() {
    if !can_run("a_leaders_cycle_is_four_requests_and_a_followers_two") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let member = |name: &str| {
        let store = std::sync::Arc::new(store_with(&cluster.section(json!({})), quick()));
        let path = ClusterPath::new(None, "demo");
        KeyValueDcs::new(store, std::sync::Arc::new(BootClock), path, name.into(), quick())
    };
    let (a, b) = (member("a"), member("b"));
    assert!(matches!(a.attempt_to_acquire_leader(soon()).await, Ok(Acquisition::Won(_))));
    for cycle in 0..4 {
        tokio::time::sleep(quick().loop_wait).await;
        let before = cluster.requests().expect("etcd counts");
        let seen = a.load(soon()).await.expect("etcd answers").leader.expect("a leads");
        assert!(matches!(a.renew_leader(&seen, soon()).await, Ok(Renewal::Renewed(_))));
        a.touch_member(&MemberRecord::default(), soon()).await.expect("it can be written");
        let status = Status { last_lsn: Lsn(cycle + 1), ..Status::default() };
        assert!(a.write_status(&status, false, soon()).await.expect("it can be written"));
        let leader = cluster.requests().expect("etcd counts");
        b.load(soon()).await.expect("etcd answers");
        b.touch_member(&MemberRecord::default(), soon()).await.expect("it can be written");
        let follower = cluster.requests().expect("etcd counts");
        // The first cycle writes the member key and opens the stream of keepalives.
        if cycle > 1 {
            assert_eq!((leader - before, follower - leader), (4, 2), "cycle {cycle}");
        }
    }
}

#[tokio::test]
async fn a_new_ttl_moves_the_keys_to_a_new_lease_without_losing_the_lock() {
    if !can_run("a_new_ttl_moves_the_keys_to_a_new_lease_without_losing_the_lock") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let with_ttl = |seconds| Timing { ttl: Duration::from_secs(seconds), ..TIMING };
    let (a, b) = (store_with(&cluster.section(json!({})), with_ttl(30)), store(&cluster));
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.expect("it can be written");
    let old = existing(&a, LEADER).await;

    a.set_timing(with_ttl(40));
    let renewal = renews(&a, "a").await.expect("etcd answers");
    let LockRenewal::Kept(grip) = renewal else { panic!("{renewal:?}") };
    assert_eq!(grip.lease.valid_until() - grip.lease.sent_at(), Duration::from_secs(40));
    let handle = a.ensure_handle(soon()).await.expect("a lease");
    a.put_bound(MEMBER, b"{}", soon()).await.expect("it can be written");

    let (leader, member) = (existing(&a, LEADER).await, existing(&a, MEMBER).await);
    assert_ne!(leader.handle, old.handle);
    assert_eq!((&leader.handle, &member.handle), (&Some(handle.id.clone()), &Some(handle.id)));
    let mut leases = cluster.direct().await.lease_client();
    let alive = leases.time_to_live(lease_of(&leader), None).await.expect("etcd answers");
    assert_eq!(alive.granted_ttl(), 40);
    // The old one is left to expire: revoking it while the keys hung on it would have taken them along.
    assert!(leases.time_to_live(lease_of(&old), None).await.expect("etcd answers").ttl() > 0);
    let attempt = b.acquire_lock(LEADER, "b", soon()).await.expect("etcd answers");
    assert!(matches!(attempt, dcs_core::LockAttempt::Held(Some(_))), "{attempt:?}");
}

#[tokio::test]
async fn a_lock_can_be_renewed_when_etcd_has_run_out_of_space() {
    if !can_run("a_lock_can_be_renewed_when_etcd_has_run_out_of_space") {
        return;
    }
    let options = Options { more: vec!["--quota-backend-bytes=262144".to_owned()], ..Options::default() };
    let cluster = Cluster::start(&options).await;
    let a = store(&cluster);
    wins(&a, "a").await;
    let refused = loop {
        let huge = vec![b'x'; 64 << 10];
        match a.put("/service/demo/history", &huge, dcs_core::Expect::Any, soon()).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(refused.chain().contains("database space exceeded"), "{}", refused.chain());
    assert_eq!(refused.fate, dcs_core::Fate::NotApplied);
    for _ in 0..2 {
        let renewal = renews(&a, "a").await.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");
    }
}
