//! One agent's client of the simulated store: every request crosses the network, and so does its answer.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::memory::{State, handle_id};
use dcs_core::model::Revision;
use dcs_core::{
    Capabilities, Changes, Clock, Consistency, Cursor, Deadline, Deletion, Entry, Error, ErrorKind, Expect, Fate, Grip, Handle,
    KeyValueStore, LeaderLease, LockAttempt, LockRenewal, Moment, Snapshot, Timing, Write,
};

use crate::Name;
use crate::world::{Reply, World};

/// How this store calls itself.
const STORE: &str = "simulated";
/// How long a watch is believed to be alive without a word.
const WATCH: Duration = Duration::from_secs(2);

/// A client of the store, as one process of an agent has it.
pub struct Client {
    world: World,
    me: Name,
    clock: Arc<dyn Clock>,
    mine: Mutex<Mine>,
}

struct Mine {
    timing: Timing,
    handle: Option<Held>,
}

#[derive(Clone, Copy)]
struct Held {
    id: u64,
    ttl: Duration,
    lease: LeaderLease,
}

/// [`Expect`], owned.
#[derive(Clone)]
enum Expected {
    Any,
    Absent,
    Revision(Revision),
}

impl Expected {
    fn of(expect: Expect<'_>) -> Self {
        match expect {
            Expect::Any => Self::Any,
            Expect::Absent => Self::Absent,
            Expect::Revision(revision) => Self::Revision(revision.clone()),
        }
    }

    fn get(&self) -> Expect<'_> {
        match self {
            Self::Any => Expect::Any,
            Self::Absent => Expect::Absent,
            Self::Revision(revision) => Expect::Revision(revision),
        }
    }
}

impl Client {
    /// A client on the node `me`, which has no handle yet.
    pub fn new(world: World, me: Name, clock: Arc<dyn Clock>, timing: Timing) -> Self {
        Self { world, me, clock, mine: Mutex::new(Mine { timing, handle: None }) }
    }

