//! Every error that etcd has, at every call that we make: none is ever taken for a lost lock or a dead lease.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::adapter::KeyValueDcs;
use dcs_core::keys::ClusterPath;
use dcs_core::model::{Leader, Lsn, MemberRecord, Status};
use dcs_core::{Acquisition, BootClock, Clock, Dcs, Deadline, Error, ErrorKind, KeyValueStore, Renewal, Timing};
use dcs_etcd::Etcd;
use futures::future::join_all;
use serde_json::json;
use store_servers::etcd::Options;

use crate::saboteur::{Answer, Asked, Saboteur};
use crate::store_with;
use crate::support::{Cluster, can_run};

/// Long enough that nothing expires while a test looks for something else.
const TIMING: Timing = Timing { ttl: Duration::from_secs(60), loop_wait: Duration::from_millis(1), retry_timeout: Duration::from_secs(8) };

/// Codes of gRPC with messages, as etcd 3.4 to 3.6 have them (`rpctypes`), and every code with a message that nobody knows.
fn answers() -> Vec<(i32, &'static str)> {
    let known = [
        (1, "etcdserver: watch canceled"),
        (2, "lease: not a primary lessor"),
        (2, "transport error"),
        (3, "etcdserver: request is too large"),
        (3, "etcdserver: user name is empty"),
        (3, "etcdserver: revision of auth store is old"),
        (3, "etcdserver: authentication failed, invalid user ID or password"),
        (4, "context deadline exceeded"),
        (5, "etcdserver: requested lease not found"),
        (7, "etcdserver: permission denied"),
        (8, "etcdserver: mvcc: database space exceeded"),
        (8, "etcdserver: too many requests"),
        (8, "grpc: received message larger than max (5000000 vs. 2097152)"),
        (9, "etcdserver: authentication is not enabled"),
        (9, "etcdserver: lease already exists"),
        (9, "etcdserver: not leader"),
        (11, "etcdserver: mvcc: required revision has been compacted"),
        (12, "unknown service etcdserverpb.KV"),
        (14, "etcdserver: no leader"),
        (14, "etcdserver: leader changed"),
        (14, "etcdserver: request timed out"),
        (14, "etcdserver: request timed out, waiting for the applied index took too long"),
        (14, "etcdserver: request timed out, possibly due to connection lost"),
        (14, "etcdserver: server stopped"),
        (14, "etcdserver: not capable"),
        (14, "etcdserver: unhealthy cluster"),
        (14, "etcdserver: rpc not supported for learner"),
        (15, "etcdserver: corrupt cluster"),
        (16, "etcdserver: invalid auth token"),
    ];
    known.into_iter().chain((1..=16).map(|code| (code, "a message of the future"))).collect()
}

/// These words mean that the lease is gone, whoever says them.
fn ends_the_lease(message: &str) -> bool {
    message.contains("lease not found")
}

/// A member behind a saboteur, as a leader.
struct Member {
    saboteur: Saboteur,
    store: Arc<Etcd>,
    dcs: KeyValueDcs,
    what: String,
}

fn soon() -> Deadline {
    Deadline::after(TIMING.retry_timeout)
}

impl Member {
    async fn new(cluster: &Cluster, scope: &str) -> Self {
        let saboteur = Saboteur::start(cluster.addresses()[0]).await;
        let section = json!({"host": saboteur.host(), "use_proxies": true});
        let store = Arc::new(store_with(section.as_object().expect("it is one"), TIMING));
        let path = ClusterPath::new(None, scope);
        let dcs = KeyValueDcs::new(store.clone(), Arc::new(BootClock), path, "a".into(), TIMING);
        Self { saboteur, store, dcs, what: String::new() }
    }

    fn must<T>(&self, outcome: Result<T, Error>) -> T {
        outcome.unwrap_or_else(|error| panic!("{}: {}", self.what, error.chain()))
    }

    async fn leader(&self) -> Option<Leader> {
        self.must(self.dcs.load(soon()).await).leader
    }

    async fn wins(&self) {
        let outcome = self.must(self.dcs.attempt_to_acquire_leader(soon()).await);
        assert!(matches!(outcome, Acquisition::Won(_)), "{}: {outcome:?}", self.what);
    }

    /// A cycle of a leader in which anything may fail, but nothing may be said to be lost.
    async fn leads_a_cycle(&self, seen: &Leader, number: u64) {
        // The lease is refreshed again only after a loop_wait.
        tokio::time::sleep(TIMING.loop_wait * 2).await;
        if let Ok(view) = self.dcs.load(soon()).await {
            assert_eq!(view.leader.as_ref().map(|leader| &leader.name), Some(&seen.name), "{}", self.what);
        }
        match self.dcs.renew_leader(seen, soon()).await {
            Ok(Renewal::Renewed(lease)) => assert!(lease.is_valid(BootClock.now()), "{}", self.what),
            Ok(Renewal::Lost) => panic!("{}: an error was taken for a lost lock", self.what),
            Err(error) => assert_ne!(error.kind, ErrorKind::HandleGone, "{}: {}", self.what, error.chain()),
        }
        let record = MemberRecord { xlog_location: Some(Lsn(number)), ..MemberRecord::default() };
        let _ = self.dcs.touch_member(&record, soon()).await;
        let status = Status { last_lsn: Lsn(number), ..Status::default() };
        let _ = self.dcs.write_status(&status, false, soon()).await;
    }
}

/// What a leader calls in its cycles, and whether a stream has to be opened anew for it.
const OF_A_CYCLE: [(&str, bool); 4] = [("KV/Range", false), ("Lease/LeaseKeepAlive", true), ("KV/Txn", false), ("KV/Put", false)];

