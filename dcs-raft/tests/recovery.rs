//! The majority is lost for good, and one node goes on: over real sockets and files.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dcs_core::{BootClock, Consistency, Deadline, Expect, KeyValueStore, Timing};
use dcs_raft::identity::ClusterId;
use dcs_raft::message::{Request, Response};
use dcs_raft::recovery::{RecoveryError, form_new_cluster, inspect};
use dcs_raft::status::{NodeRole, Status};
use dcs_raft::storage::OpenError;
use dcs_raft::{Config, Node, RaftStore};
use serde_json::json;

const TIMING: Timing = Timing { ttl: Duration::from_secs(6), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(10) };

struct Site {
    addresses: Vec<String>,
    directory: tempfile::TempDir,
}

impl Site {
    fn of_three() -> Self {
        let held: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let addresses = held.iter().map(|port| port.local_addr().expect("an address").to_string()).collect();
        Self { addresses, directory: tempfile::tempdir().expect("a directory") }
    }

    fn files(&self, position: usize) -> PathBuf {
        self.directory.path().join(position.to_string())
    }

    async fn start(&self, position: usize) -> Node {
        self.start_in(position, &self.files(position)).await
    }

    async fn start_in(&self, position: usize, data_dir: &Path) -> Node {
        let section =
            json!({"self_addr": self.addresses[position], "partner_addrs": self.addresses, "data_dir": data_dir, "password": "secret"});
        let config = Config::from_section(section.as_object().expect("a section")).expect("a good section");
        Node::start(config, Arc::new(BootClock)).await.expect("a node")
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn begin() -> Self {
        let log = Self::default();
        let writer = log.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        log
    }

    fn contains(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock().expect("nobody panics")).contains(text)
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics").extend_from_slice(bytes);
        // Shown if the test fails.
        print!("{}", String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn store(node: &Node) -> RaftStore {
    RaftStore::new(node.cluster(), TIMING, Arc::new(BootClock))
}

async fn put(node: &Node, key: &str) {
    let written = store(node).put(key, b"x", Expect::Any, deadline()).await.expect("a write");
    assert!(written.is_applied(), "{written:?}");
}

async fn keys(node: &Node) -> Vec<String> {
    let snapshot = store(node).read("/", Consistency::Linearizable, deadline()).await.expect("a read");
    let mut keys: Vec<String> = snapshot.entries.into_iter().map(|entry| entry.key).collect();
    keys.sort();
    keys
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn status(node: &Node) -> Option<Status> {
    match node.request(Request::Status).await {
        Response::Status(status) => Some(*status),
        _ => None,
    }
}

async fn cluster(node: &Node) -> Option<ClusterId> {
    match node.request(Request::Discover).await {
        Response::Identity(identity) => identity.cluster,
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_goes_on_alone_takes_in_new_nodes_and_refuses_old_ones() {
    let log = Log::begin();
    let site = Site::of_three();
    let mut nodes = Vec::new();
    for position in 0..3 {
        nodes.push(site.start(position).await);
    }
    let mut written: Vec<String> = (0..20).map(|number| format!("/key/{number}")).collect();
    for (key, node) in written.iter().zip(nodes.iter().cycle()) {
        put(node, key).await;
    }
    written.sort();
    let last = status(&nodes[0]).await.expect("a member").last_index;
    until("the third node has everything", async || status(&nodes[2]).await.filter(|status| status.last_index >= last)).await;

    let refused = form_new_cluster(&site.files(2), nodes[2].address());
    assert!(matches!(refused, Err(RecoveryError::Open(OpenError::InUse { .. }))), "of a running node: {refused:?}");

    let address = nodes[2].address().clone();
    for node in nodes {
        node.stop().await;
    }
    let report = inspect(&site.files(2)).expect("a report");
    assert_eq!((report.keys, report.members.len()), (written.len(), 3));
    let formed = form_new_cluster(&site.files(2), &address).expect("a new cluster");
    assert!(formed.kept.is_some_and(|kept| Path::new(&kept).is_file()));

    let survivor = site.start(2).await;
    let alone = until("it leads", async || status(&survivor).await.filter(|status| status.role == NodeRole::Leader)).await;
    assert!(alone.peers.is_empty() && alone.has_quorum && alone.term > report.term && alone.cluster != report.cluster);
    assert_eq!(keys(&survivor).await, written);
    put(&survivor, "/key/new").await;
    written.push("/key/new".to_owned());

    // An old node with its old files.
    let old = site.start(0).await;
    until("the old node is refused", async || {
        log.contains(&format!("this node belongs to another cluster, {}; if that one was formed anew", alone.cluster)).then_some(())
    })
    .await;
    assert_eq!(cluster(&old).await, Some(report.cluster));
    assert!(status(&survivor).await.expect("a member").peers.is_empty(), "the old node was let in");
    old.stop().await;

    // The same without them, and another one.
    let again = site.start_in(0, &site.directory.path().join("fresh")).await;
    let other = site.start_in(1, &site.directory.path().join("fresh too")).await;
    until("three voters", async || {
        let peers = status(&survivor).await?.peers;
        (peers.len() == 2 && peers.iter().all(|peer| peer.voter)).then_some(())
    })
    .await;
    for node in [&again, &other] {
        assert_eq!(cluster(node).await, Some(alone.cluster));
        assert_eq!(keys(node).await, written);
    }
    // It is a cluster that survives the loss of one again.
    survivor.stop().await;
    put(&again, "/key/newer").await;
}
