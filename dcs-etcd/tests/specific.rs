//! What only etcd can do or get wrong: leases, transactions, rotation, compaction, users and TLS.

#[path = "specific/access.rs"]
mod access;
#[path = "specific/injection.rs"]
mod injection;
#[path = "specific/leases.rs"]
mod leases;
#[path = "specific/mirror.rs"]
mod mirror;
#[path = "specific/responses.rs"]
mod responses;
#[path = "specific/saboteur.rs"]
mod saboteur;
#[path = "specific/servers.rs"]
mod servers;
#[path = "specific/support.rs"]
mod support;
#[path = "specific/v2.rs"]
mod v2;
#[path = "specific/watching.rs"]
mod watching;

use std::sync::Arc;
use std::time::Duration;

use dcs_core::{BootClock, Consistency, Deadline, Entry, Error, KeyValueStore, LockAttempt, LockRenewal, Timing};
use dcs_etcd::{Config, Etcd};
use serde_json::{Map, Value};
use store_servers::conformance::TIMING;
use support::Cluster;

const PREFIX: &str = "/service/demo/";
const LEADER: &str = "/service/demo/leader";
const MEMBER: &str = "/service/demo/members/a";

/// Long enough for anything that works.
fn soon() -> Deadline {
    Deadline::after(TIMING.retry_timeout)
}

fn store_with(section: &Map<String, Value>, timing: Timing) -> Etcd {
    let config = Config::from_section(section).expect("a good section");
    Etcd::new(config, timing, Arc::new(BootClock))
}

fn store(cluster: &Cluster) -> Etcd {
    Etcd::new(cluster.config(), TIMING, Arc::new(BootClock))
}

async fn wins(store: &Etcd, owner: &str) {
    match store.acquire_lock(LEADER, owner, soon()).await {
        Ok(LockAttempt::Won(_)) => {}
        other => panic!("{owner} did not win: {other:?}"),
    }
}

async fn entry(store: &Etcd, key: &str) -> Option<Entry> {
    store.get(key, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()))
}

async fn existing(store: &Etcd, key: &str) -> Entry {
    entry(store, key).await.unwrap_or_else(|| panic!("{key} does not exist"))
}

/// Renews what is stored, as a cycle does.
async fn renews(store: &Etcd, owner: &str) -> Result<LockRenewal, Error> {
    let seen = match entry(store, LEADER).await {
        Some(seen) => seen,
        None => Entry { key: LEADER.to_owned(), value: owner.into(), revision: 1_u64.into(), handle: None },
    };
    store.renew_lock(LEADER, owner, &seen, soon()).await
}

async fn loads(store: &Etcd) -> Result<usize, Error> {
    loads_by(store, soon()).await
}

async fn loads_by(store: &Etcd, deadline: Deadline) -> Result<usize, Error> {
    store.read(PREFIX, Consistency::Relaxed, deadline).await.map(|snapshot| snapshot.entries.len())
}

/// The same timings, with a cycle short enough to do ten of them.
fn quick() -> Timing {
    Timing { loop_wait: Duration::from_millis(200), ..TIMING }
}
