//! One client of the server in memory.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::state::handle_id;
use super::{MAX_VALUE, Server};
use crate::model::Revision;
use crate::{
    Capabilities, Changes, Consistency, Cursor, Deadline, Deletion, Entry, Error, ErrorKind, Expect, Fate, Grip, Handle, KeyValueStore,
    LeaderLease, LockAttempt, LockRenewal, Moment, Snapshot, Timing, Write,
};

/// How this store calls itself.
const NAME: &str = "memory";

/// One client of a [`Server`]. Its handle lives as long as it is refreshed, not as long as the client does.
pub struct Client {
    server: Arc<Server>,
    mine: Mutex<Mine>,
}

/// What the client itself remembers.
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

impl Held {
    fn handle(self) -> Handle {
        Handle { id: handle_id(self.id), lease: self.lease }
    }
}

impl Client {
    pub(super) fn new(server: Arc<Server>, timing: Timing) -> Self {
        Self { server, mine: Mutex::new(Mine { timing, handle: None }) }
    }

    fn mine(&self) -> MutexGuard<'_, Mine> {
        self.mine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        self.server.clock().now()
    }

    /// What a request costs: it takes a moment to get there and back, and may be cancelled on either way.
    async fn request<T>(&self, at_the_server: impl FnOnce() -> T) -> T {
        self.server.requests.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let answer = at_the_server();
        tokio::task::yield_now().await;
        answer
    }

    /// The handle in use, if it has the lifetime that is wanted now.
    fn current(&self) -> Option<Held> {
        let mine = self.mine();
        mine.handle.filter(|held| held.ttl == mine.timing.ttl)
    }

    /// A handle that the server confirmed not longer than one cycle ago.
    async fn live_handle(&self) -> Held {
        let fresh = self.mine().timing.loop_wait;
        let sent_at = self.now();
        let Some(held) = self.current() else { return self.new_handle().await };
        if sent_at.saturating_since(held.lease.sent_at()) < fresh {
            return held;
        }
        if self.request(|| self.server.change(|state| state.refresh(held.id, self.now()))).await {
            self.keep(held.id, held.ttl, sent_at)
        } else {
            self.new_handle().await
        }
    }

    async fn new_handle(&self) -> Held {
        let ttl = self.mine().timing.ttl;
        let sent_at = self.now();
        let id = self.request(|| self.server.change(|state| state.grant(ttl, self.now()))).await;
        self.keep(id, ttl, sent_at)
    }

    /// Notes that the server confirmed a handle in answer to a request that was sent at `sent_at`.
    fn keep(&self, id: u64, ttl: Duration, sent_at: Moment) -> Held {
        let held = Held { id, ttl, lease: LeaderLease::granted(sent_at, ttl) };
        let mut mine = self.mine();
        // Answers may come out of order: a later handle stays, and so does a later proof of the same one.
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

    /// Does with the lock key what `judge` says, with a live handle; once more with a new one if that is gone. A renewal
    /// refreshes the handle in the same request.
    async fn lock(&self, key: &str, owner: &str, renew: bool, judge: impl Fn(Option<&Entry>, &Held) -> Choice) -> Result<Locked, Error> {
        for _ in 0..2 {
            let mut held = match self.current() {
                Some(held) if renew => held,
                _ => self.live_handle().await,
            };
            let sent_at = self.now();
            let answer = self.request(|| {
                self.server.change(|state| {
                    if renew && !state.refresh(held.id, self.now()) {
                        return None;
                    }
                    let entry = state.get(key);
                    Some(match judge(entry.as_ref(), &held) {
                        Choice::Leave => Judged::Left(entry),
                        Choice::Keep => Judged::Ours(None),
                        Choice::Write => Judged::Ours(Some(state.put_bound(key, owner.as_bytes(), held.id)?)),
                    })
                })
            });
            let Some(judged) = answer.await else {
                self.forget(held.id);
                continue;
            };
            if renew {
                held = self.keep(held.id, held.ttl, sent_at);
            }
            return Ok(match judged {
                Judged::Ours(written) => Locked::Ours(Grip { lease: held.lease, written }),
                Judged::Left(entry) => Locked::Left(entry),
            });
        }
        Err(Error::new(NAME, "write the leader lock", ErrorKind::HandleGone, Fate::NotApplied))
    }

    fn check(operation: &'static str, key: &str, value: &[u8]) -> Result<(), Error> {
        let problem = if !key.starts_with('/') || key.contains("//") || key.ends_with('/') {
            format!("`{key}` is not an absolute key")
        } else if value.len() > MAX_VALUE {
            format!("`{key}` would have {} bytes; {MAX_VALUE} are allowed", value.len())
        } else {
            return Ok(());
        };
        Err(Error::new(NAME, operation, ErrorKind::Misconfigured, Fate::NotApplied).because(problem))
    }
}

/// What to do with the lock key.
enum Choice {
    Leave,
    Keep,
    Write,
}

/// What the server did with it.
enum Judged {
    /// It is ours, with its new revision if it was written.
    Ours(Option<Revision>),
    Left(Option<Entry>),
}

