//! What only ZooKeeper can do or get wrong: sessions, nodes that are made again, access, its errors, Exhibitor.

#[path = "specific/access.rs"]
mod access;
#[path = "specific/errors.rs"]
mod errors;
#[path = "specific/exhibitor.rs"]
mod exhibitor;
#[path = "specific/meddler.rs"]
mod meddler;
#[path = "specific/nodes.rs"]
mod nodes;
#[path = "specific/sessions.rs"]
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use dcs_core::{BootClock, Consistency, Deadline, Entry, Error, ErrorKind, KeyValueStore, LockAttempt, LockRenewal, Timing};
use dcs_zookeeper::{Config, ZooKeeper};
use serde_json::{Value, json};
use store_servers::Servers;
use store_servers::zookeeper::missing;
use store_servers::{eventually, report_not_run};

const PREFIX: &str = "/service/demo/";
const LEADER: &str = "/service/demo/leader";
const MEMBER: &str = "/service/demo/members/a";

/// Long enough for a busy machine to answer within one server's share of the time.
const TIMING: Timing = Timing { ttl: Duration::from_secs(8), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(9) };

/// How late a session may end: a tick of the servers, and a busy machine.
const GRAIN: Duration = Duration::from_secs(4);

/// Long enough for anything that works.
fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// Whether `test` can run here; says so if not.
fn can_run(test: &str) -> bool {
    let lacking = missing();
    lacking.iter().for_each(|lacking| report_not_run(test, lacking));
    lacking.is_none()
}

fn store_with(section: &Value, timing: Timing) -> ZooKeeper {
    let config = Config::from_section(section.as_object().expect("it is one")).expect("a good section");
    ZooKeeper::new(config, timing, Arc::new(BootClock))
}

fn store(servers: &Servers) -> ZooKeeper {
    store_with(&json!({"hosts": servers.hosts()}), TIMING)
}

/// A client of the library, that is none of the members.
async fn direct(servers: &Servers) -> zookeeper_client::Client {
    zookeeper_client::Client::connect(&servers.hosts().join(",")).await.expect("ZooKeeper serves")
}

/// Takes the lock, which is free. On a busy machine that may need more than one attempt.
async fn wins(store: &ZooKeeper, owner: &str) {
    eventually(&format!("{owner} wins"), Duration::from_secs(60), || async {
        match store.acquire_lock(LEADER, owner, soon()).await {
            Ok(LockAttempt::Won(_)) => Ok(()),
            Ok(LockAttempt::Held(Some(entry))) if entry.handle == store.handle().map(|handle| handle.id) => Ok(()),
            Err(error) if error.kind == ErrorKind::Unavailable => Err(error.chain()),
            other => panic!("{owner} did not win: {other:?}"),
        }
    })
    .await;
}

async fn entry(store: &ZooKeeper, key: &str) -> Option<Entry> {
    store.get(key, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()))
}

async fn existing(store: &ZooKeeper, key: &str) -> Entry {
    entry(store, key).await.unwrap_or_else(|| panic!("{key} does not exist"))
}

/// Renews what is stored, as a cycle does.
async fn renews(store: &ZooKeeper, owner: &str) -> Result<LockRenewal, Error> {
    let seen = match store.get(LEADER, soon()).await? {
        Some(seen) => seen,
        None => Entry { key: LEADER.to_owned(), value: owner.into(), revision: 1_u64.into(), handle: None },
    };
    store.renew_lock(LEADER, owner, &seen, soon()).await
}

fn is_kept(renewal: &Result<LockRenewal, Error>) -> bool {
    matches!(renewal, Ok(LockRenewal::Kept(_)))
}

async fn loads(store: &ZooKeeper) -> Result<usize, Error> {
    store.read(PREFIX, Consistency::Relaxed, soon()).await.map(|snapshot| snapshot.entries.len())
}

fn session(store: &ZooKeeper) -> String {
    store.handle().expect("there is a session").id.to_string()
}
