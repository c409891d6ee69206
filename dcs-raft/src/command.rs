//! What can be asked of the replicated state, and what it answers. These forms are in the log, in snapshots and on the
//! wire, so they carry a version and are only ever extended.
//!
//! One kind of command is enough: a transaction, which looks at some keys and handles and then does one of two lists of
//! operations, at once and on every node alike.

use serde::{Deserialize, Serialize};

use crate::identity::{ClusterId, NodeId, ProposalId};

/// What a log entry holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The log clock when the leader took the proposal, in milliseconds. Never less than that of the entry before.
    pub time_ms: u64,
    /// Whose proposal it is. Those of the leader itself have none.
    pub proposal: Option<ProposalId>,
    /// What it does.
    pub command: Command,
}

/// What an entry of the log does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Nothing but moving the log clock: what is due expires.
    Tick,
    /// Looks and writes.
    Transaction(Transaction),
    /// Says who the members are, beside a change of the configuration of voters.
    Membership(MembershipChange),
}

/// Looks at keys and handles, then does one of two lists of operations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// All of them must hold.
    pub conditions: Vec<Condition>,
    /// Done if they hold.
    pub then: Vec<Operation>,
    /// Done if they do not.
    pub otherwise: Vec<Operation>,
}

/// Something that must hold when the transaction is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// The key exists.
    Exists {
        /// The key.
        key: String,
    },
    /// The key does not exist.
    Absent {
        /// The key.
        key: String,
    },
    /// The key exists with this value.
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
    },
    /// The key exists and was last written at this revision.
    Revision {
        /// The key.
        key: String,
        /// Its revision.
        revision: u64,
    },
    /// The key exists and is bound to this handle.
    BoundTo {
        /// The key.
        key: String,
        /// The handle.
        handle: u64,
    },
    /// The handle is alive.
    Alive {
        /// The handle.
        handle: u64,
    },
}

/// Something that a transaction does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Answers with one key.
    Get {
        /// The key.
        key: String,
    },
    /// Writes a key. Answered [`Done::HandleGone`], and nothing is written, if it is to be bound to a handle that is not
    /// alive.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// The handle that it lives and dies with; permanent without.
        handle: Option<u64>,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: String,
    },
    /// Deletes every key that begins with the prefix.
    DeletePrefix {
        /// The prefix.
        prefix: String,
    },
    /// Makes a handle, which lives `ttl_ms` from this entry's time. A handle has the name of its entry, so a second grant in
    /// one transaction is answered [`Done::HandleGone`] and does nothing.
    Grant {
        /// How long it lives without being refreshed, in milliseconds; at least one.
        ttl_ms: u64,
    },
    /// Lets a handle live its whole time from this entry's time on.
    Refresh {
        /// The handle.
        handle: u64,
    },
    /// Ends a handle, and deletes the keys that are bound to it.
    Revoke {
        /// The handle.
        handle: u64,
    },
}

/// One stored key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The index of the log entry that wrote it.
    pub revision: u64,
    /// The handle that it is bound to.
    pub handle: Option<u64>,
}

/// The answer to a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The index of the entry that applied it: the revision of every key it wrote, and the name of the handle it made.
    pub index: u64,
    /// Whether the conditions held.
    pub held: bool,
    /// The answers to the operations that were done, in their order.
    pub done: Vec<Done>,
}

/// The answer to one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// What a get found.
    Found(Option<StoredKey>),
    /// A put was done.
    Written,
    /// How many keys a deletion found and deleted.
    Deleted(u64),
    /// A handle was made, or refreshed, or ended.
    Handle(u64),
    /// The handle is not alive; the operation did nothing.
    HandleGone,
}

/// A node, as all nodes know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node. That of a node which has not come yet, when a cluster was founded without it, is a placeholder.
    pub id: NodeId,
    /// Where it is reached: `host:port`.
    pub address: String,
    /// It was counted in when the cluster was founded, and has not come yet. Nobody answers under its id.
    pub absent: bool,
}

/// What a change of the configuration of voters means for the list of members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MembershipChange {
    /// A node is added, first without a vote.
    Add(Member),
    /// A node has caught up and votes from now on; the node whose place it takes goes at the same moment.
    Promote {
        /// The node.
        id: NodeId,
        /// The one with the same address that it replaces.
        instead_of: Option<NodeId>,
    },
    /// A node goes for good.
    Remove(NodeId),
    /// A node is reached somewhere else.
    Move {
        /// The node.
        id: NodeId,
        /// Where it is reached from now on: `host:port`.
        address: String,
    },
}

/// What a cluster begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foundation {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Its first members; all of them vote.
    pub members: Vec<Member>,
}
