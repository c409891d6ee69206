//! What only Consul can do or get wrong: sessions, transactions, long polls, tokens, TLS, the catalogue.

mod support;

#[path = "specific/access.rs"]
mod access;
#[path = "specific/catalogue.rs"]
mod catalogue;
#[path = "specific/mishaps.rs"]
mod mishaps;
#[path = "specific/reading.rs"]
mod reading;
#[path = "specific/sessions.rs"]
mod sessions;
#[path = "specific/watching.rs"]
mod watching;

use std::sync::Arc;
use std::time::Duration;

use dcs_consul::{Config, Consul};
use dcs_core::{BootClock, Consistency, Deadline, Entry, Error, KeyValueStore, LockAttempt, LockRenewal, Timing};
use serde_json::{Map, Value, json};
use store_servers::Servers;

const PREFIX: &str = "/service/demo/";
const LEADER: &str = "/service/demo/leader";
const MEMBER: &str = "/service/demo/members/a";

const TIMING: Timing = Timing { ttl: Duration::from_secs(20), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(5) };

/// Long enough for anything that works.
fn soon() -> Deadline {
    Deadline::after(TIMING.retry_timeout)
}

/// A section for a server, with more options.
fn section(servers: &Servers, index: usize, more: Value) -> Map<String, Value> {
    let mut section = more.as_object().cloned().unwrap_or_default();
    section.insert("host".to_owned(), servers.plan(index).address.to_string().into());
    section
}

fn config(section: &Map<String, Value>) -> Config {
    Config::from_section(section).unwrap_or_else(|error| panic!("{error}"))
}

fn store_with(section: &Map<String, Value>, timing: Timing) -> Consul {
    Consul::new(config(section), timing, Arc::new(BootClock))
}

/// A client of the first server.
fn store(servers: &Servers) -> Consul {
    store_with(&section(servers, 0, json!({})), TIMING)
}

async fn wins(store: &Consul, owner: &str) {
    match store.acquire_lock(LEADER, owner, soon()).await {
        Ok(LockAttempt::Won(_)) => {}
        Ok(other) => panic!("{owner} did not win: {other:?}"),
        Err(error) => panic!("{owner} did not win: {}", error.chain()),
    }
}

async fn entry(store: &Consul, key: &str) -> Option<Entry> {
    store.get(key, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()))
}

async fn existing(store: &Consul, key: &str) -> Entry {
    entry(store, key).await.unwrap_or_else(|| panic!("{key} does not exist"))
}

/// Renews what is stored, as a cycle does.
async fn renews(store: &Consul, owner: &str) -> Result<LockRenewal, Error> {
    let seen = match entry(store, LEADER).await {
        Some(seen) => seen,
        None => Entry { key: LEADER.to_owned(), value: owner.into(), revision: 1_u64.into(), handle: None },
    };
    store.renew_lock(LEADER, owner, &seen, soon()).await
}

async fn keeps(store: &Consul, owner: &str) {
    match renews(store, owner).await {
        Ok(LockRenewal::Kept(_)) => {}
        Ok(other) => panic!("{other:?}"),
        Err(error) => panic!("{}", error.chain()),
    }
}

async fn loads(store: &Consul) -> Result<usize, Error> {
    store.read(PREFIX, Consistency::Relaxed, soon()).await.map(|snapshot| snapshot.entries.len())
}
