//! What a majority has agreed on becomes the state.

use super::{Outlet, Replica, ReplicaError};
use crate::command::Command;
use crate::message::{Response, SnapshotData};
use crate::node::Committed;
use crate::record;
use crate::state::State;
use crate::storage::Storage;

impl<S: Storage> Replica<S> {
    pub(super) fn apply(&mut self, entry: Committed, outlet: &mut impl Outlet) -> Result<(), ReplicaError> {
        if let Some(change) = &entry.change {
            self.node.apply_change(change)?;
        }
        match entry.record {
            Some(bytes) => {
                let record =
                    record::decode(&bytes).map_err(|error| ReplicaError::Record { index: entry.index, problem: error.to_string() })?;
                let applied = self.state.apply(entry.index, &record);
                outlet.changed(entry.index, applied.changes);
                if matches!(record.command, Command::Membership(_)) {
                    outlet.members(self.state.members());
                }
                let joined = Response::Joined(self.foundation.clone());
                self.questions.applied(&record, applied.reply, &joined, outlet);
            }
            None => self.state.skip(entry.index),
        }
        self.node.applied(entry.index);
        Ok(())
    }

    /// A snapshot of the leader takes the place of the state.
    pub(super) fn install(&mut self, snapshot: &SnapshotData, outlet: &mut impl Outlet) -> Result<(), ReplicaError> {
        self.state = State::decode(&snapshot.state).map_err(|source| ReplicaError::Snapshot { index: snapshot.index, source })?;
        self.node.applied(snapshot.index);
        tracing::info!("received a snapshot of the Raft log up to entry {}", snapshot.index);
        outlet.replaced(snapshot.index);
        outlet.members(self.state.members());
        Ok(())
    }
}
