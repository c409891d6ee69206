//! The Raft cluster as a [`KeyValueStore`]: one transaction, or one read, for each operation.
//!
//! The handle is made before anything is bound to it, in a transaction of its own, and not together with the first key.
//! Otherwise a lost answer would leave the lock bound to a handle that its owner has never heard of. From then on the
//! refresh goes along with what is done: an acquisition is one transaction, and so is a renewal.

mod lock;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::model::Revision;
use dcs_core::own_writes::OwnWrites;
use dcs_core::{
    Capabilities, Change, ChangeKind, Changes, Clock, Consistency, Cursor, Deadline, Deletion, Entry, Error, ErrorKind, Expect, Fate,
    Handle, KeyValueStore, LockAttempt, LockRenewal, Snapshot, Timing, WatchScope, Write,
};

use crate::STORE;
use crate::cluster::{Cluster, ClusterError};
use crate::command::{Condition, Done, Operation, Reply, StoredKey, Transaction};
use crate::error::{failed, handle_gone};
use crate::lease::{self, Held, Keeper, handle_id};
use crate::message::{ChangedHow, ChangedKey};

/// The largest value that is taken, in bytes: a mebibyte, and room for what is around it.
pub const MAX_VALUE: usize = (1 << 20) + (64 << 10);

/// How long a report about a key that is being written waits for the answer to that write.
const PATIENCE: Duration = Duration::from_secs(1);

/// The embedded store, as one agent or control tool sees it.
#[derive(Debug)]
pub struct RaftStore {
    cluster: Arc<dyn Cluster>,
    keeper: Keeper,
    own_writes: OwnWrites,
}

impl RaftStore {
    /// The store of `cluster`. Leases are counted on `clock`. Nothing is sent yet.
    pub fn new(cluster: Arc<dyn Cluster>, timing: Timing, clock: Arc<dyn Clock>) -> Self {
        Self { cluster, keeper: Keeper::new(timing, clock), own_writes: OwnWrites::default() }
    }

    async fn propose(&self, operation: &'static str, transaction: Transaction, deadline: Deadline) -> Result<Reply, Error> {
        let answer = deadline.bound(operation, self.cluster.propose(transaction, deadline)).await;
        answer.unwrap_or_else(|late| Err(ClusterError::NoAnswer(late.into()))).map_err(|error| failed(operation, error))
    }

    async fn read_keys(&self, operation: &'static str, prefix: &str, deadline: Deadline) -> Result<Snapshot, Error> {
        let answer = deadline.bound(operation, self.cluster.read(prefix, deadline)).await;
        let keys = answer.unwrap_or_else(|late| Err(ClusterError::NoAnswer(late.into()))).map_err(|error| failed(operation, error))?;
        Ok(Snapshot { entries: keys.keys.into_iter().map(entry).collect(), cursor: Cursor(keys.index) })
    }

    /// A new handle.
    async fn grant(&self, deadline: Deadline) -> Result<Held, Error> {
        const OPERATION: &str = "make a handle";
        let (before, ttl, sent_at) = (self.keeper.held(), self.keeper.timing().ttl, self.keeper.now());
        let transaction = Transaction { then: vec![lease::grant(ttl)], ..Transaction::default() };
        let reply = self.propose(OPERATION, transaction, deadline).await?;
        match reply.done[..] {
            [Done::Handle(id)] => Ok(self.keeper.granted(before, id, ttl, sent_at)),
            _ => Err(nonsense(OPERATION)),
        }
    }

    /// The handle, refreshed now; nothing if it is gone.
    async fn refresh(&self, held: Held, deadline: Deadline) -> Result<Option<Held>, Error> {
        const OPERATION: &str = "refresh the handle";
        let sent_at = self.keeper.now();
        let transaction = Transaction { then: vec![Operation::Refresh { handle: held.id }], ..Transaction::default() };
        let reply = self.propose(OPERATION, transaction, deadline).await?;
        match reply.done[..] {
            [Done::Handle(_)] => Ok(Some(self.keeper.proved(held, sent_at))),
            [Done::HandleGone] => {
                self.keeper.forget(held.id);
                Ok(None)
            }
            _ => Err(nonsense(OPERATION)),
        }
    }

