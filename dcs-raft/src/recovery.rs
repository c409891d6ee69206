//! A new cluster from what one node has, when the majority is lost for good.
//!
//! Raft goes on only with a majority, because only a majority knows everything that was ever acknowledged. Who forms a new
//! cluster without one gives that up, knowingly: what this node had not received is lost, and what it had received counts
//! even if nobody ever acknowledged it. So it is never done by the program itself; an operator does it, on one stopped node,
//! after looking at the [`Report`].
//!
//! ```text
//!   old log   1 ─────── commit ─────── last              what others may have had: lost
//!                │ all of it is applied  │
//!   new log      └───────────────────────┴──── gap ───► one snapshot, another cluster, one member
//! ```
//!
//! Three things keep the old and the new apart:
//!
//! - The new cluster has another id. A node with files of the old one is refused until they are moved away.
//! - Its log begins far behind the old one's end. Revisions of keys and names of handles are indices of the log, and those
//!   that were lost must not be given to something else: who still holds one would take it for his own.
//! - Every handle lives its whole time anew, and the term is higher than any that this node knows.
//!
//! What no program can do is to keep the others away: if a majority of the old cluster comes back with its files, it goes on
//! as the old cluster, beside the new one. Their files have to be moved away before they are started again.

use std::path::Path;

use crate::command::{Foundation, Member};
use crate::identity::{ClusterId, NodeId};
use crate::message::{Configuration, SnapshotData};
use crate::node::record_of;
use crate::record;
use crate::replica::ReplicaError;
use crate::state::State;
use crate::storage::medium::{Directory, Medium};
use crate::storage::{HardState, OpenError, RedbStorage, Remembered, WriteError};
use crate::transport::Address;

/// How far behind the end of the old log the new one begins: more entries than others can have had beyond it. At a hundred a
/// second that is a third of a year.
const GAP: u64 = 1_000_000_000;

/// What a stopped node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file.
    pub place: String,
    /// The node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The members, as of the end of its log.
    pub members: Vec<Member>,
    /// The term that it has seen.
    pub term: u64,
    /// The last entry of its log: whatever came after it may be lost.
    pub last_index: u64,
    /// The last entry that it knew a majority to have. Entries behind it were received, and may have been acknowledged, or
    /// given up by everybody else.
    pub commit: u64,
    /// The last entry that is in its snapshot.
    pub snapshot_index: u64,
    /// The log clock at the end of its log, in milliseconds.
    pub clock_ms: u64,
    /// How many keys there are at the end of its log.
    pub keys: usize,
    /// Where the storage of the old cluster was kept, after a new one was formed.
    pub kept: Option<String>,
}

impl Report {
    /// What forming a new cluster from this node gives up, for whoever decides it.
    pub fn what_may_be_lost(&self) -> Vec<String> {
        let others = self.members.iter().filter(|member| member.id != self.node).map(|member| member.address.as_str());
        let others: Vec<&str> = others.collect();
        let mut text = vec![format!("everything after entry {} of the log, if other members had more", self.last_index)];
        if self.commit < self.last_index {
            text.push(format!(
                "entries {} to {} are not known to be committed: they count from now on, even if nobody acknowledged them",
                self.commit + 1,
                self.last_index
            ));
        }
        if !others.is_empty() {
            text.push(format!(
                "the members {} are no longer members; if they come back with their files they may go on as the old cluster, \
                 beside the new one: move their files away first",
                others.join(", ")
            ));
        }
        text
    }
}

/// A new cluster was not formed.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// There is nothing to recover.
    #[error("there is no Raft storage `{place}`\n\nhint: `raft.data_dir` names the directory that it is in")]
    NoStorage {
        /// Where it should be.
        place: String,
    },
    /// The node has never been part of a cluster.
    #[error("the Raft storage `{place}` belongs to no cluster yet: it holds nothing")]
    NotFounded {
        /// The file.
        place: String,
    },
    /// It cannot be opened; a running node, for instance, has it open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is in it cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ReplicaError),
    /// The new one was not written. Unless the medium is broken the old one is still in its place; [`inspect`] tells.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Looks at what a stopped node has in its data directory.
