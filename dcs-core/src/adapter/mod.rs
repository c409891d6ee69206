//! Any [`KeyValueStore`] as a [`Dcs`].
//!
//! What all key-value stores have in common is here, once: which key is written with which condition, what an answer
//! means for the caller, how often something is tried again, and how an answer that got lost is read back.
//!
//! | module | what it does |
//! | --- | --- |
//! | `lock` | the leader lock |
//! | `values` | the permanent keys |
//! | `waiting` | sleeping until something of interest changes |
//! | `known` | what the last read and the own writes since tell |

mod known;
mod lock;
mod values;
mod waiting;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use self::known::Known;
use crate::codec::{self, RawValue};
use crate::keys::{ClusterPath, Key};
use crate::model::{ClusterView, FailoverRequest, Leader, Lsn, MemberName, MemberRecord, Revision, Status, SyncRecord};
use crate::tries::{Jitter, Tries};
use crate::{
    Acquisition, Clock, Consistency, Dcs, Deadline, Entry, Error, InitializeWrite, Interest, KeyValueStore, Renewal, Snapshot, Timing,
    Touched, Wake, Write,
};

/// One cluster in a key-value store, as one member (or the control tool) sees it.
pub struct KeyValueDcs {
    store: Arc<dyn KeyValueStore>,
    clock: Arc<dyn Clock>,
    path: ClusterPath,
    name: MemberName,
    consistency: Consistency,
    jitter: Jitter,
    ttl: Mutex<Duration>,
    known: Mutex<Known>,
    /// The lock as it was when its release was sent, until the answer has come.
    releasing: Mutex<Option<Entry>>,
    /// Damaged values that were reported already, by key, so that each is reported once for each revision.
    reported: Mutex<Vec<(String, Revision)>>,
    /// Holds one permit at most: a wake-up before a wait ends the next one.
    wake: Notify,
}

impl KeyValueDcs {
    /// The cluster at `path` in `store`, seen as the member `name`. Leases are counted on `clock`. Nothing is sent yet.
    pub fn new(store: Arc<dyn KeyValueStore>, clock: Arc<dyn Clock>, path: ClusterPath, name: MemberName, timing: Timing) -> Self {
        store.set_timing(timing);
        Self {
            store,
            clock,
            path,
            name,
            consistency: Consistency::Relaxed,
            jitter: Jitter::default(),
            ttl: Mutex::new(timing.ttl),
            known: Mutex::new(Known::default()),
            releasing: Mutex::new(None),
            reported: Mutex::new(Vec::new()),
            wake: Notify::new(),
        }
    }

    /// The same with another consistency of [`Dcs::load`]. Agents read relaxed (the default), because a conditional write
    /// confirms whatever matters; the control tool reads linearizably.
    #[must_use]
    pub fn with_consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// The same with repeatable chance, for tests and simulations.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.jitter = Jitter::with_seed(seed);
        self
    }

    /// Where the cluster's keys are.
    pub fn path(&self) -> &ClusterPath {
        &self.path
    }

    /// The member as which this client acts.
    pub fn name(&self) -> &MemberName {
        &self.name
    }

    fn tries(&self, operation: &'static str, deadline: Deadline) -> Tries<'_> {
        Tries::new(self.store.name(), operation, deadline, &self.jitter)
    }

    fn key(&self, key: Key<'_>) -> String {
        self.path.key(key)
    }

    fn own_member_key(&self) -> String {
        self.key(Key::Member(self.name.as_str()))
    }

    /// Never held across an await.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_of(&self, snapshot: &Snapshot) -> ClusterView {
        let known_keys = snapshot.entries.iter().filter_map(|entry| {
            let raw = RawValue { bytes: &entry.value, revision: &entry.revision, handle: entry.handle.as_ref() };
            Some((self.path.parse(&entry.key)?, raw))
        });
        codec::decode_view(known_keys)
    }

    /// Tells about damaged values, once for each revision of each key.
    fn report_damages(&self, view: &ClusterView, snapshot: &Snapshot) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *reported);
        for damage in &view.damages {
            let key = format!("{}{}", self.path.prefix(), damage.key);
            let Some(entry) = snapshot.entries.iter().find(|entry| entry.key == key) else { continue };
            let now = (key, entry.revision.clone());
            if !before.contains(&now) {
                tracing::warn!(key = now.0, "a value in {} cannot be used: {}", self.store.name(), damage.problem);
            }
            reported.push(now);
        }
    }
}

