//! A cluster of such processes: started, killed, frozen and robbed of their files.
//!
//! Each cluster has a loopback address of its own, so that a port which the kernel once called free stays free while its
//! node is down.

use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::Deadline;
use dcs_raft::cluster::Keys;
use dcs_raft::message::{Request, Response};
use dcs_raft::status::{NodeRole, Status};
use dcs_raft::{Config, RemoteCluster};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::node::SECTION;
use super::{PATIENCE, eventually};

/// How nodes are set up.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub nodes: usize,
    pub password: Option<&'static str>,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub snapshot_entries: u64,
}

impl Options {
    /// As an operator would have them.
    pub const fn of(nodes: usize) -> Self {
        Self { nodes, password: None, heartbeat_ms: 100, election_ms: 1_000, snapshot_entries: 10_000 }
    }

    /// A new leader is there at once, and the log is soon in a snapshot.
    pub const fn quick(nodes: usize) -> Self {
        Self { nodes, password: None, heartbeat_ms: 20, election_ms: 100, snapshot_entries: 200 }
    }

    /// The section of the configuration of one of the nodes at these addresses.
    pub fn section(&self, addresses: &[SocketAddr], node: usize, data_dir: &Path) -> Map<String, Value> {
        let partners: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        let section = json!({
            "self_addr": partners[node],
            "partner_addrs": partners,
            "data_dir": data_dir,
            "password": self.password,
            "heartbeat_ms": self.heartbeat_ms,
            "election_ms": self.election_ms,
            "snapshot_entries": self.snapshot_entries,
        });
        section.as_object().expect("it is one").clone()
    }
}

/// The nodes; killed when this is dropped, and gone soon after the test if it dies.
#[derive(Debug)]
pub struct Nodes {
    options: Options,
    nodes: Vec<Slot>,
    directory: TempDir,
}

