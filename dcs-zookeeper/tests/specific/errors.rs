//! Every code that a server can answer, and every way in which a connection can fail, at every call. Whatever happens: a lock
//! that is held is never called lost, a session that lives is never taken for gone, and the next call works.

use std::time::Duration;

use dcs_core::{Deadline, Deletion, ErrorKind, Expect, Fate, KeyValueStore, LockAttempt, LockRenewal, Write};
use serde_json::json;
use store_servers::eventually;
use store_servers::zookeeper::Options;

use crate::meddler::{Meddler, Trick, op};
use crate::{LEADER, MEMBER, PREFIX, TIMING, can_run, existing, is_kept, loads, renews, session, soon, store, store_with, wins};

const CONFIG: &str = "/service/demo/config";

/// Every error code of the protocol, and one that nobody knows. What the server says about the session comes last.
const CODES: [i32; 27] = [
    -1, -2, -3, -4, -5, -6, -7, -8, -13, -14, -101, -102, -103, -108, -110, -111, -113, -114, -118, -119, -120, -122, -123, -125, -127,
    -999, -115,
];
const EXPIRED: i32 = -112;

fn tricks() -> Vec<Trick> {
    let codes = CODES.into_iter().flat_map(|code| [Trick::Refuse(code), Trick::Misreport(code)]);
    codes.chain([Trick::Refuse(EXPIRED), Trick::Lose, Trick::Cut, Trick::CutAnswer, Trick::Garble]).collect()
}

/// The session must still be the same: nobody with authority said that it is gone.
fn keeps_session(trick: &Trick) -> bool {
    !matches!(trick, Trick::Refuse(EXPIRED) | Trick::Misreport(EXPIRED))
}

/// A leader behind a meddler, with the configuration and its member key written.
async fn leader(servers: &store_servers::Servers) -> (Meddler, dcs_zookeeper::ZooKeeper) {
    let meddler = Meddler::start(servers.addresses()[0]).await;
    let timing = dcs_core::Timing { retry_timeout: Duration::from_secs(6), ..TIMING };
    let a = store_with(&json!({"hosts": meddler.host()}), timing);
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.expect("a member key");
    a.put(CONFIG, b"{}", Expect::Any, soon()).await.expect("a configuration");
    (meddler, a)
}

/// After a fault: the lock is held, as soon as the connection is back.
async fn still_leads(a: &dcs_zookeeper::ZooKeeper, context: &str) {
    for _ in 0..10 {
        match renews(a, "a").await {
            Ok(LockRenewal::Kept(_)) => return,
            Ok(other) => panic!("{context}: {other:?}"),
            Err(error) => assert_eq!(error.kind, ErrorKind::Unavailable, "{context}: {}", error.chain()),
        }
    }
    panic!("{context}: it does not recover");
}

#[tokio::test]
async fn no_error_at_any_call_costs_a_lock_that_is_held() {
    if !can_run("no_error_at_any_call_costs_a_lock_that_is_held") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let b = store(&servers);
    let (meddler, a) = leader(&servers).await;
    let calls: [(&str, &[i32]); 8] = [
        ("renew", &[op::CREATE, op::MULTI_READ]),
        ("load", &[op::SYNC, op::MULTI_READ]),
        ("get", &[op::SYNC, op::MULTI_READ]),
        ("put", &[op::SYNC, op::MULTI_READ, op::SET]),
        ("put bound", &[op::SET]),
        ("acquire", &[op::CREATE, op::MULTI_READ]),
        ("delete", &[op::SYNC, op::MULTI_READ]),
        ("ensure", &[op::SYNC]),
    ];
    for (call, ops) in calls {
        for &op in ops {
            for trick in tricks() {
                let context = format!("{trick:?} at request {op} of {call}");
                let before = session(&a);
                let revision = existing(&a, CONFIG).await.revision;
                let seen = existing(&a, LEADER).await;
                meddler.play(op, trick.clone());
                let error = match call {
                    "renew" => match a.renew_lock(LEADER, "a", &seen, soon()).await {
                        Ok(renewal) => {
                            assert!(matches!(renewal, LockRenewal::Kept(_) | LockRenewal::Moved(_)), "{context}: {renewal:?}");
                            None
                        }
                        Err(error) => Some(error),
                    },
                    "load" => loads(&a).await.err(),
                    "get" => a.get(CONFIG, soon()).await.err(),
                    "put" => match a.put(CONFIG, b"{\"a\":1}", Expect::Revision(&revision), soon()).await {
                        Ok(write) => {
                            // What a server says about a condition is believed.
                            let lies = matches!(trick, Trick::Refuse(-101 | -103) | Trick::Misreport(-101 | -103));
                            assert!(lies || matches!(write, Write::Applied(_)), "{context}");
                            None
                        }
                        Err(error) => {
                            let applied = existing(&b, CONFIG).await.revision != revision;
                            assert!(!applied || error.fate == Fate::Unknown || matches!(trick, Trick::Misreport(_)), "{context}");
                            Some(error)
                        }
                    },
                    "put bound" => a.put_bound(MEMBER, b"{\"b\":2}", soon()).await.err(),
                    "acquire" => match a.acquire_lock(LEADER, "a", soon()).await {
                        Ok(LockAttempt::Held(_)) => None,
                        Ok(LockAttempt::Won(_)) => {
                            assert!(!keeps_session(&trick), "{context}: it was held");
                            None
                        }
                        Err(error) => Some(error),
                    },
                    "delete" => match a.delete(CONFIG, Expect::Absent, soon()).await {
                        Ok(deletion) => {
                            assert_eq!(deletion, Deletion::Refused, "{context}");
                            None
                        }
                        Err(error) => Some(error),
                    },
                    _ => {
                        tokio::time::sleep(TIMING.loop_wait / 10).await;
                        a.ensure_handle(soon()).await.err()
                    }
                };
                meddler.forget();
                if let Some(error) = error {
                    assert!(error.kind != ErrorKind::HandleGone || !keeps_session(&trick), "{context}: {}", error.chain());
                }
                still_leads(&a, &context).await;
                assert_eq!(session(&a) == before, keeps_session(&trick) || session(&a) == before, "{context}");
                if keeps_session(&trick) {
                    assert_eq!(session(&a), before, "{context}");
                }
                assert!(matches!(b.acquire_lock(LEADER, "b", soon()).await, Ok(LockAttempt::Held(_))), "{context}");
            }
        }
    }
}