///
/// # Errors
///
/// There is nothing, it cannot be read, or the node is running.
pub fn inspect(data_dir: &Path) -> Result<Report, RecoveryError> {
    Ok(Old::open(Box::new(Directory::new(data_dir)))?.report)
}

/// Forms a new cluster from what a stopped node has in its data directory, with this node as its only member, reached at
/// `self_addr`. Others join it once they are started without their old files. The old storage is kept beside the new one:
/// the report, which is that of the old storage, says where.
///
/// It happens as a whole or not at all, even if the power fails meanwhile.
///
/// # Errors
///
/// There is nothing to begin with, the node is running, or the new storage was not written.
pub fn form_new_cluster(data_dir: &Path, self_addr: &Address) -> Result<Report, RecoveryError> {
    form_on(Box::new(Directory::new(data_dir)), self_addr, ClusterId(fastrand::u128(..)))
}

fn form_on(medium: Box<dyn Medium>, self_addr: &Address, cluster: ClusterId) -> Result<Report, RecoveryError> {
    let old = Old::open(medium)?;
    let member = Member { id: old.report.node, address: self_addr.to_string(), absent: false };
    let new = old.as_new_cluster(&Foundation { cluster, members: vec![member] });
    let kept = old.storage.replace_with(&new)?;
    Ok(Report { kept: Some(kept), ..old.report })
}

/// What there is, locked as long as this lives.
struct Old {
    storage: RedbStorage,
    report: Report,
    state: State,
}

impl Old {
    fn open(medium: Box<dyn Medium>) -> Result<Self, RecoveryError> {
        let place = medium.place();
        let Some((storage, remembered)) = RedbStorage::open_if_there(medium)? else {
            return Err(RecoveryError::NoStorage { place });
        };
        let Some(foundation) = &remembered.foundation else { return Err(RecoveryError::NotFounded { place }) };
        let state = state_of(&remembered, foundation)?;
        let snapshot_index = remembered.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        let report = Report {
            place,
            node: remembered.id,
            cluster: state.cluster(),
            members: state.members().values().cloned().collect(),
            term: remembered.hard_state.term,
            last_index: remembered.entries.last().map_or(snapshot_index, |entry| entry.index),
            commit: remembered.hard_state.commit.max(snapshot_index),
            snapshot_index,
            clock_ms: state.clock_ms(),
            keys: state.len(),
            kept: None,
        };
        Ok(Self { storage, report, state })
    }

    fn as_new_cluster(&self, foundation: &Foundation) -> Remembered {
        let index = self.report.last_index.saturating_add(GAP);
        let configuration = Configuration { voters: vec![self.report.node.0], ..Configuration::default() };
        let state = self.state.clone().founded_anew(foundation, index).encode();
        // No entry has a higher term than its node has seen.
        let term = self.report.term.max(1);
        Remembered {
            id: self.report.node,
            foundation: Some(foundation.clone()),
            hard_state: HardState { term: term + 1, vote: 0, commit: index },
            snapshot: Some(SnapshotData { index, term, configuration, state }),
            entries: Vec::new(),
        }
    }
}

/// The state with everything that is in the log, whether it is known to be committed or not.
fn state_of(remembered: &Remembered, foundation: &Foundation) -> Result<State, ReplicaError> {
    let mut state = match &remembered.snapshot {
        Some(snapshot) => State::decode(&snapshot.state).map_err(|source| ReplicaError::Snapshot { index: snapshot.index, source })?,
        None => State::founded(foundation),
    };
    for entry in &remembered.entries {
        match record_of(entry)? {
            Some(bytes) => {
                let unreadable = |error: record::RecordError| ReplicaError::Record { index: entry.index, problem: error.to_string() };
                state.apply(entry.index, &record::decode(&bytes).map_err(unreadable)?);
            }
            None => state.skip(entry.index),
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests;
