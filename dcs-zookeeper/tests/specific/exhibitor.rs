//! Exhibitor, played by a small server of HTTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dcs_core::{BootClock, Consistency, Deadline, ErrorKind, KeyValueStore};
use dcs_zookeeper::{Config, ZooKeeper};
use serde_json::{Value, json};
use store_servers::eventually;
use store_servers::zookeeper::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::{PREFIX, TIMING, can_run, existing, loads, session, soon, wins};

/// What Exhibitor answers, and how often it was asked.
struct Exhibitor {
    address: SocketAddr,
    answer: Arc<Mutex<(String, usize)>>,
}

impl Exhibitor {
    async fn start(answer: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let answer = Arc::new(Mutex::new((answer.to_owned(), 0)));
        let told = Arc::clone(&answer);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let read = client.read(&mut request).await.unwrap_or_default();
                let path_is_right = request[..read].starts_with(b"GET /exhibitor/v1/cluster/list HTTP/1.1\r\n");
                let body = {
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    told.1 += 1;
                    told.0.clone()
                };
                let status = if path_is_right { "200 OK" } else { "404 Not Found" };
                let text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
                let _ = client.write_all(text.as_bytes()).await;
            }
        });
        Self { address, answer }
    }

    fn says(&self, answer: &Value) {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).0 = answer.to_string();
    }

    fn asked(&self) -> usize {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn store(&self, hosts: &[&str]) -> ZooKeeper {
        let section = json!({"hosts": hosts, "port": self.address.port(), "poll_interval": 1});
        let config = Config::from_exhibitor_section(section.as_object().expect("it is one")).expect("a good section");
        ZooKeeper::new(config, TIMING, Arc::new(BootClock))
    }
}

fn list(servers: &[SocketAddr]) -> Value {
    let names: Vec<_> = servers.iter().map(|server| server.ip().to_string()).collect();
    json!({"servers": names, "port": servers[0].port()})
}

#[tokio::test]
async fn servers_are_those_that_exhibitor_names_and_a_changed_list_is_used() {
    if !can_run("servers_are_those_that_exhibitor_names_and_a_changed_list_is_used") {
        return;
    }
    let servers = Options::three().start().await.expect("ZooKeeper starts");
    let addresses = servers.addresses();
    assert!(addresses.iter().all(|server| server.port() == addresses[0].port()), "{addresses:?}");
    let exhibitor = Exhibitor::start(&list(&addresses[..1]).to_string()).await;
    // The first host is nobody's: the other one is asked.
    let store = exhibitor.store(&["127.255.255.254", "127.0.0.1"]);
    assert_eq!(store.name(), "exhibitor");
    loads(&store).await.expect("Exhibitor names a server");
    wins(&store, "a").await;
    assert_eq!(store.server(), Some(servers.hosts()[0].clone()));
    let before = session(&store);

    exhibitor.says(&list(&addresses[1..]));
    let asked = exhibitor.asked();
    eventually("Exhibitor is asked again while the store is loaded", Duration::from_secs(10), || async {
        loads(&store).await.map_err(|error| error.chain())?;
        if exhibitor.asked() > asked { Ok(()) } else { Err(exhibitor.asked().to_string()) }
    })
    .await;
    servers.kill(0);
    eventually("another server is used", Duration::from_secs(10), || async {
        loads(&store).await.map_err(|error| error.chain())?;
        store.server().filter(|server| servers.hosts()[1..].contains(server)).ok_or_else(|| format!("{:?}", store.server()))
    })
    .await;
    assert_eq!(session(&store), before);
    assert_eq!(existing(&store, crate::LEADER).await.value, b"a");
}

#[tokio::test]
async fn without_an_answer_of_exhibitor_there_is_no_server() {
    let exhibitor = Exhibitor::start("what?").await;
    let store = exhibitor.store(&["127.0.0.1"]);
    for answer in ["what?", "{}", r#"{"servers": [], "port": 2181}"#, r#"{"servers": ["a"], "port": 0}"#] {
        exhibitor.answer.lock().unwrap_or_else(PoisonError::into_inner).0 = answer.to_owned();
        let outcome = store.read(PREFIX, Consistency::Relaxed, Deadline::after(Duration::from_secs(2))).await;
        let error = outcome.expect_err("nobody names a server");
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.chain().contains("waiting on exhibitor: 127.0.0.1"), "{answer}: {}", error.chain());
    }
    if !can_run("without_an_answer_of_exhibitor_there_is_no_server") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    exhibitor.says(&list(&servers.addresses()));
    store.read(PREFIX, Consistency::Relaxed, soon()).await.expect("it is named now");
    // What it named stays in use when it says nothing any more.
    exhibitor.says(&json!("gone"));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for _ in 0..3 {
        loads(&store).await.expect("the server is there");
    }
}
