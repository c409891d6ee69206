//! etcd's API version 2 as a [`KeyValueStore`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::model::{HandleId, Revision};
use dcs_core::own_writes::OwnWrites;
use dcs_core::tls::TlsError;
use dcs_core::{
    Capabilities, Changes, Clock, Consistency, Cursor, Deadline, Deletion, Entry, Error, ErrorKind, Expect, Fate, Grip, Handle,
    KeyValueStore, LeaderLease, LockAttempt, LockRenewal, Snapshot, Timing, WatchScope, Write,
};

use super::answer::{Event, Node, Problem, Reply, code};
use super::connection::{Connection, Request};
use super::{Config, STORE, error};
use crate::client::{Answer, Backing, Call, Client, Repeat};
use crate::history::{Header, Standing};
use crate::watcher::Watcher;
use crate::wire::Headed;

/// A cluster of etcd servers by their API version 2, as one agent or control tool sees it.
///
/// Connects when it is first asked for something. Needs a tokio runtime then.
pub struct EtcdV2 {
    client: Client<Connection>,
    clock: Arc<dyn Clock>,
    watcher: Watcher<Connection>,
    own_writes: OwnWrites,
    advised: AtomicBool,
}

impl fmt::Debug for EtcdV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdV2").field("client", &self.client).finish_non_exhaustive()
    }
}

/// A yes, what it was sent at, and where its server stands.
struct Sent {
    reply: Reply,
    lease: LeaderLease,
}

impl Headed for Sent {
    fn header(&self) -> Option<Header> {
        self.reply.header()
    }
}

impl EtcdV2 {
    /// A store at the servers of `config`. Nothing is sent yet.
    pub fn new(config: Config, timing: Timing, clock: Arc<dyn Clock>) -> Self {
        let client = Client::new(config.0, timing);
        let watcher = Watcher::new(client.clone());
        Self { client, clock, watcher, own_writes: OwnWrites::default(), advised: AtomicBool::new(false) }
    }

    /// Goes on with the user, the password and the certificates of `config`. The servers stay those that the store was made
    /// with.
    ///
    /// # Errors
    ///
    /// The certificates cannot be used; then nothing changes.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future means that nothing changes.
    pub async fn set_access(&self, config: &Config) -> Result<(), TlsError> {
        self.client.set_access(&config.0.access).await
    }

    /// The server in use, as `host:port`, for logs and tests. Nothing before the first request and after a failure.
    pub fn server(&self) -> Option<String> {
        self.client.server()
    }

    async fn ask(&self, call: Call, request: &Request<'_>, deadline: Deadline) -> Result<Answer<Reply>, Error> {
        let ask = |connection: Arc<Connection>| async move { connection.send(request).await };
        self.client.run(call, deadline, ask).await
    }

    /// Does a write. A no to its condition is the `Err` of the value.
    async fn write(
        &self,
        operation: &'static str,
        key: &str,
        request: Request<'_>,
        deadline: Deadline,
    ) -> Result<Result<Event, Problem>, Error> {
        let _writing = self.own_writes.begin(key);
        let call = Call { operation, repeat: Repeat::IfNotApplied, backing: Backing::Majority };
        Ok(self.ask(call, &request, deadline).await?.value.outcome)
    }

    /// Writes a key with the ttl.
    async fn write_with_ttl(
        &self,
        call: Call,
        key: &str,
        request: Request<'_>,
        deadline: Deadline,
    ) -> Result<Result<Grip, Problem>, Error> {
        self.advise();
        let _writing = self.own_writes.begin(key);
        let ttl = self.client.timing().ttl;
        let request = &request.with("ttl", ttl.as_millis().div_ceil(1000).max(1));
        let ask = |connection: Arc<Connection>| {
            // The server counts from when the request arrives, which is later.
            let lease = LeaderLease::granted(self.clock.now(), ttl);
            async move { connection.send(request).await.map(|reply| Sent { reply, lease }) }
        };
        let Sent { reply, lease } = self.client.run(call, deadline, ask).await?.value;
        Ok(match reply.outcome {
            Ok(Event { node: Node { ttl: None, .. }, .. }) => {
                return Err(malformed(call.operation, "the key was written without the ttl"));
            }
            Ok(event) => Ok(Grip { lease, written: Some(Revision::from(event.node.modified_index)) }),
            Err(problem) => Err(problem),
        })
    }

