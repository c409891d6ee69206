//! Consul as a [`KeyValueStore`]: one request, mostly one transaction, for each operation.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::model::Revision;
use dcs_core::own_writes::OwnWrites;
use dcs_core::tls::TlsError;
use dcs_core::{
    Capabilities, Changes, Clock, Consistency, Cursor, Deadline, Deletion, Entry, Error, ErrorKind, Expect, Fate, Grip, Handle,
    KeyValueStore, LockAttempt, LockRenewal, Snapshot, Timing, WatchScope, Write,
};

use crate::api::{Listing, Step, Transacted, Transaction, says_gone};
use crate::client::Client;
use crate::config::{Config, Mode, Registration};
use crate::error::{Failure, STORE};
use crate::freshness::Freshness;
use crate::session::{Held, Keeper};
use crate::turns::Turns;
use crate::views::Views;
use crate::watch::Watcher;

/// A further step of one operation is not begun with less than this.
const LEAST_TIME_FOR_A_STEP: Duration = Duration::from_secs(1);

/// The same for reading what became of a write.
const LEAST_TIME_FOR_READING_BACK: Duration = Duration::from_millis(500);

/// What Consul takes as a value by default (`limits.kv_max_value_size`).
const LARGEST_VALUE: usize = 512 << 10;

/// How often a renewal looks again at a key that changes under its hands.
const RENEWAL_ROUNDS: usize = 5;

/// Consul, as one agent or control tool sees it.
///
/// Connects when it is first asked for something. Needs a tokio runtime then.
pub struct Consul {
    pub(crate) client: Client,
    pub(crate) sessions: Keeper,
    registration: Mutex<Registration>,
    views: Arc<Views>,
    watcher: Watcher,
    freshness: Arc<Freshness>,
    turns: Turns,
    own_writes: OwnWrites,
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consul").field("client", &self.client).field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

impl Consul {
    /// A store at the endpoint of `config`. Nothing is sent yet.
    pub fn new(config: Config, timing: Timing, clock: Arc<dyn Clock>) -> Self {
        let client = Client::new(&config, timing);
        let views = Arc::new(Views::default());
        Self {
            sessions: Keeper::new(client.clone(), clock, config.checks),
            registration: Mutex::new(config.registration),
            watcher: Watcher::new(client.clone(), Arc::clone(&views)),
            client,
            views,
            freshness: Arc::default(),
            turns: Turns::default(),
            own_writes: OwnWrites::default(),
        }
    }

    /// What sessions made from now on are called, for people who ask Consul for them.
    pub fn set_session_name(&self, name: &str) {
        self.sessions.set_name(name);
    }

    /// Goes on with the token, the certificates, the consistency and the service registration of `config`, without losing the
    /// session. Endpoint, datacenter and checks stay those that the store was made with.
    ///
    /// # Errors
    ///
    /// The certificates cannot be used; then nothing changes.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future means that nothing changes.
    pub async fn set_access(&self, config: &Config) -> Result<(), TlsError> {
        self.client.set_access(config.access.clone()).await?;
        self.registration_slot().clone_from(&config.registration);
        Ok(())
    }

    /// The endpoint, as a URL, for logs and tests.
    pub fn endpoint(&self) -> &str {
        self.client.endpoint()
    }

    pub(crate) fn registration(&self) -> Registration {
        self.registration_slot().clone()
    }

    fn registration_slot(&self) -> MutexGuard<'_, Registration> {
        self.registration.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an absent prefix is really absent. With ACLs, Consul shows whoever may not read the keys a list without them; it
    /// says so only when asked for one.
    async fn may_read_under(&self, prefix: &str, deadline: Deadline) -> Result<(), Failure> {
        self.client.key(&format!("{prefix}leader"), Mode::Default, deadline).await.map(drop)
    }

    async fn list(&self, prefix: &str, consistency: Consistency, deadline: Deadline) -> Result<Listing, Failure> {
        let mark = self.freshness.mark(prefix);
        let mode = self.client.mode();
        if mark.may_be_met() && consistency == Consistency::Relaxed && mode != Mode::Consistent {
            let listing = self.client.list(prefix, mode, deadline).await?;
            if mark.is_met_by(listing.index) && !listing.leaderless {
                self.freshness.saw(prefix, listing.index);
                return Ok(listing);
            }
        }
        let listing = self.client.list(prefix, Mode::Consistent, deadline).await?;
        self.freshness.saw_truth(prefix, mark, listing.index);
        Ok(listing)
    }