#[tokio::test]
async fn a_lost_lock_is_lost_and_no_error() {
    if !can_run("a_lost_lock_is_lost_and_no_error") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let (a, b) = (store(&servers), store(&servers));
    wins(&a, "a").await;
    let seen = existing(&a, LEADER).await;
    a.release_lock(LEADER, &seen, soon()).await.expect("released");
    wins(&b, "b").await;
    assert!(matches!(a.renew_lock(LEADER, "a", &seen, soon()).await, Ok(LockRenewal::Lost)));
    assert_eq!(existing(&a, LEADER).await.value, b"b");
}

#[tokio::test]
async fn codes_of_the_server_are_told_in_the_words_of_all_stores() {
    if !can_run("codes_of_the_server_are_told_in_the_words_of_all_stores") {
        return;
    }
    use ErrorKind::{Denied, Malformed, Misconfigured, Unavailable};
    use Fate::{NotApplied, Unknown};
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let (meddler, a) = leader(&servers).await;
    let rows = [
        (-1, Unavailable, Unknown),
        (-4, Unavailable, Unknown),
        (-7, Unavailable, Unknown),
        (-5, Misconfigured, NotApplied),
        (-6, Misconfigured, NotApplied),
        (-8, Misconfigured, NotApplied),
        (-102, Denied, NotApplied),
        (-108, Misconfigured, NotApplied),
        (-110, Malformed, NotApplied),
        (-111, Misconfigured, NotApplied),
        (-114, Misconfigured, NotApplied),
        (-115, Denied, NotApplied),
        (-118, Unavailable, NotApplied),
        (-119, Unavailable, NotApplied),
        (-122, Unavailable, Unknown),
        (-125, Misconfigured, NotApplied),
        (-127, Unavailable, NotApplied),
        (-999, Unavailable, Unknown),
        (EXPIRED, ErrorKind::HandleGone, NotApplied),
    ];
    for (code, kind, fate) in rows {
        loads(&a).await.expect("it recovers");
        meddler.play(op::SET, Trick::Refuse(code));
        let error = a.put_bound(MEMBER, b"{}", soon()).await.expect_err("the server refuses");
        assert_eq!((error.kind, error.fate), (kind, fate), "{code}: {}", error.chain());
        assert!(!meddler.forget(), "{code}: the server was not asked");
    }
}