    /// Creates the lock if nobody has it.
    async fn create_lock(&self, operation: &'static str, key: &str, owner: &str, deadline: Deadline) -> Result<Option<Grip>, Error> {
        let request = Request::put(key, owner.as_bytes()).with("prevExist", false);
        match self.write_with_ttl(write(operation), key, request, deadline).await? {
            Ok(grip) => Ok(Some(grip)),
            Err(problem) if problem.error_code == code::KEY_EXISTS => Ok(None),
            Err(problem) => Err(unexpected(operation, problem)),
        }
    }

    /// Tells once, when the first key of a member is written, what this section means.
    fn advise(&self) {
        if !self.advised.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the `etcd` section uses etcd's API version 2, which etcd 3.6 has no more; to move to version 3: pause the \
                 cluster, stop all agents, rename the section to `etcd3` everywhere, start that of the primary and then the \
                 others, resume"
            );
        }
    }
}

#[async_trait]
impl KeyValueStore for EtcdV2 {
    fn name(&self) -> &'static str {
        STORE
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            watch: WatchScope::Leader,
            empties_sync: false,
            // The leader's renewal, which ends the poll, comes first then.
            follower_delay: Duration::from_millis(500),
            expiry_granularity: Duration::from_secs(2),
            max_value: None,
            liveness_per_key: true,
        }
    }

    fn set_timing(&self, timing: Timing) {
        self.client.set_timing(timing);
    }

    async fn read(&self, prefix: &str, consistency: Consistency, deadline: Deadline) -> Result<Snapshot, Error> {
        const OPERATION: &str = "load the cluster";
        let request = Request::get(prefix).with("recursive", true);
        if consistency == Consistency::Relaxed {
            let answer = self.ask(read(OPERATION, Backing::OneServer), &request, deadline).await?;
            if answer.standing == Standing::Current {
                return self.snapshot(OPERATION, prefix, answer);
            }
            // The server is behind what we have seen. If it can still reach the others, this makes it catch up.
        }
        let request = request.with("quorum", true);
        let answer = self.ask(read(OPERATION, Backing::Majority), &request, deadline).await?;
        self.snapshot(OPERATION, prefix, answer)
    }

    async fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Entry>, Error> {
        const OPERATION: &str = "read a key";
        let request = Request::get(key).with("quorum", true);
        match self.ask(read(OPERATION, Backing::Majority), &request, deadline).await?.value.outcome {
            Ok(event) => Ok(event.node.entry()),
            Err(problem) if problem.error_code == code::KEY_NOT_FOUND => Ok(None),
            Err(problem) => Err(unexpected(OPERATION, problem)),
        }
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect<'_>, deadline: Deadline) -> Result<Write, Error> {
        const OPERATION: &str = "write a key";
        let request = Request::put(key, value);
        let request = match expect {
            Expect::Any => request,
            Expect::Absent => request.with("prevExist", false),
            Expect::Revision(expected) => match index(expected) {
                Some(index) => request.with("prevIndex", index),
                None => return Ok(Write::Refused),
            },
        };
        match self.write(OPERATION, key, request, deadline).await? {
            Ok(event) => Ok(Write::Applied(Revision::from(event.node.modified_index))),
            Err(problem) if expect != Expect::Any && is_refusal(&problem) => Ok(Write::Refused),
            Err(problem) => Err(unexpected(OPERATION, problem)),
        }
    }

    async fn delete(&self, key: &str, expect: Expect<'_>, deadline: Deadline) -> Result<Deletion, Error> {
        self.delete_as("delete a key", key, expect, deadline).await
    }

    async fn delete_prefix(&self, prefix: &str, deadline: Deadline) -> Result<(), Error> {
        const OPERATION: &str = "delete the cluster";
        let request = Request::delete(prefix).with("recursive", true);
        match self.write(OPERATION, prefix, request, deadline).await? {
            Ok(_) => Ok(()),
            Err(problem) if problem.error_code == code::KEY_NOT_FOUND => Ok(()),
            Err(problem) => Err(unexpected(OPERATION, problem)),
        }
    }

    /// Nothing: no proof is that of all keys.
    fn handle(&self) -> Option<Handle> {
        None
    }

    /// Proves nothing, and sends nothing: every key lives by itself.
    async fn ensure_handle(&self, _: Deadline) -> Result<Handle, Error> {
        Ok(Handle { id: HandleId::new("none"), lease: LeaderLease::granted(self.clock.now(), Duration::ZERO) })
    }

    async fn put_bound(&self, key: &str, value: &[u8], deadline: Deadline) -> Result<Revision, Error> {
        const OPERATION: &str = "write a key with a ttl";
        match self.write_with_ttl(write(OPERATION), key, Request::put(key, value), deadline).await? {
            Ok(Grip { written: Some(revision), .. }) => Ok(revision),
            Ok(_) => Err(malformed(OPERATION, "the answer has no index")),
            Err(problem) => Err(unexpected(OPERATION, problem)),
        }
    }

    async fn acquire_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        let created = self.create_lock("acquire the leader lock", key, owner, deadline).await?;
        Ok(created.map_or(LockAttempt::Held(None), LockAttempt::Won))
    }

    async fn take_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        const OPERATION: &str = "take the leader lock";
        match self.write_with_ttl(write(OPERATION), key, Request::put(key, owner.as_bytes()), deadline).await? {
            Ok(grip) => Ok(LockAttempt::Won(grip)),
            Err(problem) => Err(unexpected(OPERATION, problem)),
        }
    }

    /// Whatever the caller has seen: without handles there is none that the key could be bound to wrongly. A renewal that the
    /// network delivers late only makes a lock of ours live longer.
    async fn renew_lock(&self, key: &str, owner: &str, _: &Entry, deadline: Deadline) -> Result<LockRenewal, Error> {
        const OPERATION: &str = "renew the leader lock";
        let call = Call { operation: OPERATION, repeat: Repeat::Freely, backing: Backing::Majority };
        loop {
            let request = Request::put(key, owner.as_bytes()).with("prevValue", owner);
            let problem = match self.write_with_ttl(call, key, request, deadline).await? {
                Ok(grip) => return Ok(LockRenewal::Kept(grip)),
                Err(problem) => problem,
            };
            match problem.error_code {
                code::COMPARE_FAILED => return Ok(LockRenewal::Lost),
                code::KEY_NOT_FOUND => {
                    if let Some(grip) = self.create_lock(OPERATION, key, owner, deadline).await? {
                        return Ok(LockRenewal::Kept(grip));
                    }
                    // Somebody was faster. Another look says who: we ourselves, if an answer of ours got lost.
                }
                _ => return Err(unexpected(OPERATION, problem)),
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

impl EtcdV2 {
    fn snapshot(&self, operation: &'static str, prefix: &str, answer: Answer<Reply>) -> Result<Snapshot, Error> {
        let cursor = self.client.cursor(answer.header.revision);
        match answer.value.outcome {
            Ok(event) => {
                let entries = event.node.entries().into_iter().filter(|entry| entry.key.starts_with(prefix)).collect();
                Ok(Snapshot { entries, cursor })
            }
            Err(problem) if problem.error_code == code::KEY_NOT_FOUND => Ok(Snapshot { entries: Vec::new(), cursor }),
            Err(problem) => Err(unexpected(operation, problem)),
        }
    }

    async fn delete_as(&self, operation: &'static str, key: &str, expect: Expect<'_>, deadline: Deadline) -> Result<Deletion, Error> {
        let request = Request::delete(key);
        let request = match expect {
            Expect::Any => Some(request),
            Expect::Revision(expected) => index(expected).map(|index| request.with("prevIndex", index)),
            Expect::Absent => None,
        };
        let Some(request) = request else {
            let found = self.get(key, deadline).await?;
            return Ok(if found.is_some() { Deletion::Refused } else { Deletion::Absent });
        };
        match self.write(operation, key, request, deadline).await? {
            Ok(event) => Ok(Deletion::Deleted(Some(Revision::from(event.node.modified_index)))),
            Err(problem) if problem.error_code == code::KEY_NOT_FOUND => Ok(Deletion::Absent),
            Err(problem) if problem.error_code == code::COMPARE_FAILED => Ok(Deletion::Refused),
            Err(problem) => Err(unexpected(operation, problem)),
        }
    }
}

const fn read(operation: &'static str, backing: Backing) -> Call {
    Call { operation, repeat: Repeat::Freely, backing }
}

const fn write(operation: &'static str) -> Call {
    Call { operation, repeat: Repeat::IfNotApplied, backing: Backing::Majority }
}

/// Nothing if no key can have this revision. Zero is what etcd takes for "no condition".
fn index(revision: &Revision) -> Option<u64> {
    revision.as_str().parse().ok().filter(|&index| index > 0)
}

/// The condition did not hold.
fn is_refusal(problem: &Problem) -> bool {
    matches!(problem.error_code, code::KEY_NOT_FOUND | code::COMPARE_FAILED | code::KEY_EXISTS)
}

/// A no to a condition that was not made.
fn unexpected(operation: &'static str, problem: Problem) -> Error {
    error::failure(problem).into_error(STORE, operation)
}

/// An answer that does not have the form it must have.
fn malformed(operation: &'static str, problem: &'static str) -> Error {
    Error::new(STORE, operation, ErrorKind::Malformed, Fate::Unknown).because(problem)
}
