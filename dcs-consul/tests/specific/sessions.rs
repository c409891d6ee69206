//! Sessions: how long they live, what ends them, and what becomes of the keys.

use std::time::Duration;

use dcs_core::{Expect, KeyValueStore, LockAttempt, LockRenewal, Timing};
use serde_json::{Value, json};
use store_servers::consul::Options;
use store_servers::eventually;

use crate::support::gate::{Gate, Mishap};
use crate::support::{Hand, can_run};
use crate::{LEADER, MEMBER, TIMING, existing, keeps, renews, section, soon, store, store_with, wins};

fn with_ttl(seconds: u64) -> Timing {
    Timing { ttl: Duration::from_secs(seconds), ..TIMING }
}

/// What Consul says about the session that holds the lock.
async fn session_of(hand: &Hand, store: &dcs_consul::Consul, key: &str) -> Value {
    let id = existing(store, key).await.handle.expect("it is bound to a session");
    hand.get(&format!("session/info/{}", id.as_str())).await[0].clone()
}

#[tokio::test]
async fn a_session_lives_half_of_the_ttl_hangs_on_no_check_and_has_hardly_a_lock_delay() {
    if !can_run("a_session_lives_half_of_the_ttl_hangs_on_no_check_and_has_hardly_a_lock_delay") {
        return;
    }
    let servers = Options { session_ttl_min: "10s", ..Options::default() }.start().await.expect("Consul starts");
    let (a, hand) = (store_with(&section(&servers, 0, json!({})), with_ttl(21)), Hand::at(&servers, 0));
    let LockAttempt::Won(grip) = a.acquire_lock(LEADER, "a", soon()).await.expect("Consul answers") else { panic!("it is free") };
    assert_eq!(grip.lease.valid_until() - grip.lease.sent_at(), Duration::from_secs(21));
    let session = session_of(&hand, &a, LEADER).await;
    assert_eq!((&session["TTL"], &session["Behavior"]), (&json!("10.5s"), &json!("delete")));
    assert_eq!((&session["LockDelay"], &session["NodeChecks"]), (&json!(1_000_000), &json!([])));
}