/// A place for a node.
#[derive(Debug)]
struct Slot {
    address: SocketAddr,
    data: PathBuf,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Nodes {
    /// Starts all nodes, and waits until they serve.
    pub async fn start(options: Options) -> Self {
        let nodes = Self::prepare(options);
        for node in 0..nodes.len() {
            nodes.start_node(node);
        }
        nodes.serve().await;
        nodes
    }

    /// Nodes that are not started yet.
    pub fn prepare(options: Options) -> Self {
        let directory = tempfile::Builder::new().prefix("quorate-raft-").tempdir().expect("a directory");
        let own = IpAddr::V4(Ipv4Addr::new(127, fastrand::u8(1..=254), fastrand::u8(..), fastrand::u8(1..=254)));
        let held: Vec<TcpListener> = (0..options.nodes).map(|_| TcpListener::bind((own, 0)).expect("a free port")).collect();
        let slot = |(index, listener): (usize, &TcpListener)| Slot {
            address: listener.local_addr().expect("an address"),
            data: directory.path().join(index.to_string()),
            log: directory.path().join(format!("{index}.log")),
            child: Mutex::new(None),
        };
        let nodes = held.iter().enumerate().map(slot).collect();
        Self { options, nodes, directory }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn address(&self, node: usize) -> SocketAddr {
        self.nodes[node].address
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// The directory of a node's files.
    pub fn data(&self, node: usize) -> &Path {
        &self.nodes[node].data
    }

    /// What a node has said so far.
    pub fn log(&self, node: usize) -> String {
        std::fs::read_to_string(&self.nodes[node].log).unwrap_or_default()
    }

    /// The section of a node's configuration.
    pub fn section(&self, node: usize) -> Map<String, Value> {
        self.options.section(&self.addresses(), node, &self.nodes[node].data)
    }

    /// What a mere client needs to ask these nodes.
    pub fn client_config(&self) -> Config {
        self.client_config_with(self.options.password)
    }

    pub fn client_config_with(&self, password: Option<&str>) -> Config {
        client_config(&self.addresses(), password)
    }

    /// A client of all nodes.
    pub fn client(&self) -> RemoteCluster {
        RemoteCluster::new(&self.client_config())
    }

    /// A client of one node, which asks no other.
    pub fn client_of(&self, node: usize) -> RemoteCluster {
        RemoteCluster::new(&client_config(&[self.address(node)], self.options.password))
    }

    /// Starts a node that does not run, with the files that it has.
    pub fn start_node(&self, node: usize) {
        self.start_node_with(node, &self.section(node));
    }

    pub fn start_node_with(&self, node: usize, section: &Map<String, Value>) {
        let slot = &self.nodes[node];
        let child = spawn(section, &slot.log);
        let before = slot.child().replace(child);
        assert!(before.is_none(), "node {node} runs already");
    }

    /// Kills a node as if its machine had gone.
    pub fn kill(&self, node: usize) {
        let child = self.nodes[node].child().take();
        if let Some(mut child) = child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills all nodes, and only then looks whether they are gone.
    pub fn kill_all(&self) {
        for node in 0..self.len() {
            self.signal(node, Signal::SIGKILL);
        }
        for node in 0..self.len() {
            self.kill(node);
        }
    }

    /// Removes the files of a node that does not run.
    pub fn wipe(&self, node: usize) {
        std::fs::remove_dir_all(&self.nodes[node].data).expect("its files");
    }

    /// Stops a node without ending it: connections stay open and silent.
    pub async fn freeze(&self, node: usize) {
        self.signal(node, Signal::SIGSTOP);
        // The signal has to reach every thread.
        eventually("the node stops", PATIENCE, || async {
            let states = self.states_of_threads(node);
            if states.iter().all(|state| *state == 'T') { Ok(()) } else { Err(format!("{states:?}")) }
        })
        .await;
    }

    /// Lets a frozen node go on.
    pub fn thaw(&self, node: usize) {
        self.signal(node, Signal::SIGCONT);
    }

    fn states_of_threads(&self, node: usize) -> Vec<char> {
        let child = self.nodes[node].child();
        let Some(child) = &*child else { return Vec::new() };
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).into_iter().flatten().flatten();
        let stat = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
        stat.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
    }

    fn signal(&self, node: usize, signal: Signal) {
        if let Some(child) = &*self.nodes[node].child() {
            kill(Pid::from_raw(child.id().cast_signed()), signal).expect("the node runs");
        }
    }

    /// Lets the files of a running node become no larger than this; without a limit again if there is none.
    pub fn limit_files(&self, node: usize, bytes: Option<u64>) {
        let child = self.nodes[node].child();
        let child = child.as_ref().expect("a running node");
        let pid = rustix::process::Pid::from_child(child);
        // The upper limit stays: only an administrator could raise it again.
        let maximum = prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None }).expect("a limit").maximum;
        assert_eq!(maximum, None, "the test itself must not be limited");
    }

    /// Waits until a node has ended by itself.
    pub async fn ended(&self, node: usize) -> ExitStatus {
        let status = eventually("the node ends", PATIENCE, || async {
            let mut child = self.nodes[node].child();
            let child = child.as_mut().expect("it was started");
            child.try_wait().expect("a child").ok_or_else(|| "it runs".to_owned())
        })
        .await;
        self.nodes[node].child().take();
        status
    }

    /// What a node says about itself, if it is there.
    pub async fn status(&self, node: usize) -> Option<Status> {
        status(&self.client_of(node), self.address(node)).await
    }

    /// Asks all nodes, again and again, until what they say is as it should be.
    pub async fn until(&self, what: &str, fits: impl Fn(&[Option<Status>]) -> bool) -> Vec<Option<Status>> {
        until(&self.addresses(), self.options.password, what, fits).await
    }

    /// Waits until a node leads.
    pub async fn leader(&self) -> usize {
        let leads = |status: &Option<Status>| status.as_ref().is_some_and(|status| status.role == NodeRole::Leader && status.has_quorum);
        let statuses = self.until("somebody leads", |statuses| statuses.iter().any(leads)).await;
        statuses.iter().position(leads).expect("somebody leads")
    }

    /// Waits until every node is a voter among as many, and hears of a leader.
    pub async fn serve(&self) -> Vec<Option<Status>> {
        self.until("every node takes part", |statuses| statuses.iter().all(|status| takes_part(status, self.len()))).await
    }

    /// All keys, as each node reads them. No write may be under way.
    pub async fn what_everybody_reads(&self) -> Vec<Keys> {
        let mut all = Vec::new();
        for node in 0..self.len() {
            let read = self.client_of(node).cluster().read("", soon()).await;
            all.push(read.unwrap_or_else(|error| panic!("node {node} cannot be read: {error}")));
        }
        all
    }

    /// Whether a node has said so.
    pub async fn says(&self, node: usize, what: &str) {
        eventually("the log says why", PATIENCE, || async {
            let log = self.log(node);
            if log.contains(what) { Ok(()) } else { Err(format!("`{what}` is not in\n{log}")) }
        })
        .await;
    }

    /// No node has said that it cannot go on, or that something is not as it should be.
    pub fn assert_no_complaint(&self) {
        for node in 0..self.len() {
            let log = self.log(node);
            let complaints: Vec<&str> = log.lines().filter(|line| line.contains("ERROR") || line.contains("panicked")).collect();
            assert!(complaints.is_empty(), "node {node} says: {complaints:#?}");
        }
    }
}

impl Slot {
    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.kill_all();
        if std::thread::panicking() {
            for node in 0..self.len() {
                let log = self.log(node);
                let tail: Vec<_> = log.lines().rev().take(15).collect();
                eprintln!("the last lines of node {node}, {}:", self.address(node));
                tail.iter().rev().for_each(|line| eprintln!("    {line}"));
            }
        }
    }
}

