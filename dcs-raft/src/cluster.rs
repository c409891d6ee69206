//! What the store needs of the Raft cluster, whether this process is one of its nodes or not.

use std::fmt;

use async_trait::async_trait;
use dcs_core::{BoxError, Deadline};

use crate::command::{Reply, StoredKey, Transaction};
use crate::message::ChangedKeys;

/// The cluster, as one client sees it: a node in this process, or the nodes on other machines.
///
/// # Cancel safety
///
/// Dropping a future leaves the client usable. What became of a proposal is unknown then, and nobody repeats it any more.
#[async_trait]
pub trait Cluster: Send + Sync + fmt::Debug {
    /// Lets the cluster apply a transaction, once, and returns what came of it.
    ///
    /// As long as the future lives and the deadline has not passed it may be sent again, to any node, always under the
    /// same [`ProposalId`](crate::identity::ProposalId): so a lost answer is asked for again and nothing is done twice.
    ///
    /// # Errors
    ///
    /// [`ClusterError::NoAnswer`] as soon as any attempt may have been taken.
    async fn propose(&self, transaction: Transaction, deadline: Deadline) -> Result<Reply, ClusterError>;

    /// Reads every key that begins with `prefix`, with every write in it that was acknowledged to anybody before.
    ///
    /// # Errors
    ///
    /// Nobody that a majority trusts could be asked.
    async fn read(&self, prefix: &str, deadline: Deadline) -> Result<Keys, ClusterError>;

    /// Sleeps until a key under `prefix` has changed after entry `after`, or the deadline passes: then no key is named. The
    /// index in the answer is never less than `after`.
    ///
    /// # Errors
    ///
    /// Nobody can say what changes.
    async fn wait(&self, prefix: &str, after: u64, deadline: Deadline) -> Result<ChangedKeys, ClusterError>;
}

/// What a read returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// The keys.
    pub keys: Vec<StoredKey>,
    /// Every change up to this entry is in them.
    pub index: u64,
}

/// The cluster did not do what it was asked, or cannot tell whether it did.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Nobody took it: it did not happen and will not.
    #[error("no node took the request")]
    NotTaken(#[source] BoxError),
    /// It may have happened, or may still happen.
    #[error("no answer came in time")]
    NoAnswer(#[source] BoxError),
    /// The nodes do not talk to this client: another password, another cluster.
    #[error("the nodes refuse this client")]
    Denied(#[source] BoxError),
    /// The answer is not one to this question.
    #[error("a node gave an answer to another question")]
    Nonsense,
}