/// What became of it.
enum Locked {
    Ours(Grip),
    Left(Option<Entry>),
}

#[async_trait]
impl KeyValueStore for Client {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { expiry_granularity: Duration::ZERO, max_value: Some(MAX_VALUE), ..Capabilities::default() }
    }

    fn set_timing(&self, timing: Timing) {
        self.mine().timing = timing;
    }

    async fn read(&self, prefix: &str, _: Consistency, _: Deadline) -> Result<Snapshot, Error> {
        Ok(self.request(|| self.server.change(|state| Snapshot { entries: state.entries(prefix), cursor: Cursor(state.revision()) })).await)
    }

    async fn get(&self, key: &str, _: Deadline) -> Result<Option<Entry>, Error> {
        Ok(self.request(|| self.server.change(|state| state.get(key))).await)
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect<'_>, _: Deadline) -> Result<Write, Error> {
        Self::check("write a key", key, value)?;
        Ok(self.request(|| self.server.change(|state| state.put(key, value, expect))).await)
    }

    async fn delete(&self, key: &str, expect: Expect<'_>, _: Deadline) -> Result<Deletion, Error> {
        Ok(self.request(|| self.server.change(|state| state.delete(key, expect))).await)
    }

    async fn delete_prefix(&self, prefix: &str, _: Deadline) -> Result<(), Error> {
        self.request(|| self.server.change(|state| state.delete_prefix(prefix))).await;
        Ok(())
    }

    fn handle(&self) -> Option<Handle> {
        self.mine().handle.map(Held::handle)
    }

    async fn ensure_handle(&self, _: Deadline) -> Result<Handle, Error> {
        Ok(self.live_handle().await.handle())
    }

    async fn put_bound(&self, key: &str, value: &[u8], _: Deadline) -> Result<Revision, Error> {
        let operation = "write a bound key";
        Self::check(operation, key, value)?;
        let gone = || Error::new(NAME, operation, ErrorKind::HandleGone, Fate::NotApplied);
        let held = self.mine().handle.ok_or_else(gone)?;
        let written = self.request(|| self.server.change(|state| state.put_bound(key, value, held.id))).await;
        written.ok_or_else(|| {
            self.forget(held.id);
            gone()
        })
    }

    async fn acquire_lock(&self, key: &str, owner: &str, _: Deadline) -> Result<LockAttempt, Error> {
        let create = |entry: Option<&Entry>, _: &Held| if entry.is_some() { Choice::Leave } else { Choice::Write };
        Ok(match self.lock(key, owner, false, create).await? {
            Locked::Ours(grip) => LockAttempt::Won(grip),
            Locked::Left(entry) => LockAttempt::Held(entry),
        })
    }

    async fn take_lock(&self, key: &str, owner: &str, _: Deadline) -> Result<LockAttempt, Error> {
        Ok(match self.lock(key, owner, false, |_, _| Choice::Write).await? {
            Locked::Ours(grip) => LockAttempt::Won(grip),
            Locked::Left(entry) => LockAttempt::Held(entry),
        })
    }

    async fn renew_lock(&self, key: &str, owner: &str, seen: &Entry, _: Deadline) -> Result<LockRenewal, Error> {
        let mine = |entry: Option<&Entry>, held: &Held| match entry {
            Some(entry) if entry.value != owner.as_bytes() => Choice::Leave,
            Some(entry) if entry.handle.as_ref() == Some(&handle_id(held.id)) => Choice::Keep,
            Some(entry) if entry.revision != seen.revision => Choice::Leave,
            Some(_) | None => Choice::Write,
        };
        Ok(match self.lock(key, owner, true, mine).await? {
            Locked::Ours(grip) => LockRenewal::Kept(grip),
            Locked::Left(Some(entry)) if entry.value == owner.as_bytes() => LockRenewal::Moved(entry),
            Locked::Left(_) => LockRenewal::Lost,
        })
    }

    async fn release_lock(&self, key: &str, held: &Entry, _: Deadline) -> Result<Deletion, Error> {
        Ok(self.request(|| self.server.change(|state| state.delete(key, Expect::Revision(&held.revision)))).await)
    }

    async fn wait_for_changes(&self, prefix: &str, after: Cursor, deadline: Deadline) -> Result<Changes, Error> {
        loop {
            let mut changed = std::pin::pin!(self.server.changes.notified());
            // From here on nothing is missed.
            changed.as_mut().enable();
            let (keys, cursor) = self.server.change(|state| (state.changes_after(prefix, after), Cursor(state.revision())));
            let unnamed = keys.is_none();
            let keys = keys.unwrap_or_default();
            if unnamed || !keys.is_empty() || deadline.has_passed() {
                return Ok(Changes { keys, unnamed, cursor });
            }
            // An expiry is a change, and nobody else may be there to notice it.
            let until = self.server.next_expiry().map_or(deadline, |expiry| deadline.at_most(expiry));
            tokio::select! {
                // In order, so that simulations repeat themselves.
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(until.instant()) => {}
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("memory::Client").field("handle", &self.handle()).finish_non_exhaustive()
    }
}
