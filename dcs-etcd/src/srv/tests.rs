use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::AbortHandle;

use super::*;
use crate::config::Config;
use crate::servers::{Occasion, Servers};

/// Asks `name_server` only.
pub(super) fn resolver(name_server: SocketAddr) -> Result<TokioResolver, String> {
    let mut connection = ConnectionConfig::udp();
    connection.port = name_server.port();
    let server = NameServerConfig::new(name_server.ip(), true, vec![connection]);
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.build().map_err(|error| text_of(&error))
}

/// A record: priority, weight, port, target.
type Service = (u16, u16, u16, String);

/// A name server with a few service records, which remembers what it was asked.
struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NameServer {
    async fn with(records: &[(&str, Vec<Service>)]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let records: HashMap<String, Vec<Service>> =
            records.iter().map(|(name, services)| (format!("{name}._tcp.example.com."), services.clone())).collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(socket, records, Arc::clone(&asked))).abort_handle();
        Self { address, asked, task }
    }

    fn srv(&self, suffix: Option<&str>) -> Srv {
        Srv { domain: "example.com".to_owned(), suffix: suffix.map(str::to_owned), name_server: Some(self.address) }
    }

    fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.into_iter().map(|name| name.trim_end_matches("._tcp.example.com.").to_owned()).collect()
    }
}

async fn serve(socket: UdpSocket, records: HashMap<String, Vec<Service>>, asked: Arc<Mutex<Vec<String>>>) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let question = Message::from_vec(&buffer[..length]).unwrap();
        let query = question.queries[0].clone();
        let name = query.name().to_ascii();
        let mut answer = Message::response(question.id, question.op_code);
        answer.add_query(query.clone());
        match records.get(&name) {
            Some(services) => {
                for (priority, weight, port, target) in services {
                    let data = RData::SRV(SRV::new(*priority, *weight, *port, Name::from_ascii(target).unwrap()));
                    answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
                }
            }
            None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        asked.lock().unwrap().push(name);
        socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
    }
}

fn service(port: u16, target: &str) -> Service {
    (0, 0, port, target.to_owned())
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

async fn found(srv: &Srv) -> Vec<String> {
    let found = find(srv, &ClientTls::default(), soon()).await.unwrap();
    found.iter().map(Endpoint::url).collect()
}

#[tokio::test]
async fn names_are_asked_in_order_until_one_names_servers() {
    let server = NameServer::with(&[
        ("_etcd", vec![service(2379, "plain.example.com.")]),
        ("_etcd-server", vec![service(2380, "peer.example.com.")]),
    ])
    .await;
    assert_eq!(found(&server.srv(None)).await, ["http://plain.example.com:2379"]);
    assert_eq!(server.asked(), ["_etcd-client-ssl", "_etcd-client", "_etcd-ssl", "_etcd"]);

    let server = NameServer::with(&[
        ("_etcd-client-ssl", vec![(10, 1, 4001, "c.x.".to_owned()), (5, 1, 4002, "b.x.".to_owned()), (5, 9, 4003, "a.x.".to_owned())]),
        ("_etcd-client", vec![service(2379, "plain.x.")]),
    ])
    .await;
    assert_eq!(found(&server.srv(None)).await, ["https://a.x:4003", "https://b.x:4002", "https://c.x:4001"]);
    assert_eq!(server.asked(), ["_etcd-client-ssl"]);
}

#[tokio::test]
async fn the_suffix_is_part_of_every_name() {
    let server = NameServer::with(&[("_etcd-ssl-db", vec![service(2379, "a.x.")]), ("_etcd-client", vec![service(1, "no.x.")])]).await;
    assert_eq!(found(&server.srv(Some("db"))).await, ["https://a.x:2379"]);
    assert_eq!(server.asked(), ["_etcd-client-ssl-db", "_etcd-client-db", "_etcd-ssl-db"]);
}

#[tokio::test]
async fn a_service_that_is_said_not_to_exist_names_nobody() {
    let server = NameServer::with(&[("_etcd-client", vec![service(0, ".")]), ("_etcd", vec![service(2379, "a.x.")])]).await;
    assert_eq!(found(&server.srv(None)).await, ["http://a.x:2379"]);
}

#[tokio::test]
async fn peers_are_asked_for_their_members() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut question = [0; 1000];
        let length = stream.read(&mut question).await.unwrap();
        let body = r#"[{"id":1,"name":"a","peerURLs":["http://a:2380"],"clientURLs":["http://10.0.0.1:2379","http://0.0.0.0:2379"]},
            {"id":2,"clientURLs":["http://10.0.0.2:2379"]},{"id":3},7]"#;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&question[..length]).lines().next().unwrap().to_owned()
    });
    // The first peer is not there.
    let peers = vec![(0, 1, 1, "localhost.".to_owned()), (1, 1, port, "localhost.".to_owned())];
    let server = NameServer::with(&[("_etcd-server", peers)]).await;
    assert_eq!(found(&server.srv(None)).await, ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]);
    assert_eq!(peer.await.unwrap(), "GET /members HTTP/1.1");
    assert_eq!(server.asked().len(), 6);
}

