//! etcd as a [`KeyValueStore`]: one request, or one transaction, for each operation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::model::Revision;
use dcs_core::own_writes::OwnWrites;
use dcs_core::tls::TlsError;
use dcs_core::{
    Capabilities, Changes, Clock, Consistency, Cursor, Deadline, Deletion, Entry, Error, ErrorKind, Expect, Fate, Grip, Handle,
    KeyValueStore, LeaderLease, LockAttempt, LockRenewal, Snapshot, Timing, WatchScope, Write,
};
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use crate::client::{Answer, Backing, Call, Client, Repeat};
use crate::config::Config;
use crate::connect::Connection;
use crate::error::{STORE, malformed};
use crate::history::{Header, Standing};
use crate::lease::{Held, Keeper, handle_id};
use crate::watcher::Watcher;
use crate::wire::Headed;

/// A new lease and another try are not begun with less than this.
const LEAST_TIME_FOR_A_NEW_LEASE: Duration = Duration::from_secs(1);

macro_rules! headed {
    ($($response:ident),+) => {
        $(impl Headed for etcd_client::$response {
            fn header(&self) -> Option<Header> {
                self.header().map(Header::from)
            }
        })+
    };
}

headed!(GetResponse, PutResponse, DeleteResponse, TxnResponse);

/// What etcd takes by default (`--max-request-bytes` is 1.5 MiB), less what a request needs around the value.
const LARGEST_VALUE: usize = (3 << 19) - (8 << 10);

/// A cluster of etcd servers, as one agent or control tool sees it.
///
/// Connects when it is first asked for something. Needs a tokio runtime then.
pub struct Etcd {
    client: Client<Connection>,
    leases: Keeper,
    watcher: Watcher<Connection>,
    own_writes: OwnWrites,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("client", &self.client).field("leases", &self.leases).finish_non_exhaustive()
    }
}

impl Etcd {
    /// A store at the servers of `config`. Nothing is sent yet.
    pub fn new(config: Config, timing: Timing, clock: Arc<dyn Clock>) -> Self {
        let client = Client::new(config, timing);
        let leases = Keeper::new(client.clone(), Arc::clone(&clock));
        let watcher = Watcher::new(client.clone());
        Self { client, leases, watcher, own_writes: OwnWrites::default(), clock }
    }

    /// Goes on with the user, the password and the certificates of `config`, without losing the lease. The servers stay those
    /// that the store was made with.
    ///
    /// # Errors
    ///
    /// The certificates cannot be used; then nothing changes.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future means that nothing changes.
    pub async fn set_access(&self, config: &Config) -> Result<(), TlsError> {
        self.client.set_access(&config.access).await
    }

    /// The server in use, as `host:port`, for logs and tests. Nothing before the first request and after a failure.
    pub fn server(&self) -> Option<String> {
        self.client.server()
    }

    async fn transact(&self, call: Call, key: &str, txn: Txn, deadline: Deadline) -> Result<Answer<TxnResponse>, Error> {
        let _writing = (call.repeat == Repeat::IfNotApplied).then(|| self.own_writes.begin(key));
        let answer = self
            .client
            .run(call, deadline, |connection: Arc<Connection>| {
                let (mut kv, txn) = (connection.kv(), txn.clone());
                async move { kv.txn(txn).await }
            })
            .await?;
        match (call.repeat, answer.value.succeeded()) {
            (Repeat::IfNotApplied, true) => self.watcher.must_show(answer.header.revision),
            // Whatever the condition was made of is out of date.
            (_, false) => self.watcher.forget_entries(),
            (Repeat::Freely, true) => {}
        }
        Ok(answer)
    }

    async fn range(
        &self,
        call: Call,
        key: &str,
        options: GetOptions,
        deadline: Deadline,
    ) -> Result<Answer<etcd_client::GetResponse>, Error> {
        self.client
            .run(call, deadline, |connection: Arc<Connection>| {
                let (mut kv, key, options) = (connection.kv(), key.to_owned(), options.clone());
                async move { kv.get(key, Some(options)).await }
            })
            .await
    }

