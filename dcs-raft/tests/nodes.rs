//! Real nodes in one process, over real sockets and files.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use dcs_core::{BootClock, Consistency, Deadline, Expect, KeyValueStore, Timing};
use dcs_raft::message::{Request, Response};
use dcs_raft::status::{NodeRole, Status};
use dcs_raft::{Config, Node, RaftStore, RemoteCluster};
use serde_json::json;
use tempfile::TempDir;

const TIMING: Timing = Timing { ttl: Duration::from_secs(6), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(10) };

struct Cluster {
    addresses: Vec<String>,
    directory: TempDir,
    nodes: Vec<Option<Node>>,
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

impl Cluster {
    async fn start(count: usize) -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter("info,dcs_raft=debug").with_test_writer().try_init();
        let mut cluster = Self::prepare(count);
        for position in 0..count {
            cluster.start_node(position).await;
        }
        cluster
    }

    fn prepare(count: usize) -> Self {
        let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let addresses = held.iter().map(|port| port.local_addr().expect("an address").to_string()).collect();
        Self { addresses, directory: tempfile::tempdir().expect("a directory"), nodes: (0..count).map(|_| None).collect() }
    }

    fn config(&self, position: usize) -> Config {
        let section = json!({
            "self_addr": self.addresses[position],
            "partner_addrs": self.addresses,
            "data_dir": self.directory.path().join(position.to_string()),
            "password": "secret",
            "snapshot_entries": 100,
        });
        Config::from_section(section.as_object().expect("a section")).expect("a good section")
    }

    async fn start_node(&mut self, position: usize) {
        self.nodes[position] = Some(Node::start(self.config(position), Arc::new(BootClock)).await.expect("a node"));
    }

    async fn stop_node(&mut self, position: usize) {
        self.nodes[position].take().expect("a running node").stop().await;
    }

    fn store(&self, position: usize) -> RaftStore {
        RaftStore::new(self.nodes[position].as_ref().expect("a running node").cluster(), TIMING, Arc::new(BootClock))
    }

    fn client(&self) -> RaftStore {
        RaftStore::new(RemoteCluster::new(&self.config(0)).cluster(), TIMING, Arc::new(BootClock))
    }

    async fn status(&self, position: usize) -> Option<Status> {
        match self.nodes[position].as_ref()?.request(Request::Status).await {
            Response::Status(status) => Some(*status),
            _ => None,
        }
    }

