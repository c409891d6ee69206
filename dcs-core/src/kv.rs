//! The narrow contract of a key-value store with liveness handles.
//!
//! etcd, Consul, ZooKeeper and the embedded Raft differ in how a key is kept alive and in what one request can do
//! atomically. [`KeyValueStore`] names what Quorate needs of them, no more; [`adapter`](crate::adapter) turns any of
//! them into a [`Dcs`](crate::Dcs). The lock and the bound keys are operations of their own, because each store has a
//! form of its own that is safest there (one transaction, a session acquire, an ephemeral node).
//!
//! ```text
//!                    adapter                                   store
//!   what to write, what an answer means,            one attempt, at one server, in the
//!   repeating, reading back, caching, waking        store's safest form; errors with a Fate
//! ```
//!
//! # Rules for every method
//!
//! - **One call is one attempt.** A store does not repeat a write whose fate is unknown: the adapter does, because only
//!   it knows how to read back. A store that knows several servers moves on to the next one after a failure and says
//!   [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable); reads, refreshes and attempts that certainly did not
//!   reach a server (connection refused) may be taken to the next server inside one call.
//! - **The deadline is the whole operation's.** An attempt spends its share: with *n* servers about a *n*-th of
//!   `retry_timeout`, at least one second, never more than what is left. So a silent server costs one attempt, not the
//!   operation. A call ends by the deadline whatever the servers do.
//! - **A definite no is a value.** Errors say what became of the write ([`Fate`](crate::Fate)):
//!   [`NotApplied`](crate::Fate::NotApplied) only if it certainly did not and will not happen.
//! - **Cancel safety.** Dropping a future leaves the store usable, and means the same as an error with
//!   [`Fate::Unknown`](crate::Fate::Unknown).
//! - Keys are absolute, begin with one slash and contain no empty part: `/service/demo/leader`. Prefixes end with a
//!   slash. A store with another spelling (Consul has no leading slash) translates at its edge, both ways.
//! - Values are bytes and come back unchanged.
//! - A [`Revision`] is compared for equality only, belongs to one key, and is never reused for another content of it.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::{HandleId, Revision};
use crate::{Deadline, Error, LeaderLease, Timing, Write};

/// One stored key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The absolute key.
    pub key: String,
    /// The value, as stored.
    pub value: Vec<u8>,
    /// The revision of this value, good for [`Expect::Revision`].
    pub revision: Revision,
    /// The liveness handle that the key is bound to.
    pub handle: Option<HandleId>,
}

/// A position in the store's stream of changes, good for [`KeyValueStore::wait_for_changes`]. Never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub u64);

/// What a read of a prefix returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Everything under the prefix, in no particular order.
    pub entries: Vec<Entry>,
    /// Every change up to here is in `entries`. Later ones may be.
    pub cursor: Cursor,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// May be slightly behind (a cache fed by a watch, a replica), but never hides a write of this client, and never
    /// comes from a server that is known to be behind.
    Relaxed,
    /// Includes every write that was acknowledged to anybody before the read was sent.
    Linearizable,
}

/// The condition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect<'a> {
    /// None.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists and has exactly this revision. Never creates a key.
    Revision(&'a Revision),
}

/// The outcome of deleting one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It existed, the condition held, it is gone. The revision of the deletion, on stores that have one, so that the
    /// caller can tell its own change from others.
    Deleted(Option<Revision>),
    /// It did not exist.
    Absent,
    /// It exists and the condition did not hold. Nothing was deleted.
    Refused,
}

/// Proof that a liveness handle was alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    /// Its identity, as [`Entry::handle`] shows it.
    pub id: HandleId,
    /// Until when keys bound to it certainly live, unless somebody deletes them. Counted from before the last
    /// successful refresh was *sent*, with the lifetime that the store really granted.
    pub lease: LeaderLease,
}

/// The lock key is ours and bound to our current handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grip {
    /// Until when that is certain: the lease of the handle that the key is bound to. It is counted from the refresh of
    /// that handle, which may lie before the request that wrote the key, and is never later than that allows.
    pub lease: LeaderLease,
    /// The key's new revision if this call wrote it, and the store tells.
    pub written: Option<Revision>,
}

/// The outcome of trying to take the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockAttempt {
    /// This call created (or, for [`KeyValueStore::take_lock`], wrote) the key.
    Won(Grip),
    /// The key exists and was left alone. The entry, if the answer contained it.
    Held(Option<Entry>),
}

/// The outcome of renewing the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockRenewal {
    /// The key holds our name and is bound to our current handle, which was refreshed.
    Kept(Grip),
    /// The key holds our name, but it is neither bound to our current handle nor what the caller had seen. It was left
    /// alone. The caller looks at this entry, and may try again with it as `seen`.
    Moved(Entry),
    /// The key belongs to somebody else, or somebody else was faster. It was left alone.
    Lost,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It did not exist before.
    Created,
    /// It has another value, revision or handle. Also when the store cannot tell whether it existed.
    Changed,
    /// It was deleted, or expired.
    Deleted,
}

