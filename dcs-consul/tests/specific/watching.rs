//! The long poll: what it costs, and what it must not miss.

use std::time::Duration;

use dcs_core::{Changes, Consistency, Cursor, Deadline, Expect, KeyValueStore};
use serde_json::json;
use store_servers::consul::Options;

use crate::support::gate::{Gate, Mishap};
use crate::support::{Hand, can_run};
use crate::{LEADER, MEMBER, PREFIX, TIMING, existing, keeps, soon, store, store_with, wins};

fn gated(gate: &Gate) -> dcs_consul::Consul {
    let section = json!({"host": gate.address().to_string()});
    store_with(section.as_object().expect("it is one"), TIMING)
}

async fn cursor_of(store: &dcs_consul::Consul) -> Cursor {
    store.read(PREFIX, Consistency::Relaxed, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain())).cursor
}

async fn changes(store: &dcs_consul::Consul, after: Cursor, deadline: Deadline) -> Changes {
    store.wait_for_changes(PREFIX, after, deadline).await.unwrap_or_else(|error| panic!("{}", error.chain()))
}

fn names(changes: &Changes) -> Vec<&str> {
    changes.keys.iter().map(|change| change.key.as_str()).collect()
}

#[tokio::test]
async fn one_poll_serves_all_waits_until_something_changes() {
    if !can_run("one_poll_serves_all_waits_until_something_changes") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let gate = Gate::before(servers.plan(0).address).await;
    let (a, hand) = (gated(&gate), Hand::at(&servers, 0));
    hand.put("kv/service/demo/config", "{}").await;
    for _ in 0..5 {
        // A cycle loads and waits; what it loads is what the poll waits for a change of.
        let cursor = cursor_of(&a).await;
        let quiet = changes(&a, cursor, Deadline::after(Duration::from_millis(200))).await;
        assert_eq!(quiet, Changes { cursor, ..Changes::default() });
    }
    assert_eq!(gate.polls().len(), 1, "{:?}", gate.polls());

    // A change between two waits is there for the next, at once.
    let cursor = cursor_of(&a).await;
    hand.put("kv/service/demo/config", "{\"ttl\": 30}").await;
    hand.put("kv/service/other/config", "{}").await;
    let told = changes(&a, cursor, soon()).await;
    assert_eq!(names(&told), ["/service/demo/config"]);
    assert_eq!(gate.polls().len(), 1, "{:?}", gate.polls());
    // Nobody has to load to be told of the next.
    hand.delete("kv/service/demo/config").await;
    let told = changes(&a, told.cursor, soon()).await;
    assert_eq!(told.keys.first().map(|change| change.kind), Some(dcs_core::ChangeKind::Deleted));
}

#[tokio::test]
async fn a_leader_is_told_which_changes_are_its_own_and_a_renewal_is_none() {
    if !can_run("a_leader_is_told_which_changes_are_its_own_and_a_renewal_is_none") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let (a, b) = (store(&servers), store(&servers));
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.expect("it can be written");
    let (of_a, of_b) = (cursor_of(&a).await, cursor_of(&b).await);
    for _ in 0..3 {
        keeps(&a, "a").await;
    }
    let short = || Deadline::after(Duration::from_millis(500));
    assert_eq!(changes(&b, of_b, short()).await.keys, [], "a renewal wakes nobody");
    let write = a.put("/service/demo/status", b"1", Expect::Any, soon()).await.expect("Consul answers");
    let dcs_core::Write::Applied(revision) = write else { panic!("it was unconditional") };
    for (store, cursor) in [(&a, of_a), (&b, of_b)] {
        let told = changes(store, cursor, soon()).await;
        assert_eq!(names(&told), ["/service/demo/status"]);
        assert_eq!(told.keys[0].revision.as_ref(), Some(&revision), "the revision that the writer was told");
    }
}

