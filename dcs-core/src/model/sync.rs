//! The synchronous state.

use super::{MemberName, Revision};

/// What the `sync` key says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncRecord {
    /// The primary that wrote it; nothing means that synchronous replication is not active.
    pub leader: Option<MemberName>,
    /// The synchronous standbys (voters, in quorum mode), sorted.
    pub standbys: Vec<MemberName>,
    /// How many other nodes a candidate must have seen; 0 outside quorum mode.
    pub quorum: u64,
}

/// The `sync` key as loaded. A missing key, `{}` and a value without leader read the same: empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncState {
    /// Revision of the key if it exists, even if it is empty or damaged.
    pub revision: Option<Revision>,
    /// Its content.
    pub record: SyncRecord,
    /// Whether the stored text could not be read.
    pub damaged: bool,
}

impl SyncState {
    /// Whether synchronous replication is not active.
    pub fn is_empty(&self) -> bool {
        self.record.leader.is_none()
    }

    /// Whether `name` is listed as standby, without regard to case.
    pub fn lists(&self, name: &MemberName) -> bool {
        !self.is_empty() && self.record.standbys.iter().any(|standby| standby.same_as_standby(name.as_str()))
    }

    /// Whether `name` is the leader or a standby, without regard to case.
    pub fn lists_or_leads(&self, name: &MemberName) -> bool {
        self.lists(name) || self.record.leader.as_ref().is_some_and(|leader| leader.same_as_standby(name.as_str()))
    }
}
