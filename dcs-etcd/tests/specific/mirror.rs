//! Views that cost no request, because the watch has everything already.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::adapter::KeyValueDcs;
use dcs_core::conformance::proxy::Proxy;
use dcs_core::keys::ClusterPath;
use dcs_core::model::{Lsn, MemberRecord, Revision};
use dcs_core::{BootClock, Clock, Consistency, Cursor, Dcs, Deadline, Entry, Expect, Interest, KeyValueStore, Timing, Wake, Write};
use dcs_etcd::Etcd;
use serde_json::json;

use crate::support::{Cluster, can_run};
use crate::{LEADER, MEMBER, PREFIX, existing, loads, quick, soon, store, store_with, wins};
use store_servers::conformance::TIMING;
use store_servers::etcd::Options;
use store_servers::eventually;

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// The times of an installation: within a test no lease has to be proved again.
fn calm() -> Timing {
    Timing { ttl: Duration::from_secs(30), loop_wait: Duration::from_secs(10), ..TIMING }
}

/// What an agent does in each cycle, without the lock.
async fn cycle(store: &Etcd) -> Vec<Entry> {
    let view = read(store).await;
    store.ensure_handle(soon()).await.expect("the lease lives");
    let patience = Deadline::after(Duration::from_millis(100));
    store.wait_for_changes(PREFIX, view.1, patience).await.expect("it never fails");
    view.0
}

async fn read(store: &Etcd) -> (Vec<Entry>, Cursor) {
    let snapshot = store.read(PREFIX, Consistency::Relaxed, soon()).await;
    let snapshot = snapshot.unwrap_or_else(|error| panic!("{}", error.chain()));
    (snapshot.entries, snapshot.cursor)
}

async fn write(store: &Etcd, key: &str, value: &str) -> Revision {
    match store.put(key, value.as_bytes(), Expect::Any, soon()).await {
        Ok(Write::Applied(revision)) => revision,
        other => panic!("{other:?}"),
    }
}

fn value(entries: &[Entry], key: &str) -> Option<String> {
    let entry = entries.iter().find(|entry| entry.key == key)?;
    Some(String::from_utf8_lossy(&entry.value).into_owned())
}