    fn mine(&self) -> MutexGuard<'_, Mine> {
        self.mine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One attempt: a request, and its answer if it comes in time.
    async fn call<R: Send + 'static>(
        &self,
        operation: &'static str,
        deadline: Deadline,
        request: impl Fn(&mut State, Moment) -> R + Send + Sync + 'static,
    ) -> Result<R, Error> {
        let attempt = (self.mine().timing.retry_timeout / 3).max(Duration::from_secs(1));
        let until = deadline.at_most(attempt);
        let answer = self.world.ask_store(self.me, request);
        match until.bound(operation, answer).await {
            Ok(Ok(Reply::Answer(answer))) => Ok(answer),
            Ok(Ok(Reply::Refused)) => Err(Error::new(STORE, operation, ErrorKind::Unavailable, Fate::NotApplied)),
            Ok(Err(_)) => {
                // The question or its answer got lost, and nobody tells.
                tokio::time::sleep_until(until.instant()).await;
                Err(Error::new(STORE, operation, ErrorKind::Unavailable, Fate::Unknown))
            }
            Err(_) => Err(Error::new(STORE, operation, ErrorKind::Unavailable, Fate::Unknown)),
        }
    }

    fn current(&self) -> Option<Held> {
        let mine = self.mine();
        mine.handle.filter(|held| held.ttl == mine.timing.ttl)
    }

    async fn live_handle(&self, deadline: Deadline) -> Result<Held, Error> {
        let fresh = self.mine().timing.loop_wait;
        let sent_at = self.clock.now();
        let Some(held) = self.current() else { return self.new_handle(deadline).await };
        if sent_at.saturating_since(held.lease.sent_at()) < fresh {
            return Ok(held);
        }
        if self.call("refresh the lease", deadline, move |state, now| state.refresh(held.id, now)).await? {
            Ok(self.keep(held.id, held.ttl, sent_at))
        } else {
            self.new_handle(deadline).await
        }
    }

    async fn new_handle(&self, deadline: Deadline) -> Result<Held, Error> {
        let ttl = self.mine().timing.ttl;
        let sent_at = self.clock.now();
        let id = self.call("make a lease", deadline, move |state, now| state.grant(ttl, now)).await?;
        Ok(self.keep(id, ttl, sent_at))
    }

    fn keep(&self, id: u64, ttl: Duration, sent_at: Moment) -> Held {
        let held = Held { id, ttl, lease: LeaderLease::granted(sent_at, ttl) };
        let mut mine = self.mine();
        if mine.handle.is_none_or(|before| (before.id, before.lease.sent_at()) <= (id, sent_at)) {
            mine.handle = Some(held);
        }
        held
    }

    fn forget(&self, id: u64) {
        let mut mine = self.mine();
        if mine.handle.is_some_and(|held| held.id == id) {
            mine.handle = None;
        }
    }

    /// Does with the lock key what `judge` says, in one transaction that also refreshes the handle if `renew`.
    async fn lock(
        &self,
        key: &str,
        owner: &str,
        renew: bool,
        deadline: Deadline,
        judge: impl Fn(Option<&Entry>, u64) -> Choice + Clone + Send + Sync + 'static,
    ) -> Result<Locked, Error> {
        for _ in 0..2 {
            let mut held = match self.current() {
                Some(held) if renew => held,
                _ => self.live_handle(deadline).await?,
            };
            let sent_at = self.clock.now();
            let (key, owner, judge) = (key.to_owned(), owner.to_owned(), judge.clone());
            let transaction = move |state: &mut State, now: Moment| {
                if renew && !state.refresh(held.id, now) {
                    return None;
                }
                let entry = state.get(&key);
                Some(match judge(entry.as_ref(), held.id) {
                    Choice::Leave => Err(entry),
                    Choice::Keep => Ok(None),
                    Choice::Write => Ok(Some(state.put_bound(&key, owner.as_bytes(), held.id)?)),
                })
            };
            let Some(judged) = self.call("write the leader lock", deadline, transaction).await? else {
                self.forget(held.id);
                continue;
            };
            if renew {
                held = self.keep(held.id, held.ttl, sent_at);
            }
            return Ok(match judged {
                Ok(written) => Locked::Ours(Grip { lease: held.lease, written }),
                Err(entry) => Locked::Left(entry),
            });
        }
        Err(Error::new(STORE, "write the leader lock", ErrorKind::HandleGone, Fate::NotApplied))
    }
}

/// What to do with the lock key.
enum Choice {
    Leave,
    Keep,
    Write,
}

/// What became of it.
enum Locked {
    Ours(Grip),
    Left(Option<Entry>),
}