/// One changed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The absolute key.
    pub key: String,
    /// What happened to it last.
    pub kind: ChangeKind,
    /// The revision of that change, as the writer was told it; nothing if the store does not say.
    pub revision: Option<Revision>,
    /// What it holds since, if the store's watch tells that. Nothing says nothing.
    pub entry: Option<Entry>,
}

/// What a wait returned. It may be spurious: the caller reads everything again anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The keys that changed, oldest change first; several changes of one key may be one entry. Empty after a timeout.
    pub keys: Vec<Change>,
    /// Something may have changed that cannot be named: a reconnected or compacted watch, a watch on the prefix as a
    /// whole. The adapter reads the prefix and compares.
    pub unnamed: bool,
    /// Where the next wait goes on. Everything up to here has been reported.
    pub cursor: Cursor,
}

/// What a store's watch covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchScope {
    /// Every key under the prefix.
    Prefix,
    /// The `leader` and `config` keys.
    LeaderAndConfig,
    /// The `leader` key.
    Leader,
}

/// What a store can and cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What its watch covers.
    pub watch: WatchScope,
    /// The synchronous state is cleared by writing `{}` instead of deleting the key (ZooKeeper: a re-created node
    /// starts at version 0 again, so a deletion would forget the versions).
    pub empties_sync: bool,
    /// How much longer than asked everybody but the leader waits, so that they run just after it and see fresh data.
    pub follower_delay: Duration,
    /// How much later than its ttl a dead owner's key may still be there, at most.
    pub expiry_granularity: Duration,
    /// The largest value it takes, in bytes, if there is a limit worth knowing.
    pub max_value: Option<usize>,
    /// Each bound key lives by itself, and only writing it keeps it alive (etcd's API version 2). Such a store has no
    /// handle: [`KeyValueStore::handle`] is nothing, [`KeyValueStore::ensure_handle`] proves nothing, and
    /// [`Entry::handle`] tells two lives of a key apart. The adapter then writes the member key in every cycle, and proves
    /// a lock whose acquisition got no answer by renewing it.
    pub liveness_per_key: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            watch: WatchScope::Prefix,
            empties_sync: false,
            follower_delay: Duration::ZERO,
            expiry_granularity: Duration::from_secs(2),
            max_value: None,
            liveness_per_key: false,
        }
    }
}

/// A key-value store with liveness handles, as one client sees it.
///
/// A client has at most one handle. It makes one when an operation needs it (never just by being created: the control
/// tool has none), and all its bound keys hang on it; for stores without, see [`Capabilities::liveness_per_key`].
#[async_trait]
pub trait KeyValueStore: Send + Sync + fmt::Debug {
    /// The store's name as in the configuration, e.g. `etcd3`. Stands in errors and logs.
    fn name(&self) -> &'static str;

    /// What it can do. Does not change.
    fn capabilities(&self) -> Capabilities;

    /// New timings. A changed ttl makes the next [`KeyValueStore::ensure_handle`], acquire or renewal grant a new handle
    /// with the new lifetime; keys bound to the old one stay until they are bound to the new one or the old one expires,
    /// and the old handle is not revoked (it would take the lock with it).
    fn set_timing(&self, timing: Timing);

    /// Reads every key that begins with `prefix`. Nothing there is an empty snapshot, not an error.
    ///
    /// # Contract
    ///
    /// - A key that vanishes during the read is either in the snapshot or not; it never makes the read fail.
    /// - `Relaxed` shows this client its own acknowledged writes.
    ///
    /// # Errors
    ///
    /// The store could not be read.
    async fn read(&self, prefix: &str, consistency: Consistency, deadline: Deadline) -> Result<Snapshot, Error>;

    /// Reads one key, linearizably. Used to read back what became of a write.
    ///
    /// # Errors
    ///
    /// The store could not be read.
    async fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Entry>, Error>;