#[tokio::test]
async fn nothing_found_says_what_was_asked() {
    let server = NameServer::with(&[]).await;
    let problem = find(&server.srv(None), &ClientTls::default(), soon()).await.unwrap_err();
    assert!(problem.contains("`_etcd-client-ssl._tcp.example.com.`") && problem.contains("`_etcd-server._tcp.example.com.`"), "{problem}");

    // A name server that says nothing ends with the deadline.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let srv = Srv { name_server: Some(silent.local_addr().unwrap()), ..server.srv(None) };
    let problem = find(&srv, &ClientTls::default(), Deadline::after(Duration::from_millis(300))).await.unwrap_err();
    assert!(problem.contains("did not answer"), "{problem}");
}

fn config(server: &NameServer, hosts: &str) -> Config {
    let section = serde_json::json!({"srv": "example.com", "hosts": hosts});
    let mut config = Config::from_section(section.as_object().unwrap()).unwrap();
    config.srv = Some(server.srv(None));
    config
}

async fn look_up(servers: Servers, config: &Config, occasion: Occasion) -> (Servers, Option<String>) {
    let (servers, outcome) = servers.look_up(config, occasion, soon()).await;
    outcome.unwrap();
    let first = servers.next().map(|target| target.endpoint.url());
    (servers, first)
}

#[tokio::test]
async fn what_dns_names_comes_before_what_is_configured_and_is_remembered() {
    let server = NameServer::with(&[("_etcd-client", vec![service(4001, "localhost.")])]).await;
    let config = config(&server, "10.0.0.1");
    let (servers, first) = look_up(Servers::new(&config), &config, Occasion::First).await;
    assert_eq!(first.as_deref(), Some("http://localhost:4001"));
    assert_eq!(server.asked().len(), 2);
    let (servers, first) = look_up(servers, &config, Occasion::Members(Vec::new())).await;
    assert_eq!((first.as_deref(), server.asked().len()), (Some("http://localhost:4001"), 0));
    // When all have failed DNS is asked anew, and what it said before is good enough when it says nothing.
    let (servers, _) = look_up(servers, &config, Occasion::AllFailed).await;
    assert_eq!(server.asked().len(), 2);
    let nowhere = NameServer::with(&[]).await;
    let config = Config { srv: Some(nowhere.srv(None)), ..config };
    let (servers, first) = look_up(servers, &config, Occasion::AllFailed).await;
    assert_eq!((first.as_deref(), nowhere.asked().len()), (Some("http://localhost:4001"), SERVICES.len()));
    // Once it has failed it is left alone for a while.
    let (_, first) = look_up(servers, &config, Occasion::AllFailed).await;
    assert_eq!((first.as_deref(), nowhere.asked().len()), (Some("http://localhost:4001"), 0));
}

#[tokio::test]
async fn without_service_records_the_configured_servers_are_used() {
    let server = NameServer::with(&[]).await;
    let config = config(&server, "10.0.0.1,10.0.0.2");
    let (servers, first) = look_up(Servers::new(&config), &config, Occasion::First).await;
    assert_eq!((first.as_deref(), servers.targets()), (Some("http://10.0.0.1:2379"), 2));
    let alone = Config { endpoints: Vec::new(), ..config };
    let (_, outcome) = Servers::new(&alone).look_up(&alone, Occasion::First, soon()).await;
    let problem = outcome.unwrap_err().cause.to_string();
    assert!(problem.contains("_etcd-client-ssl._tcp.example.com."), "{problem}");
}
