//! Sessions: kept across servers, granted shorter than asked for, expired, changed.

use std::time::Duration;

use dcs_core::{BootClock, Clock, Deadline, Entry, ErrorKind, KeyValueStore, LockRenewal, Timing};
use serde_json::json;
use store_servers::eventually;
use store_servers::zookeeper::Options;

use crate::meddler::{Meddler, Trick, op};
use crate::{
    GRAIN, LEADER, MEMBER, PREFIX, TIMING, can_run, direct, entry, existing, is_kept, loads, renews, session, soon, store, store_with, wins,
};

#[tokio::test]
async fn making_a_store_sends_nothing() {
    let meddler = Meddler::start("127.0.0.1:9".parse().expect("an address")).await;
    let store = store_with(&json!({"hosts": meddler.host()}), TIMING);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(store.handle().is_none() && store.server().is_none());
    assert_eq!(meddler.requests(), Vec::<i32>::new());
}

#[tokio::test]
async fn the_session_and_the_lock_survive_a_change_of_server() {
    if !can_run("the_session_and_the_lock_survive_a_change_of_server") {
        return;
    }
    let servers = Options::three().start().await.expect("ZooKeeper starts");
    let (a, b) = (store(&servers), store(&servers));
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.expect("written");
    let (before, lock) = (session(&a), existing(&b, LEADER).await);
    let used = a.server().expect("a server is in use");
    let index = servers.hosts().iter().position(|host| *host == used).expect("it is one of them");
    servers.kill(index);
    let deadline = Deadline::after(TIMING.retry_timeout * 2);
    let renewal = eventually("the lock is renewed elsewhere", TIMING.retry_timeout * 2, || async {
        a.renew_lock(LEADER, "a", &lock, deadline).await.map_err(|error| error.chain())
    });
    assert!(matches!(renewal.await, LockRenewal::Kept(grip) if grip.written.is_none()));
    assert_ne!(a.server(), Some(used));
    assert_eq!((session(&a), existing(&b, LEADER).await), (before, lock));
    assert!(entry(&b, MEMBER).await.is_some());
}

#[tokio::test]
async fn a_frozen_server_is_left_within_its_share_of_the_time() {
    if !can_run("a_frozen_server_is_left_within_its_share_of_the_time") {
        return;
    }
    let servers = Options::three().start().await.expect("ZooKeeper starts");
    // A follower: without the leader nothing works before there is another one.
    let follower = (0..3)
        .find(|index| store_servers::zookeeper::word(servers.addresses()[*index], "srvr").is_ok_and(|said| said.contains("Mode: follower")))
        .expect("two of them follow");
    let hosts = servers.hosts();
    let a = store_with(&json!({"hosts": hosts[follower]}), TIMING);
    loads(&a).await.expect("it serves");
    drop(a);
    let a = store(&servers);
    let mut tries = 0;
    while a.server().as_ref() != Some(&hosts[follower]) {
        // Which one is first is chance; with an idle cycle the connection ends, and the next one is another server's.
        tries += 1;
        assert!(tries < 30, "it never uses {}", hosts[follower]);
        tokio::time::sleep(TIMING.loop_wait * 3 / 2).await;
        loads(&a).await.expect("it serves");
    }
    wins(&a, "a").await;
    let before = session(&a);
    servers.freeze(follower).await;
    assert!(loads(&a).await.is_ok(), "one call reaches the next server");
    assert!(is_kept(&renews(&a, "a").await));
    assert_eq!(session(&a), before);
    servers.thaw(follower);
}

#[tokio::test]
async fn a_session_granted_shorter_than_the_ttl_bounds_the_belief_in_the_lock() {
    if !can_run("a_session_granted_shorter_than_the_ttl_bounds_the_belief_in_the_lock") {
        return;
    }
    let granted = Duration::from_secs(5);
    let options = Options { longest_session: granted, ..Options::default() };
    let servers = options.start().await.expect("ZooKeeper starts");
    let timing = Timing { ttl: Duration::from_secs(30), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(6) };
    let (a, b) = (store_with(&json!({"hosts": servers.hosts()}), timing), store(&servers));
    wins(&a, "a").await;
    let lease = a.handle().expect("a session").lease;
    assert!(lease.valid_until() > lease.sent_at() && lease.valid_until() <= lease.sent_at() + granted, "{lease:?}");
    // Nobody uses it any more: the lock is free about when the belief ends, and not before.
    eventually("the lock is free", granted + timing.loop_wait + GRAIN, || async {
        match entry(&b, LEADER).await {
            None => Ok(()),
            Some(entry) => Err(format!("{entry:?}")),
        }
    })
    .await;
    assert!(!lease.is_valid(BootClock.now()));
}