async fn survives(cluster: &Cluster, number: usize, code: i32, message: &str) {
    let mut a = Member::new(cluster, &format!("injection-{number}")).await;
    a.wins().await;
    a.leads_a_cycle(&a.leader().await.expect("a leads"), 0).await;
    let mut step = 0;
    for (method, is_stream) in OF_A_CYCLE {
        for asked in [Asked::Dropped, Asked::Done] {
            if is_stream && asked == Asked::Done {
                // A stream has no answer that could be awaited.
                continue;
            }
            step += 1;
            a.what = format!("{code} `{message}` from {method}, the request {asked:?}");
            let (handle, before) = (a.store.handle().expect("it has one").id, a.leader().await.expect("a leads"));
            a.saboteur.answer_next(method, asked, &Answer::grpc(code, message));
            if is_stream {
                a.saboteur.break_connections();
            }
            let cycle = Deadline::after(TIMING.retry_timeout * 5).bound("a cycle", a.leads_a_cycle(&before, step)).await;
            assert!(cycle.is_ok(), "{}: a cycle has not ended in time", a.what);
            assert!(a.saboteur.stop(), "{}: it was not called", a.what);

            let renewal = a.must(a.dcs.renew_leader(&before, soon()).await);
            assert!(matches!(renewal, Renewal::Renewed(_)), "{}: {renewal:?}", a.what);
            if !ends_the_lease(message) {
                assert_eq!(a.store.handle().map(|handle| handle.id), Some(handle), "{}: a living lease was given up", a.what);
                assert_eq!(a.leader().await, Some(before), "{}: the lock was written", a.what);
            }
        }
    }
    assert_eq!(a.saboteur.done(), OF_A_CYCLE.len() * 2 - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_error_in_a_leaders_cycle_is_taken_for_a_lost_lock_or_a_dead_lease() {
    if !can_run("no_error_in_a_leaders_cycle_is_taken_for_a_lost_lock_or_a_dead_lease") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let answers = answers();
    join_all(answers.iter().enumerate().map(|(number, (code, message))| survives(&cluster, number, *code, message))).await;
}

/// Acquires and releases while `method` fails once.
async fn takes_and_gives(cluster: &Cluster, number: usize, code: i32, message: &str) {
    for (index, method) in ["Lease/LeaseGrant", "KV/Txn", "KV/Range"].into_iter().enumerate() {
        for asked in [Asked::Dropped, Asked::Done] {
            if ends_the_lease(message) && asked == Asked::Done {
                // etcd never does what it says it cannot do.
                continue;
            }
            let mut a = Member::new(cluster, &format!("taking-{number}-{index}-{asked:?}")).await;
            a.what = format!("{code} `{message}` from {method}, the request {asked:?}");
            a.leader().await;
            a.saboteur.answer_next(method, asked, &Answer::grpc(code, message));
            let outcome = a.dcs.attempt_to_acquire_leader(soon()).await;
            a.saboteur.stop();
            let leader = a.leader().await.map(|leader| leader.name);
            match outcome {
                Ok(Acquisition::Won(lease)) => assert!(leader.is_some() && lease.is_valid(BootClock.now()), "{}", a.what),
                Ok(Acquisition::Lost(_)) => panic!("{}: nobody else is there", a.what),
                Err(error) if asked == Asked::Dropped => assert_eq!(leader, None, "{}: {}", a.what, error.chain()),
                Err(_) => {}
            }
            let attempt = a.must(a.dcs.attempt_to_acquire_leader(soon()).await);
            assert!(matches!(attempt, Acquisition::Won(_)), "{}: {attempt:?}", a.what);

            a.saboteur.answer_next(method, asked, &Answer::grpc(code, message));
            let released = a.dcs.release_leader(None, soon()).await;
            a.saboteur.stop();
            match (released, a.leader().await) {
                (Ok(true), None) => {}
                (Err(_), Some(_)) => assert!(a.must(a.dcs.release_leader(None, soon()).await), "{}", a.what),
                (Err(_), None) if asked == Asked::Done => {}
                // The first attempt was said to have done nothing, and the second found nothing to do.
                (Ok(false), None) if asked == Asked::Done => {}
                (released, leader) => panic!("{}: {released:?}, and {leader:?} leads", a.what),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_error_makes_a_lock_lost_that_was_taken_or_taken_that_was_lost() {
    if !can_run("no_error_makes_a_lock_lost_that_was_taken_or_taken_that_was_lost") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let answers = answers();
    join_all(answers.iter().enumerate().map(|(number, (code, message))| takes_and_gives(&cluster, number, *code, message))).await;
}

#[tokio::test]
async fn a_watch_that_is_refused_is_begun_again() {
    if !can_run("a_watch_that_is_refused_is_begun_again") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    join_all(answers().into_iter().enumerate().map(|(number, (code, message))| {
        let cluster = &cluster;
        async move {
            let a = Member::new(cluster, &format!("watching-{number}")).await;
            a.leader().await;
            a.saboteur.answer_next("Watch/Watch", Asked::Dropped, &Answer::grpc(code, message));
            let interest = dcs_core::Interest::FOLLOWER;
            let release = async {
                // Waiting begins first.
                tokio::time::sleep(Duration::from_millis(200)).await;
                let b = Member::new(cluster, &format!("watching-{number}")).await;
                b.wins().await;
            };
            let (wake, ()) = tokio::join!(a.dcs.wait(interest, TIMING.retry_timeout), release);
            assert_eq!(wake, dcs_core::Wake::Changed, "{code} `{message}`");
            assert_eq!(a.saboteur.done(), 1);
        }
    }))
    .await;
}
