//! The nodes of the embedded store, each asked for itself: so what is seen is also what a minority sees, or a node that
//! hears of no leader.

use std::time::Duration;

use futures::future::join_all;

use dcs_core::{Deadline, chain};
use dcs_raft::cluster::ClusterError;
use dcs_raft::message::{Request, Response};
use dcs_raft::status::{NodeRole, PeerStatus, Status};
use dcs_raft::transport::Address;
use dcs_raft::{Config, RemoteCluster};

use crate::config::LocalConfig;
use crate::stores;

use super::failure::Failure;

/// How long one node may take to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// How often nodes that others have named are asked in their turn.
const ROUNDS: usize = 3;

/// The nodes that the section `raft` names, or why there are none.
///
/// # Errors
///
/// There is no such section, or it has an unusable value; in words.
pub fn configured(config: &LocalConfig) -> Result<Config, String> {
    let settings = config.raft().map_err(|error| error.to_string())?;
    stores::raft_config(&settings).map_err(|error| error.to_string())
}

/// Nodes that can be asked.
#[derive(Debug)]
pub struct RaftNodes {
    cluster: RemoteCluster,
    named: Vec<Address>,
}

impl RaftNodes {
    /// Those that the configuration names, its own first. Nothing is sent yet.
    pub fn new(config: &Config) -> Self {
        let named = config.self_addr.iter().chain(&config.partners).cloned().collect();
        Self { cluster: RemoteCluster::new(config), named }
    }

    /// Asks one node.
    ///
    /// # Errors
    ///
    /// It does not answer; in words.
    pub async fn ask(&self, node: &Address, request: &Request, deadline: Deadline) -> Result<Response, String> {
        self.cluster.request_of(node, request, deadline.at_most(ANSWER)).await.map_err(|error| match error {
            ClusterError::NotTaken(cause) | ClusterError::NoAnswer(cause) | ClusterError::Denied(cause) => chain(&*cause),
            error @ ClusterError::Nonsense => chain(&error),
        })
    }

    /// Asks all nodes that are named by the configuration, or by one of those, how they are.
    pub async fn look(&self, deadline: Deadline) -> View {
        let mut nodes: Vec<Seen> = Vec::new();
        let mut next = self.named.clone();
        for _ in 0..ROUNDS {
            nodes.extend(join_all(next.iter().map(|node| self.status_of(node, deadline))).await);
            let peers = nodes.iter().filter_map(|seen| seen.status.as_ref().ok()).flat_map(|status| &status.peers);
            let mut unasked: Vec<&str> = peers.filter(|peer| !peer.absent).map(|peer| peer.address.as_str()).collect();
            unasked.sort_unstable();
            unasked.dedup();
            unasked.retain(|address| nodes.iter().all(|seen| seen.address != *address));
            next = unasked.into_iter().filter_map(|address| address.parse().ok()).collect();
            if next.is_empty() {
                break;
            }
        }
        View::new(nodes)
    }

    /// Asks one node how it is.
    pub async fn status_of(&self, node: &Address, deadline: Deadline) -> Seen {
        let status = match self.ask(node, &Request::Status, deadline).await {
            Ok(Response::Status(status)) => Ok(*status),
            Ok(Response::Unknown(problem) | Response::Refused(problem)) | Err(problem) => Err(problem),
            Ok(_) => Err("its answer makes no sense".to_owned()),
        };
        Seen { address: node.to_string(), status }
    }
}

/// What one node says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Where it was asked.
    pub address: String,
    /// How it is, or why that is not known.
    pub status: Result<Status, String>,
}

/// What all nodes say.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// One for each node.
    pub nodes: Vec<Seen>,
}

impl View {
    /// A node that was reached under two names counts once, under its own.
    fn new(mut nodes: Vec<Seen>) -> Self {
        let own: Vec<(u64, String)> = nodes
            .iter()
            .filter_map(|seen| seen.status.as_ref().ok().map(|status| (status, &seen.address)))
            .filter(|(status, address)| status.address == **address)
            .map(|(status, address)| (status.id.0, address.clone()))
            .collect();
        nodes.retain(|seen| match &seen.status {
            Ok(status) => own.iter().all(|(id, address)| *id != status.id.0 || *address == seen.address),
            Err(_) => true,
        });
        Self { nodes }
    }

    /// What the nodes say that answer.
    pub fn statuses(&self) -> impl Iterator<Item = &Status> {
        self.nodes.iter().filter_map(|seen| seen.status.as_ref().ok())
    }

    /// What the leader says, if somebody leads and is followed by a majority.
    pub fn leader(&self) -> Option<&Status> {
        self.statuses().filter(|status| status.role == NodeRole::Leader && status.has_quorum).max_by_key(|status| status.term)
    }

    /// What whoever knows most says: the leader, or the node that is furthest.
    ///
    /// # Errors
    ///
    /// No node answers.
    pub fn best(&self) -> Result<&Status, Failure> {
        let furthest = || self.statuses().max_by_key(|status| (status.has_quorum, status.term, status.commit));
        self.leader().or_else(furthest).ok_or_else(|| {
            let problem = |seen: &Seen| seen.status.as_ref().err().map(|problem| format!("{}: {problem}", seen.address));
            let problems: Vec<String> = self.nodes.iter().filter_map(problem).collect();
            Failure::error(format!("No node of the Raft cluster answers: {}", problems.join("; ")))
        })
    }

    /// What the node says that was asked at `address`.
    pub fn at(&self, address: &str) -> Option<&Seen> {
        self.nodes.iter().find(|seen| seen.address == address)
    }
}

/// The addresses of all members that a node knows of, its own among them.
pub fn members(status: &Status) -> Vec<&str> {
    let own = (status.role != NodeRole::Removed).then_some(status.address.as_str());
    let mut all: Vec<&str> = own.into_iter().chain(status.peers.iter().map(|peer| peer.address.as_str())).collect();
    all.sort_unstable();
    all
}

/// Whether the member at `address` votes, by what a leader says. One whose place a new node is about to take does not count.
pub fn votes(leader: &Status, address: &str) -> bool {
    let here: Vec<&PeerStatus> = leader.peers.iter().filter(|peer| peer.address == address).collect();
    leader.address == address || (!here.is_empty() && here.iter().all(|peer| peer.voter && !peer.absent))
}