#[tokio::test]
async fn a_value_that_no_request_can_hold_is_not_sent() {
    if !can_run("a_value_that_no_request_can_hold_is_not_sent") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let (meddler, a) = leader(&servers).await;
    let before = (session(&a), a.server());
    let large = vec![b'x'; 1 << 20];
    meddler.requests();
    for outcome in [a.put(CONFIG, &large, Expect::Any, soon()).await.map(drop), a.put_bound(MEMBER, &large, soon()).await.map(drop)] {
        let error = outcome.expect_err("it is too large");
        assert_eq!((error.kind, error.fate), (ErrorKind::Misconfigured, Fate::NotApplied));
        assert!(error.chain().contains("jute.maxbuffer"), "{}", error.chain());
    }
    assert_eq!(meddler.requests(), Vec::<i32>::new());
    let largest = vec![b'x'; a.capabilities().max_value.expect("a limit")];
    assert!(a.put(CONFIG, &largest, Expect::Any, soon()).await.expect("it is not too large").is_applied());
    assert_eq!(existing(&a, CONFIG).await.value.len(), largest.len());
    assert_eq!((session(&a), a.server()), before);
}

#[tokio::test]
async fn a_steady_cycle_asks_little_and_waiting_asks_nothing() {
    if !can_run("a_steady_cycle_asks_little_and_waiting_asks_nothing") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let (meddler, a) = leader(&servers).await;
    for name in 0..50 {
        a.put(&format!("{PREFIX}members/m{name}"), b"{}", Expect::Any, soon()).await.expect("a member");
    }
    let mut cursor = a.read(PREFIX, dcs_core::Consistency::Relaxed, soon()).await.expect("a read").cursor;
    // The first wait sets the watch, and says that something may have happened before.
    cursor = a.wait_for_changes(PREFIX, cursor, soon()).await.expect("a wait").cursor;
    meddler.requests();
    for _ in 0..3 {
        assert_eq!(loads(&a).await.expect("a load"), 53);
        let seen = existing_quietly(&a).await;
        assert!(is_kept(&a.renew_lock(LEADER, "a", &seen, soon()).await));
        a.ensure_handle(soon()).await.expect("a handle");
        let waited = a.wait_for_changes(PREFIX, cursor, Deadline::after(TIMING.loop_wait / 4)).await.expect("a wait");
        assert!(waited.keys.is_empty() && !waited.unnamed, "{waited:?}");
    }
    assert_eq!(meddler.requests(), [op::SYNC, op::MULTI_READ, op::SYNC, op::MULTI_READ, op::CREATE, op::MULTI_READ].repeat(3));
}

/// The lock as a load shows it.
async fn existing_quietly(a: &dcs_zookeeper::ZooKeeper) -> dcs_core::Entry {
    let snapshot = a.read(PREFIX, dcs_core::Consistency::Relaxed, soon()).await.expect("a read");
    snapshot.entries.into_iter().find(|entry| entry.key == LEADER).expect("a leader")
}

#[tokio::test]
async fn a_server_too_old_for_the_watch_is_named() {
    if !can_run("a_server_too_old_for_the_watch_is_named") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let (meddler, a) = leader(&servers).await;
    meddler.play(op::MULTI_READ, Trick::Refuse(-6));
    let error = loads(&a).await.expect_err("the server does not know it");
    assert!(error.chain().contains("ZooKeeper 3.6 or newer"), "{}", error.chain());
    meddler.play(op::ADD_WATCH, Trick::Refuse(-6));
    let cursor = a.read(PREFIX, dcs_core::Consistency::Relaxed, soon()).await.expect("a read").cursor;
    let changes = a.wait_for_changes(PREFIX, cursor, soon()).await.expect("it is set a second time");
    assert!(changes.unnamed);
}

#[tokio::test]
async fn releasing_survives_every_fault() {
    if !can_run("releasing_survives_every_fault") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let b = store(&servers);
    let (meddler, a) = leader(&servers).await;
    for op in [op::SYNC, op::MULTI_READ, op::DELETE] {
        for trick in tricks() {
            let context = format!("{trick:?} at request {op}");
            let held = existing(&a, LEADER).await;
            meddler.play(op, trick.clone());
            let outcome = a.release_lock(LEADER, &held, soon()).await;
            meddler.forget();
            let gone = crate::entry(&b, LEADER).await.is_none();
            match outcome {
                Ok(Deletion::Deleted(_)) => assert!(gone, "{context}"),
                // What a server says about a condition is believed.
                Ok(_) => assert!(matches!(trick, Trick::Refuse(-101 | -103) | Trick::Misreport(-101 | -103)), "{context}"),
                Err(error) => assert!(!gone || error.fate == Fate::Unknown || matches!(trick, Trick::Misreport(_)), "{context}"),
            }
            if !gone {
                // Asked for again, it is done.
                let held = existing(&a, LEADER).await;
                let again = eventually("it is released", TIMING.ttl, || async {
                    a.release_lock(LEADER, &held, soon()).await.map_err(|error| error.chain())
                });
                assert!(matches!(again.await, Deletion::Deleted(_) | Deletion::Absent), "{context}");
            }
            wins(&a, "a").await;
        }
    }
}