    /// One transaction that writes `key`.
    async fn write(&self, key: &str, steps: &[Step<'_>], deadline: Deadline) -> Result<Transacted, Failure> {
        self.carry_out(key, Transaction::of(steps)?, deadline).await
    }

    async fn carry_out(&self, key: &str, transaction: Transaction, deadline: Deadline) -> Result<Transacted, Failure> {
        let _writing = self.own_writes.begin(key);
        let (client, freshness, written) = (self.client.clone(), Arc::clone(&self.freshness), key.to_owned());
        let write = async move {
            let deletes = transaction.deletes();
            let outcome = client.transact(transaction, deadline).await;
            match &outcome {
                Ok(Transacted::Applied(_)) if deletes => freshness.may_have_changed(&written),
                Ok(Transacted::Applied(index)) => freshness.wrote(&written, *index),
                Ok(Transacted::Differs | Transacted::Missing) => {}
                Err(failure) if failure.fate == Fate::NotApplied => {}
                Err(_) => freshness.may_have_changed(&written),
            }
            outcome
        };
        self.turns.write(key, deadline, write).await
    }

    /// Reads one key as it is now, after everything that we have done to it.
    async fn look(&self, key: &str, deadline: Deadline) -> Result<Option<Entry>, Failure> {
        drop(self.turns.wait(key, deadline).await?);
        self.client.key(key, Mode::Consistent, deadline).await
    }

    /// Writes a value that does not fit into a transaction: two requests, of which the second finds out the revision.
    async fn put_large(
        &self,
        operation: &'static str,
        key: &str,
        value: &[u8],
        expected: Option<u64>,
        deadline: Deadline,
    ) -> Result<Write, Error> {
        let _writing = self.own_writes.begin(key);
        let (client, freshness, name, bytes) = (self.client.clone(), Arc::clone(&self.freshness), key.to_owned(), value.to_vec());
        let write = async move {
            let written = client.put(&name, &bytes, expected, deadline).await;
            freshness.may_have_changed(&name);
            written
        };
        if !self.turns.write(key, deadline, write).await.map_err(|failure| failure.into_error(operation))? {
            return Ok(Write::Refused);
        }
        let unknown = || Error::new(STORE, operation, ErrorKind::Unavailable, Fate::Unknown);
        if deadline.remaining() < LEAST_TIME_FOR_READING_BACK {
            return Err(unknown().because("no time was left to find out the revision of what was written"));
        }
        let there = self.look(key, deadline).await.map_err(|failure| unknown().because(failure.cause))?;
        match there.filter(|entry| entry.value == value) {
            Some(entry) => Ok(Write::Applied(entry.revision)),
            None => Err(unknown().because("it was written, and changed again by somebody else at once")),
        }
    }

    async fn delete_as(&self, operation: &'static str, key: &str, expect: Expect<'_>, deadline: Deadline) -> Result<Deletion, Error> {
        let fail = |failure: Failure| failure.into_error(operation);
        let condition = match expect {
            Expect::Any => Some(Step::Exists(key)),
            Expect::Revision(expected) => index_of(expected).map(|index| Step::Unchanged(key, index)),
            Expect::Absent => None,
        };
        let Some(condition) = condition else {
            let found = self.look(key, deadline).await.map_err(fail)?;
            return Ok(if found.is_some() { Deletion::Refused } else { Deletion::Absent });
        };
        let outcome = self.write(key, &[condition, Step::Delete(key)], deadline).await.map_err(fail)?;
        Ok(match outcome {
            Transacted::Applied(_) => Deletion::Deleted(None),
            Transacted::Differs => Deletion::Refused,
            Transacted::Missing => Deletion::Absent,
        })
    }

    /// Creates the lock with the session `held`.
    async fn create_lock(&self, key: &str, owner: &str, held: &Held, deadline: Deadline) -> Result<LockAttempt, Failure> {
        let steps = [Step::Absent(key), Step::Lock(key, owner.as_bytes(), &held.id)];
        Ok(match self.write(key, &steps, deadline).await? {
            Transacted::Applied(index) => LockAttempt::Won(Grip { lease: held.lease, written: Some(Revision::from(index)) }),
            Transacted::Differs | Transacted::Missing => LockAttempt::Held(None),
        })
    }

    async fn acquire(&self, operation: &'static str, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        let held = self.sessions.ensure(deadline).await?;
        match self.create_lock(key, owner, &held, deadline).await {
            Err(failure) if says_gone(&failure) => {
                self.sessions.forget(&held.id);
                if deadline.remaining() < LEAST_TIME_FOR_A_STEP {
                    return Err(failure.into_error(operation));
                }
                let held = self.sessions.ensure(deadline).await?;
                self.create_lock(key, owner, &held, deadline).await
            }
            outcome => outcome,
        }
        .map_err(|failure| failure.into_error(operation))
    }
}

#[async_trait]
impl KeyValueStore for Consul {
    fn name(&self) -> &'static str {
        STORE
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            watch: WatchScope::Prefix,
            expiry_granularity: Duration::from_secs(2),
            max_value: Some(LARGEST_VALUE),
            ..Capabilities::default()
        }
    }

