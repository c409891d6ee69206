//! The conformance suite on Raft nodes, alone and three: processes of their own that clients reach over the network, and
//! nodes in the process of their clients.

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::adapter::KeyValueDcs;
use dcs_core::conformance::proxy::Proxy;
use dcs_core::conformance::{self, AsyncRevoke, Harness, KeyValueOutside, Link, Need, NotOffered, Outside, Profile, Stage, Who};
use dcs_core::keys::ClusterPath;
use dcs_core::{BootClock, BoxError, Clock, Dcs, Deadline, Entry, Timing};
use dcs_raft::cluster::Cluster;
use dcs_raft::command::{Operation, Transaction};
use dcs_raft::store::MAX_VALUE;
use dcs_raft::{Config, Node, RaftStore, RemoteCluster};
use serde_json::json;
use support::nodes::{Nodes, Options};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

/// Short, but long enough for three nodes on a busy machine to elect a leader within `retry_timeout`.
const TIMING: Timing = Timing { ttl: Duration::from_secs(6), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(5) };

/// The longest that a client waits for one answer.
const ATTEMPT: Duration = Duration::from_millis(1_200);

/// Trials that run beside each other in one process. Most of them wait most of the time.
const AT_ONCE: usize = 24;

/// Trials that have nodes of their own, at once.
const OWN_NODES: usize = 4;

fn main() {
    support::run_as_node();
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    // nextest runs every trial in a process of its own, each of which would have to start nodes of its own. There a trial
    // is a whole suite. One alone: `cargo test -p dcs-raft --test conformance -- a31`.
    let suites = [
        Suite::new("on_one_node", Processes { count: 1, name: "raft" }),
        Suite::new("on_three_nodes", Processes { count: 3, name: "three raft" }),
        Suite::new("on_one_node_of_ones_own", Embedded { count: 1, name: "raft, embedded" }),
        Suite::new("on_three_nodes_of_ones_own", Embedded { count: 3, name: "three raft, embedded" }),
    ];
    let trials = if std::env::var_os("NEXTEST").is_some() {
        suites.into_iter().map(Suite::into_trial).collect()
    } else {
        suites.into_iter().flat_map(|suite| conformance::trials(suite.harness)).collect()
    };
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Ending the process would leave their files behind.
    stop_shared();
    conclusion.exit();
}

struct Suite {
    name: &'static str,
    harness: Arc<dyn Harness>,
}

impl Suite {
    fn new(name: &'static str, harness: impl Harness + 'static) -> Self {
        Self { name, harness: Arc::new(harness) }
    }

    fn into_trial(self) -> libtest_mimic::Trial {
        libtest_mimic::Trial::test(self.name, move || {
            let arguments = libtest_mimic::Arguments { test_threads: Some(AT_ONCE), ..Default::default() };
            let conclusion = libtest_mimic::run(&arguments, conformance::trials(self.harness));
            match conclusion.num_failed {
                0 => Ok(()),
                failed => Err(format!("{failed} trials failed; they are named above").into()),
            }
        })
    }
}

fn profile() -> Profile {
    Profile { too_large: Some(MAX_VALUE), ..Profile::default() }
}

fn requests_are_counted_elsewhere(need: Need) -> Option<String> {
    (need == Need::RequestCount).then(|| "tests/state_conformance.rs counts requests".to_owned())
}

