//! How a node is, for operators and scripts.

use serde::{Deserialize, Serialize};

use crate::identity::{ClusterId, NodeId};

/// What a node is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// It takes the proposals.
    Leader,
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It receives the log and does not vote.
    Learner,
    /// It was removed by an operator.
    Removed,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node.
    pub id: NodeId,
    /// Where it is reached.
    pub address: String,
    /// Its cluster.
    pub cluster: ClusterId,
    /// What it is there.
    pub role: NodeRole,
    /// The address of the leader that it knows.
    pub leader: Option<String>,
    /// The term.
    pub term: u64,
    /// The last entry that it knows a majority to have.
    pub commit: u64,
    /// The last entry that it applied.
    pub applied: u64,
    /// The last entry of its log.
    pub last_index: u64,
    /// The last entry that is in its snapshot, and no longer in the log.
    pub snapshot_index: u64,
    /// Whether it hears from a majority: the leader of its followers, everybody else of a leader.
    pub has_quorum: bool,
    /// Whether a change of the members is under way: until it is over the majority of those before it is needed as well.
    pub changing: bool,
    /// The log clock, in milliseconds.
    pub clock_ms: u64,
    /// The other members.
    pub peers: Vec<PeerStatus>,
    /// How long it has been running, in milliseconds.
    pub uptime_ms: u64,
    /// The version of its program.
    pub version: String,
    /// Why it cannot write to its storage, if it cannot.
    pub storage_problem: Option<String>,
}

/// Another member, as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The member.
    pub id: NodeId,
    /// Where it is reached.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
    /// It was counted in when the cluster was founded, and has not come yet.
    pub absent: bool,
    /// Whether there is a connection to it.
    pub connected: bool,
    /// The last entry that it is known to have; only the leader knows.
    pub match_index: Option<u64>,
    /// The next entry that it will be sent; only the leader knows.
    pub next_index: Option<u64>,
    /// How long ago it was last heard of, in milliseconds.
    pub last_contact_ms: Option<u64>,
}