#[tokio::test]
async fn a_lease_ends_before_the_session_can() {
    if !can_run("a_lease_ends_before_the_session_can") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let a = store(&servers);
    wins(&a, "a").await;
    let granted = a.handle().expect("a session").lease;
    assert!(granted.valid_until() < granted.sent_at() + TIMING.ttl);
    // A read is answered by a server that may be cut off from the others: it proves nothing about the lock.
    loads(&a).await.expect("a load");
    assert_eq!(a.handle().expect("a session").lease, granted);
    let Ok(LockRenewal::Kept(grip)) = renews(&a, "a").await else { panic!("it is ours") };
    assert!(grip.lease.sent_at() > granted.sent_at());
    assert_eq!(a.handle().expect("a session").lease, grip.lease);
}

#[tokio::test]
async fn a_follower_cut_off_from_the_others_does_not_renew() {
    if !can_run("a_follower_cut_off_from_the_others_does_not_renew") {
        return;
    }
    let servers = Options::three().start().await.expect("ZooKeeper starts");
    let hosts = servers.hosts();
    let a = store_with(&json!({"hosts": hosts[0]}), TIMING);
    wins(&a, "a").await;
    let seen = existing(&a, LEADER).await;
    servers.freeze(1).await;
    servers.freeze(2).await;
    let error = a.renew_lock(LEADER, "a", &seen, Deadline::after(TIMING.retry_timeout)).await.expect_err("there is no majority");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
    servers.thaw(1);
    servers.thaw(2);
    eventually("the lock is renewed again", Duration::from_secs(30), || async {
        a.renew_lock(LEADER, "a", &seen, soon()).await.map_err(|error| error.chain())
    })
    .await;
}

