//! The leader key.

use super::{HandleId, MemberName, Revision};

/// The lock as last loaded: who holds it, and bound to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The holder. Never empty: an empty name is read as "no leader".
    pub name: MemberName,
    /// Revision of the key.
    pub revision: Revision,
    /// The holder's liveness handle, on stores that bind keys to one.
    pub handle: Option<HandleId>,
}