/// With three nodes clients run on several threads, as they do in the agent; with one in one, where mistakes repeat.
fn runtime(nodes: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match nodes {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads(2).enable_all().build()
}

fn client(cluster: Arc<dyn Cluster>, who: &Who) -> Arc<dyn Dcs> {
    let store = Arc::new(RaftStore::new(cluster, who.timing, Arc::new(BootClock)));
    let path = ClusterPath::new(None, &who.scope);
    Arc::new(KeyValueDcs::new(store, Arc::new(BootClock), path, who.name.as_str().into(), who.timing))
}

fn outside(cluster: Arc<dyn Cluster>, scope: &str) -> Arc<dyn Outside> {
    let store = Arc::new(RaftStore::new(Arc::clone(&cluster), TIMING, Arc::new(BootClock)));
    Arc::new(KeyValueOutside { store, path: ClusterPath::new(None, scope), revoke: Revoke(cluster) })
}

struct Revoke(Arc<dyn Cluster>);

#[async_trait]
impl AsyncRevoke for Revoke {
    async fn revoke(&self, entry: &Entry) -> Result<(), BoxError> {
        let handle = entry.handle.as_ref().ok_or(NotOffered(Need::Revoke))?.as_str().parse()?;
        let then = vec![Operation::Revoke { handle }];
        self.0.propose(Transaction { then, ..Transaction::default() }, Deadline::after(TIMING.retry_timeout)).await?;
        Ok(())
    }
}

/// Nodes in processes of their own.
#[derive(Clone, Copy)]
struct Processes {
    count: usize,
    name: &'static str,
}

#[async_trait]
impl Harness for Processes {
    fn store_name(&self) -> &'static str {
        self.name
    }

    fn timing(&self) -> Timing {
        TIMING
    }

    fn profile(&self) -> Profile {
        profile()
    }

    fn lacks(&self, need: Need) -> Option<String> {
        match need {
            Need::ThreeServers if self.count < 3 => Some("there is only one node".to_owned()),
            need => requests_are_counted_elsewhere(need),
        }
    }

    fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        runtime(self.count)
    }

    async fn stage(&self, needs: &[Need]) -> Result<Arc<dyn Stage>, BoxError> {
        static OWN: Semaphore = Semaphore::const_new(OWN_NODES);
        let (nodes, permit) = if needs.iter().any(|need| need.disturbs_others()) {
            let permit = OWN.acquire().await?;
            (Arc::new(Nodes::start(Options::of(self.count)).await), Some(permit))
        } else {
            (shared(self.count).await, None)
        };
        Ok(Arc::new(OnProcesses { clients: Mutex::default(), nodes, _permit: permit }))
    }
}

/// Nodes for all trials of this process that leave them as they are: one alone, and three.
static SHARED: [OnceCell<Mutex<Option<Arc<Nodes>>>>; 2] = [const { OnceCell::const_new() }; 2];

async fn shared(count: usize) -> Arc<Nodes> {
    let start = || async { Mutex::new(Some(Arc::new(Nodes::start(Options::of(count)).await))) };
    let shared = SHARED[usize::from(count > 1)].get_or_init(start).await;
    let nodes = shared.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(nodes.as_ref().expect("they are stopped after the last trial"))
}

fn stop_shared() {
    for shared in SHARED.iter().filter_map(OnceCell::get) {
        shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

struct OnProcesses {
    /// In the order in which they were made.
    clients: Mutex<Vec<RemoteCluster>>,
    nodes: Arc<Nodes>,
    /// Given back once the nodes are gone.
    _permit: Option<SemaphorePermit<'static>>,
}

impl OnProcesses {
    fn client(&self, config: &Config, who: &Who) -> Arc<dyn Dcs> {
        let remote = RemoteCluster::new(config);
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).push(remote.clone());
        client(remote.cluster(), who)
    }
}

#[async_trait]
impl Stage for OnProcesses {
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(BootClock)
    }

    async fn connect(&self, who: &Who) -> Result<Arc<dyn Dcs>, BoxError> {
        Ok(self.client(&self.nodes.client_config(), who))
    }

    async fn outside(&self, scope: &str) -> Result<Arc<dyn Outside>, BoxError> {
        Ok(outside(self.nodes.client().cluster(), scope))
    }

    async fn connect_through_link(&self, who: &Who) -> Result<(Arc<dyn Dcs>, Arc<dyn Link>), BoxError> {
        let mut proxies = Vec::new();
        for node in self.nodes.addresses() {
            proxies.push(Proxy::start(node).await?);
        }
        let addresses: Vec<_> = proxies.iter().map(|proxy| proxy.address().to_string()).collect();
        let section = json!({"partner_addrs": addresses});
        let config = Config::from_section(section.as_object().expect("it is one"))?;
        Ok((self.client(&config, who), Arc::new(Wires(proxies))))
    }

    fn servers(&self) -> usize {
        self.nodes.len()
    }

    async fn server_in_use(&self) -> Result<usize, BoxError> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let address = clients.iter().rev().find_map(RemoteCluster::node_in_use).ok_or("no node is in use")?.to_string();
        let mut addresses = self.nodes.addresses().into_iter().map(|address: SocketAddr| address.to_string());
        addresses.position(|known| known == address).ok_or_else(|| format!("{address} is unknown").into())
    }

    async fn kill(&self, server: usize) -> Result<(), BoxError> {
        self.nodes.kill(server);
        Ok(())
    }

    async fn restart(&self, server: usize) -> Result<(), BoxError> {
        self.nodes.start_node(server);
        Ok(())
    }

    async fn freeze(&self, server: usize) -> Result<(), BoxError> {
        self.nodes.freeze(server).await;
        Ok(())
    }

    async fn thaw(&self, server: usize) -> Result<(), BoxError> {
        self.nodes.thaw(server);
        Ok(())
    }
}