#[tokio::test]
async fn a_consul_restored_from_a_backup_hides_no_change() {
    if !can_run("a_consul_restored_from_a_backup_hides_no_change") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let (a, hand) = (store(&servers), Hand::at(&servers, 0));
    hand.put("kv/service/demo/config", "1").await;
    let backup = hand.save().await;
    for number in 0..50 {
        hand.put("kv/service/demo/status", number.to_string()).await;
    }
    let before = cursor_of(&a).await;
    let waits = async { changes(&a, before, soon()).await };
    let restores = async {
        tokio::task::yield_now().await;
        hand.put("snapshot", backup).await;
    };
    let (told, ()) = tokio::join!(waits, restores);
    assert!(names(&told).contains(&"/service/demo/status"), "{told:?}");

    // Its indexes are lower than those of before.
    let after = cursor_of(&a).await;
    assert!(after > before);
    let status = a.get("/service/demo/status", soon()).await.expect("Consul answers");
    assert_eq!(status, None);
    let waits = async { changes(&a, after, soon()).await };
    let writes = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        hand.put("kv/service/demo/leader", "x").await;
    };
    let (told, ()) = tokio::join!(waits, writes);
    assert_eq!(names(&told), [LEADER]);
    assert_eq!(existing(&a, LEADER).await.value, b"x");
}

#[tokio::test]
async fn answers_without_an_index_are_an_error_and_do_not_make_the_watch_spin() {
    if !can_run("answers_without_an_index_are_an_error_and_do_not_make_the_watch_spin") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let gate = Gate::before(servers.plan(0).address).await;
    let (a, hand) = (gated(&gate), Hand::at(&servers, 0));
    hand.put("kv/service/demo/config", "{}").await;
    gate.plan(Some((0, Mishap::HeadersLost)));
    let cursor = cursor_of(&a).await;
    // From index zero Consul answers at once; that answer tells the index, and the watch goes on from there.
    let quiet = changes(&a, cursor, Deadline::after(Duration::from_secs(1))).await;
    assert_eq!(quiet.keys, []);
    assert!(gate.polls().len() <= 2, "{:?}", gate.polls());

    // A proxy that never tells it would have us ask all the time.
    let nothing = "/service/nothing/";
    let cursor = a.read(nothing, Consistency::Relaxed, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain())).cursor;
    gate.plan(Some((0, Mishap::Answer(200, "[]"))));
    let error = a.wait_for_changes(nothing, cursor, soon()).await.expect_err("nothing can be waited for");
    assert!(error.chain().contains("no `X-Consul-Index`"), "{}", error.chain());
    assert_eq!(gate.polls().len(), 1, "{:?}", gate.polls());
}

#[tokio::test]
async fn a_broken_poll_is_an_error_and_the_next_wait_loses_nothing() {
    if !can_run("a_broken_poll_is_an_error_and_the_next_wait_loses_nothing") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let gate = Gate::before(servers.plan(0).address).await;
    let (a, hand) = (gated(&gate), Hand::at(&servers, 0));
    hand.put("kv/service/demo/config", "1").await;
    let mishaps = [Mishap::Answer(500, "No cluster leader"), Mishap::Answer(502, "<html>"), Mishap::Truncated, Mishap::Reset];
    for (number, mishap) in (2..).zip(mishaps) {
        let cursor = cursor_of(&a).await;
        gate.plan(Some((0, mishap)));
        let error = a.wait_for_changes(PREFIX, cursor, soon()).await.expect_err("the poll broke");
        assert_eq!(error.kind, dcs_core::ErrorKind::Unavailable, "{}", error.chain());
        hand.put("kv/service/demo/config", number.to_string()).await;
        let told = changes(&a, cursor, soon()).await;
        assert_eq!(names(&told), ["/service/demo/config"]);
    }
}

#[tokio::test]
async fn a_poll_whose_connection_is_dead_is_given_up_once_a_load_shows_more() {
    if !can_run("a_poll_whose_connection_is_dead_is_given_up_once_a_load_shows_more") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let gate = Gate::before(servers.plan(0).address).await;
    let (a, hand) = (gated(&gate), Hand::at(&servers, 0));
    hand.put("kv/service/demo/config", "1").await;
    let cursor = cursor_of(&a).await;
    gate.plan(Some((0, Mishap::Silence)));
    let quiet = changes(&a, cursor, Deadline::after(Duration::from_millis(300))).await;
    assert_eq!(quiet.keys, []);
    // Missed by the poll, seen by the load.
    hand.put("kv/service/demo/config", "2").await;
    let cursor = cursor_of(&a).await;
    let waits = async { changes(&a, cursor, soon()).await };
    let writes = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        hand.put("kv/service/demo/config", "3").await;
    };
    let (told, ()) = tokio::join!(waits, writes);
    assert_eq!(names(&told), ["/service/demo/config"]);
    assert_eq!(gate.polls().len(), 2, "{:?}", gate.polls());
}