#[tokio::test]
async fn a_process_that_dies_frees_its_keys_and_not_before_its_time() {
    if !can_run("a_process_that_dies_frees_its_keys_and_not_before_its_time") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let (a, b) = (store(&servers), store(&servers));
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.expect("written");
    let sent = tokio::time::Instant::now();
    assert!(is_kept(&renews(&a, "a").await));
    // Whatever ends the process closes its connection without a word.
    drop(a);
    eventually("both keys are gone", TIMING.ttl + GRAIN, || async {
        match (entry(&b, LEADER).await, entry(&b, MEMBER).await) {
            (None, None) => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
    assert!(sent.elapsed() >= TIMING.ttl - Duration::from_millis(500), "gone after {:?}", sent.elapsed());
}

#[tokio::test]
async fn an_expired_session_is_found_out_and_harms_no_new_owner() {
    if !can_run("an_expired_session_is_found_out_and_harms_no_new_owner") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let (a, b) = (store(&servers), store(&servers));
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.expect("written");
    let (before, seen) = (session(&a), existing(&a, LEADER).await);
    // Idle for longer than the session lives, as a process that was stopped.
    eventually("b has the lock", TIMING.ttl + TIMING.loop_wait + GRAIN, || async {
        match b.acquire_lock(LEADER, "b", soon()).await {
            Ok(dcs_core::LockAttempt::Won(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let theirs = existing(&b, LEADER).await;
    assert!(matches!(a.renew_lock(LEADER, "a", &seen, soon()).await, Ok(LockRenewal::Lost)));
    assert_eq!(existing(&b, LEADER).await, theirs);
    assert_ne!(session(&a), before);
    // The member key comes back with the new session.
    assert!(entry(&b, MEMBER).await.is_none());
    a.ensure_handle(soon()).await.expect("a session");
    a.put_bound(MEMBER, b"{}", soon()).await.expect("written");
    assert_eq!(existing(&b, MEMBER).await.handle.map(|handle| handle.to_string()), Some(session(&a)));
}

#[tokio::test]
async fn an_expired_session_is_made_anew_at_every_call() {
    if !can_run("an_expired_session_is_made_anew_at_every_call") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let meddler = Meddler::start(servers.addresses()[0]).await;
    let a = store_with(&json!({"hosts": meddler.host()}), TIMING);
    wins(&a, "a").await;
    for op in [op::CREATE, op::MULTI_READ] {
        let (before, seen) = (session(&a), existing(&a, LEADER).await);
        meddler.play(op, Trick::Refuse(-112));
        let renewal = a.renew_lock(LEADER, "a", &seen, soon()).await;
        assert!(is_kept(&renewal), "{op}: {renewal:?}");
        assert_ne!(session(&a), before, "{op}");
        assert_eq!(existing(&a, LEADER).await.handle.map(|handle| handle.to_string()), Some(session(&a)), "{op}");
    }
    meddler.play(op::SET, Trick::Refuse(-112));
    let error = a.put_bound(MEMBER, b"{}", soon()).await.expect_err("the session is gone");
    assert_eq!((error.kind, error.fate), (ErrorKind::HandleGone, dcs_core::Fate::NotApplied));
    assert!(a.ensure_handle(soon()).await.is_ok() && a.put_bound(MEMBER, b"{}", soon()).await.is_ok());
    meddler.play(op::MULTI_READ, Trick::Refuse(-112));
    loads(&a).await.expect("a load goes on with another session");
}

#[tokio::test]
async fn another_ttl_is_another_session_and_the_keys_move_to_it() {
    if !can_run("another_ttl_is_another_session_and_the_keys_move_to_it") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let (a, watching) = (store(&servers), direct(&servers).await);
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.expect("written");
    let (before, seen) = (session(&a), existing(&a, LEADER).await);
    a.set_timing(Timing { ttl: TIMING.ttl * 2, ..TIMING });
    loads(&a).await.expect("reading needs no other session");
    assert_eq!(session(&a), before);
    assert!(is_kept(&a.renew_lock(LEADER, "a", &seen, soon()).await));
    let now = session(&a);
    assert_ne!(now, before);
    // The member key stays until it is written again, and does not end with the old session then.
    assert_eq!(existing(&a, MEMBER).await.handle.map(|handle| handle.to_string()), Some(before));
    a.put_bound(MEMBER, b"{}", soon()).await.expect("written");
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < TIMING.ttl + GRAIN {
        assert!(is_kept(&renews(&a, "a").await));
        assert!(watching.check_stat(MEMBER).await.expect("asked").is_some(), "it went with the old session");
        tokio::time::sleep(TIMING.loop_wait / 2).await;
    }
    assert_eq!(session(&a), now);
    let lease = a.handle().expect("a session").lease;
    assert!(lease.valid_until() - lease.sent_at() > TIMING.ttl, "{lease:?}");
}

#[tokio::test]
async fn while_nothing_can_be_reached_nothing_is_sent_later() {
    if !can_run("while_nothing_can_be_reached_nothing_is_sent_later") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let (a, b) = (store(&servers), direct(&servers).await);
    let key = format!("{PREFIX}config");
    loads(&a).await.expect("it serves");
    servers.freeze(0).await;
    let late = a.put(&key, b"late", dcs_core::Expect::Any, Deadline::after(Duration::from_secs(3))).await;
    assert_eq!(late.expect_err("nothing answers").kind, ErrorKind::Unavailable);
    // This one is begun when the connection has been given up: it never gets to a server.
    let never = a.put(&key, b"never", dcs_core::Expect::Any, Deadline::after(Duration::from_secs(1))).await;
    let error = never.expect_err("nothing answers");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    servers.thaw(0);
    eventually("it serves again", Duration::from_secs(20), || async { loads(&a).await.map_err(|error| error.chain()) }).await;
    let there = b.get_data(&key).await;
    assert!(!there.is_ok_and(|(value, _)| value == b"never"));
}

#[tokio::test]
async fn a_refused_connection_is_told_with_its_cause() {
    let store = store_with(&json!({"hosts": "127.0.0.1:1"}), TIMING);
    let error = loads(&store).await.expect_err("nobody listens there");
    assert_eq!((error.kind, error.fate), (ErrorKind::Unavailable, dcs_core::Fate::NotApplied));
    assert!(error.chain().contains("127.0.0.1:1") && error.chain().contains("Connection refused"), "{}", error.chain());
    let seen = Entry { key: LEADER.into(), value: b"a".into(), revision: 1_u64.into(), handle: None };
    let error = store.renew_lock(LEADER, "a", &seen, soon()).await.expect_err("nobody listens there");
    assert_eq!(error.kind, ErrorKind::Unavailable);
}
