//! What is the store's own, beside the conformance suite: how many requests it sends, from when its leases are counted,
//! and every row of the table of renewals.

mod local;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::{
    Consistency, Cursor, Deadline, Deletion, Entry, ErrorKind, Expect, Fate, KeyValueStore, LockAttempt, LockRenewal, Timing, TokioClock,
    Write,
};
use dcs_raft::cluster::{Cluster, ClusterError, Keys};
use dcs_raft::command::{Done, Operation, Reply, Transaction};
use dcs_raft::message::ChangedKeys;
use dcs_raft::store::{MAX_VALUE, RaftStore};
use tokio::time::Instant;

use self::local::Local;

const TIMING: Timing = Timing { ttl: Duration::from_secs(30), loop_wait: Duration::from_secs(10), retry_timeout: Duration::from_secs(10) };
const LOCK: &str = "/service/demo/leader";

fn found() -> Arc<Local> {
    Local::found(Arc::new(TokioClock::default()))
}

fn soon() -> Deadline {
    Deadline::after(TIMING.retry_timeout)
}

/// What `operation` returned, and how many requests it took.
async fn counted<T>(local: &Local, operation: impl Future<Output = Result<T, dcs_core::Error>>) -> (T, u64) {
    let before = local.requests();
    let outcome = operation.await.expect("it succeeds");
    (outcome, local.requests() - before)
}

async fn lock(store: &RaftStore) -> Entry {
    store.get(LOCK, soon()).await.expect("it can be read").expect("it is there")
}