/// One link to each node, all in the same condition.
struct Wires(Vec<Proxy>);

#[async_trait]
impl Link for Wires {
    fn attempt(&self) -> Duration {
        ATTEMPT
    }

    async fn delay_answers(&self, delay: Duration) {
        self.0.iter().for_each(|proxy| proxy.delay_answers(delay));
    }

    async fn lose_answers(&self, lose: bool) {
        self.0.iter().for_each(|proxy| proxy.lose_answers(lose));
    }

    async fn cut(&self) {
        self.0.iter().for_each(Proxy::cut);
    }

    async fn heal(&self) {
        self.0.iter().for_each(Proxy::heal);
    }
}

/// Nodes in the process of their clients, each of which asks one of them and no other.
#[derive(Clone, Copy)]
struct Embedded {
    count: usize,
    name: &'static str,
}

#[async_trait]
impl Harness for Embedded {
    fn store_name(&self) -> &'static str {
        self.name
    }

    fn timing(&self) -> Timing {
        TIMING
    }

    fn profile(&self) -> Profile {
        profile()
    }

    fn lacks(&self, need: Need) -> Option<String> {
        match need {
            Need::ThreeServers | Need::StopAll | Need::RestartAll => Some("the node would take its client along".to_owned()),
            Need::Link => Some("there is nothing between a client and its own node".to_owned()),
            need => requests_are_counted_elsewhere(need),
        }
    }

    fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        runtime(self.count)
    }

    async fn stage(&self, _: &[Need]) -> Result<Arc<dyn Stage>, BoxError> {
        static RUNNING: [OnceCell<Arc<Running>>; 2] = [const { OnceCell::const_new() }; 2];
        let running = RUNNING[usize::from(self.count > 1)].get_or_init(|| Running::start(self.count)).await;
        Ok(Arc::new(OnOwnNodes { running: Arc::clone(running), next: Mutex::new(0) }))
    }
}

/// Nodes for all trials of this process, on a runtime that lives as long as it does.
struct Running(Vec<Node>);

impl Running {
    async fn start(count: usize) -> Arc<Self> {
        static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
        let runtime =
            RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"));
        let starting = async move {
            // Addresses and files as for nodes of their own; they end with this process.
            let places = Nodes::prepare(Options::of(count));
            let mut nodes = Vec::new();
            for node in 0..count {
                let config = Config::from_section(&places.section(node)).expect("a good section");
                nodes.push(Node::start(config, Arc::new(BootClock)).await.expect("a node"));
            }
            places.serve().await;
            // The files of open nodes may go: nobody starts these nodes again.
            drop(places);
            Arc::new(Self(nodes))
        };
        runtime.spawn(starting).await.expect("the nodes start")
    }
}

struct OnOwnNodes {
    running: Arc<Running>,
    /// The node of the next client.
    next: Mutex<usize>,
}

impl OnOwnNodes {
    fn cluster(&self) -> Arc<dyn Cluster> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let node = *next % self.running.0.len();
        *next += 1;
        self.running.0[node].cluster()
    }
}

#[async_trait]
impl Stage for OnOwnNodes {
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(BootClock)
    }

    async fn connect(&self, who: &Who) -> Result<Arc<dyn Dcs>, BoxError> {
        Ok(client(self.cluster(), who))
    }

    async fn outside(&self, scope: &str) -> Result<Arc<dyn Outside>, BoxError> {
        Ok(outside(self.cluster(), scope))
    }
}
