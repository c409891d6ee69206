//! The conformance suite on Raft nodes, alone and three: processes of their own that clients reach over the network, and
//! nodes in the process of their clients.

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::adapter::KeyValueDcs;
use dcs_core::conformance::{AsyncRevoke, Harness, KeyValueOutside, Need, NotOffered, Outside, Profile, Stage, Who};
use dcs_core::keys::ClusterPath;
use dcs_core::{BootClock, BoxError, Clock, Dcs, Deadline, Entry, Timing};
use dcs_raft::cluster::Cluster;
use dcs_raft::command::{Operation, Transaction};
use dcs_raft::store::MAX_VALUE;
use dcs_raft::{Config, Node, RaftStore, RemoteCluster};
use store_servers::conformance::{Client, Subject, TIMING, runtime};
use store_servers::{Plan, Servers};
use support::nodes::{Nodes, Options, client_config};
use tokio::sync::OnceCell;

fn main() {
    support::run_as_node();
    store_servers::conformance::main_with(
        [Box::new(Processes { count: 1, name: "raft" }), Box::new(Processes { count: 3, name: "three raft" })],
        [Arc::new(Embedded { count: 1, name: "raft, embedded" }), Arc::new(Embedded { count: 3, name: "three raft, embedded" })],
    )
}

fn profile() -> Profile {
    Profile { too_large: Some(MAX_VALUE), ..Profile::default() }
}

fn requests_are_counted_elsewhere(need: Need) -> Option<String> {
    (need == Need::RequestCount).then(|| "tests/state_conformance.rs counts requests".to_owned())
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
struct Processes {
    count: usize,
    name: &'static str,
}

#[async_trait]
impl Subject for Processes {
    fn name(&self) -> &'static str {
        self.name
    }

    fn missing(&self) -> Option<String> {
        None
    }

    fn profile(&self) -> Profile {
        profile()
    }

    fn servers(&self) -> usize {
        self.count
    }

    fn lacks(&self, need: Need) -> Option<String> {
        requests_are_counted_elsewhere(need)
    }

    /// They are small.
    fn own_servers(&self) -> usize {
        4
    }

    fn attempt(&self) -> Duration {
        Duration::from_millis(1_200)
    }

    async fn start(&self) -> Result<Servers, BoxError> {
        let options = Options::of(self.count);
        let servers = Servers::start(|network, directory| {
            let hosts = (0..self.count).map(|node| network.free(store_servers::network::SERVERS + node as u8, 2222));
            let addresses = hosts.collect::<Result<Vec<SocketAddr>, _>>()?;
            let plan = |(node, &address): (usize, &SocketAddr)| {
                let directory = directory.join(node.to_string());
                let section = options.section(&addresses, node, &directory.join("data"));
                Ok(Plan {
                    name: format!("node {node}"),
                    address,
                    program: std::env::current_exe()?,
                    arguments: Vec::new(),
                    environment: vec![(support::SECTION.to_owned(), serde_json::to_string(&section)?)],
                    directory,
                    files: Vec::new(),
                    data: "data",
                })
            };
            addresses.iter().enumerate().map(plan).collect()
        })?;
        support::nodes::serve(&servers.addresses()).await;
        Ok(servers)
    }

    async fn client(&self, servers: &Servers, through: Option<&[SocketAddr]>, who: &Who, _: Arc<dyn Clock>) -> Result<Client, BoxError> {
        let addresses = servers.addresses();
        let remote = RemoteCluster::new(&client_config(through.unwrap_or(&addresses), None));
        let dcs = client(remote.cluster(), who);
        Ok(Client { dcs, server_in_use: Box::new(move || remote.node_in_use().map(|node| node.to_string())) })
    }

    async fn outside(&self, servers: &Servers, scope: &str, _: Arc<dyn Clock>) -> Result<Arc<dyn Outside>, BoxError> {
        Ok(outside(RemoteCluster::new(&client_config(&servers.addresses(), None)).cluster(), scope))
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