async fn acquire(store: &RaftStore, owner: &str) {
    let attempt = store.acquire_lock(LOCK, owner, soon()).await.expect("it is answered");
    assert!(matches!(attempt, LockAttempt::Won(_)), "{attempt:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handle_is_made_only_when_something_is_to_be_bound_to_it() {
    let local = found();
    let store = local.store(TIMING);
    store.put("/a", b"v", Expect::Any, soon()).await.expect("it is written");
    store.read("/", Consistency::Relaxed, soon()).await.expect("it is read");
    store.delete("/a", Expect::Any, soon()).await.expect("it is deleted");
    assert_eq!(store.handle(), None);
    let error = store.put_bound("/a", b"v", soon()).await.expect_err("there is no handle");
    assert_eq!((error.kind, error.fate), (ErrorKind::HandleGone, Fate::NotApplied));
    assert_eq!(counted(&local, store.ensure_handle(soon())).await.1, 1);
    assert_eq!(counted(&local, store.ensure_handle(soon())).await.1, 0, "it was proved just now");
    let bound = counted(&local, store.put_bound("/a", b"v", soon())).await;
    assert_eq!(local.get("/a").map(|stored| stored.revision.to_string()).as_deref(), Some(bound.0.as_str()));
}

#[tokio::test(start_paused = true)]
async fn acquiring_and_renewing_with_a_handle_take_one_request_each() {
    let local = found();
    let store = local.store(TIMING);
    store.ensure_handle(soon()).await.expect("it is made");
    // So late that a store which refreshed it apart from the lock would have to do that here.
    tokio::time::sleep(TIMING.ttl / 2).await;
    let (attempt, requests) = counted(&local, store.acquire_lock(LOCK, "a", soon())).await;
    let LockAttempt::Won(grip) = attempt else { panic!("{attempt:?}") };
    assert_eq!(requests, 1);
    assert_eq!(grip.lease.sent_at(), local.clock().now());
    assert_eq!(grip.written, Some(lock(&store).await.revision));

    let seen = lock(&store).await;
    tokio::time::sleep(TIMING.ttl / 2).await;
    let (renewal, requests) = counted(&local, store.renew_lock(LOCK, "a", &seen, soon())).await;
    let LockRenewal::Kept(grip) = renewal else { panic!("{renewal:?}") };
    assert_eq!((requests, grip.written), (1, None));
    assert_eq!(grip.lease.sent_at(), local.clock().now());
    assert_eq!(lock(&store).await, seen, "a renewal leaves the key as it is");
    assert_eq!(store.handle().map(|handle| handle.lease), Some(grip.lease));
    assert_eq!(counted(&local, store.ensure_handle(soon())).await.1, 0, "the renewal proved the handle as well");
}

#[tokio::test(start_paused = true)]
async fn leases_are_counted_from_before_the_request_was_sent() {
    let local = found();
    let client = local.client();
    let store = RaftStore::new(client.clone(), TIMING, Arc::clone(local.clock()));
    let delay = Duration::from_secs(2);
    client.set_delay(delay);
    let before = local.clock().now();
    let handle = store.ensure_handle(soon()).await.expect("it is made");
    assert_eq!((handle.lease.sent_at(), handle.lease.valid_until()), (before, before + TIMING.ttl));
    assert!(local.clock().now() - before >= delay);
    acquire(&store, "a").await;
    let (seen, before) = (lock(&store).await, local.clock().now());
    let renewal = store.renew_lock(LOCK, "a", &seen, soon()).await.expect("it is answered");
    let LockRenewal::Kept(grip) = renewal else { panic!("{renewal:?}") };
    assert_eq!((grip.lease.sent_at(), grip.lease.valid_until()), (before, before + TIMING.ttl));
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_before_the_handle_wherever_in_a_millisecond_it_began() {
    for microseconds in [0, 1, 500, 999] {
        let local = found();
        let store = local.store(TIMING);
        tokio::time::advance(Duration::from_micros(7_000 + microseconds)).await;
        acquire(&store, "a").await;
        let lease = store.handle().expect("it was made").lease;
        let other = local.store(TIMING);
        while !matches!(other.acquire_lock(LOCK, "b", soon()).await.expect("it is answered"), LockAttempt::Won(_)) {
            let left = lease.remaining(local.clock().now());
            // In large steps as long as nothing can happen, then in small ones.
            let step = left.saturating_sub(Duration::from_millis(3)).max(Duration::from_micros(100));
            tokio::time::advance(step).await;
        }
        assert!(!lease.is_valid(local.clock().now()), "begun {microseconds} us after a millisecond: two believe in the lock");
        assert!(local.clock().now() - lease.valid_until() < Duration::from_millis(5), "and it is free soon after");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_deleted_is_created_again() {
    let local = found();
    let store = local.store(TIMING);
    acquire(&store, "a").await;
    let seen = lock(&store).await;
    store.delete(LOCK, Expect::Any, soon()).await.expect("it is deleted");
    let renewal = store.renew_lock(LOCK, "a", &seen, soon()).await.expect("it is answered");
    let now = lock(&store).await;
    let LockRenewal::Kept(grip) = renewal else { panic!("{renewal:?}") };
    assert_eq!(grip.written.as_ref(), Some(&now.revision));
    assert_eq!((now.handle, now.value.as_slice()), (store.handle().map(|handle| handle.id), &b"a"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_lock_of_somebody_else_is_lost_and_left_alone() {
    let local = found();
    let (a, b) = (local.store(TIMING), local.store(TIMING));
    acquire(&a, "a").await;
    let seen = lock(&a).await;
    for name in ["b", "a "] {
        assert_eq!(b.renew_lock(LOCK, name, &seen, soon()).await.expect("it is answered"), LockRenewal::Lost);
    }
    assert_eq!(b.acquire_lock(LOCK, "b", soon()).await.expect("it is answered"), LockAttempt::Held(Some(seen.clone())));
    assert_eq!(lock(&a).await, seen);
}

#[tokio::test(start_paused = true)]
async fn a_lock_of_an_earlier_process_moves_only_if_it_is_as_it_was_seen() {
    let local = found();
    let (first, second) = (local.store(TIMING), local.store(TIMING));
    acquire(&first, "a").await;
    let seen = lock(&second).await;
    let (renewal, requests) = counted(&local, second.renew_lock(LOCK, "a", &seen, soon())).await;
    let LockRenewal::Kept(grip) = renewal else { panic!("{renewal:?}") };
    assert_eq!(requests, 2, "a handle, and the renewal");
    let moved = lock(&second).await;
    assert_eq!((grip.written.as_ref(), moved.handle.clone()), (Some(&moved.revision), second.handle().map(|handle| handle.id)));

    // What the earlier process had sent comes late, with what it had seen.
    let late = first.renew_lock(LOCK, "a", &seen, soon()).await.expect("it is answered");
    assert_eq!(late, LockRenewal::Moved(moved.clone()));
    assert_eq!(lock(&second).await, moved, "it did not move back to the handle of the dead");
    // The end of the first handle does not take it along.
    tokio::time::sleep(TIMING.ttl - Duration::from_secs(1)).await;
    assert!(matches!(second.renew_lock(LOCK, "a", &moved, soon()).await, Ok(LockRenewal::Kept(_))));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(lock(&second).await, moved);
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_no_key_can_have_is_never_a_reason_to_move_the_lock() {
    let local = found();
    let (first, second) = (local.store(TIMING), local.store(TIMING));
    acquire(&first, "a").await;
    let now = lock(&first).await;
    let seen = Entry { revision: dcs_core::model::Revision::new("of another store"), ..now.clone() };
    assert_eq!(second.renew_lock(LOCK, "a", &seen, soon()).await.expect("it is answered"), LockRenewal::Moved(now.clone()));
    assert_eq!(second.put(LOCK, b"x", Expect::Revision(&seen.revision), soon()).await.expect("it is answered"), Write::Refused);
    assert_eq!(second.release_lock(LOCK, &seen, soon()).await.expect("it is answered"), Deletion::Refused);
    assert_eq!(lock(&first).await, now);
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_is_gone_is_made_anew() {
    let local = found();
    let (store, client) = (local.store(TIMING), local.client());
    let revoke = async || {
        let handle = store.handle().expect("there is one").id.as_str().parse().expect("it is a number");
        let then = vec![Operation::Revoke { handle }];
        let reply = client.propose(Transaction { then, ..Transaction::default() }, soon()).await.expect("it is applied");
        assert_eq!(reply.done, [Done::Handle(handle)]);
    };
    acquire(&store, "a").await;
    let seen = lock(&store).await;
    revoke().await;
    assert!(matches!(store.renew_lock(LOCK, "a", &seen, soon()).await, Ok(LockRenewal::Kept(_))));
    assert_ne!(lock(&store).await.handle, seen.handle);
    revoke().await;
    acquire(&store, "a").await;
    revoke().await;
    assert!(matches!(store.take_lock(LOCK, "a", soon()).await, Ok(LockAttempt::Won(_))));

    revoke().await;
    let error = store.put_bound("/a", b"v", soon()).await.expect_err("the handle is gone");
    assert_eq!((error.kind, error.fate), (ErrorKind::HandleGone, Fate::NotApplied));
    assert_eq!(store.handle(), None, "it was forgotten");
    store.ensure_handle(soon()).await.expect("a new one is made");
    store.put_bound("/a", b"v", soon()).await.expect("it is written");

    revoke().await;
    tokio::time::sleep(TIMING.loop_wait).await;
    let (handle, requests) = counted(&local, store.ensure_handle(soon())).await;
    assert_eq!(requests, 2, "the old one is asked for first");
    assert_eq!(store.handle(), Some(handle));
}

#[tokio::test(start_paused = true)]
async fn a_changed_ttl_makes_a_new_handle_and_moves_the_lock_to_it() {
    let local = found();
    let store = local.store(TIMING);
    acquire(&store, "a").await;
    let seen = lock(&store).await;
    let ttl = TIMING.ttl * 2;
    store.set_timing(Timing { ttl, ..TIMING });
    assert_eq!(store.handle().map(|handle| handle.id), seen.handle, "nothing happens until something is asked");
    let renewal = store.renew_lock(LOCK, "a", &seen, soon()).await.expect("it is answered");
    let LockRenewal::Kept(grip) = renewal else { panic!("{renewal:?}") };
    assert_eq!(grip.lease.valid_until() - grip.lease.sent_at(), ttl);
    let moved = lock(&store).await;
    assert_ne!(moved.handle, seen.handle);
    tokio::time::sleep(TIMING.ttl + Duration::from_secs(1)).await;
    assert_eq!(lock(&store).await, moved, "it outlived the old handle");
}

#[tokio::test(start_paused = true)]
async fn two_tasks_that_need_a_handle_use_the_same_one() {
    let local = found();
    let store = local.store(TIMING);
    let (one, other) = tokio::join!(store.ensure_handle(soon()), store.ensure_handle(soon()));
    assert_eq!(one.expect("it is made").id, other.expect("it is made").id);
}

#[tokio::test(start_paused = true)]
async fn a_value_beyond_the_limit_is_refused_before_it_is_sent() {
    let local = found();
    let store = local.store(TIMING);
    store.ensure_handle(soon()).await.expect("it is made");
    let (fits, large) = (vec![b'x'; MAX_VALUE], vec![b'x'; MAX_VALUE + 1]);
    store.put("/a", &fits, Expect::Any, soon()).await.expect("it is written");
    store.put_bound("/b", &fits, soon()).await.expect("it is written");
    let before = local.requests();
    let put = store.put("/a", &large, Expect::Any, soon()).await.expect_err("it is too large");
    let bound = store.put_bound("/b", &large, soon()).await.expect_err("it is too large");
    for error in [put, bound] {
        assert_eq!((error.kind, error.fate), (ErrorKind::Misconfigured, Fate::NotApplied), "{}", error.chain());
    }
    assert_eq!(local.requests(), before);
}

#[tokio::test(start_paused = true)]
async fn deleting_says_what_was_there() {
    let local = found();
    let store = local.store(TIMING);
    let written = async || match store.put("/a", b"v", Expect::Absent, soon()).await {
        Ok(Write::Applied(revision)) => revision,
        other => panic!("{other:?}"),
    };
    let delete = async |expect: Expect<'_>| store.delete("/a", expect, soon()).await.expect("it is answered");
    assert_eq!(delete(Expect::Any).await, Deletion::Absent);
    assert_eq!(delete(Expect::Absent).await, Deletion::Absent);
    let old = written().await;
    assert_eq!(delete(Expect::Absent).await, Deletion::Refused);
    let Deletion::Deleted(Some(deleted)) = delete(Expect::Any).await else { panic!("it was there") };
    assert_ne!(deleted, old, "the deletion has a revision of its own");
    assert_eq!(delete(Expect::Revision(&old)).await, Deletion::Absent);
    let new = written().await;
    assert_eq!(delete(Expect::Revision(&old)).await, Deletion::Refused);
    assert!(matches!(delete(Expect::Revision(&new)).await, Deletion::Deleted(Some(_))));
    assert_eq!(local.get("/a"), None);
}

#[tokio::test(start_paused = true)]
async fn one_key_is_read_without_those_that_begin_like_it() {
    let local = found();
    let store = local.store(TIMING);
    store.put("/a/bc", b"v", Expect::Any, soon()).await.expect("it is written");
    assert_eq!(store.get("/a/b", soon()).await.expect("it is read"), None);
    assert_eq!(store.get("/a/bc", soon()).await.expect("it is read").map(|entry| entry.value), Some(b"v".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_report_about_a_key_waits_for_the_answer_to_its_own_write() {
    let local = found();
    let client = local.client();
    let store = RaftStore::new(client.clone(), TIMING, Arc::clone(local.clock()));
    client.set_delay(Duration::from_millis(400));
    let begun = Instant::now();
    let (changes, written) =
        tokio::join!(async { (store.wait_for_changes("/", Cursor(0), soon()).await.expect("it is answered"), begun.elapsed()) }, async {
            (store.put("/a", b"v", Expect::Any, soon()).await.expect("it is written"), begun.elapsed())
        },);
    assert_eq!(written.1, Duration::from_millis(800));
    assert_eq!(changes.1, written.1, "it was reported before its writer knew the revision");
    let Write::Applied(revision) = written.0 else { panic!("nothing was expected") };
    assert_eq!(changes.0.keys.iter().map(|change| change.revision.clone()).collect::<Vec<_>>(), [Some(revision)]);

    // What others write is reported at once, whatever else is being written.
    let (begun, other) = (Instant::now(), local.store(TIMING));
    let (reported, ..) = tokio::join!(
        async {
            store.wait_for_changes("/", changes.0.cursor, soon()).await.expect("it is answered");
            begun.elapsed()
        },
        store.put("/a", b"w", Expect::Any, soon()),
        other.put("/b", b"v", Expect::Any, soon()),
    );
    assert_eq!(reported, Duration::ZERO);
}

/// A cluster that says the same to everything; nothing at all without an answer.
#[derive(Debug)]
struct Scripted(Option<fn() -> Result<Reply, ClusterError>>);

#[async_trait]
impl Cluster for Scripted {
    async fn propose(&self, _: Transaction, _: Deadline) -> Result<Reply, ClusterError> {
        match self.0 {
            Some(answer) => answer(),
            None => std::future::pending().await,
        }
    }

    async fn read(&self, _: &str, _: Deadline) -> Result<Keys, ClusterError> {
        match self.0 {
            Some(answer) => answer().map(|_| Keys::default()),
            None => std::future::pending().await,
        }
    }

    async fn wait(&self, _: &str, after: u64, _: Deadline) -> Result<ChangedKeys, ClusterError> {
        match self.0 {
            Some(answer) => answer().map(|reply| ChangedKeys { index: reply.index, ..ChangedKeys::default() }),
            None => Ok(ChangedKeys { index: after, ..ChangedKeys::default() }),
        }
    }
}

fn scripted(answer: Option<fn() -> Result<Reply, ClusterError>>) -> RaftStore {
    RaftStore::new(Arc::new(Scripted(answer)), TIMING, Arc::new(TokioClock::default()))
}

fn some_lock() -> Entry {
    Entry { key: LOCK.to_owned(), value: b"a".to_vec(), revision: 1_u64.into(), handle: None }
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_by_its_deadline_whatever_the_cluster_does() {
    async fn ends<T: std::fmt::Debug>(operation: &str, call: impl Future<Output = Result<T, dcs_core::Error>>) {
        let begun = Instant::now();
        let error = call.await.expect_err(operation);
        assert_eq!((error.kind, error.fate), (ErrorKind::Unavailable, Fate::Unknown), "{operation}");
        assert!(begun.elapsed() <= TIMING.retry_timeout + Duration::from_millis(2), "{operation} took {:?}", begun.elapsed());
    }
    let (store, seen) = (scripted(None), some_lock());
    ends("read", store.read("/", Consistency::Linearizable, soon())).await;
    ends("get", store.get(LOCK, soon())).await;
    ends("put", store.put(LOCK, b"", Expect::Any, soon())).await;
    ends("delete", store.delete(LOCK, Expect::Any, soon())).await;
    ends("delete everything", store.delete_prefix("/", soon())).await;
    ends("handle", store.ensure_handle(soon())).await;
    ends("acquire", store.acquire_lock(LOCK, "a", soon())).await;
    ends("take", store.take_lock(LOCK, "a", soon())).await;
    ends("renew", store.renew_lock(LOCK, "a", &seen, soon())).await;
    ends("release", store.release_lock(LOCK, &seen, soon())).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_another_question_is_an_error_and_proves_nothing() {
    let store = scripted(Some(|| Ok(Reply { index: 7, held: true, done: vec![Done::Deleted(1), Done::Deleted(1)] })));
    let malformed = [
        store.put(LOCK, b"", Expect::Any, soon()).await.err(),
        store.delete(LOCK, Expect::Any, soon()).await.err(),
        store.ensure_handle(soon()).await.err(),
        store.acquire_lock(LOCK, "a", soon()).await.err(),
        store.renew_lock(LOCK, "a", &some_lock(), soon()).await.err(),
    ];
    for error in malformed {
        assert_eq!(error.map(|error| (error.kind, error.fate)), Some((ErrorKind::Malformed, Fate::Unknown)));
    }
    assert_eq!(store.handle(), None);
}

#[tokio::test(start_paused = true)]
async fn a_position_never_goes_back() {
    let store = scripted(Some(|| Ok(Reply { index: 7, held: true, done: vec![] })));
    let changes = store.wait_for_changes("/", Cursor(9), soon()).await.expect("it is answered");
    assert_eq!(changes.cursor, Cursor(9), "a node that is behind was asked");
}
