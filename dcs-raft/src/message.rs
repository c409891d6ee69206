//! What nodes and clients say to each other. Encoded with postcard behind a protocol version that is exchanged when a
//! connection is made; protobuf, which the Raft library uses inside, never reaches the network.

use serde::{Deserialize, Serialize};

use crate::command::{Foundation, Reply, StoredKey, Transaction};
use crate::identity::{ClusterId, NodeId, ProposalId};
use crate::status::Status;

/// What a node sends to another one. Nothing is answered on the same connection: an answer is a frame on the way back.
/// Frames may be lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerFrame {
    /// A message of the Raft protocol.
    Raft(RaftMessage),
    /// A request that only the leader can serve, from a node that is not.
    Forward {
        /// What the answer will carry.
        token: u64,
        /// The request.
        request: Request,
    },
    /// The answer to a forwarded request.
    Answer {
        /// That of the request.
        token: u64,
        /// The answer.
        response: Response,
    },
}

/// A message of the Raft protocol; the fields are those of the protocol, and only `node` gives them meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the Raft protocol")]
pub struct RaftMessage {
    pub kind: u8,
    pub to: u64,
    pub from: u64,
    pub term: u64,
    pub log_term: u64,
    pub index: u64,
    pub entries: Vec<LogEntry>,
    pub commit: u64,
    pub commit_term: u64,
    pub snapshot: Option<SnapshotData>,
    pub request_snapshot: u64,
    pub reject: bool,
    pub reject_hint: u64,
    pub context: Vec<u8>,
    pub priority: i64,
}

/// An entry of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Its place, counted from one.
    pub index: u64,
    /// The term of the leader that took it.
    pub term: u64,
    /// What kind of entry it is; only `node` gives it meaning.
    pub kind: u8,
    /// What it holds.
    pub data: Vec<u8>,
    /// What goes with it.
    pub context: Vec<u8>,
}

/// The configuration of voters. Only `node` gives it meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Who votes.
    pub voters: Vec<u64>,
    /// Who receives the log and does not vote.
    pub learners: Vec<u64>,
    /// Who also has to agree while the configuration changes.
    pub voters_outgoing: Vec<u64>,
    /// Who becomes a learner when the change is over.
    pub learners_next: Vec<u64>,
    /// Whether the change ends by itself.
    pub auto_leave: bool,
}

/// The state as of some entry, in place of the log up to there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotData {
    /// The last entry that is in it.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The configuration of voters after that entry.
    pub configuration: Configuration,
    /// The state, as `state` encodes it.
    pub state: Vec<u8>,
}

/// The first thing that is said on a connection, after it was made safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hello {
    /// A node that will send [`PeerFrame`]s.
    Peer {
        /// Who it is.
        from: NodeId,
        /// Where it is reached.
        address: String,
        /// Whom it wants to talk to.
        to: NodeId,
        /// The cluster that both belong to.
        cluster: ClusterId,
    },
    /// A client, or a node that has no cluster yet, that will send [`Request`]s and wait for a [`Response`] to each.
    Client,
}

/// The answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    /// Go on.
    Accepted,
    /// This node is somebody else, or belongs to another cluster, or the other one was removed. In words.
    Refused(String),
}

/// What a client can ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Who are you? Answered by every node, also one that has no cluster.
    Discover,
    /// Apply this.
    Propose {
        /// Whose it is. The same proposal may come several times, by several ways.
        proposal: ProposalId,
        /// What is to be done.
        transaction: Transaction,
    },
    /// Every key that begins with the prefix, with every write in it that was acknowledged before this was sent.
    Read {
        /// The prefix.
        prefix: String,
    },
    /// Which keys under the prefix changed after this cursor? Answered when something has, or when the time is over.
    Wait {
        /// The prefix.
        prefix: String,
        /// The last index that the client knows of.
        after: u64,
        /// The longest to wait.
        milliseconds: u64,
    },
    /// How are you?
    Status,
    /// A node that has no cluster asks to be part of this one.
    Join {
        /// Who it is.
        id: NodeId,
        /// Where it is reached.
        address: String,
    },
    /// An operator removes a node.
    Remove {
        /// Where it was reached.
        address: String,
    },
    /// The leader hands over to somebody, or to this node.
    Transfer {
        /// To whom; to whoever is up to date if nothing is said.
        to: Option<NodeId>,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Who this node is.
    Identity(Identity),
    /// A transaction was applied.
    Applied(Reply),
    /// What was read.
    Keys {
        /// The keys.
        keys: Vec<StoredKey>,
        /// Every change up to here is in them.
        index: u64,
    },
    /// What changed.
    Changes(ChangedKeys),
    /// How this node is.
    Status(Box<Status>),
    /// A node was added: this is what its cluster began with.
    Joined(Foundation),
    /// It was done.
    Done,
    /// It was not done and will not be, and why, in words, with what to do about it.
    Refused(String),
    /// It may have been done or not: the leader went away, or nobody answered. Ask again, under the same name.
    Unknown(String),
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The node.
    pub id: NodeId,
    /// Where it is reached.
    pub address: String,
    /// Its cluster, if it has one.
    pub cluster: Option<ClusterId>,
    /// The members of its cluster that it knows of.
    pub members: Vec<String>,
    /// What it would found or join a cluster with, if it has none.
    pub partners: Vec<String>,
}

/// Which keys changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedKeys {
    /// The keys, oldest change first.
    pub keys: Vec<ChangedKey>,
    /// The cursor was too far back: more may have changed than is named.
    pub incomplete: bool,
    /// The last index that is in this answer.
    pub index: u64,
}

/// One changed key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedKey {
    /// The key.
    pub key: String,
    /// The entry that changed it.
    pub index: u64,
    /// What happened to it.
    pub kind: ChangedHow,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangedHow {
    /// It did not exist before.
    Created,
    /// It was written again.
    Written,
    /// It was deleted, or its handle ended.
    Deleted,
}
