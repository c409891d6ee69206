//! The domain contract.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::{ClusterView, FailoverRequest, Leader, Lsn, MemberName, MemberRecord, Revision, Status, SyncRecord};
use crate::{Deadline, Error, Interest, LeaderLease, Wake};

/// The three timing settings that a store needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long the leader and member keys outlive their last refresh.
    pub ttl: Duration,
    /// The pause between two cycles of the engine.
    pub loop_wait: Duration,
    /// The bound of one operation that is retried.
    pub retry_timeout: Duration,
}

/// The outcome of trying to take the leader lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquisition {
    /// The lock is ours until the lease ends.
    Won(LeaderLease),
    /// Somebody holds it; the name if it was seen.
    Lost(Option<MemberName>),
}

/// The outcome of renewing the leader lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The key is ours and was refreshed.
    Renewed(LeaderLease),
    /// The lock is definitely not ours any more.
    Lost,
}

/// The outcome of a write that may be conditional.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// It was applied; the new revision of the value.
    Applied(Revision),
    /// The store answered that the condition did not hold. Nothing was written.
    Refused,
}

impl Write {
    /// Whether it was applied.
    pub fn is_applied(&self) -> bool {
        matches!(self, Self::Applied(_))
    }
}

/// What touching the member key did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// The key was written. Always, in a store where only that keeps it alive.
    Written,
    /// The stored record is the same and bound to our handle: nothing was written.
    Unchanged,
}

/// How `initialize` may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitializeWrite {
    /// Only if the key does not exist.
    CreateOnly,
    /// Whatever is there.
    Overwrite,
}

/// A store as one agent (or the control tool) sees it: one cluster, under one name.
///
/// # Contract
///
/// - At most one member holds the lock at any revision.
/// - Every operation ends by its deadline, give or take a scheduling delay, whatever the servers do. Transient failures
///   are retried inside it.
/// - A definite "no" of the store is a value. An error means that the store could not be used; its
///   [`Fate`](crate::Fate) says whether a write may have happened.
/// - Damaged or foreign content never makes an operation fail; it is reported in [`ClusterView::damages`].
/// - Dropping a future of this trait leaves the store usable and means the same as an error with
///   [`Fate::Unknown`](crate::Fate::Unknown): no lock may be believed that was not confirmed.
#[async_trait]
pub trait Dcs: Send + Sync + fmt::Debug {
    /// The store's name as in the configuration, e.g. `etcd3`.
    fn store_name(&self) -> &'static str;

    /// Loads everything about the cluster. An empty prefix is the empty view, not an error. May be slightly stale: every
    /// decision that matters is confirmed by a conditional write.
    ///
    /// # Errors
    ///
    /// The store could not be read within the deadline.
    async fn load(&self, deadline: Deadline) -> Result<ClusterView, Error>;

    /// Tries to become the leader: creates the leader key, bound to our handle, only if it does not exist.
    ///
    /// If an earlier try of the same call ended without an answer and the key turns out to be ours with our handle, the
    /// outcome is [`Acquisition::Won`]. While we hold the lock already it never extends a stale belief: the outcome is
    /// `Won` only if the key is bound to our current handle.
    ///
    /// # Errors
    ///
    /// With [`Fate::Unknown`](crate::Fate::Unknown) the lock may be ours. Nothing may be promoted on the strength of
    /// it; the next load reads it back.
    async fn attempt_to_acquire_leader(&self, deadline: Deadline) -> Result<Acquisition, Error>;

    /// Renews our lock. Proves ownership of the *key* (by our name), not only life of the handle: a lock left by an
    /// earlier process of our name is taken over and bound to our handle; a key that vanished is created again if nobody
    /// else took it; a key of somebody else is [`Renewal::Lost`] and left untouched.
    ///
    /// `seen` is the leader of the view that this cycle works with.
    ///
    /// # Errors
    ///
    /// Unknown whether we still hold it.
    async fn renew_leader(&self, seen: &Leader, deadline: Deadline) -> Result<Renewal, Error>;

    /// Takes the lock without a condition, at the end of a bootstrap, where no other node can hold it.
    ///
    /// # Errors
    ///
    /// As for [`Dcs::attempt_to_acquire_leader`].
    async fn take_leader(&self, deadline: Deadline) -> Result<Acquisition, Error>;