#[async_trait]
impl Dcs for KeyValueDcs {
    fn store_name(&self) -> &'static str {
        self.store.name()
    }

    async fn load(&self, deadline: Deadline) -> Result<ClusterView, Error> {
        let mut tries = self.tries("load the cluster", deadline);
        loop {
            let begun = self.known().begin_read();
            match tries.run(self.store.read(self.path.prefix(), self.consistency, deadline)).await {
                Ok(snapshot) => {
                    let view = self.view_of(&snapshot);
                    self.report_damages(&view, &snapshot);
                    self.known().absorb(begun, snapshot);
                    return Ok(view);
                }
                Err(error) => tries.after(error).await?,
            }
        }
    }

    async fn attempt_to_acquire_leader(&self, deadline: Deadline) -> Result<Acquisition, Error> {
        self.acquire(lock::How::CreateOnly, deadline).await
    }

    async fn renew_leader(&self, seen: &Leader, deadline: Deadline) -> Result<Renewal, Error> {
        self.renew(seen, deadline).await
    }

    async fn take_leader(&self, deadline: Deadline) -> Result<Acquisition, Error> {
        self.acquire(lock::How::Overwrite, deadline).await
    }

    async fn release_leader(&self, last_lsn: Option<Lsn>, deadline: Deadline) -> Result<bool, Error> {
        self.release(last_lsn, deadline).await
    }

    async fn touch_member(&self, record: &MemberRecord, deadline: Deadline) -> Result<Touched, Error> {
        let key = self.own_member_key();
        let value = codec::encode_member(record);
        let mut tries = self.tries("publish the member key", deadline);
        loop {
            match tries.run(self.touch_once(&key, &value, deadline)).await {
                Ok(touched) => return Ok(touched),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    async fn initialize(&self, how: InitializeWrite, system_id: &str, deadline: Deadline) -> Result<Write, Error> {
        self.write_initialize(how, system_id, deadline).await
    }

    async fn cancel_initialization(&self, deadline: Deadline) -> Result<(), Error> {
        self.delete_initialize(deadline).await
    }

    async fn set_failover(&self, request: &FailoverRequest, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        self.set(Key::Failover, &codec::encode_failover(request), expected, "write the failover request", deadline).await
    }

    async fn set_config(&self, config: &Map<String, Value>, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        let text = Value::Object(config.clone()).to_string();
        self.set(Key::Config, &text, expected, "write the configuration", deadline).await
    }

    async fn set_sync(&self, sync: &SyncRecord, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        self.write_sync(&codec::encode_sync(sync), expected, deadline).await
    }

    async fn delete_sync(&self, expected: Option<&Revision>, deadline: Deadline) -> Result<bool, Error> {
        self.clear_sync(expected, deadline).await
    }

    async fn set_history(&self, history: &Value, deadline: Deadline) -> Result<(), Error> {
        self.set(Key::History, &history.to_string(), None, "write the history", deadline).await.map(drop)
    }

    async fn write_status(&self, status: &Status, legacy_optime: bool, deadline: Deadline) -> Result<bool, Error> {
        self.write_changed_status(status, legacy_optime, deadline).await
    }

    async fn write_failsafe(&self, members: &Map<String, Value>, deadline: Deadline) -> Result<bool, Error> {
        self.write_changed_failsafe(members, deadline).await
    }

    async fn delete_cluster(&self, deadline: Deadline) -> Result<(), Error> {
        let mut tries = self.tries("delete the cluster", deadline);
        loop {
            match tries.run(self.store.delete_prefix(self.path.prefix(), deadline)).await {
                Ok(()) => return Ok(()),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    async fn wait(&self, interest: Interest, timeout: Duration) -> Wake {
        self.wait_for(interest, timeout).await
    }

    fn wake(&self) {
        self.wake.notify_one();
    }

    fn set_timing(&self, timing: Timing) {
        self.store.set_timing(timing);
        let before = {
            let mut ttl = self.ttl.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *ttl, timing.ttl)
        };
        if before != timing.ttl {
            // The keys hang on a handle with the old ttl until the next cycle: let that be now.
            self.wake();
        }
    }
}

impl KeyValueDcs {
    async fn touch_once(&self, key: &str, value: &str, deadline: Deadline) -> Result<Touched, Error> {
        if self.store.capabilities().liveness_per_key {
            // The write is what keeps the key alive, whatever is in it.
            self.known().forget(key);
            let revision = self.store.put_bound(key, value.as_bytes(), deadline).await?;
            self.known().wrote(key, value.as_bytes(), &revision, None);
            return Ok(Touched::Written);
        }
        let handle = self.store.ensure_handle(deadline).await?;
        if self
            .known()
            .entry(key)
            .is_some_and(|entry| entry.handle.as_ref() == Some(&handle.id) && values::same_json(&entry.value, value.as_bytes()))
        {
            return Ok(Touched::Unchanged);
        }
        self.known().forget(key);
        let revision = self.store.put_bound(key, value.as_bytes(), deadline).await?;
        self.known().wrote(key, value.as_bytes(), &revision, Some(handle.id));
        Ok(Touched::Written)
    }
}

impl fmt::Debug for KeyValueDcs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValueDcs")
            .field("store", &self.store)
            .field("path", &self.path.prefix())
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