/// Cycles until views cost nothing.
async fn warm(store: &Etcd, cluster: &Cluster) {
    eventually("a view that costs nothing", PATIENCE, || async {
        cycle(store).await;
        let before = cluster.requests();
        read(store).await;
        if cluster.requests() == before { Ok(()) } else { Err("it was asked for".to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn an_idle_member_asks_nothing_but_that_its_lease_lives() {
    if !can_run("an_idle_member_asks_nothing_but_that_its_lease_lives") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let (a, b) = (store_with(&cluster.section(json!({})), calm()), store(&cluster));
    wins(&b, "b").await;
    warm(&a, &cluster).await;
    let before = cluster.requests().expect("etcd counts them");
    for _ in 0..10 {
        assert_eq!(value(&cycle(&a).await, LEADER).as_deref(), Some("b"));
    }
    // The lease was proved a moment ago: not even that is asked again.
    assert_eq!(cluster.requests(), Some(before));
    // What others do is shown without asking, too.
    write(&b, MEMBER, "{}").await;
    eventually("the member", PATIENCE, || async { value(&read(&a).await.0, MEMBER).ok_or_else(|| "not there".to_owned()) }).await;
    b.delete(LEADER, Expect::Any, soon()).await.expect("it can be deleted");
    eventually("no leader", PATIENCE, || async {
        match value(&read(&a).await.0, LEADER) {
            None => Ok(()),
            Some(leader) => Err(leader),
        }
    })
    .await;
    assert_eq!(cluster.requests(), Some(before + 2), "the two writes of the other");
}

#[tokio::test]
async fn who_never_waits_or_holds_no_lease_always_asks() {
    if !can_run("who_never_waits_or_holds_no_lease_always_asks") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let (tool, observer) = (store(&cluster), store(&cluster));
    for asking in [&tool, &observer] {
        for _ in 0..3 {
            let before = cluster.requests().expect("etcd counts them");
            let (_, cursor) = read(asking).await;
            assert_eq!(cluster.requests(), Some(before + 1));
            if std::ptr::eq(asking, &raw const observer) {
                let patience = Deadline::after(Duration::from_millis(100));
                observer.wait_for_changes(PREFIX, cursor, patience).await.expect("it never fails");
            }
        }
    }
}

#[tokio::test]
async fn a_lease_that_was_not_proved_for_long_shows_nothing_without_asking() {
    if !can_run("a_lease_that_was_not_proved_for_long_shows_nothing_without_asking") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let a = store_with(&cluster.section(json!({})), quick());
    warm(&a, &cluster).await;
    let longest = quick().loop_wait + (quick().retry_timeout / 3).max(Duration::from_secs(1));
    let sent = a.handle().expect("it has one").lease.sent_at();
    eventually("a question", PATIENCE, || async {
        let before = cluster.requests().expect("etcd counts them");
        read(&a).await;
        match cluster.requests().expect("etcd counts them") - before {
            0 => Err("it was served from memory".to_owned()),
            1 => Ok(()),
            more => panic!("{more} questions"),
        }
    })
    .await;
    assert!(BootClock.now().saturating_since(sent) > longest);
    assert!(a.handle().expect("it has one").lease.sent_at() > sent, "what was asked is whether the lease lives");
}

#[tokio::test]
async fn a_refused_write_makes_the_next_view_a_new_one() {
    if !can_run("a_refused_write_makes_the_next_view_a_new_one") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let a = store_with(&cluster.section(json!({})), calm());
    let old = write(&a, LEADER, "a").await;
    write(&a, LEADER, "b").await;
    warm(&a, &cluster).await;
    let refused = a.put(LEADER, b"c", Expect::Revision(&old), soon()).await.expect("an answer");
    assert_eq!(refused, Write::Refused);
    let before = cluster.requests().expect("etcd counts them");
    assert_eq!(value(&read(&a).await.0, LEADER).as_deref(), Some("b"));
    assert_eq!(cluster.requests(), Some(before + 1));
    read(&a).await;
    assert_eq!(cluster.requests(), Some(before + 1), "and the one after that is served by the watch again");
}

#[tokio::test]
async fn after_a_gap_in_the_watch_views_are_asked_for_and_then_right() {
    if !can_run("after_a_gap_in_the_watch_views_are_asked_for_and_then_right") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let proxy = Proxy::start(cluster.addresses()[0]).await.expect("a port");
    let section = json!({"host": proxy.address().to_string(), "use_proxies": true});
    let a = store_with(section.as_object().expect("it is one"), TIMING);
    let b = store(&cluster);
    write(&b, LEADER, "0").await;
    warm(&a, &cluster).await;
    for round in 1..=3 {
        proxy.cut();
        proxy.break_connections();
        for number in 0..5 {
            write(&b, LEADER, &format!("{round}.{number}")).await;
        }
        let newest = existing(&b, LEADER).await;
        if round > 1 {
            // This time what was missed is not there any more.
            let mut direct = cluster.direct().await;
            let revision = newest.revision.as_str().parse().expect("a number");
            direct.compact(revision, None).await.expect("it can be compacted");
        }
        proxy.heal();
        eventually("a view", PATIENCE, || async { loads(&a).await.map(drop).map_err(|error| error.chain()) }).await;
        assert_eq!(value(&read(&a).await.0, LEADER), Some(format!("{round}.4")));
        warm(&a, &cluster).await;
        assert_eq!(value(&read(&a).await.0, LEADER), Some(format!("{round}.4")));
    }
}

#[tokio::test]
async fn a_server_that_is_gone_serves_no_views() {
    if !can_run("a_server_that_is_gone_serves_no_views") {
        return;
    }
    let cluster = Cluster::start(&Options { servers: 3, ..Options::default() }).await;
    let (a, b) = (store(&cluster), store(&cluster));
    write(&b, LEADER, "0").await;
    warm(&a, &cluster).await;
    for round in 1..=3 {
        let in_use = a.server().and_then(|server| cluster.hosts().iter().position(|host| *host == server)).expect("it is known");
        cluster.freeze(in_use).await;
        // Somebody who is connected elsewhere writes.
        let others: Vec<_> = cluster.hosts().into_iter().enumerate().filter(|(index, _)| *index != in_use).map(|(_, host)| host).collect();
        let other = store_with(json!({"hosts": others, "use_proxies": true}).as_object().expect("it is one"), TIMING);
        let text = round.to_string();
        // The others may have to elect a leader first.
        eventually("a write", PATIENCE, || async {
            other.put(LEADER, text.as_bytes(), Expect::Any, soon()).await.map(drop).map_err(|error| error.chain())
        })
        .await;
        eventually("the new value", PATIENCE, || async {
            let shown = value(&cycle(&a).await, LEADER);
            if shown == Some(round.to_string()) { Ok(()) } else { Err(format!("{shown:?}")) }
        })
        .await;
        cluster.thaw(in_use);
        cluster.serves(in_use).await;
        assert_eq!(value(&read(&a).await.0, LEADER), Some(round.to_string()), "it does not go back");
    }
}

#[tokio::test]
async fn a_position_that_a_member_publishes_costs_the_others_no_request_and_its_state_wakes_them() {
    if !can_run("a_position_that_a_member_publishes_costs_the_others_no_request_and_its_state_wakes_them") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let agent = |name: &str| {
        let store = Arc::new(store_with(&cluster.section(json!({})), calm()));
        KeyValueDcs::new(store, Arc::new(BootClock), ClusterPath::new(None, "demo"), name.into(), calm())
    };
    let (a, b) = (agent("a"), agent("b"));
    let publish = async |state: &str, lsn: u64| {
        let record = MemberRecord { state: Some(state.to_owned()), xlog_location: Some(Lsn(lsn)), ..MemberRecord::default() };
        a.touch_member(&record, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    };
    publish("running", 1).await;
    let own = MemberRecord { state: Some("running".to_owned()), ..MemberRecord::default() };
    b.touch_member(&own, soon()).await.expect("it is written");
    let waits = async |patience: Duration| b.wait(Interest::LEADER, patience).await;
    eventually("a view that costs nothing", PATIENCE, || async {
        b.load(soon()).await.map_err(|error| error.chain())?;
        waits(Duration::from_millis(100)).await;
        let before = cluster.requests();
        b.load(soon()).await.map_err(|error| error.chain())?;
        if cluster.requests() == before { Ok(()) } else { Err("it was asked for".to_owned()) }
    })
    .await;

    let before = cluster.requests().expect("etcd counts them");
    for lsn in 2..=4 {
        let (wake, ()) = tokio::join!(waits(Duration::from_millis(300)), publish("running", lsn));
        assert_eq!(wake, Wake::TimedOut, "a position is no news");
    }
    assert_eq!(cluster.requests(), Some(before + 3), "the three that were written");
    let (wake, ()) = tokio::join!(waits(PATIENCE), publish("stopping", 4));
    assert_eq!(wake, Wake::Changed);
    assert_eq!(cluster.requests(), Some(before + 4));
}