    fn set_timing(&self, timing: Timing) {
        self.client.set_timing(timing);
    }

    async fn read(&self, prefix: &str, consistency: Consistency, deadline: Deadline) -> Result<Snapshot, Error> {
        let fail = |failure: Failure| failure.into_error("load the cluster");
        let listing = self.list(prefix, consistency, deadline).await.map_err(fail)?;
        if listing.entries.is_empty() {
            self.may_read_under(prefix, deadline).await.map_err(fail)?;
        }
        let cursor = self.views.record(prefix, &listing);
        Ok(Snapshot { entries: listing.entries, cursor })
    }

    async fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Entry>, Error> {
        self.look(key, deadline).await.map_err(|failure| failure.into_error("read a key"))
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect<'_>, deadline: Deadline) -> Result<Write, Error> {
        const OPERATION: &str = "write a key";
        if value.len() > LARGEST_VALUE {
            let error = Error::new(STORE, OPERATION, ErrorKind::Misconfigured, Fate::NotApplied);
            let length = value.len();
            return Err(error.because(format!("the value has {length} bytes, and Consul takes {LARGEST_VALUE}")));
        }
        let (steps, expected) = match expect {
            Expect::Any => (vec![Step::Set(key, value)], None),
            Expect::Absent => (vec![Step::Absent(key), Step::Set(key, value)], Some(0)),
            Expect::Revision(expected) => match index_of(expected) {
                Some(index) => (vec![Step::Unchanged(key, index), Step::Replace(key, value, index)], Some(index)),
                None => return Ok(Write::Refused),
            },
        };
        let transaction = Transaction::of(&steps).map_err(|failure| failure.into_error(OPERATION))?;
        if transaction.is_too_large() {
            return self.put_large(OPERATION, key, value, expected, deadline).await;
        }
        match self.carry_out(key, transaction, deadline).await.map_err(|failure| failure.into_error(OPERATION))? {
            Transacted::Applied(index) => Ok(Write::Applied(Revision::from(index))),
            Transacted::Differs | Transacted::Missing => Ok(Write::Refused),
        }
    }

    async fn delete(&self, key: &str, expect: Expect<'_>, deadline: Deadline) -> Result<Deletion, Error> {
        self.delete_as("delete a key", key, expect, deadline).await
    }

    async fn delete_prefix(&self, prefix: &str, deadline: Deadline) -> Result<(), Error> {
        // Before, because nobody may be left to count afterwards; afterwards, because a read may have overlapped it.
        self.freshness.may_have_changed(prefix);
        let outcome = self.client.delete_under(prefix, deadline).await;
        self.freshness.may_have_changed(prefix);
        outcome.map_err(|failure| failure.into_error("delete the cluster"))
    }

    fn handle(&self) -> Option<Handle> {
        self.sessions.held().map(|held| held.handle())
    }

    async fn ensure_handle(&self, deadline: Deadline) -> Result<Handle, Error> {
        self.sessions.ensure(deadline).await.map(|held| held.handle())
    }

    async fn put_bound(&self, key: &str, value: &[u8], deadline: Deadline) -> Result<Revision, Error> {
        const OPERATION: &str = "write a key with our session";
        let Some(held) = self.sessions.held() else {
            return Err(Error::new(STORE, OPERATION, ErrorKind::HandleGone, Fate::NotApplied));
        };
        let fail = |failure: Failure| {
            if says_gone(&failure) {
                self.sessions.forget(&held.id);
            }
            failure.into_error(OPERATION)
        };
        let lock = Step::Lock(key, value, &held.id);
        if let Transacted::Applied(index) = self.write(key, &[lock], deadline).await.map_err(fail)? {
            return Ok(Revision::from(index));
        }
        // It hangs on a session of an earlier process, or of an earlier ttl.
        match self.write(key, &[Step::Delete(key), lock], deadline).await.map_err(fail)? {
            Transacted::Applied(index) => Ok(Revision::from(index)),
            Transacted::Differs | Transacted::Missing => {
                let error = Error::new(STORE, OPERATION, ErrorKind::Unavailable, Fate::NotApplied);
                Err(error.because("the key is held by another session although it was just deleted"))
            }
        }
    }

