//! What a node must not forget: who it is, its term and vote, the log, and the snapshot in place of its beginning.
//!
//! | module | what it is about |
//! |---|---|
//! | [`RedbStorage`] (`redb`) | the storage of a real node: one file, one transaction per batch |
//! | `outline` | what a batch may do to what is there, and what is left of the log after it |
//! | `record` | how values lie in the database: each with its checksum and its place |
//! | `container` | the file around the database: format version, and the seal that shows a rollback |
//! | [`medium`] | where the file lies: a directory, or the disk of a simulation |
//! | `error` | why a file is not opened, and what to do about it |
//! | `memory`, `sim` | for tests and the simulation: a storage that forgets nothing, and a disk that does |

mod container;
mod error;
pub mod medium;
#[cfg(any(test, feature = "simulation"))]
pub mod memory;
mod outline;
mod record;
mod redb;
#[cfg(any(test, feature = "simulation"))]
pub mod sim;
#[cfg(test)]
mod tests;

pub use self::error::OpenError;
pub use self::outline::BatchError;
pub use self::redb::RedbStorage;

use crate::command::Foundation;
use crate::identity::NodeId;
use crate::message::{LogEntry, SnapshotData};

/// The term, the vote in it, and how far the log is known to be committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The term.
    pub term: u64,
    /// For whom the node voted in that term; 0 for nobody.
    pub vote: u64,
    /// The last entry that is known to be committed.
    pub commit: u64,
}

/// Everything that a node remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The node.
    pub id: NodeId,
    /// What its cluster began with; nothing as long as it has none.
    pub foundation: Option<Foundation>,
    /// The term and vote.
    pub hard_state: HardState,
    /// The snapshot.
    pub snapshot: Option<SnapshotData>,
    /// The log behind the snapshot, without gaps: the first entry is the one after the snapshot's.
    pub entries: Vec<LogEntry>,
}

impl Remembered {
    /// What a node remembers that was never before.
    pub fn of_new(id: NodeId) -> Self {
        Self { id, foundation: None, hard_state: HardState::default(), snapshot: None, entries: Vec::new() }
    }

    /// The batch that an empty storage is to be written to remember this.
    fn as_batch(&self) -> Batch {
        Batch { hard_state: Some(self.hard_state), snapshot: self.snapshot.clone(), forget_through: None, entries: self.entries.clone() }
    }
}

/// What is written at once: all of it is on stable storage when the write returns, or none of it ever was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The new term, vote and commit.
    pub hard_state: Option<HardState>,
    /// A snapshot that came from the leader, or that the node made of its own state.
    pub snapshot: Option<SnapshotData>,
    /// The log up to this entry is no longer needed. Beyond the snapshot only together with a new snapshot, and then for
    /// the whole log: what was there has nothing to do with the new beginning.
    pub forget_through: Option<u64>,
    /// New entries. They replace everything from the first of them on.
    pub entries: Vec<LogEntry>,
}

/// A write that did not succeed. Nothing of the batch may have been written, or all of it: the same batch is written
/// again before anything else.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to the Raft storage `{place}`")]
pub struct WriteError {
    /// Where it is.
    pub place: String,
    /// Why.
    #[source]
    pub source: dcs_core::BoxError,
}

/// Where a node keeps what it must not forget. Calls block until the medium has answered.
pub trait Storage: Send + std::fmt::Debug {
    /// Makes the cluster that the node belongs to known for ever. Once only.
    ///
    /// # Errors
    ///
    /// It was not written, or may have been.
    fn found(&mut self, foundation: &Foundation) -> Result<(), WriteError>;

    /// Writes a batch to stable storage, all or nothing.
    ///
    /// # Errors
    ///
    /// See [`WriteError`].
    fn write(&mut self, batch: &Batch) -> Result<(), WriteError>;
}