    async fn put_with(
        &self,
        operation: &'static str,
        key: &str,
        value: &[u8],
        options: PutOptions,
        deadline: Deadline,
    ) -> Result<Answer<etcd_client::PutResponse>, Error> {
        let _writing = self.own_writes.begin(key);
        let answer = self
            .client
            .run(write(operation), deadline, |connection: Arc<Connection>| {
                let (mut kv, key, value, options) = (connection.kv(), key.to_owned(), value.to_vec(), options.clone());
                async move { kv.put(key, value, Some(options)).await }
            })
            .await?;
        self.watcher.must_show(answer.header.revision);
        Ok(answer)
    }

    /// Everything under `prefix` as the watch knows it, if the server has answered a question of ours within one period and the
    /// time that one server may take. If it has not, it is asked now what this cycle asks anyway: whether our lease lives. Who
    /// holds no lease has no such proof, and reads.
    async fn mirrored(&self, prefix: &str, deadline: Deadline) -> Option<Snapshot> {
        self.watcher.mirrored(prefix)?;
        let silence = self.clock.now().saturating_since(self.leases.held()?.lease.sent_at());
        if silence > self.client.timing().loop_wait + self.client.share() {
            // A failure shows again when everything is read.
            self.leases.ensure(deadline.at_most(self.client.share())).await.ok()?;
        }
        self.watcher.mirrored(prefix)
    }

    fn read_through(&self, prefix: &str, answer: Answer<etcd_client::GetResponse>) -> Snapshot {
        let entries = answer.value.kvs().iter().filter_map(entry).collect();
        let snapshot = Snapshot { entries, cursor: self.client.cursor(answer.header.revision) };
        self.watcher.has_read(prefix, &snapshot);
        snapshot
    }

    /// The lease of a lock that a transaction under `term` has just shown to be bound to `held`; nothing if that lease
    /// is gone.
    ///
    /// If etcd has elected a leader since the lease was proved, the proof may be that of the deposed one, and is had
    /// again. The first refresh on a connection tells no term, because it opens the stream of keepalives.
    async fn grip(&self, held: Held, term: u64, deadline: Deadline) -> Result<Option<LeaderLease>, Error> {
        const OPERATION: &str = "prove that the lease is alive";
        let mut proof = held;
        for _ in 0..2 {
            if proof.term >= Some(term) {
                return Ok(Some(proof.lease));
            }
            tracing::debug!(proved = proof.term, now = term, "refreshing the lease under the term of the transaction");
            proof = self.leases.refresh(deadline).await.map_err(unknown)?;
            if proof.id != held.id {
                return Ok(None);
            }
        }
        if proof.term >= Some(term) {
            return Ok(Some(proof.lease));
        }
        let error = Error::new(STORE, OPERATION, ErrorKind::Unavailable, Fate::Unknown);
        Err(error.because("the only proof is that of a former leader of etcd"))
    }

    /// Writes the lock with `operation`, once more with a new lease if the lease turns out to be gone.
    async fn with_lease<'a, T, F>(&self, operation: &'static str, deadline: Deadline, attempt: F) -> Result<T, Error>
    where
        F: Fn(Held) -> futures::future::BoxFuture<'a, Result<T, Error>>,
    {
        let held = self.leases.ensure(deadline).await?;
        match attempt(held).await {
            Err(error) if error.kind == ErrorKind::HandleGone => {
                self.leases.forget(held.id);
                if deadline.remaining() < LEAST_TIME_FOR_A_NEW_LEASE {
                    return Err(Error { operation, ..error });
                }
                let held = self.leases.ensure(deadline).await?;
                attempt(held).await
            }
            outcome => outcome,
        }
    }

    async fn attempt_to_create(&self, key: &str, owner: &str, held: Held, deadline: Deadline) -> Result<LockAttempt, Error> {
        const OPERATION: &str = "acquire the leader lock";
        let txn = Txn::new().when([is_absent(key)]).and_then([put_op(key, owner, Some(held.id))]).or_else([TxnOp::get(key, None)]);
        let answer = self.transact(write(OPERATION), key, txn, deadline).await?;
        if !answer.value.succeeded() {
            return Ok(LockAttempt::Held(found(&answer.value, OPERATION)?));
        }
        let lease = self.grip(held, answer.header.term, deadline).await?;
        let lease = lease.ok_or_else(|| gone_after_all(OPERATION))?;
        Ok(LockAttempt::Won(Grip { lease, written: Some(revision(answer.header.revision)) }))
    }

    async fn attempt_to_take(&self, key: &str, owner: &str, held: Held, deadline: Deadline) -> Result<LockAttempt, Error> {
        const OPERATION: &str = "take the leader lock";
        let options = PutOptions::new().with_lease(held.id);
        let answer = self.put_with(OPERATION, key, owner.as_bytes(), options, deadline).await?;
        let lease = self.grip(held, answer.header.term, deadline).await?;
        let lease = lease.ok_or_else(|| gone_after_all(OPERATION))?;
        Ok(LockAttempt::Won(Grip { lease, written: Some(revision(answer.header.revision)) }))
    }
}

