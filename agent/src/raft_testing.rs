//! Witnesses in this process, over real sockets and files, for tests of what is around them.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use dcs_core::Deadline;
use dcs_raft::status::{NodeRole, Status};
use tempfile::TempDir;

use crate::config::{Environment, LocalConfig};
use crate::raft_controller::RaftController;

/// Some nodes, of which some run.
pub(crate) struct Nodes {
    pub(crate) addresses: Vec<String>,
    pub(crate) running: Vec<Option<RaftController>>,
    directory: TempDir,
}

impl Nodes {
    /// Addresses and room for nodes. None runs yet.
    pub(crate) fn prepare(count: usize) -> Self {
        // Held together, so that they differ. Where there is a second loopback address, no connection that goes out takes the
        // port before its node does.
        let bind = |_| TcpListener::bind("127.0.0.2:0").or_else(|_| TcpListener::bind("127.0.0.1:0")).unwrap();
        let held: Vec<TcpListener> = (0..count).map(bind).collect();
        let addresses = held.iter().map(|port| port.local_addr().unwrap().to_string()).collect();
        Self { addresses, running: (0..count).map(|_| None).collect(), directory: tempfile::tempdir().unwrap() }
    }

    /// A running cluster that has a leader and knows all its members.
    pub(crate) async fn start(count: usize) -> Self {
        let mut nodes = Self::prepare(count);
        for position in 0..count {
            nodes.start_node(position, count).await;
        }
        nodes.until_complete(count).await;
        nodes
    }

    /// The file of a node that knows the first `partners` nodes.
    pub(crate) fn file(&self, position: usize, partners: usize) -> PathBuf {
        let path = self.directory.path().join(format!("{position}.yml"));
        let text = format!(
            "raft:\n  self_addr: {}\n  partner_addrs: [{}]\n  data_dir: {}\n  password: secret\n",
            self.addresses[position],
            self.addresses[..partners].iter().map(|address| format!("'{address}'")).collect::<Vec<_>>().join(", "),
            self.data_dir(position).display(),
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Where a node keeps its files.
    pub(crate) fn data_dir(&self, position: usize) -> PathBuf {
        self.directory.path().join(position.to_string())
    }

    /// The configuration of a node that knows the first `partners` nodes.
    pub(crate) fn config(&self, position: usize, partners: usize) -> LocalConfig {
        LocalConfig::load(Some(&self.file(position, partners)), Environment::empty()).unwrap()
    }

    pub(crate) async fn start_node(&mut self, position: usize, partners: usize) {
        self.running[position] = Some(RaftController::start(self.config(position, partners)).await.unwrap());
    }

    pub(crate) async fn stop_node(&mut self, position: usize) {
        self.running[position].take().unwrap().stop().await;
    }

    pub(crate) fn node(&self, position: usize) -> &dcs_raft::Node {
        self.running[position].as_ref().unwrap().node()
    }

    pub(crate) async fn status(&self, position: usize) -> Option<Status> {
        let node = self.running[position].as_ref()?.node();
        node.handle().status(Deadline::after(Duration::from_secs(1))).await.ok()
    }

    /// Asks those that run until what they say is as it should be.
    pub(crate) async fn until(&self, what: &str, fits: impl Fn(&[Status]) -> bool) -> Vec<Status> {
        let end = Deadline::after(Duration::from_secs(40));
        loop {
            let mut statuses = Vec::new();
            for position in 0..self.running.len() {
                statuses.extend(self.status(position).await);
            }
            if fits(&statuses) {
                return statuses;
            }
            assert!(!end.has_passed(), "not in time: {what}: {statuses:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until `count` nodes run, vote, and follow one leader. Returns its address.
    pub(crate) async fn until_complete(&self, count: usize) -> String {
        let complete = |statuses: &[Status]| {
            statuses.len() == count
                && statuses.iter().filter(|status| status.role == NodeRole::Leader).count() == 1
                && statuses.iter().all(|status| {
                    status.leader.is_some()
                        && status.leader == statuses[0].leader
                        && status.peers.len() + 1 == count
                        && status.peers.iter().all(|peer| peer.voter && !peer.absent && peer.connected)
                })
        };
        let statuses = self.until("all follow one leader", complete).await;
        statuses[0].leader.clone().unwrap()
    }
}
