//! How reads are asked for, and which answers are believed.

use dcs_consul::Consul;
use dcs_core::{Consistency, Expect, KeyValueStore, LockRenewal};
use serde_json::{Value, json};
use store_servers::consul::Options;

use crate::support::can_run;
use crate::support::gate::Gate;
use crate::{LEADER, MEMBER, PREFIX, TIMING, existing, soon, store, store_with, wins};

fn gated(gate: &Gate, mut options: Value) -> Consul {
    options["host"] = gate.address().to_string().into();
    store_with(options.as_object().expect("it is one"), TIMING)
}

async fn reads(store: &Consul, consistency: Consistency) -> usize {
    store.read(PREFIX, consistency, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain())).entries.len()
}

#[tokio::test]
async fn the_configured_consistency_is_asked_for_and_the_control_tools_is_always_the_strongest() {
    if !can_run("the_configured_consistency_is_asked_for_and_the_control_tools_is_always_the_strongest") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    store(&servers).put("/service/demo/config", b"{}", Expect::Any, soon()).await.expect("Consul answers");
    let gate = Gate::before(servers.plan(0).address).await;
    for (mode, query) in [("default", "?recurse"), ("consistent", "?recurse&consistent"), ("stale", "?recurse&stale")] {
        let a = gated(&gate, json!({"consistency": mode}));
        // Of what this client may have written before nothing is known.
        gate.plan(None);
        assert_eq!(reads(&a, Consistency::Relaxed).await, 1);
        assert_eq!(gate.seen(), ["GET /v1/kv/service/demo/?recurse&consistent"]);
        gate.plan(None);
        assert_eq!(reads(&a, Consistency::Relaxed).await, 1);
        assert_eq!(gate.seen(), [format!("GET /v1/kv/service/demo/{query}")]);
        gate.plan(None);
        assert_eq!(reads(&a, Consistency::Linearizable).await, 1);
        assert_eq!(existing(&a, "/service/demo/config").await.value, b"{}");
        assert_eq!(gate.seen(), ["GET /v1/kv/service/demo/?recurse&consistent", "GET /v1/kv/service/demo/config?consistent"]);
    }
    let a = gated(&gate, json!({"dc": "dc1"}));
    gate.plan(None);
    reads(&a, Consistency::Relaxed).await;
    wins(&a, "a").await;
    assert_eq!(gate.seen(), ["GET /v1/kv/service/demo/?recurse&consistent&dc=dc1", "PUT /v1/session/create?dc=dc1", "PUT /v1/txn?dc=dc1"]);
    let elsewhere = gated(&gate, json!({"dc": "mars"}));
    let error = elsewhere.read(PREFIX, Consistency::Relaxed, soon()).await.expect_err("there is none");
    assert_eq!(error.kind, dcs_core::ErrorKind::Misconfigured);
    assert!(error.chain().contains("No path to datacenter"), "{}", error.chain());
}

#[tokio::test]
async fn a_stale_answer_never_hides_an_own_write() {
    if !can_run("a_stale_answer_never_hides_an_own_write") {
        return;
    }
    let servers = Options::three().start().await.expect("Consul starts");
    // Whichever server leads, two of these three ask one that follows.
    for index in 0..3 {
        let address = servers.plan(index).address.to_string();
        let a = store_with(json!({"host": address, "consistency": "stale"}).as_object().expect("it is one"), TIMING);
        reads(&a, Consistency::Relaxed).await;
        for number in 0..100_u64 {
            let text = number.to_string();
            a.put("/service/demo/status", text.as_bytes(), Expect::Any, soon()).await.expect("Consul answers");
            let snapshot = a.read(PREFIX, Consistency::Relaxed, soon()).await.expect("Consul answers");
            assert_eq!(snapshot.entries.len(), 1, "{snapshot:?}");
            assert_eq!(snapshot.entries[0].value, text.as_bytes());
            a.delete("/service/demo/status", Expect::Any, soon()).await.expect("Consul answers");
            assert_eq!(reads(&a, Consistency::Relaxed).await, 0, "a deletion is a write, too");
        }
    }
}

/// What a member asks of Consul when nothing happens. Its predecessor sends a long poll more as a follower, and does not
/// confirm the key as a leader.
#[tokio::test]
async fn an_idle_leader_needs_three_requests_a_cycle_and_a_follower_two() {
    if !can_run("an_idle_leader_needs_three_requests_a_cycle_and_a_follower_two") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let gate = Gate::before(servers.plan(0).address).await;
    let a = gated(&gate, json!({}));
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.expect("it can be written");
    let mut seen = existing(&a, LEADER).await;
    for cycle in 0..4 {
        gate.plan(None);
        let snapshot = a.read(PREFIX, Consistency::Relaxed, soon()).await.expect("Consul answers");
        seen = snapshot.entries.into_iter().find(|entry| entry.key == LEADER).unwrap_or(seen);
        let renewal = a.renew_lock(LEADER, "a", &seen, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");
        a.ensure_handle(soon()).await.expect("it was refreshed just now");
        a.wait_for_changes(PREFIX, snapshot.cursor, dcs_core::Deadline::after(TIMING.loop_wait)).await.expect("nothing is broken");
        let requests: Vec<_> = gate.seen().iter().map(|line| line.split(['?']).next().unwrap_or_default().to_owned()).collect();
        let renew = format!("PUT /v1/session/renew/{}", seen.handle.as_ref().expect("it is bound").as_str());
        assert_eq!(requests, ["GET /v1/kv/service/demo/", renew.as_str(), "PUT /v1/txn"]);
        assert_eq!(gate.polls().len(), usize::from(cycle == 0), "one long poll serves all cycles");
    }

    // A follower leaves out the proof of the lock.
    for _ in 0..2 {
        gate.plan(None);
        let cursor = a.read(PREFIX, Consistency::Relaxed, soon()).await.expect("Consul answers").cursor;
        a.ensure_handle(soon()).await.expect("Consul answers");
        a.wait_for_changes(PREFIX, cursor, dcs_core::Deadline::after(TIMING.loop_wait)).await.expect("nothing is broken");
        assert_eq!((gate.seen().len(), gate.polls().len()), (2, 0), "{:?}", gate.seen());
    }
}