#[async_trait]
impl KeyValueStore for Etcd {
    fn name(&self) -> &'static str {
        STORE
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            watch: WatchScope::Prefix,
            empties_sync: false,
            follower_delay: Duration::from_millis(500),
            expiry_granularity: Duration::from_secs(2),
            max_value: Some(LARGEST_VALUE),
            liveness_per_key: false,
        }
    }

    fn set_timing(&self, timing: Timing) {
        self.client.set_timing(timing);
    }

    async fn read(&self, prefix: &str, consistency: Consistency, deadline: Deadline) -> Result<Snapshot, Error> {
        const OPERATION: &str = "load the cluster";
        let options = GetOptions::new().with_prefix();
        if consistency == Consistency::Relaxed {
            if let Some(snapshot) = self.mirrored(prefix, deadline).await {
                return Ok(snapshot);
            }
            let call = read(OPERATION, Backing::OneServer);
            let answer = self.range(call, prefix, options.clone().with_serializable(), deadline).await?;
            if answer.standing == Standing::Current {
                return Ok(self.read_through(prefix, answer));
            }
            // The server is behind what we have seen. If it can still reach the others, this makes it catch up.
        }
        let answer = self.range(read(OPERATION, Backing::Majority), prefix, options, deadline).await?;
        Ok(self.read_through(prefix, answer))
    }

    async fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Entry>, Error> {
        let call = read("read a key", Backing::Majority);
        let answer = self.range(call, key, GetOptions::new(), deadline).await?;
        let found = answer.value.kvs().first();
        if let Some(kv) = found {
            self.watcher.must_show(u64::try_from(kv.mod_revision()).unwrap_or_default());
        }
        Ok(found.and_then(entry))
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect<'_>, deadline: Deadline) -> Result<Write, Error> {
        const OPERATION: &str = "write a key";
        let condition = match expect {
            Expect::Any => {
                let answer = self.put_with(OPERATION, key, value, PutOptions::new(), deadline).await?;
                return Ok(Write::Applied(revision(answer.header.revision)));
            }
            Expect::Absent => is_absent(key),
            Expect::Revision(expected) => match has_revision(key, expected) {
                Some(condition) => condition,
                None => return Ok(Write::Refused),
            },
        };
        let txn = Txn::new().when([condition]).and_then([put_op(key, value, None)]);
        let answer = self.transact(write(OPERATION), key, txn, deadline).await?;
        Ok(if answer.value.succeeded() { Write::Applied(revision(answer.header.revision)) } else { Write::Refused })
    }

    async fn delete(&self, key: &str, expect: Expect<'_>, deadline: Deadline) -> Result<Deletion, Error> {
        self.delete_as("delete a key", key, expect, deadline).await
    }

    async fn delete_prefix(&self, prefix: &str, deadline: Deadline) -> Result<(), Error> {
        let answer = self
            .client
            .run(write("delete the cluster"), deadline, |connection: Arc<Connection>| {
                let (mut kv, prefix) = (connection.kv(), prefix.to_owned());
                async move { kv.delete(prefix, Some(DeleteOptions::new().with_prefix())).await }
            })
            .await?;
        self.watcher.must_show(answer.header.revision);
        Ok(())
    }

    fn handle(&self) -> Option<Handle> {
        self.leases.held().map(|held| held.handle())
    }

    async fn ensure_handle(&self, deadline: Deadline) -> Result<Handle, Error> {
        self.leases.ensure(deadline).await.map(|held| held.handle())
    }

    async fn put_bound(&self, key: &str, value: &[u8], deadline: Deadline) -> Result<Revision, Error> {
        const OPERATION: &str = "write a key with our lease";
        let Some(held) = self.leases.held() else {
            return Err(Error::new(STORE, OPERATION, ErrorKind::HandleGone, Fate::NotApplied));
        };
        let options = PutOptions::new().with_lease(held.id);
        match self.put_with(OPERATION, key, value, options, deadline).await {
            Ok(answer) => Ok(revision(answer.header.revision)),
            Err(error) => {
                if error.kind == ErrorKind::HandleGone {
                    self.leases.forget(held.id);
                }
                Err(error)
            }
        }
    }

    async fn acquire_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        let _writing = self.own_writes.begin(key);
        let attempt = |held| Box::pin(self.attempt_to_create(key, owner, held, deadline)) as _;
        self.with_lease("acquire the leader lock", deadline, attempt).await
    }

    async fn take_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        let _writing = self.own_writes.begin(key);
        let attempt = |held| Box::pin(self.attempt_to_take(key, owner, held, deadline)) as _;
        self.with_lease("take the leader lock", deadline, attempt).await
    }

    async fn renew_lock(&self, key: &str, owner: &str, seen: &Entry, deadline: Deadline) -> Result<LockRenewal, Error> {
        let _writing = self.own_writes.begin(key);
        let mut held = self.leases.refresh(deadline).await?;
        let mut step = Step::first(owner, seen, held);
        loop {
            let answer = match self.transact(step.call(), key, step.transaction(key, owner, seen, held), deadline).await {
                Err(error) if error.kind == ErrorKind::HandleGone => {
                    self.leases.forget(held.id);
                    held = self.leases.refresh(deadline).await?;
                    continue;
                }
                answer => answer?,
            };
            let term = answer.header.term;
            let written = if answer.value.succeeded() {
                step.writes().then(|| revision(answer.header.revision))
            } else {
                match found(&answer.value, RENEW)? {
                    None => {
                        step = Step::Create;
                        continue;
                    }
                    Some(entry) if entry.value != owner.as_bytes() => return Ok(LockRenewal::Lost),
                    Some(entry) if entry.handle == Some(handle_id(held.id)) => None,
                    Some(entry) if entry.revision == seen.revision && step != Step::Rebind => {
                        step = Step::Rebind;
                        continue;
                    }
                    Some(entry) => return Ok(LockRenewal::Moved(entry)),
                }
            };
            match self.grip(held, term, deadline).await? {
                Some(lease) => return Ok(LockRenewal::Kept(Grip { lease, written })),
                None => {
                    // The lease ended between the two, and the key with it. Both are made anew.
                    held = self.leases.held().ok_or_else(|| gone_after_all(RENEW))?;
                    step = Step::Create;
                }
            }
        }
    }

    async fn release_lock(&self, key: &str, held: &Entry, deadline: Deadline) -> Result<Deletion, Error> {
        self.delete_as("release the leader lock", key, Expect::Revision(&held.revision), deadline).await
    }

    async fn wait_for_changes(&self, prefix: &str, after: Cursor, deadline: Deadline) -> Result<Changes, Error> {
        let changes = self.watcher.wait(prefix, after, deadline).await;
        let patience = deadline.at_most(self.client.share());
        if !self.own_writes.settle(&changes, patience).await {
            return Ok(changes);
        }
        // Whoever wrote has the answer by now, and had it before we were woken.
        Ok(self.watcher.wait(prefix, after, deadline).await)
    }
}

