//! What a wait for changes may and may not promise.

/// Why a wait ended. A wake-up informs about nothing: the caller reads everything again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something of interest may have changed, or somebody called [`crate::Dcs::wake`].
    Changed,
    /// The time is over.
    TimedOut,
}

/// Which changes should end a wait, beside the ones that always do: the leader key, the configuration and the
/// failover request, when changed by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Changes of `status`. A leader writes it itself and does not wait for it.
    pub status: bool,
    /// Changes of `sync`.
    pub sync: bool,
    /// Which changes of member keys.
    pub members: MemberInterest,
}

/// Which changes of member keys end a wait, on stores that can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberInterest {
    /// None.
    None,
    /// A key that did not exist before, or whose `state` is another one: a server starts, runs or stops somewhere. The
    /// leader makes a slot for who is new and helps who starts; a standby looks after an upstream that is back. A member that
    /// gives up synchronous duty (tag `nosync`) counts too. Positions change all the time and wake nobody.
    States,
    /// Every change: a task is waiting for a member to say something.
    Any,
}

impl Interest {
    /// What a leader waits for.
    pub const LEADER: Self = Self { status: false, sync: false, members: MemberInterest::States };
    /// What everybody else waits for.
    pub const FOLLOWER: Self = Self { status: true, sync: false, members: MemberInterest::States };
    /// What an election waits for: only what always counts.
    pub const LOCK: Self = Self { status: false, sync: false, members: MemberInterest::None };
}
