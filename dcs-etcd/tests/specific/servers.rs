//! Several servers, silent servers, servers that are no etcd, and what they are called.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use dcs_core::{Deadline, ErrorKind, Fate, KeyValueStore, LockRenewal};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::support::{Cluster, can_run};
use crate::{LEADER, PREFIX, existing, loads, loads_by, renews, soon, store, store_with, wins};
use store_servers::conformance::TIMING;
use store_servers::etcd::Options;
use store_servers::eventually;

fn section(value: Value) -> serde_json::Map<String, Value> {
    value.as_object().expect("it is one").clone()
}

/// For what fails for as long as it is tried.
fn briefly() -> Deadline {
    Deadline::after(Duration::from_secs(1))
}

/// Accepts connections and never says a word.
async fn silent() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    (listener.local_addr().expect("an address"), listener)
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").to_string()
}

#[tokio::test]
async fn a_silent_server_at_the_head_of_the_list_costs_its_share_once() {
    if !can_run("a_silent_server_at_the_head_of_the_list_costs_its_share_once") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let (mute, _listener) = silent().await;
    let hosts = json!({"hosts": [mute.to_string(), cluster.hosts()[0]]});
    let a = store_with(&section(hosts), TIMING);
    let begun = Instant::now();
    loads(&a).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    let first = begun.elapsed();
    assert!(first < TIMING.retry_timeout / 2 + Duration::from_secs(1), "{first:?}");
    let begun = Instant::now();
    wins(&a, "a").await;
    assert!(begun.elapsed() < Duration::from_secs(1), "it went back to the silent one: {:?}", begun.elapsed());
}

#[tokio::test]
async fn when_nobody_answers_the_error_names_everybody_and_why() {
    let (mute, _listener) = silent().await;
    let dead = nobody();
    let a = store_with(&section(json!({"hosts": [dead, mute.to_string()], "use_proxies": true})), TIMING);
    let begun = Instant::now();
    let error = loads(&a).await.expect_err("nobody answers");
    let took = begun.elapsed();
    assert!(took <= TIMING.retry_timeout + Duration::from_secs(1), "{took:?}");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let text = error.chain();
    assert!(text.contains(&format!("cannot connect to {dead}: Connection refused")), "{text}");
    assert!(text.contains(&format!("{mute}: it did not answer in time")), "{text}");
}

#[tokio::test]
async fn a_write_that_reached_nobody_was_not_applied() {
    let a = store_with(&section(json!({"host": nobody(), "use_proxies": true})), TIMING);
    let error = a.put(LEADER, b"x", dcs_core::Expect::Any, briefly()).await.expect_err("nobody is there");
    assert_eq!((error.kind, error.fate), (ErrorKind::Unavailable, Fate::NotApplied), "{}", error.chain());
}

#[tokio::test]
async fn something_that_does_not_speak_http2_is_named_as_such() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let a = store_with(&section(json!({"proxy": format!("http://{address}")})), TIMING);
    let error = loads_by(&a, briefly()).await.expect_err("it is no etcd");
    let text = error.chain();
    assert!(text.contains(&address) && text.contains("HTTP/2"), "{text}");
    server.abort();
}

#[tokio::test]
async fn servers_that_are_not_in_the_configuration_are_found() {
    if !can_run("servers_that_are_not_in_the_configuration_are_found") {
        return;
    }
    let cluster = Cluster::start(&Options::three()).await;
    let first = &cluster.hosts()[0];
    let a = store_with(&section(json!({"host": first})), TIMING);
    let only = store_with(&section(json!({"host": first, "use_proxies": "yes"})), TIMING);
    loads(&a).await.expect("etcd answers");
    loads(&only).await.expect("etcd answers");
    // The question for members runs beside the first request.
    eventually("the members are known", Duration::from_secs(5), || async {
        let text = format!("{a:?}");
        let known = cluster.hosts().iter().filter(|host| text.contains(host.as_str())).count();
        if known == 3 { Ok(()) } else { Err(text) }
    })
    .await;
    cluster.kill(0);
    loads(&a).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(loads_by(&only, briefly()).await.expect_err("it knows one server").kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn the_lock_survives_when_etcd_moves_its_leader() {
    if !can_run("the_lock_survives_when_etcd_moves_its_leader") {
        return;
    }
    let cluster = Cluster::start(&Options::three()).await;
    let a = store(&cluster);
    wins(&a, "a").await;
    let before = existing(&a, LEADER).await;
    for _ in 0..3 {
        let mut ids = Vec::new();
        let mut leader = 0;
        for host in cluster.hosts() {
            let client = etcd_client::Client::connect([host], None).await.expect("a client");
            let status = client.maintenance_client().status().await.expect("etcd answers");
            leader = status.leader();
            ids.push((status.header().expect("a header").member_id(), client));
        }
        let next = ids.iter().map(|(id, _)| *id).find(|id| *id != leader).expect("there are three");
        let client = ids.into_iter().find(|(id, _)| *id == leader).expect("it is one of them").1;
        client.maintenance_client().move_leader(next).await.expect("it can be moved");
        let renewal = renews(&a, "a").await.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");
    }
    assert_eq!(existing(&a, LEADER).await, before, "nothing had to be written");
}

#[tokio::test]
async fn ipv6_addresses_and_names_work() {
    if !can_run("ipv6_addresses_and_names_work") {
        return;
    }
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let cluster = Cluster::start(&Options::on_ipv6()).await;
        let host = cluster.hosts()[0].clone();
        assert!(host.starts_with("[::1]:"), "{host}");
        for spelling in [json!({"hosts": [host]}), json!({"url": format!("http://{host}")})] {
            let a = store_with(&section(spelling), TIMING);
            loads(&a).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        }
    }
    let options = Options { address: Some(Ipv4Addr::LOCALHOST.into()), ..Options::default() };
    let cluster = Cluster::start(&options).await;
    let port = cluster.addresses()[0].port();
    let a = store_with(&section(json!({"host": "localhost", "port": port})), TIMING);
    loads(&a).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    let unknown = store_with(&section(json!({"host": "no-such-host.invalid"})), TIMING);
    let error = loads_by(&unknown, briefly()).await.expect_err("there is no such host");
    assert!(error.chain().contains("cannot resolve `no-such-host.invalid`"), "{}", error.chain());
}

#[tokio::test]
async fn a_cluster_that_was_wiped_is_accepted_and_wakes_whoever_waits() {
    if !can_run("a_cluster_that_was_wiped_is_accepted_and_wakes_whoever_waits") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let a = store(&cluster);
    wins(&a, "a").await;
    for _ in 0..20 {
        a.put("/service/demo/status", b"1", dcs_core::Expect::Any, soon()).await.expect("it can be written");
    }
    let before = a.read(PREFIX, dcs_core::Consistency::Relaxed, soon()).await.expect("etcd answers");
    cluster.wipe(0);
    cluster.serves(0).await;
    let after = a.read(PREFIX, dcs_core::Consistency::Linearizable, soon()).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert!(after.entries.is_empty());
    assert!(after.cursor > before.cursor);
    let changes = a.wait_for_changes(PREFIX, before.cursor, soon()).await.expect("it never fails");
    assert!(changes.unnamed, "{changes:?}");
    assert!(a.read(PREFIX, dcs_core::Consistency::Relaxed, soon()).await.expect("etcd answers").entries.is_empty());
    wins(&a, "a").await;
}