    /// The handle that the lock is to be bound to. The transaction that does so will tell whether it is alive.
    async fn handle_for_lock(&self, deadline: Deadline) -> Result<Held, Error> {
        match self.keeper.usable() {
            Some(held) => Ok(held),
            None => self.grant(deadline).await,
        }
    }

    async fn delete_as(&self, operation: &'static str, key: &str, expect: Expect<'_>, deadline: Deadline) -> Result<Deletion, Error> {
        let key = || key.to_owned();
        let condition = match expect {
            Expect::Any => Some(Condition::Exists { key: key() }),
            Expect::Revision(expected) => number(expected).map(|revision| Condition::Revision { key: key(), revision }),
            Expect::Absent => None,
        };
        let Some(condition) = condition else {
            let found = self.get(&key(), deadline).await?;
            return Ok(if found.is_some() { Deletion::Refused } else { Deletion::Absent });
        };
        let transaction = Transaction {
            conditions: vec![condition],
            then: vec![Operation::Delete { key: key() }],
            otherwise: vec![Operation::Get { key: key() }],
        };
        let _writing = self.own_writes.begin(&key());
        let reply = self.propose(operation, transaction, deadline).await?;
        match &reply.done[..] {
            [Done::Deleted(_)] if reply.held => Ok(Deletion::Deleted(Some(Revision::from(reply.index)))),
            [Done::Found(None)] => Ok(Deletion::Absent),
            [Done::Found(Some(_))] => Ok(Deletion::Refused),
            _ => Err(nonsense(operation)),
        }
    }
}