/// Starts this program as a node.
fn spawn(section: &Map<String, Value>, log: &Path) -> Child {
    let log: File = OpenOptions::new().create(true).append(true).open(log).expect("a log");
    let section = serde_json::to_string(section).expect("it is JSON");
    let mut command = Command::new(std::env::current_exe().expect("a program"));
    // In a process group of its own: when the test dies, the kernel wakes what is frozen in it, so that it can end.
    command.env_clear().env(SECTION, section).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().expect("this program starts")
}

async fn until(nodes: &[SocketAddr], password: Option<&str>, what: &str, fits: impl Fn(&[Option<Status>]) -> bool) -> Vec<Option<Status>> {
    let clients: Vec<_> = nodes.iter().map(|&node| (RemoteCluster::new(&client_config(&[node], password)), node)).collect();
    eventually(what, PATIENCE, || async {
        let asked = clients.iter().map(|(client, address)| status(client, *address));
        let statuses = futures::future::join_all(asked).await;
        if fits(&statuses) { Ok(statuses) } else { Err(format!("{statuses:#?}")) }
    })
    .await
}

/// Waits until every one of these nodes, which have no password, is a voter and hears of a leader.
pub async fn serve(nodes: &[SocketAddr]) {
    until(nodes, None, "every node takes part", |statuses| statuses.iter().all(|status| takes_part(status, nodes.len()))).await;
}

/// What a client of these nodes needs.
pub fn client_config(nodes: &[SocketAddr], password: Option<&str>) -> Config {
    let nodes: Vec<String> = nodes.iter().map(SocketAddr::to_string).collect();
    let section = json!({"partner_addrs": nodes, "password": password});
    Config::from_section(section.as_object().expect("it is one")).expect("a good section")
}

async fn status(client: &RemoteCluster, address: SocketAddr) -> Option<Status> {
    let address = address.to_string().parse().expect("an address");
    match client.request_of(&address, &Request::Status, Deadline::after(Duration::from_secs(2))).await {
        Ok(Response::Status(status)) => Some(*status),
        _ => None,
    }
}

/// Whether the node is one of as many voters, and hears of a leader.
pub fn takes_part(status: &Option<Status>, voters: usize) -> bool {
    status.as_ref().is_some_and(|status| {
        let all_vote = status.peers.iter().all(|peer| peer.voter && !peer.absent);
        status.has_quorum && !status.changing && all_vote && status.peers.len() + 1 == voters
    })
}

/// Long enough for anything that works.
pub fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}