    /// Writes a permanent key if `expect` holds, atomically. Returns the revision of the value just written, which is
    /// good for the next conditional write without a read.
    ///
    /// A key that was bound to a handle becomes permanent, where the store can do that.
    ///
    /// # Errors
    ///
    /// Whether it was written is told by the fate. A value beyond the store's limit is
    /// [`Misconfigured`](crate::ErrorKind::Misconfigured) and not applied.
    async fn put(&self, key: &str, value: &[u8], expect: Expect<'_>, deadline: Deadline) -> Result<Write, Error>;

    /// Deletes a key if `expect` holds, atomically. [`Expect::Absent`] makes no sense here and is answered
    /// [`Deletion::Absent`] or [`Deletion::Refused`].
    ///
    /// # Errors
    ///
    /// Whether it was deleted is told by the fate.
    async fn delete(&self, key: &str, expect: Expect<'_>, deadline: Deadline) -> Result<Deletion, Error>;

    /// Deletes every key that begins with `prefix`, in no particular order.
    ///
    /// # Errors
    ///
    /// Some keys may be left.
    async fn delete_prefix(&self, prefix: &str, deadline: Deadline) -> Result<(), Error>;

    /// The current handle and the last proof of its life, without asking the store. Nothing before the first one was
    /// made, and after the store said that it is gone. The proof may be over already.
    fn handle(&self) -> Option<Handle>;

    /// Makes sure that the current handle exists and was refreshed less than `loop_wait` ago: refreshes it if not, makes
    /// a new one if the store says that it is gone or if the ttl changed. In a steady cycle that renews the lock first
    /// this costs no request.
    ///
    /// # Errors
    ///
    /// No proof could be had. Nothing is known about the handle.
    async fn ensure_handle(&self, deadline: Deadline) -> Result<Handle, Error>;

    /// Writes a key bound to the current handle, whatever is there. The caller has just ensured the handle.
    ///
    /// A key of the same name bound to another handle (an earlier process, an earlier ttl) is bound to the current one,
    /// and does not vanish when the other handle ends. Stores that can only delete and create do both here.
    ///
    /// # Errors
    ///
    /// [`HandleGone`](crate::ErrorKind::HandleGone), not applied, if the handle is gone: the store has then forgotten
    /// it, and the next [`KeyValueStore::ensure_handle`] makes a new one.
    async fn put_bound(&self, key: &str, value: &[u8], deadline: Deadline) -> Result<Revision, Error>;

    /// Creates the lock `key` with the value `owner`, bound to the current handle, only if it does not exist.
    ///
    /// # Contract
    ///
    /// - Ensures the handle first, as [`KeyValueStore::ensure_handle`] does, and makes a new one and tries once more if
    ///   the store says that it is gone.
    /// - Never overwrites, not even a key that holds our own name: that is [`LockAttempt::Held`], and the adapter decides
    ///   what it means.
    /// - Of any number of simultaneous attempts at most one is [`LockAttempt::Won`].
    ///
    /// # Errors
    ///
    /// With [`Fate::Unknown`](crate::Fate::Unknown) the key may have been created; the adapter looks.
    async fn acquire_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error>;

    /// Writes the lock `key` whatever is there, at the end of a bootstrap. A store without a safe form of that does what
    /// [`KeyValueStore::acquire_lock`] does.
    ///
    /// # Errors
    ///
    /// As for [`KeyValueStore::acquire_lock`].
    async fn take_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error>;

    /// Renews the lock: refreshes the handle (always, never from memory), and proves by an answer of the store that
    /// `key` holds `owner` and is bound to the current handle.
    ///
    /// # Contract
    ///
    /// | the key | becomes | answer |
    /// | --- | --- | --- |
    /// | ours, bound to the current handle | untouched: no new revision | `Kept` |
    /// | ours by name, in a store without handles | written again: a new revision | `Kept` |
    /// | ours by name, bound to another handle, as in `seen` | bound to the current one | `Kept` |
    /// | ours by name, bound to another handle, not as in `seen` | untouched | `Moved` |
    /// | absent | created, only if still absent | `Kept`, or `Lost` to whoever was faster |
    /// | somebody else's | untouched | `Lost` |
    ///
    /// - Each row is atomic where the store can (etcd: one transaction). Where it cannot (Consul, ZooKeeper delete and
    ///   create), somebody else may win between, which is `Lost`.
    /// - A handle that is gone is made anew first; a refresh that the store did not confirm is never taken for one.
    /// - `seen` is the lock as the caller last loaded it. Its revision is the condition under which the key moves from
    ///   another handle to ours: a renewal that an earlier process of our name had sent, and that the network delivers
    ///   only now, must not move the key back to the handle of the dead. It is never a reason to skip the proof.
    ///
    /// # Errors
    ///
    /// Unknown whether the lock is still ours. A lost lock is never an error, a lost connection never
    /// [`LockRenewal::Lost`].
    async fn renew_lock(&self, key: &str, owner: &str, seen: &Entry, deadline: Deadline) -> Result<LockRenewal, Error>;

    /// Deletes the lock `key` if it is still exactly `held`, which the caller has just read and found to be its own.
    /// Atomic. Other keys bound to the same handle stay.
    ///
    /// The revision counts, not only the name: a release that the network delivers late must not end a lock that its
    /// owner has taken anew meanwhile. (etcd: a transaction on the mod_revision. Consul: `cas`. ZooKeeper: the version, by
    /// the session that owns the node.)
    ///
    /// # Errors
    ///
    /// The key may still be there.
    async fn release_lock(&self, key: &str, held: &Entry, deadline: Deadline) -> Result<Deletion, Error>;

    /// Sleeps until something under `prefix` has changed after `after`, or the deadline passes.
    ///
    /// # Contract
    ///
    /// - Level-triggered: a change between the snapshot that `after` came from and this call ends it at once. Dropping
    ///   the future loses nothing, because the caller keeps the position.
    /// - It may report too much (spurious, doubled, own writes) but never silently too little within
    ///   [`Capabilities::watch`]: what cannot be named is [`Changes::unnamed`].
    /// - After the deadline: no keys, and the cursor to go on from.
    /// - It costs one connection at most, however often it is called, and no request if a watch is running already.
    ///
    /// # Errors
    ///
    /// The watch is broken. The caller pauses and waits again with the same cursor.
    async fn wait_for_changes(&self, prefix: &str, after: Cursor, deadline: Deadline) -> Result<Changes, Error>;
}
