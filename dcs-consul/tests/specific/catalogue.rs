//! The member in Consul's catalogue of services, and what DNS makes of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dcs_consul::{Config, Consul};
use dcs_core::keys::ClusterPath;
use dcs_core::model::MemberRecord;
use dcs_core::{BootClock, Dcs, Timing, Touched};
use serde_json::{Value, json};
use store_servers::consul::{MASTER_TOKEN, Options, dns};
use store_servers::{Servers, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::support::gate::{Gate, Mishap};
use crate::support::{Hand, can_run};
use crate::{TIMING, section, soon};

const SCOPE: &str = "My_Cluster.1";
const ID: &str = "My_Cluster.1/n1";

fn opens(section: &serde_json::Map<String, Value>) -> (Arc<Consul>, Arc<dyn Dcs>) {
    let config = Config::from_section(section).expect("a good section");
    // Session TTL 15 s.
    let timing = Timing { ttl: Duration::from_secs(30), ..TIMING };
    dcs_consul::open(config, timing, Arc::new(BootClock), ClusterPath::new(None, SCOPE), SCOPE, "n1".into())
}

fn registering(servers: &Servers, mut more: Value) -> serde_json::Map<String, Value> {
    more["register_service"] = true.into();
    section(servers, 0, more)
}

fn record(role: &str, state: &str, api: SocketAddr) -> MemberRecord {
    MemberRecord {
        role: Some(role.to_owned()),
        state: Some(state.to_owned()),
        api_url: Some(format!("http://{api}/patroni")),
        conn_url: Some("postgres://10.1.2.3:5433/postgres".to_owned()),
        ..MemberRecord::default()
    }
}

const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

async fn touch(cluster: &Arc<dyn Dcs>, record: &MemberRecord) {
    cluster.touch_member(record, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
}

async fn service(hand: &Hand) -> Value {
    hand.get("agent/services").await[ID].clone()
}

#[tokio::test]
async fn the_registration_moves_with_the_role() {
    if !can_run("the_registration_moves_with_the_role") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let hand = Hand::at(&servers, 0);
    let (_, cluster) = opens(&registering(&servers, json!({"service_tags": ["z", "b"]})));

    touch(&cluster, &record("replica", "starting", NOWHERE)).await;
    assert_eq!(service(&hand).await, Value::Null, "only who is running is registered");
    touch(&cluster, &record("replica", "running", NOWHERE)).await;
    let there = service(&hand).await;
    assert_eq!((&there["Service"], &there["Address"], &there["Port"]), (&json!("my-cluster-1"), &json!("10.1.2.3"), &json!(5433)));
    assert_eq!((&there["Tags"], &there["EnableTagOverride"]), (&json!(["b", "z", "replica"]), &json!(true)));

    touch(&cluster, &record("primary", "running", NOWHERE)).await;
    assert_eq!(service(&hand).await["Tags"], json!(["b", "z", "primary", "master"]));
    let check = hand.get("agent/checks").await[format!("service:{ID}")].clone();
    assert_eq!(check["Type"], "http", "{check}");
    touch(&cluster, &record("standby_leader", "running", NOWHERE)).await;
    assert_eq!(service(&hand).await["Tags"], json!(["b", "z", "standby-leader"]));

    // Neither a restart nor a demotion on its way is a reason to vanish.
    touch(&cluster, &record("standby_leader", "restarting", NOWHERE)).await;
    touch(&cluster, &record("demoted", "running", NOWHERE)).await;
    assert_eq!(service(&hand).await["Tags"], json!(["b", "z", "standby-leader"]));
    touch(&cluster, &record("demoted", "stopped", NOWHERE)).await;
    assert_eq!(service(&hand).await, Value::Null);
}

#[tokio::test]
async fn a_registration_is_sent_again_only_when_something_changed() {
    if !can_run("a_registration_is_sent_again_only_when_something_changed") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let (gate, hand) = (Gate::before(servers.plan(0).address).await, Hand::at(&servers, 0));
    let section = |more: Value| {
        let mut section = registering(&servers, more);
        section.insert("host".to_owned(), gate.address().to_string().into());
        section
    };
    let (store, cluster) = opens(&section(json!({})));
    let sent = || gate.seen().into_iter().filter(|line| line.contains("/agent/service/")).count();
    let running = record("replica", "running", NOWHERE);
    for _ in 0..3 {
        touch(&cluster, &running).await;
    }
    assert_eq!(sent(), 1);

    // Other tags, by reload.
    let reload = async |more: Value| {
        let config = Config::from_section(&section(more)).expect("a good section");
        store.set_access(&config).await.unwrap_or_else(|error| panic!("{error}"));
    };
    reload(json!({"service_tags": "x"})).await;
    touch(&cluster, &running).await;
    assert_eq!((sent(), &service(&hand).await["Tags"]), (2, &json!(["x", "replica"])));
    // Another token.
    reload(json!({"service_tags": "x", "token": "t"})).await;
    touch(&cluster, &running).await;
    assert_eq!(sent(), 3);
    // Another session: Consul may have lost more than that.
    let id = dcs_core::KeyValueStore::handle(&*store).expect("a session").id;
    hand.put(&format!("session/destroy/{}", id.as_str()), "").await;
    // The session was proved a moment ago, so that it has to be asked for by somebody before the next cycle would.
    let _ = cluster.attempt_to_acquire_leader(soon()).await;
    touch(&cluster, &running).await;
    assert_eq!(sent(), 4);

    // Switched off, and on again.
    let off = json!({"host": gate.address().to_string(), "token": "t"});
    let config = Config::from_section(off.as_object().expect("it is one")).expect("a good section");
    store.set_access(&config).await.unwrap_or_else(|error| panic!("{error}"));
    for _ in 0..3 {
        touch(&cluster, &running).await;
    }
    assert_eq!((sent(), service(&hand).await), (5, Value::Null));
    reload(json!({})).await;
    touch(&cluster, &running).await;
    assert_eq!((sent(), &service(&hand).await["Tags"]), (6, &json!(["replica"])));
}

#[tokio::test]
async fn a_failed_registration_fails_nothing_else_and_is_tried_again() {
    if !can_run("a_failed_registration_fails_nothing_else_and_is_tried_again") {
        return;
    }
    let servers = Options { acl: true, ..Options::default() }.start().await.expect("Consul starts");
    let (gate, hand) = (Gate::before(servers.plan(0).address).await, Hand::at(&servers, 0));
    let options = json!({"host": gate.address().to_string(), "token": MASTER_TOKEN, "register_service": true});
    let (_, cluster) = opens(options.as_object().expect("it is one"));
    let running = record("replica", "running", NOWHERE);
    let mishaps = [
        Mishap::Answer(403, "Permission denied: Missing service:write on my-cluster-1"),
        Mishap::Answer(500, "something"),
        Mishap::Reset,
        Mishap::Silence,
        Mishap::AnswerLost,
    ];
    touch(&cluster, &record("replica", "starting", NOWHERE)).await;
    for (number, mishap) in mishaps.into_iter().enumerate() {
        // The key, then the service.
        gate.plan(Some((1, mishap)));
        let other = MemberRecord { xlog_location: Some(dcs_core::model::Lsn(number as u64)), ..running.clone() };
        let touched = cluster.touch_member(&other, soon()).await.unwrap_or_else(|error| panic!("{mishap:?}: {}", error.chain()));
        assert_eq!(touched, Touched::Written, "{mishap:?}");
        assert!(gate.seen().iter().any(|line| line.contains("/agent/service/register")), "{mishap:?}: {:?}", gate.seen());
        if !mishap.gets_through() {
            assert_eq!(service(&hand).await, Value::Null, "{mishap:?}");
        }
    }
    touch(&cluster, &running).await;
    assert_eq!(service(&hand).await["Tags"], json!(["replica"]));
}

#[tokio::test]
async fn removing_what_consul_does_not_know_is_no_failure() {
    if !can_run("removing_what_consul_does_not_know_is_no_failure") {
        return;
    }
    for acl in [false, true] {
        let servers = Options { acl, ..Options::default() }.start().await.expect("Consul starts");
        let gate = Gate::before(servers.plan(0).address).await;
        let options = json!({"host": gate.address().to_string(), "token": MASTER_TOKEN, "register_service": true});
        let (_, cluster) = opens(options.as_object().expect("it is one"));
        for _ in 0..3 {
            touch(&cluster, &record("replica", "stopped", NOWHERE)).await;
        }
        let sent: Vec<_> = gate.seen().into_iter().filter(|line| line.contains("/agent/service/")).collect();
        assert_eq!(sent, ["PUT /v1/agent/service/deregister/My_Cluster.1%2Fn1"]);
    }
}

/// A REST API that is well whatever it is asked.
async fn healthy() -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("it has one");
    let task = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = client.read(&mut request).await;
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    });
    (address, task)
}

