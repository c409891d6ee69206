//! Everything bad that can happen to each request of each operation.
//!
//! Whatever it is: an error never becomes a lost lock, a session that lives is never taken for gone, and what an error says
//! about the fate of a write is true.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dcs_consul::Consul;
use dcs_core::adapter::KeyValueDcs;
use dcs_core::keys::ClusterPath;
use dcs_core::{
    Acquisition, BootClock, Consistency, Dcs, Deadline, Entry, Error, ErrorKind, Expect, Fate, KeyValueStore, LockAttempt, LockRenewal,
    Renewal, Timing,
};
use serde_json::json;
use store_servers::consul::Options;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::can_run;
use crate::support::gate::{Gate, Mishap};
use crate::{config, soon};

const HTML: &str = "<html><head><title>Error</title></head><body>Invalid session. Please log in. Key exists.</body></html>";

const MISHAPS: &[Mishap] = &[
    Mishap::Answer(200, HTML),
    Mishap::Answer(200, ""),
    Mishap::Answer(200, "{}"),
    Mishap::Answer(200, r#"{"error":"blocked"}"#),
    Mishap::Answer(200, r#"{"Results":null,"Errors":null}"#),
    Mishap::Answer(301, ""),
    Mishap::Answer(400, "Bad request"),
    Mishap::Answer(401, HTML),
    Mishap::Answer(403, "Permission denied"),
    Mishap::Answer(403, "ACL not found"),
    Mishap::Answer(404, ""),
    Mishap::Answer(404, HTML),
    Mishap::Answer(405, "method PUT not allowed"),
    Mishap::Answer(409, HTML),
    Mishap::Answer(409, r#"{"Results":null,"Errors":[{"OpIndex":0,"What":"Permission denied"}]}"#),
    Mishap::Answer(409, r#"{"Results":null,"Errors":[{"OpIndex":0,"What":"something new"}]}"#),
    Mishap::Answer(413, "Request body(600000 bytes) too large, max size: 524288 bytes."),
    Mishap::Answer(429, "rate limit exceeded"),
    Mishap::Answer(500, "No cluster leader"),
    Mishap::Answer(500, "rpc error making call: EOF"),
    Mishap::Answer(500, HTML),
    Mishap::Answer(502, HTML),
    Mishap::Answer(503, HTML),
    Mishap::Answer(504, HTML),
    Mishap::Truncated,
    Mishap::Reset,
    Mishap::Silence,
    Mishap::AnswerLost,
    Mishap::HeadersLost,
];

/// A share is two seconds: silence costs no more, and a busy machine answers within it.
const TIMING: Timing = Timing { ttl: Duration::from_secs(60), loop_wait: Duration::from_secs(10), retry_timeout: Duration::from_secs(6) };

/// Checks that run beside each other.
const AT_ONCE: usize = 8;

/// What is done while something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    LoadEmpty,
    Load,
    Get,
    Create,
    CompareAndSet,
    PutLarge,
    Delete,
    DeleteAll,
    Session,
    Touch,
    Acquire,
    Renew,
    RenewMissing,
    RenewMoved,
    RenewTaken,
    Release,
}

use Operation::{
    Acquire, CompareAndSet, Create, Delete, DeleteAll, Get, Load, LoadEmpty, PutLarge, Release, Renew, RenewMissing, RenewMoved,
    RenewTaken, Session, Touch,
};

const OPERATIONS: &[Operation] = &[
    LoadEmpty,
    Load,
    Get,
    Create,
    CompareAndSet,
    PutLarge,
    Delete,
    DeleteAll,
    Session,
    Touch,
    Acquire,
    Renew,
    RenewMissing,
    RenewMoved,
    RenewTaken,
    Release,
];

/// One cluster, a client of it behind a gate, and one that sees the truth.
struct Case {
    gate: Gate,
    a: Consul,
    truth: Consul,
    prefix: String,
    /// The lock as the caller has seen it.
    seen: Option<Entry>,
}

fn client(address: SocketAddr) -> Consul {
    let section = json!({"host": address.to_string()});
    Consul::new(config(section.as_object().expect("it is one")), TIMING, Arc::new(BootClock))
}

impl Case {
    async fn prepare(server: SocketAddr, scope: &str, operation: Operation) -> Self {
        let gate = Gate::before(server).await;
        let (a, truth) = (client(gate.address()), client(server));
        let mut case = Self { gate, a, truth, prefix: format!("/service/{scope}/"), seen: None };
        let key = |name| case.key(name);
        match operation {
            LoadEmpty | Create | PutLarge | Session => {}
            Load | Get | CompareAndSet | Delete | DeleteAll => {
                case.a.put(&key("config"), b"{}", Expect::Any, soon()).await.expect("Consul answers");
                case.a.read(&case.prefix, Consistency::Relaxed, soon()).await.expect("Consul answers");
            }
            Touch | Acquire => {
                case.a.ensure_handle(soon()).await.expect("Consul answers");
            }
            Renew | Release => case.wins(&case.a).await,
            RenewMissing => {
                case.wins(&case.a).await;
                let seen = case.lock().await;
                case.truth.delete(&key("leader"), Expect::Any, soon()).await.expect("Consul answers");
                case.seen = seen;
            }
            RenewMoved => {
                case.a.ensure_handle(soon()).await.expect("Consul answers");
                case.wins(&client(server)).await;
            }
            RenewTaken => {
                case.a.ensure_handle(soon()).await.expect("Consul answers");
                case.truth.acquire_lock(&key("leader"), "b", soon()).await.expect("Consul answers");
            }
        }
        if case.seen.is_none() {
            case.seen = case.lock().await;
        }
        case.gate.plan(None);
        case
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn wins(&self, store: &Consul) {
        let attempt = store.acquire_lock(&self.key("leader"), "a", soon()).await.expect("Consul answers");
        assert!(matches!(attempt, LockAttempt::Won(_)), "{attempt:?}");
    }

    async fn lock(&self) -> Option<Entry> {
        self.truth.get(&self.key("leader"), soon()).await.expect("Consul answers")
    }

    async fn content(&self) -> BTreeMap<String, Entry> {
        let snapshot = self.truth.read(&self.prefix, Consistency::Linearizable, soon()).await.expect("Consul answers");
        snapshot.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect()
    }

    async fn renew(&self) -> Result<LockRenewal, Error> {
        let seen = self.seen.clone().expect("there was one");
        self.a.renew_lock(&self.key("leader"), "a", &seen, soon()).await
    }

    /// Does it, and tells what came of it.
    async fn run(&self, operation: Operation) -> Result<String, Error> {
        let (a, deadline) = (&self.a, soon());
        let config = self.key("config");
        Ok(match operation {
            LoadEmpty | Load => format!("{}", a.read(&self.prefix, Consistency::Relaxed, deadline).await?.entries.len()),
            Get => format!("{}", a.get(&config, deadline).await?.is_some()),
            Create => format!("{}", a.put(&config, b"{}", Expect::Absent, deadline).await?.is_applied()),
            CompareAndSet => {
                let revision = self.truth.get(&config, soon()).await?.expect("it was written").revision;
                format!("{}", a.put(&config, b"{\"x\":1}", Expect::Revision(&revision), deadline).await?.is_applied())
            }
            PutLarge => format!("{}", a.put(&config, &vec![b'x'; 500_000], Expect::Absent, deadline).await?.is_applied()),
            Delete => format!("{:?}", a.delete(&config, Expect::Any, deadline).await?),
            DeleteAll => format!("{:?}", a.delete_prefix(&self.prefix, deadline).await?),
            Session => a.ensure_handle(deadline).await.map(|_| "a session".to_owned())?,
            Touch => a.put_bound(&self.key("members/a"), b"{}", deadline).await.map(|_| "written".to_owned())?,
            Acquire => match a.acquire_lock(&self.key("leader"), "a", deadline).await? {
                LockAttempt::Won(_) => "won".to_owned(),
                LockAttempt::Held(_) => "held".to_owned(),
            },
            Renew | RenewMissing | RenewMoved | RenewTaken => match self.renew().await? {
                LockRenewal::Kept(_) => "kept".to_owned(),
                other => format!("{other:?}"),
            },
            Release => {
                let held = self.seen.as_ref().expect("there was one");
                format!("{:?}", a.release_lock(&self.key("leader"), held, deadline).await?)
            }
        })
    }
}

/// Checks one operation with one mishap to one of its requests.
async fn check(server: SocketAddr, scope: String, operation: Operation, number: usize, mishap: Mishap, good: &str) {
    let case = Case::prepare(server, &scope, operation).await;
    let (before, session) = (case.content().await, case.a.handle().map(|handle| handle.id));
    case.gate.plan(Some((number, mishap)));
    let outcome = case.run(operation).await;
    let what = format!("{operation:?}, request {number} of {:?}, {mishap:?}", case.gate.seen());
    match &outcome {
        // The client may have found another way, but not another outcome, and not without an answer of Consul's.
        Ok(outcome) => {
            assert_eq!(outcome, good, "{what}");
            assert!(mishap.gets_through() || case.gate.seen().len() > number + 1, "{what}: nothing proves that it was done");
        }
        Err(error) => {
            assert_ne!(error.kind, ErrorKind::HandleGone, "{what}: {}", error.chain());
            if error.fate == Fate::NotApplied {
                assert_eq!(case.content().await, before, "{what}: it was written, and the error denies it: {}", error.chain());
            }
        }
    }
    if let Some(session) = session {
        assert_eq!(case.a.handle().map(|handle| handle.id), Some(session), "{what}: the session lives");
    }
    // The client goes on, and the lock is whose it was.
    match operation {
        Renew | RenewMoved | RenewMissing => {
            let renewal = match case.renew().await.unwrap_or_else(|error| panic!("{what}: {}", error.chain())) {
                // It was moved without our knowing.
                LockRenewal::Moved(entry) => panic!("{what}: {entry:?}"),
                renewal => renewal,
            };
            assert!(matches!(renewal, LockRenewal::Kept(_)), "{what}: {renewal:?}");
        }
        RenewTaken => assert_eq!(case.renew().await.ok(), Some(LockRenewal::Lost), "{what}"),
        _ => {
            drop(case.a.read(&case.prefix, Consistency::Relaxed, soon()).await.unwrap_or_else(|error| panic!("{what}: {}", error.chain())))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mishap_to_any_request_becomes_a_wrong_answer() {
    if !can_run("no_mishap_to_any_request_becomes_a_wrong_answer") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let server = servers.plan(0).address;
    let (mut checks, turns) = (0, Arc::new(Semaphore::new(AT_ONCE)));
    for &operation in OPERATIONS {
        let case = Case::prepare(server, &format!("good-{operation:?}"), operation).await;
        let good = case.run(operation).await.unwrap_or_else(|error| panic!("{operation:?}: {}", error.chain()));
        let requests = case.gate.seen().len();
        assert!((1..=4).contains(&requests), "{operation:?}: {:?}", case.gate.seen());
        let mut running = JoinSet::new();
        for number in 0..requests {
            for (index, &mishap) in MISHAPS.iter().enumerate() {
                let (scope, good) = (format!("{operation:?}-{number}-{index}"), good.clone());
                let turns = Arc::clone(&turns);
                running.spawn(async move {
                    let _turn = turns.acquire().await;
                    check(server, scope, operation, number, mishap, &good).await;
                });
                checks += 1;
            }
        }
        all_end(running).await;
    }
    assert!(checks > 20 * MISHAPS.len(), "{checks}");
}

/// The same, one layer up, where a failed attempt is followed by others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_survives_every_mishap() {
    if !can_run("a_leader_survives_every_mishap") {
        return;
    }
    let servers = Options::default().start().await.expect("Consul starts");
    let server = servers.plan(0).address;
    let mut running = JoinSet::new();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    for (index, &mishap) in MISHAPS.iter().enumerate() {
        let turns = Arc::clone(&turns);
        running.spawn(async move {
            let _turn = turns.acquire().await;
            let gate = Gate::before(server).await;
            let (clock, scope) = (Arc::new(BootClock), format!("leader-{index}"));
            let store = Arc::new(client(gate.address()));
            let a = KeyValueDcs::new(store, clock, ClusterPath::new(None, &scope), "a".into(), TIMING);
            let deadline = || Deadline::after(TIMING.retry_timeout * 2);
            let won = a.attempt_to_acquire_leader(deadline()).await.expect("Consul answers");
            assert!(matches!(won, Acquisition::Won(_)), "{won:?}");
            for number in 0..2 {
                gate.plan(None);
                let seen = a.load(deadline()).await.expect("Consul answers").leader.expect("a leads");
                gate.plan(Some((number, mishap)));
                match a.renew_leader(&seen, deadline()).await {
                    Ok(Renewal::Renewed(_)) => {}
                    Ok(Renewal::Lost) => panic!("request {number}, {mishap:?}: the lock was never lost"),
                    Err(error) => {
                        let given_up = matches!(error.kind, ErrorKind::Denied | ErrorKind::Malformed | ErrorKind::Misconfigured);
                        assert!(given_up, "request {number}, {mishap:?}: {}", error.chain());
                    }
                }
                gate.plan(None);
                let renewal = a.renew_leader(&seen, deadline()).await.unwrap_or_else(|error| panic!("{mishap:?}: {}", error.chain()));
                assert!(matches!(renewal, Renewal::Renewed(_)), "{mishap:?}");
            }
        });
    }
    all_end(running).await;
}

async fn all_end(mut running: JoinSet<()>) {
    while let Some(ended) = running.join_next().await {
        ended.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
    }
}