/// What a renewal does next. Each is one transaction that otherwise reads what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Prove that the key is ours and hangs on our lease. Writes nothing in either branch: an etcd that has run out of
    /// space still answers it.
    Confirm,
    /// Bind the key to our lease, if it is still what was seen.
    Rebind,
    /// Create the key, if nobody has it.
    Create,
}

const RENEW: &str = "renew the leader lock";

impl Step {
    fn first(owner: &str, seen: &Entry, held: Held) -> Self {
        let elsewhere = seen.handle != Some(handle_id(held.id)) && seen.value == owner.as_bytes();
        if elsewhere && has_revision("", &seen.revision).is_some() { Self::Rebind } else { Self::Confirm }
    }

    const fn writes(self) -> bool {
        !matches!(self, Self::Confirm)
    }

    const fn call(self) -> Call {
        if self.writes() { write(RENEW) } else { read(RENEW, Backing::Majority) }
    }

    fn transaction(self, key: &str, owner: &str, seen: &Entry, held: Held) -> Txn {
        let ours = vec![Compare::value(key, CompareOp::Equal, owner), Compare::lease(key, CompareOp::Equal, held.id)];
        let put = || put_op(key, owner, Some(held.id));
        let txn = match self {
            Self::Confirm => Txn::new().when(ours),
            Self::Rebind => Txn::new().when([has_revision(key, &seen.revision).unwrap_or(is_absent(key))]).and_then([put()]),
            Self::Create => Txn::new().when([is_absent(key)]).and_then([put()]),
        };
        txn.or_else([TxnOp::get(key, None)])
    }
}