    /// Gives the lock up: writes `last_lsn` into `status` first (if given; slots are kept), then deletes the leader key
    /// if it is ours. `false` means that it was not ours; then nothing is deleted. The member key stays.
    ///
    /// # Errors
    ///
    /// The key may still be there; it expires by itself.
    async fn release_leader(&self, last_lsn: Option<Lsn>, deadline: Deadline) -> Result<bool, Error>;

    /// Publishes our member record, bound to our handle, and refreshes the handle. Skips the write when the stored
    /// record is the same (deep comparison by text form) and bound to our current handle.
    ///
    /// # Errors
    ///
    /// Not published, or unknown.
    async fn touch_member(&self, record: &MemberRecord, deadline: Deadline) -> Result<Touched, Error>;

    /// Writes `initialize`. An empty `system_id` says that a bootstrap is in progress.
    ///
    /// # Errors
    ///
    /// Unknown whether it was written, unless the fate says otherwise.
    async fn initialize(&self, how: InitializeWrite, system_id: &str, deadline: Deadline) -> Result<Write, Error>;

    /// Deletes `initialize` after a failed bootstrap.
    ///
    /// # Errors
    ///
    /// As for [`Dcs::initialize`].
    async fn cancel_initialization(&self, deadline: Deadline) -> Result<(), Error>;

    /// Writes the failover key: compare-and-set if `expected` is given, otherwise unconditional. An empty request is
    /// written as `{}`.
    ///
    /// # Errors
    ///
    /// Unknown whether it was written, unless the fate says otherwise.
    async fn set_failover(&self, request: &FailoverRequest, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error>;

    /// Writes the dynamic configuration: compare-and-set if `expected` is given, otherwise unconditional.
    ///
    /// # Errors
    ///
    /// As for [`Dcs::set_failover`].
    async fn set_config(
        &self,
        config: &serde_json::Map<String, serde_json::Value>,
        expected: Option<&Revision>,
        deadline: Deadline,
    ) -> Result<Write, Error>;

    /// Writes the synchronous state; always compare-and-set: without `expected` only if there is none. The returned revision is
    /// good for the next write without a load.
    ///
    /// # Errors
    ///
    /// As for [`Dcs::set_failover`].
    async fn set_sync(&self, sync: &SyncRecord, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error>;

    /// Makes the synchronous state empty; compare-and-set if `expected` is given.
    ///
    /// # Errors
    ///
    /// As for [`Dcs::set_failover`].
    async fn delete_sync(&self, expected: Option<&Revision>, deadline: Deadline) -> Result<bool, Error>;

    /// Writes the timeline history, a JSON array.
    ///
    /// # Errors
    ///
    /// As for [`Dcs::set_failover`].
    async fn set_history(&self, history: &serde_json::Value, deadline: Deadline) -> Result<(), Error>;

    /// Writes `status` if it differs from what was last read or written by this client; also the legacy
    /// `optime/leader` when `legacy_optime` is set (a member older than 2.1.0 is present). Returns whether it wrote.
    ///
    /// # Errors
    ///
    /// As for [`Dcs::set_failover`].
    async fn write_status(&self, status: &Status, legacy_optime: bool, deadline: Deadline) -> Result<bool, Error>;

    /// Writes `failsafe` (member name → REST URL) if it differs from what was last read or written.
    ///
    /// # Errors
    ///
    /// As for [`Dcs::set_failover`].
    async fn write_failsafe(&self, members: &serde_json::Map<String, serde_json::Value>, deadline: Deadline) -> Result<bool, Error>;

    /// Deletes everything of the cluster from the store.
    ///
    /// # Errors
    ///
    /// Some keys may be left.
    async fn delete_cluster(&self, deadline: Deadline) -> Result<(), Error>;

    /// Sleeps until something of interest may have changed since the last load, [`Dcs::wake`] is called, or `timeout` is
    /// over. Watches wake; they do not inform. Never fails: a dead store times out.
    async fn wait(&self, interest: Interest, timeout: Duration) -> Wake;

    /// Ends a running [`Dcs::wait`], or the next one, at once.
    fn wake(&self);

    /// New timings, from the dynamic configuration. A new ttl makes a new handle at the next refresh, to which member and
    /// leader keys are then bound, without losing the lock. Before a shorter ttl is set, a lease that is held must be
    /// [shortened](LeaderLease::shortened_to).
    fn set_timing(&self, timing: Timing);
}
