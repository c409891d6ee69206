//! The rotation, over servers that are made up, in virtual time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::LazyLock;

use async_trait::async_trait;
use dcs_core::BoxError;

use super::*;
use crate::endpoint::Endpoint;

/// What a made-up server does.
#[derive(Clone, Debug, Default)]
struct Server {
    is_down: bool,
    /// Takes a request and says nothing.
    is_silent: bool,
    members: Vec<SocketAddr>,
    asked_for_members: usize,
    requests: usize,
}

/// All made-up servers; tests use networks of their own.
static SERVERS: LazyLock<Mutex<HashMap<SocketAddr, Server>>> = LazyLock::new(Mutex::default);

fn with<T>(address: SocketAddr, look: impl FnOnce(&mut Server) -> T) -> T {
    look(SERVERS.lock().unwrap_or_else(PoisonError::into_inner).entry(address).or_default())
}

#[derive(Debug)]
struct Connection {
    target: Target,
    serial: u64,
}

struct Done;

impl Headed for Done {
    fn header(&self) -> Option<Header> {
        None
    }
}

#[async_trait]
impl Wire for Connection {
    const STORE: &'static str = "made up";

    async fn open(target: Target, serial: u64, _: Access, _: Timing) -> Result<Self, Failure> {
        match with(target.address, |server| server.is_down) {
            true => Err(Failure::unreachable("nobody is there")),
            false => Ok(Self { target, serial }),
        }
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn serial(&self) -> u64 {
        self.serial
    }

    fn has_answered(&self) {}

    fn explain(&self, failure: Failure) -> Failure {
        failure
    }

    async fn members(&self) -> Result<Vec<Endpoint>, BoxError> {
        let members = with(self.target.address, |server| {
            server.asked_for_members += 1;
            server.members.clone()
        });
        let scheme = self.target.endpoint.scheme;
        Ok(members.iter().map(|at| Endpoint { scheme, host: at.ip().to_string(), port: at.port() }).collect())
    }
}

impl Connection {
    async fn work(&self) -> Result<Done, Failure> {
        let (is_down, is_silent) = with(self.target.address, |server| {
            server.requests += 1;
            (server.is_down, server.is_silent)
        });
        match (is_down, is_silent) {
            (true, _) => Err(Failure::lost("it went away")),
            (_, true) => std::future::pending().await,
            _ => Ok(Done),
        }
    }
}

const TIMING: Timing = Timing { ttl: Duration::from_secs(30), loop_wait: Duration::from_secs(10), retry_timeout: Duration::from_secs(10) };

fn address(network: u8, host: u8) -> SocketAddr {
    SocketAddr::from(([10, 9, network, host], 2379))
}

fn client(servers: &[SocketAddr]) -> Client<Connection> {
    let hosts: Vec<_> = servers.iter().map(ToString::to_string).collect();
    let config = Config::from_section(serde_json::json!({ "hosts": hosts }).as_object().unwrap()).unwrap();
    Client::new(config, TIMING)
}

async fn work(client: &Client<Connection>, repeat: Repeat) -> Result<(), Error> {
    let call = Call { operation: "work", repeat, backing: Backing::Majority };
    let done =
        client.run(call, Deadline::after(TIMING.retry_timeout), |connection: Arc<Connection>| async move { connection.work().await });
    done.await?;
    // The question for members runs beside.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn works(client: &Client<Connection>) {
    work(client, Repeat::Freely).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn members_are_asked_for_at_first_every_ten_ttl_and_after_a_failover() {
    let [a, b, c] = [1, 2, 3].map(|host| address(1, host));
    with(a, |server| server.members = vec![a, b]);
    with(b, |server| server.members = vec![a, b, c]);
    let client = client(&[a]);
    let asked = |server| with(server, |server: &mut Server| server.asked_for_members);
    for _ in 0..5 {
        works(&client).await;
    }
    assert_eq!(asked(a), 1);
    tokio::time::advance(TIMING.ttl * 10).await;
    works(&client).await;
    assert_eq!(asked(a), 2);

    // Only the members know of b, and only b knows of c.
    with(a, |server| server.is_down = true);
    works(&client).await;
    assert_eq!((asked(b), client.server()), (1, Some(b.to_string())));
    with(b, |server| server.is_down = true);
    works(&client).await;
    assert_eq!(client.server(), Some(c.to_string()));
}

#[tokio::test(start_paused = true)]
async fn when_all_known_servers_have_failed_those_of_the_configuration_are_tried_again() {
    let [a, b] = [1, 2].map(|host| address(2, host));
    // The members know nothing of the address that is configured, as behind a name or a forwarded port.
    with(a, |server| server.members = vec![b]);
    let client = client(&[a]);
    works(&client).await;
    with(a, |server| server.is_down = true);
    works(&client).await;
    assert_eq!(client.server(), Some(b.to_string()));
    with(b, |server| server.is_down = true);
    assert_eq!(work(&client, Repeat::Freely).await.unwrap_err().kind, dcs_core::ErrorKind::Unavailable);
    with(a, |server| server.is_down = false);
    works(&client).await;
    assert_eq!(client.server(), Some(a.to_string()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_costs_its_share_and_then_it_is_the_others_turn() {
    let servers = [1, 2, 3, 4, 5].map(|host| address(3, host));
    with(servers[0], |server| server.is_silent = true);
    let client = client(&servers);
    let begun = Instant::now();
    works(&client).await;
    assert_eq!(begun.elapsed(), TIMING.retry_timeout / 5);
    assert_eq!(client.server(), Some(servers[1].to_string()));
    works(&client).await;
    assert_eq!(with(servers[0], |server| server.requests), 1, "nobody goes back to it");
}

#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_is_not_repeated_but_the_next_one_goes_elsewhere() {
    let [a, b] = [1, 2].map(|host| address(4, host));
    with(a, |server| server.is_silent = true);
    let client = client(&[a, b]);
    let error = work(&client, Repeat::IfNotApplied).await.unwrap_err();
    assert_eq!(error.fate, Fate::Unknown);
    assert_eq!((with(a, |server| server.requests), with(b, |server| server.requests)), (1, 0));
    work(&client, Repeat::IfNotApplied).await.unwrap();
    assert_eq!(with(b, |server| server.requests), 1);
}

#[tokio::test(start_paused = true)]
async fn silence_of_all_ends_with_the_deadline() {
    let servers = [1, 2, 3].map(|host| address(5, host));
    for server in servers {
        with(server, |server| server.is_silent = true);
    }
    let begun = Instant::now();
    let error = work(&client(&servers), Repeat::Freely).await.unwrap_err();
    assert!(begun.elapsed() <= TIMING.retry_timeout, "{:?}", begun.elapsed());
    assert_eq!((error.kind, error.fate), (dcs_core::ErrorKind::Unavailable, Fate::Unknown));
    for server in servers {
        assert!(error.chain().contains(&server.to_string()), "{}", error.chain());
    }
}