#[async_trait]
impl KeyValueStore for RaftStore {
    fn name(&self) -> &'static str {
        STORE
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            watch: WatchScope::Prefix,
            empties_sync: false,
            follower_delay: Duration::ZERO,
            expiry_granularity: Duration::from_secs(2),
            max_value: Some(MAX_VALUE),
            liveness_per_key: false,
        }
    }

    fn set_timing(&self, timing: Timing) {
        self.keeper.set_timing(timing);
    }

    /// Always linearizable: a node that is cut off must not show what it knows, because it cannot know how old that is.
    async fn read(&self, prefix: &str, _: Consistency, deadline: Deadline) -> Result<Snapshot, Error> {
        self.read_keys("load the cluster", prefix, deadline).await
    }

    async fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Entry>, Error> {
        let found = self.read_keys("read a key", key, deadline).await?;
        Ok(found.entries.into_iter().find(|entry| entry.key == key))
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect<'_>, deadline: Deadline) -> Result<Write, Error> {
        const OPERATION: &str = "write a key";
        check_size(OPERATION, key, value)?;
        let condition = match expect {
            Expect::Any => None,
            Expect::Absent => Some(Condition::Absent { key: key.to_owned() }),
            Expect::Revision(expected) => match number(expected) {
                Some(revision) => Some(Condition::Revision { key: key.to_owned(), revision }),
                None => return Ok(Write::Refused),
            },
        };
        let then = vec![put(key, value, None)];
        let transaction = Transaction { conditions: condition.into_iter().collect(), then, otherwise: Vec::new() };
        let _writing = self.own_writes.begin(key);
        let reply = self.propose(OPERATION, transaction, deadline).await?;
        match reply.done[..] {
            [Done::Written] if reply.held => Ok(Write::Applied(Revision::from(reply.index))),
            [] if !reply.held => Ok(Write::Refused),
            _ => Err(nonsense(OPERATION)),
        }
    }

    async fn delete(&self, key: &str, expect: Expect<'_>, deadline: Deadline) -> Result<Deletion, Error> {
        self.delete_as("delete a key", key, expect, deadline).await
    }

    async fn delete_prefix(&self, prefix: &str, deadline: Deadline) -> Result<(), Error> {
        let then = vec![Operation::DeletePrefix { prefix: prefix.to_owned() }];
        self.propose("delete the cluster", Transaction { then, ..Transaction::default() }, deadline).await?;
        Ok(())
    }

    fn handle(&self) -> Option<Handle> {
        self.keeper.held().map(|held| held.handle())
    }

    async fn ensure_handle(&self, deadline: Deadline) -> Result<Handle, Error> {
        if let Some(held) = self.keeper.fresh() {
            return Ok(held.handle());
        }
        if let Some(held) = self.keeper.usable()
            && let Some(held) = self.refresh(held, deadline).await?
        {
            return Ok(held.handle());
        }
        self.grant(deadline).await.map(|held| held.handle())
    }

    async fn put_bound(&self, key: &str, value: &[u8], deadline: Deadline) -> Result<Revision, Error> {
        const OPERATION: &str = "write a key with our handle";
        check_size(OPERATION, key, value)?;
        let held = self.keeper.held().ok_or_else(|| handle_gone(OPERATION))?;
        let then = vec![put(key, value, Some(held.id))];
        let _writing = self.own_writes.begin(key);
        let reply = self.propose(OPERATION, Transaction { then, ..Transaction::default() }, deadline).await?;
        match reply.done[..] {
            [Done::Written] => Ok(Revision::from(reply.index)),
            [Done::HandleGone] => {
                self.keeper.forget(held.id);
                Err(handle_gone(OPERATION))
            }
            _ => Err(nonsense(OPERATION)),
        }
    }

    async fn acquire_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        self.attempt_to_lock(lock::Step::Create, key, owner, deadline).await
    }

    async fn take_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        self.attempt_to_lock(lock::Step::Take, key, owner, deadline).await
    }

    async fn renew_lock(&self, key: &str, owner: &str, seen: &Entry, deadline: Deadline) -> Result<LockRenewal, Error> {
        self.renew(key, owner, seen, deadline).await
    }

    async fn release_lock(&self, key: &str, held: &Entry, deadline: Deadline) -> Result<Deletion, Error> {
        self.delete_as("release the leader lock", key, Expect::Revision(&held.revision), deadline).await
    }

    async fn wait_for_changes(&self, prefix: &str, after: Cursor, deadline: Deadline) -> Result<Changes, Error> {
        let wait = || async {
            let changed = self.cluster.wait(prefix, after.0, deadline).await.map_err(|error| failed("wait for a change", error))?;
            let keys = changed.keys.into_iter().map(change).collect();
            Ok(Changes { keys, unnamed: changed.incomplete, cursor: Cursor(changed.index).max(after) })
        };
        let changes = wait().await?;
        if !self.own_writes.settle(&changes, deadline.at_most(PATIENCE)).await {
            return Ok(changes);
        }
        // Whoever wrote has the answer by now, and had it before we were woken.
        wait().await
    }
}

fn put(key: &str, value: &[u8], handle: Option<u64>) -> Operation {
    Operation::Put { key: key.to_owned(), value: value.to_vec(), handle }
}

/// Nothing if no key can have this revision.
fn number(revision: &Revision) -> Option<u64> {
    revision.as_str().parse().ok()
}

fn entry(stored: StoredKey) -> Entry {
    let StoredKey { key, value, revision, handle } = stored;
    Entry { key, value, revision: Revision::from(revision), handle: handle.map(handle_id) }
}

fn change(changed: ChangedKey) -> Change {
    let kind = match changed.kind {
        ChangedHow::Created => ChangeKind::Created,
        ChangedHow::Written => ChangeKind::Changed,
        ChangedHow::Deleted => ChangeKind::Deleted,
    };
    Change { key: changed.key, kind, revision: Some(Revision::from(changed.index)), entry: None }
}

fn check_size(operation: &'static str, key: &str, value: &[u8]) -> Result<(), Error> {
    if value.len() <= MAX_VALUE {
        return Ok(());
    }
    let problem = format!("`{key}` would have {} bytes; {MAX_VALUE} are allowed", value.len());
    Err(Error::new(STORE, operation, ErrorKind::Misconfigured, Fate::NotApplied).because(problem))
}

/// The reply is not one to what was proposed.
fn nonsense(operation: &'static str) -> Error {
    failed(operation, ClusterError::Nonsense)
}