/// The addresses that Consul's DNS has for `name`.
async fn resolve(server: SocketAddr, name: &str) -> Vec<Ipv4Addr> {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).expect("a short label"));
        question.extend(label.as_bytes());
    }
    // The root, type A, class IN.
    question.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    socket.send_to(&question, server).await.expect("it can be sent");
    let mut answer = [0; 1500];
    let received = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut answer)).await.expect("an answer").expect("an answer");
    // Every answer of type A ends its header with type, class, time to live and the length of what follows: four bytes.
    let header = [0, 1, 0, 1];
    let records = answer[question.len()..received].windows(14).filter(|window| window[..4] == header && window[8..10] == [0, 4]);
    records.map(|window| Ipv4Addr::new(window[10], window[11], window[12], window[13])).collect()
}

#[tokio::test]
async fn dns_names_lead_to_the_member_in_its_role() {
    if !can_run("dns_names_lead_to_the_member_in_its_role") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let (api, task) = healthy().await;
    let (_, cluster) = opens(&registering(&servers, json!({"service_check_interval": "1s"})));
    let server = dns(&servers, 0);
    let found = |name: &'static str, expected: &'static [Ipv4Addr]| {
        eventually(name, Duration::from_secs(20), move || async move {
            let found = resolve(server, name).await;
            if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
        })
    };
    const HERE: &[Ipv4Addr] = &[Ipv4Addr::new(10, 1, 2, 3)];
    touch(&cluster, &record("replica", "running", api)).await;
    found("replica.my-cluster-1.service.consul", HERE).await;
    found("primary.my-cluster-1.service.consul", &[]).await;
    touch(&cluster, &record("primary", "running", api)).await;
    found("primary.my-cluster-1.service.consul", HERE).await;
    found("master.my-cluster-1.service.consul", HERE).await;
    found("replica.my-cluster-1.service.consul", &[]).await;
    touch(&cluster, &record("standby_leader", "running", api)).await;
    found("standby-leader.my-cluster-1.service.consul", HERE).await;
    // Consul asks the REST API, and whoever is not well is not found.
    task.abort();
    found("standby-leader.my-cluster-1.service.consul", &[]).await;
}
