//! What the leader tells about its positions.

use std::collections::BTreeMap;

use super::Lsn;

/// The `status` key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Last known WAL position of the leader; 0 if unknown.
    pub last_lsn: Lsn,
    /// Positions of the replication slots that the leader manages, and its own under its own slot name.
    pub slots: Option<BTreeMap<String, Lsn>>,
    /// Slots of absent members that are kept for a while.
    pub retain_slots: Vec<String>,
}