#[tokio::test]
async fn a_server_that_allows_only_long_sessions_gets_one_and_the_lease_is_that_long() {
    if !can_run("a_server_that_allows_only_long_sessions_gets_one_and_the_lease_is_that_long") {
        return;
    }
    let servers = Options { session_ttl_min: "30s", ..Options::default() }.start().await.expect("Consul starts");
    let (a, hand) = (store_with(&section(&servers, 0, json!({})), with_ttl(20)), Hand::at(&servers, 0));
    for _ in 0..2 {
        let handle = a.ensure_handle(soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(handle.lease.valid_until() - handle.lease.sent_at(), Duration::from_secs(60));
    }
    wins(&a, "a").await;
    assert_eq!(session_of(&hand, &a, LEADER).await["TTL"], "30s");
    // The next session is asked for at once as it is allowed.
    a.set_timing(with_ttl(24));
    keeps(&a, "a").await;
    assert_eq!(session_of(&hand, &a, LEADER).await["TTL"], "30s");
    a.set_timing(with_ttl(80));
    keeps(&a, "a").await;
    assert_eq!(session_of(&hand, &a, LEADER).await["TTL"], "40s");
}

#[tokio::test]
async fn a_refusal_that_does_not_tell_the_limit_is_followed_by_a_question_for_it() {
    if !can_run("a_refusal_that_does_not_tell_the_limit_is_followed_by_a_question_for_it") {
        return;
    }
    let servers = Options { session_ttl_min: "30s", ..Options::default() }.start().await.expect("Consul starts");
    let gate = Gate::before(servers.plan(0).address).await;
    gate.plan(Some((0, Mishap::Answer(400, "Invalid Session TTL '10s', it is too short"))));
    let options = json!({"host": gate.address().to_string()});
    let a = store_with(options.as_object().expect("it is one"), with_ttl(20));
    let handle = a.ensure_handle(soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(handle.lease.valid_until() - handle.lease.sent_at(), Duration::from_secs(60));
    assert_eq!(gate.seen(), ["PUT /v1/session/create", "GET /v1/agent/self", "PUT /v1/session/create"]);

    // Longer than Consul allows: no minimum helps.
    let days = store_with(&section(&servers, 0, json!({})), with_ttl(3 * 86_400));
    let error = days.ensure_handle(soon()).await.expect_err("a day is the limit");
    assert_eq!(error.kind, dcs_core::ErrorKind::Misconfigured);
    assert!(error.chain().contains("must be between [30s=24h0m0s]"), "{}", error.chain());
}

#[tokio::test]
async fn a_destroyed_session_takes_its_keys_along_and_the_next_renewal_brings_the_lock_back() {
    if !can_run("a_destroyed_session_takes_its_keys_along_and_the_next_renewal_brings_the_lock_back") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let (a, hand) = (store(&servers), Hand::at(&servers, 0));
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.expect("it can be written");
    let old = existing(&a, LEADER).await;
    let id = old.handle.clone().expect("it is bound");
    hand.put(&format!("session/destroy/{}", id.as_str()), "").await;
    assert_eq!(hand.get("kv/service/demo/?recurse").await, Value::Null, "the keys are gone at once");

    let renewal = a.renew_lock(LEADER, "a", &old, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    let LockRenewal::Kept(grip) = renewal else { panic!("{renewal:?}") };
    let new = existing(&a, LEADER).await;
    assert_ne!(new.handle, old.handle);
    assert_eq!(grip.written, Some(new.revision));
    let handle = a.ensure_handle(soon()).await.expect("a session");
    a.put_bound(MEMBER, b"{}", soon()).await.expect("it can be written");
    assert_eq!(existing(&a, MEMBER).await.handle, Some(handle.id));
}

#[tokio::test]
async fn a_session_that_ends_between_renewal_and_write_is_made_anew() {
    if !can_run("a_session_that_ends_between_renewal_and_write_is_made_anew") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let (a, hand) = (store(&servers), Hand::at(&servers, 0));
    let handle = a.ensure_handle(soon()).await.expect("a session");
    let destroy = format!("session/destroy/{}", handle.id.as_str());
    hand.put(&destroy, "").await;
    // It was proved a moment ago, so that nothing is asked before the write.
    let error = a.put_bound(MEMBER, b"{}", soon()).await.expect_err("its session is gone");
    assert_eq!((error.kind, error.fate), (dcs_core::ErrorKind::HandleGone, dcs_core::Fate::NotApplied), "{}", error.chain());
    assert_eq!(a.handle(), None);

    let handle = a.ensure_handle(soon()).await.expect("a session");
    hand.put(&format!("session/destroy/{}", handle.id.as_str()), "").await;
    wins(&a, "a").await;
}

#[tokio::test]
async fn nobody_waits_for_consuls_lock_delay_after_a_session_was_destroyed() {
    if !can_run("nobody_waits_for_consuls_lock_delay_after_a_session_was_destroyed") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let (a, b, hand) = (store(&servers), store(&servers), Hand::at(&servers, 0));
    wins(&a, "a").await;
    b.ensure_handle(soon()).await.expect("a session");
    let id = existing(&a, LEADER).await.handle.expect("it is bound");
    hand.put(&format!("session/destroy/{}", id.as_str()), "").await;
    eventually("b wins", Duration::from_secs(1), || async {
        match b.acquire_lock(LEADER, "b", soon()).await {
            Ok(LockAttempt::Won(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    // Somebody else's session, with the delay that Consul has by default: that is no session of ours that is gone, and nobody's lock.
    let other = hand.put("session/create", r#"{"TTL":"60s","Behavior":"delete","NodeChecks":[]}"#).await;
    let other = other["ID"].as_str().expect("an id").to_owned();
    hand.delete("kv/service/demo/leader").await;
    hand.put(&format!("kv/service/demo/leader?acquire={other}"), "x").await;
    hand.put(&format!("session/destroy/{other}"), "").await;
    let before = b.handle();
    let error = b.acquire_lock(LEADER, "b", soon()).await.expect_err("the lock is delayed");
    assert_eq!((error.kind, error.fate), (dcs_core::ErrorKind::Unavailable, dcs_core::Fate::NotApplied), "{}", error.chain());
    assert!(error.chain().contains("lock delay"), "{}", error.chain());
    assert_eq!(b.handle(), before);
}

#[tokio::test]
async fn without_checks_a_session_outlives_its_agent_and_with_them_it_does_not() {
    if !can_run("without_checks_a_session_outlives_its_agent_and_with_them_it_does_not") {
        return;
    }
    let servers = Options { servers: 1, agent: true, ..Options::default() }.start().await.expect("Consul starts");
    let agent = servers.len() - 1;
    let a = store_with(&section(&servers, agent, json!({"checks": []})), with_ttl(60));
    let b = store_with(&section(&servers, agent, json!({"checks": ["serfHealth"]})), with_ttl(60));
    wins(&a, "a").await;
    b.ensure_handle(soon()).await.expect("a session");
    b.put_bound("/service/demo/members/b", b"{}", soon()).await.expect("it can be written");

    servers.kill(agent);
    let hand = Hand::at(&servers, 0);
    eventually("the agent is known to be dead", Duration::from_secs(30), || async {
        let checks = hand.get("health/node/consul-agent").await;
        if checks[0]["Status"] == "critical" { Ok(()) } else { Err(checks.to_string()) }
    })
    .await;
    eventually("b's session ends", Duration::from_secs(5), || async {
        match hand.get("kv/service/demo/members/b").await {
            Value::Null => Ok(()),
            there => Err(there.to_string()),
        }
    })
    .await;
    let lock = hand.get("kv/service/demo/leader").await;
    assert!(lock[0]["Session"].is_string(), "{lock}");
}

#[tokio::test]
async fn a_changed_ttl_moves_the_lock_to_a_new_session_in_one_step() {
    if !can_run("a_changed_ttl_moves_the_lock_to_a_new_session_in_one_step") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let (a, b, hand) = (store(&servers), store(&servers), Hand::at(&servers, 0));
    wins(&a, "a").await;
    let mut old = existing(&a, LEADER).await;
    b.ensure_handle(soon()).await.expect("a session");
    // b tries all the time, and never finds the lock free.
    let tries = async {
        loop {
            let attempt = b.acquire_lock(LEADER, "b", soon()).await.expect("Consul answers");
            assert!(matches!(attempt, LockAttempt::Held(_)), "{attempt:?}");
        }
    };
    let moves = async {
        for ttl in 21..41 {
            a.set_timing(with_ttl(ttl));
            let renewal = a.renew_lock(LEADER, "a", &old, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
            let LockRenewal::Kept(grip) = renewal else { panic!("{renewal:?}") };
            assert_eq!(grip.lease.valid_until() - grip.lease.sent_at(), Duration::from_secs(ttl));
            let new = existing(&a, LEADER).await;
            assert_ne!(new.handle, old.handle);
            assert_eq!(grip.written.as_ref(), Some(&new.revision));
            // The old one is left to expire: destroying it while the key hung on it would have taken it along.
            let id = old.handle.expect("it was bound");
            assert!(hand.get(&format!("session/info/{}", id.as_str())).await[0].is_object());
            old = new;
        }
    };
    tokio::select! {
        () = tries => {}
        () = moves => {}
    }
}

/// The table of `KeyValueStore::renew_lock`, row by row.
#[tokio::test]
async fn a_renewal_touches_only_what_it_may() {
    if !can_run("a_renewal_touches_only_what_it_may") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let (a, hand) = (store(&servers), Hand::at(&servers, 0));

    // Ours, bound to our session: untouched.
    wins(&a, "a").await;
    let ours = existing(&a, LEADER).await;
    let LockRenewal::Kept(grip) = a.renew_lock(LEADER, "a", &ours, soon()).await.expect("Consul answers") else { panic!("it is ours") };
    assert_eq!((grip.written, existing(&a, LEADER).await), (None, ours.clone()));
    // The same, when the caller had seen something older.
    let older = dcs_core::Entry { revision: 3_u64.into(), ..ours.clone() };
    let LockRenewal::Kept(grip) = a.renew_lock(LEADER, "a", &older, soon()).await.expect("Consul answers") else { panic!("it is ours") };
    assert_eq!((grip.written, existing(&a, LEADER).await), (None, ours.clone()));

    // Ours by name, bound to another session, as seen: moved. Not as seen: left alone.
    let second = store(&servers);
    let moved = second.renew_lock(LEADER, "a", &older, soon()).await.expect("Consul answers");
    assert_eq!(moved, LockRenewal::Moved(ours.clone()));
    assert_eq!(existing(&a, LEADER).await, ours);
    let LockRenewal::Kept(grip) = second.renew_lock(LEADER, "a", &ours, soon()).await.expect("Consul answers") else { panic!("as seen") };
    let theirs = existing(&a, LEADER).await;
    assert_eq!((grip.written.as_ref(), theirs.handle.as_ref()), (Some(&theirs.revision), second.handle().map(|handle| handle.id).as_ref()));

    // Somebody else's: with a session, and without.
    let b = store(&servers);
    assert_eq!(b.renew_lock(LEADER, "b", &theirs, soon()).await.expect("Consul answers"), LockRenewal::Lost);
    assert_eq!(existing(&a, LEADER).await, theirs);
    hand.delete("kv/service/demo/leader").await;
    hand.put("kv/service/demo/leader", "x").await;
    let unbound = existing(&a, LEADER).await;
    assert_eq!(renews(&a, "a").await.expect("Consul answers"), LockRenewal::Lost);
    assert_eq!(a.renew_lock(LEADER, "a", &ours, soon()).await.expect("Consul answers"), LockRenewal::Lost);
    assert!(matches!(a.acquire_lock(LEADER, "a", soon()).await, Ok(LockAttempt::Held(_))), "a key that hangs on nothing is held, too");
    assert_eq!(existing(&a, LEADER).await, unbound);

    // Our session under another name, which only a hand from outside can do.
    hand.delete("kv/service/demo/leader").await;
    let session = a.handle().expect("a session").id;
    hand.put(&format!("kv/service/demo/leader?acquire={}", session.as_str()), "x").await;
    let odd = existing(&a, LEADER).await;
    assert_eq!(a.renew_lock(LEADER, "a", &ours, soon()).await.expect("Consul answers"), LockRenewal::Lost);
    assert_eq!(existing(&a, LEADER).await, odd);

    // Absent: created.
    hand.delete("kv/service/demo/leader").await;
    let LockRenewal::Kept(grip) = a.renew_lock(LEADER, "a", &ours, soon()).await.expect("Consul answers") else { panic!("it was free") };
    assert_eq!(grip.written, Some(existing(&a, LEADER).await.revision));
}

#[tokio::test]
async fn values_larger_than_a_transaction_are_written_under_the_same_conditions() {
    if !can_run("values_larger_than_a_transaction_are_written_under_the_same_conditions") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let a = store(&servers);
    let key = "/service/demo/config";
    // About the largest that fits into a transaction, one that does not, and the largest of all.
    for length in [390_000, 400_000, 512 << 10] {
        let (first, second) = (vec![b'x'; length], vec![b'y'; length]);
        let revision = match a.put(key, &first, Expect::Absent, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain())) {
            dcs_core::Write::Applied(revision) => revision,
            dcs_core::Write::Refused => panic!("it is not there"),
        };
        assert_eq!(existing(&a, key).await.revision, revision);
        assert!(!a.put(key, &second, Expect::Absent, soon()).await.expect("Consul answers").is_applied());
        assert!(!a.put(key, &second, Expect::Revision(&1_u64.into()), soon()).await.expect("Consul answers").is_applied());
        assert_eq!(existing(&a, key).await.value, first);
        assert!(a.put(key, &second, Expect::Revision(&revision), soon()).await.expect("Consul answers").is_applied());
        assert!(a.put(key, &first, Expect::Any, soon()).await.expect("Consul answers").is_applied());
        let now = existing(&a, key).await;
        assert_eq!(now.value, first);
        a.delete(key, Expect::Revision(&now.revision), soon()).await.expect("Consul answers");
        assert!(!a.put(key, &first, Expect::Revision(&now.revision), soon()).await.expect("Consul answers").is_applied());
    }
    let error = a.put(key, &vec![b'x'; (512 << 10) + 1], Expect::Any, soon()).await.expect_err("Consul does not take it");
    assert_eq!((error.kind, error.fate), (dcs_core::ErrorKind::Misconfigured, dcs_core::Fate::NotApplied));
    assert!(error.chain().contains("the value has 524289 bytes, and Consul takes 524288"), "{}", error.chain());
}