#[async_trait]
impl KeyValueStore for Client {
    fn name(&self) -> &'static str {
        STORE
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { expiry_granularity: Duration::ZERO, ..Capabilities::default() }
    }

    fn set_timing(&self, timing: Timing) {
        self.mine().timing = timing;
    }

    async fn read(&self, prefix: &str, _: Consistency, deadline: Deadline) -> Result<Snapshot, Error> {
        let prefix = prefix.to_owned();
        let read = move |state: &mut State, _| Snapshot { entries: state.entries(&prefix), cursor: Cursor(state.revision()) };
        self.call("read the cluster", deadline, read).await
    }

    async fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Entry>, Error> {
        let key = key.to_owned();
        self.call("read a key", deadline, move |state, _| state.get(&key)).await
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect<'_>, deadline: Deadline) -> Result<Write, Error> {
        let (key, value, expect) = (key.to_owned(), value.to_owned(), Expected::of(expect));
        self.call("write a key", deadline, move |state, _| state.put(&key, &value, expect.get())).await
    }

    async fn delete(&self, key: &str, expect: Expect<'_>, deadline: Deadline) -> Result<Deletion, Error> {
        let (key, expect) = (key.to_owned(), Expected::of(expect));
        self.call("delete a key", deadline, move |state, _| state.delete(&key, expect.get())).await
    }

    async fn delete_prefix(&self, prefix: &str, deadline: Deadline) -> Result<(), Error> {
        let prefix = prefix.to_owned();
        self.call("delete keys", deadline, move |state, _| state.delete_prefix(&prefix)).await
    }

    fn handle(&self) -> Option<Handle> {
        self.mine().handle.map(|held| Handle { id: handle_id(held.id), lease: held.lease })
    }

    async fn ensure_handle(&self, deadline: Deadline) -> Result<Handle, Error> {
        let held = self.live_handle(deadline).await?;
        Ok(Handle { id: handle_id(held.id), lease: held.lease })
    }

    async fn put_bound(&self, key: &str, value: &[u8], deadline: Deadline) -> Result<Revision, Error> {
        let operation = "write a bound key";
        let gone = || Error::new(STORE, operation, ErrorKind::HandleGone, Fate::NotApplied);
        let held = self.mine().handle.ok_or_else(gone)?;
        let (key, value) = (key.to_owned(), value.to_owned());
        let written = self.call(operation, deadline, move |state, _| state.put_bound(&key, &value, held.id)).await?;
        written.ok_or_else(|| {
            self.forget(held.id);
            gone()
        })
    }

    async fn acquire_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        let create = |entry: Option<&Entry>, _| if entry.is_some() { Choice::Leave } else { Choice::Write };
        Ok(match self.lock(key, owner, false, deadline, create).await? {
            Locked::Ours(grip) => LockAttempt::Won(grip),
            Locked::Left(entry) => LockAttempt::Held(entry),
        })
    }

    async fn take_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        Ok(match self.lock(key, owner, false, deadline, |_, _| Choice::Write).await? {
            Locked::Ours(grip) => LockAttempt::Won(grip),
            Locked::Left(entry) => LockAttempt::Held(entry),
        })
    }

    async fn renew_lock(&self, key: &str, owner: &str, seen: &Entry, deadline: Deadline) -> Result<LockRenewal, Error> {
        let (name, seen) = (owner.to_owned(), seen.revision.clone());
        let mine = move |entry: Option<&Entry>, held: u64| match entry {
            Some(entry) if entry.value != name.as_bytes() => Choice::Leave,
            Some(entry) if entry.handle.as_ref() == Some(&handle_id(held)) => Choice::Keep,
            Some(entry) if entry.revision != seen => Choice::Leave,
            Some(_) | None => Choice::Write,
        };
        Ok(match self.lock(key, owner, true, deadline, mine).await? {
            Locked::Ours(grip) => LockRenewal::Kept(grip),
            Locked::Left(Some(entry)) if entry.value == owner.as_bytes() => LockRenewal::Moved(entry),
            Locked::Left(_) => LockRenewal::Lost,
        })
    }

    async fn release_lock(&self, key: &str, held: &Entry, deadline: Deadline) -> Result<Deletion, Error> {
        let (key, revision) = (key.to_owned(), held.revision.clone());
        self.call("release the leader lock", deadline, move |state, _| state.delete(&key, Expect::Revision(&revision))).await
    }

    async fn wait_for_changes(&self, prefix: &str, after: Cursor, deadline: Deadline) -> Result<Changes, Error> {
        while !deadline.has_passed() {
            // A watch that has become silent is opened anew.
            let until = deadline.at_most(WATCH);
            let told = self.world.watch_store(self.me, prefix, after);
            match until.bound("wait for changes", told).await {
                Ok(Ok(Reply::Answer(changes))) => return Ok(changes),
                Ok(Ok(Reply::Refused)) => return Err(Error::new(STORE, "watch", ErrorKind::Unavailable, Fate::NotApplied)),
                Ok(Err(_)) => tokio::time::sleep_until(until.instant()).await,
                Err(_) => {}
            }
        }
        Ok(Changes { cursor: after, ..Changes::default() })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("simulated::Client").field("me", &self.me).finish_non_exhaustive()
    }
}