    async fn acquire_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        self.acquire("acquire the leader lock", key, owner, deadline).await
    }

    async fn take_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        self.acquire("take the leader lock", key, owner, deadline).await
    }

    async fn renew_lock(&self, key: &str, owner: &str, seen: &Entry, deadline: Deadline) -> Result<LockRenewal, Error> {
        let fail = |failure: Failure| failure.into_error(RENEW);
        let mut held = self.sessions.refresh(deadline).await?;
        // What the key is believed to be. Every step proves it, in the same transaction that writes.
        let mut basis = if seen.value == owner.as_bytes() && index_of(&seen.revision).is_some() {
            Some(seen.clone())
        } else {
            self.look(key, deadline).await.map_err(fail)?
        };
        for _ in 0..RENEWAL_ROUNDS {
            let index = match &basis {
                None => None,
                Some(entry) if entry.value != owner.as_bytes() => return Ok(LockRenewal::Lost),
                Some(entry) if !held.binds(entry.handle.as_ref()) && entry.revision != seen.revision => {
                    return Ok(LockRenewal::Moved(entry.clone()));
                }
                Some(entry) => index_of(&entry.revision),
            };
            match self.write(key, &renewal(key, owner, &held, basis.as_ref(), index), deadline).await {
                Ok(Transacted::Applied(written)) => {
                    // A lock that was ours already keeps its revision.
                    let written = (index != Some(written)).then(|| Revision::from(written));
                    return Ok(LockRenewal::Kept(Grip { lease: held.lease, written }));
                }
                Ok(Transacted::Differs | Transacted::Missing) => {}
                Err(failure) if says_gone(&failure) => {
                    self.sessions.forget(&held.id);
                    held = self.sessions.refresh(deadline).await?;
                }
                Err(failure) => return Err(fail(failure)),
            }
            basis = self.look(key, deadline).await.map_err(fail)?;
        }
        let error = Error::new(STORE, RENEW, ErrorKind::Unavailable, Fate::Unknown);
        Err(error.because("the key changes all the time"))
    }

    async fn release_lock(&self, key: &str, held: &Entry, deadline: Deadline) -> Result<Deletion, Error> {
        self.delete_as("release the leader lock", key, Expect::Revision(&held.revision), deadline).await
    }

    async fn wait_for_changes(&self, prefix: &str, after: Cursor, deadline: Deadline) -> Result<Changes, Error> {
        let changes = self.watcher.wait(prefix, after, deadline).await?;
        if !self.own_writes.settle(&changes, self.client.share(deadline)).await {
            return Ok(changes);
        }
        // Whoever wrote has the answer by now, and had it before we were woken.
        self.watcher.wait(prefix, after, deadline).await
    }
}

const RENEW: &str = "renew the leader lock";

/// The transaction that proves that the lock is ours: created if it is absent, bound to `held` if it hangs on another session,
/// and otherwise written as it is, which changes nothing.
///
/// It is a write also when it changes nothing. A session that Consul has decided to end may be seen alive, by a renewal and by
/// a consistent read, until that decision is carried out; a write comes behind it in Consul's log, and finds the key gone.
fn renewal<'a>(key: &'a str, owner: &'a str, held: &'a Held, basis: Option<&Entry>, index: Option<u64>) -> Vec<Step<'a>> {
    let lock = Step::Lock(key, owner.as_bytes(), &held.id);
    match (basis, index) {
        (Some(entry), Some(index)) if held.binds(entry.handle.as_ref()) => vec![Step::Unchanged(key, index), lock],
        (Some(_), Some(index)) => vec![Step::Unchanged(key, index), Step::Delete(key), lock],
        _ => vec![Step::Absent(key), lock],
    }
}

/// Consul's index of a revision; nothing if no key can have it. Zero is what Consul takes for an absent key.
fn index_of(revision: &Revision) -> Option<u64> {
    revision.as_str().parse().ok().filter(|&index| index > 0)
}