    /// Asks all nodes until what they say is as it should be.
    async fn until(&self, what: &str, fits: impl Fn(&[Option<Status>]) -> bool) -> Vec<Option<Status>> {
        let end = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let mut statuses = Vec::new();
            for position in 0..self.nodes.len() {
                statuses.push(self.status(position).await);
            }
            if fits(&statuses) {
                return statuses;
            }
            assert!(tokio::time::Instant::now() < end, "not in time: {what}: {statuses:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn leader(&self) -> usize {
        let leads = |status: &Option<Status>| status.as_ref().is_some_and(|status| status.role == NodeRole::Leader);
        let statuses = self.until("somebody leads", |statuses| statuses.iter().any(leads)).await;
        statuses.iter().position(leads).expect("somebody leads")
    }
}

async fn put(store: &RaftStore, key: &str, value: &str) {
    let written = store.put(key, value.as_bytes(), Expect::Any, deadline()).await.expect("a write");
    assert!(written.is_applied(), "{written:?}");
}

async fn put_as(store: &RaftStore, key: String) {
    put(store, &key, "x").await;
}

async fn read(store: &RaftStore, prefix: &str) -> Vec<(String, String)> {
    let snapshot = store.read(prefix, Consistency::Linearizable, deadline()).await.expect("a read");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let mut keys: Vec<_> = snapshot.entries.into_iter().map(|entry| (entry.key, text(entry.value))).collect();
    keys.sort();
    keys
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_serves_and_remembers() {
    let mut cluster = Cluster::start(1).await;
    put(&cluster.store(0), "/a/x", "1").await;
    assert_eq!(read(&cluster.client(), "/a/").await, [pair("/a/x", "1")]);
    cluster.stop_node(0).await;
    cluster.start_node(0).await;
    assert_eq!(read(&cluster.store(0), "/a/").await, [pair("/a/x", "1")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_agree_and_go_on_without_their_leader() {
    let mut cluster = Cluster::start(3).await;
    for position in 0..3 {
        put(&cluster.store(position), &format!("/a/{position}"), "here").await;
    }
    let all: Vec<_> = (0..3).map(|position| pair(&format!("/a/{position}"), "here")).collect();
    for position in 0..3 {
        assert_eq!(read(&cluster.store(position), "/a/").await, all);
    }
    let leader = cluster.leader().await;
    cluster.stop_node(leader).await;
    let other = (leader + 1) % 3;
    put(&cluster.store(other), "/a/0", "there").await;
    cluster.start_node(leader).await;
    assert_eq!(read(&cluster.store(leader), "/a/").await[0], pair("/a/0", "there"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_found_a_cluster_and_the_third_takes_its_place() {
    let mut cluster = Cluster::prepare(3);
    // The founder is the one with the first address.
    cluster.addresses.sort();
    cluster.start_node(0).await;
    cluster.start_node(1).await;
    put(&cluster.store(0), "/a/x", "1").await;
    cluster.start_node(2).await;
    let everybody = |statuses: &[Option<Status>]| {
        statuses.iter().all(|status| {
            status.as_ref().is_some_and(|status| {
                !status.changing && status.peers.len() == 2 && status.peers.iter().all(|peer| peer.voter && !peer.absent)
            })
        })
    };
    cluster.until("three voters, and nobody else", everybody).await;
    let leader = cluster.leader().await;
    cluster.stop_node(leader).await;
    let other = (leader + 1) % 3;
    assert_eq!(read(&cluster.store(other), "/a/").await, [pair("/a/x", "1")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_files_comes_back_as_another_one() {
    let mut cluster = Cluster::start(3).await;
    put(&cluster.store(0), "/a/x", "1").await;
    let statuses = cluster.until("three voters", |statuses| voters(statuses, 3)).await;
    let before = statuses[2].as_ref().expect("a member").id;
    cluster.stop_node(2).await;
    std::fs::remove_dir_all(cluster.directory.path().join("2")).expect("its files");
    cluster.start_node(2).await;
    let three_voters = |statuses: &[Option<Status>]| {
        statuses.iter().all(|status| {
            status.as_ref().is_some_and(|status| {
                !status.changing && status.peers.len() == 2 && status.peers.iter().all(|peer| peer.voter && peer.id != before)
            })
        })
    };
    cluster.until("three voters, without the one that is gone", three_voters).await;
    assert_eq!(read(&cluster.store(2), "/a/").await, [pair("/a/x", "1")]);
}

/// The snapshot that takes the place of the log was made before the node was added, and does not name it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_although_the_beginning_of_the_log_is_forgotten() {
    let mut cluster = Cluster::start(3).await;
    let store = cluster.store(0);
    for round in 0..5 {
        let writes = (0..24).map(|number| put_as(&store, format!("/a/{round}/{number}")));
        futures::future::join_all(writes).await;
    }
    let forgotten = |statuses: &[Option<Status>]| statuses.iter().flatten().filter(|status| status.snapshot_index > 0).count() == 3;
    let statuses = cluster.until("three snapshots", forgotten).await;
    let before = statuses[2].as_ref().expect("a member").id;
    cluster.stop_node(2).await;
    std::fs::remove_dir_all(cluster.directory.path().join("2")).expect("its files");
    cluster.start_node(2).await;
    let replaced = |statuses: &[Option<Status>]| {
        voters(statuses, 3) && statuses.iter().flatten().all(|status| status.peers.iter().all(|peer| peer.id != before))
    };
    cluster.until("three voters, without the one that is gone", replaced).await;
    assert_eq!(read(&cluster.store(2), "/a/").await.len(), 5 * 24);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_added_and_removed_in_a_running_cluster() {
    let mut cluster = Cluster::start(3).await;
    put(&cluster.store(0), "/a/x", "1").await;
    // A fourth one that knows only one of the others.
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string();
    let section = json!({
        "self_addr": port,
        "partner_addrs": [cluster.addresses[1]],
        "data_dir": cluster.directory.path().join("fourth"),
        "password": "secret",
    });
    let config = Config::from_section(section.as_object().expect("a section")).expect("a good section");
    cluster.nodes.push(Some(Node::start(config, Arc::new(BootClock)).await.expect("a node")));
    cluster.addresses.push(port.clone());
    cluster.until("four voters", |statuses| voters(statuses, 4)).await;
    let client = RemoteCluster::new(&cluster.config(0));
    let removed = client.request(&Request::Remove { address: port }, deadline()).await.expect("an answer");
    assert_eq!(removed, Response::Done);
    cluster.until("three voters", |statuses| voters(&statuses[..3], 3)).await;
    put(&cluster.store(0), "/a/x", "2").await;
}

fn voters(statuses: &[Option<Status>], count: usize) -> bool {
    let sees = |status: &Status| !status.changing && status.peers.len() + 1 == count && status.peers.iter().all(|peer| peer.voter);
    statuses.iter().all(|status| status.as_ref().is_some_and(sees))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_does_not_come_back_by_itself() {
    let cluster = Cluster::start(3).await;
    let statuses = cluster.until("three voters", |statuses| voters(statuses, 3)).await;
    let removed = (cluster.leader().await + 1) % 3;
    let id = statuses[removed].as_ref().expect("a member").id;
    let client = RemoteCluster::new(&cluster.config(0));
    let request = Request::Remove { address: cluster.addresses[removed].clone() };
    assert_eq!(client.request(&request, deadline()).await.expect("an answer"), Response::Done);
    // As the node does when it hears of no leader.
    let request = Request::Join { id, address: cluster.addresses[removed].clone() };
    let leader = cluster.addresses[cluster.leader().await].parse().expect("an address");
    let answer = client.request_of(&leader, &request, deadline()).await.expect("an answer");
    assert!(matches!(&answer, Response::Refused(why) if why.contains("move its data directory away")), "{answer:?}");
    let others = |statuses: &[Option<Status>]| {
        let left: Vec<_> =
            statuses.iter().enumerate().filter(|(position, _)| *position != removed).map(|(_, status)| status.clone()).collect();
        voters(&left, 2)
    };
    cluster.until("two voters", others).await;
}
