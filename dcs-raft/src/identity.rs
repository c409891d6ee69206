//! Who is who: nodes, clusters of nodes, proposals.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One node with one set of files. A node that lost its files comes back under another id, so that a vote it may have
/// given and forgotten is never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The nodes that were founded together, and those that joined them. Chosen at random when a cluster is founded: nodes
/// of two clusters never talk to each other, whatever their addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One proposal of one client. Sent as often as it takes; applied once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProposalId {
    /// The client: chosen at random when it is made.
    pub client: u64,
    /// Which of its proposals, counted from one. A client has at most [`ProposalId::WINDOW`] under way at once, and none
    /// of them is further than that behind the latest: whatever is, it has given up, and it will not be applied.
    pub number: u64,
}

impl ProposalId {
    /// How many proposals of one client are remembered.
    pub const WINDOW: usize = 64;
}