impl Etcd {
    async fn delete_as(&self, operation: &'static str, key: &str, expect: Expect<'_>, deadline: Deadline) -> Result<Deletion, Error> {
        let condition = match expect {
            Expect::Any => Some(Compare::create_revision(key, CompareOp::Greater, 0)),
            Expect::Revision(expected) => has_revision(key, expected),
            Expect::Absent => None,
        };
        let Some(condition) = condition else {
            let found = self.get(key, deadline).await?;
            return Ok(if found.is_some() { Deletion::Refused } else { Deletion::Absent });
        };
        let txn = Txn::new()
            .when([condition])
            .and_then([TxnOp::delete(key, None)])
            .or_else([TxnOp::get(key, Some(GetOptions::new().with_keys_only()))]);
        let answer = self.transact(write(operation), key, txn, deadline).await?;
        Ok(if answer.value.succeeded() {
            Deletion::Deleted(Some(revision(answer.header.revision)))
        } else if found(&answer.value, operation)?.is_some() {
            Deletion::Refused
        } else {
            Deletion::Absent
        })
    }
}

const fn read(operation: &'static str, backing: Backing) -> Call {
    Call { operation, repeat: Repeat::Freely, backing }
}

const fn write(operation: &'static str) -> Call {
    Call { operation, repeat: Repeat::IfNotApplied, backing: Backing::Majority }
}

fn revision(number: u64) -> Revision {
    Revision::from(number)
}

fn is_absent(key: &str) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, 0)
}

/// Nothing if no key can have this revision. Zero is what etcd compares an absent key with.
fn has_revision(key: &str, expected: &Revision) -> Option<Compare> {
    let number: i64 = expected.as_str().parse().ok().filter(|&number| number > 0)?;
    Some(Compare::mod_revision(key, CompareOp::Equal, number))
}

fn put_op(key: &str, value: impl Into<Vec<u8>>, lease: Option<i64>) -> TxnOp {
    TxnOp::put(key, value, lease.map(|lease| PutOptions::new().with_lease(lease)))
}

/// A key that is not valid UTF-8 is somebody else's.
pub(crate) fn entry(kv: &KeyValue) -> Option<Entry> {
    Some(Entry {
        key: kv.key_str().ok()?.to_owned(),
        value: kv.value().to_vec(),
        revision: Revision::from(kv.mod_revision()),
        handle: (kv.lease() != 0).then(|| handle_id(kv.lease())),
    })
}

/// What the `get` in a transaction's other branch found.
fn found(response: &TxnResponse, operation: &'static str) -> Result<Option<Entry>, Error> {
    match response.op_responses().first() {
        Some(TxnOpResponse::Get(get)) => Ok(get.kvs().first().and_then(entry)),
        _ => Err(malformed(operation, "the transaction's answer lacks what was asked for")),
    }
}

/// The write in front of this failure was applied.
fn unknown(error: Error) -> Error {
    Error { fate: Fate::Unknown, ..error }
}

fn gone_after_all(operation: &'static str) -> Error {
    Error::new(STORE, operation, ErrorKind::HandleGone, Fate::Unknown).because("the lease ended while the key was written")
}
