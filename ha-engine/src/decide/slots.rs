//! Which replication slots should exist.

use dcs_core::model::Lsn;

/// What to do about slots. Carried out in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotPlan {
    /// Slots to drop, each with the reason as logged; active ones cannot be dropped and are tried again.
    pub drop: Vec<(String, String)>,
    /// Physical slots to create, with WAL reserved at once.
    pub create: Vec<String>,
    /// Physical slots to move forward.
    pub advance: Vec<(String, Lsn)>,
}

impl SlotPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.drop.is_empty() && self.create.is_empty() && self.advance.is_empty()
    }
}
