//! Everything that one read of the store returns.

use serde_json::Value;

use super::{DynamicConfig, FailoverKey, History, Leader, Member, MemberName, Status, SyncState, SystemId};

/// A stored value that could not be understood. It is kept as it is, and treated as the codec's table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The key, relative to the cluster's path.
    pub key: String,
    /// What is wrong with it, and what that means.
    pub problem: String,
}

/// One immutable view of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterView {
    /// The `initialize` key: empty while somebody bootstraps, otherwise a system identifier.
    pub initialize: Option<String>,
    /// The dynamic configuration.
    pub config: Option<DynamicConfig>,
    /// Who holds the lock.
    pub leader: Option<Leader>,
    /// What the leader last told about its positions.
    pub status: Status,
    /// The members, sorted by name.
    pub members: Vec<Member>,
    /// A request for a switchover or failover, if there is one.
    pub failover: Option<FailoverKey>,
    /// The synchronous state.
    pub sync: SyncState,
    /// The timeline history.
    pub history: Option<History>,
    /// The failsafe map as stored; anything but an object is not usable.
    pub failsafe: Option<Value>,
    /// Values that could not be understood.
    pub damages: Vec<Damage>,
}

impl ClusterView {
    /// Whether nobody holds the lock.
    pub fn is_unlocked(&self) -> bool {
        self.leader.is_none()
    }

    /// The lock holder's name.
    pub fn leader_name(&self) -> Option<&MemberName> {
        self.leader.as_ref().map(|leader| &leader.name)
    }

    /// The lock holder's member entry, if it has one.
    pub fn leader_member(&self) -> Option<&Member> {
        self.leader_name().and_then(|name| self.member(name))
    }

    /// The member called `name`.
    pub fn member(&self, name: &MemberName) -> Option<&Member> {
        self.members.iter().find(|member| member.name == *name)
    }

    /// The system identifier, if `initialize` holds a valid one.
    pub fn system_id(&self) -> Option<SystemId> {
        self.initialize.as_deref().and_then(SystemId::parse)
    }

    /// Whether nothing at all is stored.
    pub fn is_empty(&self) -> bool {
        *self == Self { damages: self.damages.clone(), ..Self::default() }
    }
}
