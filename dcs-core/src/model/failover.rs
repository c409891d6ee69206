//! Requests for a switchover or a failover.

use super::{MemberName, Revision, ScheduledTime};

/// What somebody asked for. With a leader it is a switchover, with only a candidate a failover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailoverRequest {
    /// The node to step down.
    pub leader: Option<MemberName>,
    /// The node to take over.
    pub candidate: Option<MemberName>,
    /// When to start; at once if absent.
    pub scheduled_at: Option<ScheduledTime>,
}

impl FailoverRequest {
    /// Whether nothing is asked for. A time alone asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.leader.is_none() && self.candidate.is_none()
    }
}

/// The `failover` key. A view holds it only if the request is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverKey {
    /// Revision of the key.
    pub revision: Revision,
    /// The request.
    pub request: FailoverRequest,
}
