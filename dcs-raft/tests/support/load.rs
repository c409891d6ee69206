//! Clients that write all the time, and remember what they were told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dcs_core::{BootClock, Consistency, Deadline, Error, Expect, Fate, KeyValueStore, Timing, Write};
use dcs_raft::RaftStore;
use tokio::task::JoinSet;

use super::nodes::{Nodes, soon};

const TIMING: Timing = Timing { ttl: Duration::from_secs(30), loop_wait: Duration::from_secs(5), retry_timeout: Duration::from_secs(10) };

/// How long a client tries to have one thing done. Long enough for an election, so that most things get done, and short
/// enough that some do not.
const TRY: Duration = Duration::from_millis(1_500);

/// Where the counter is.
const COUNTER: &str = "/counter";

/// What the clients were told, all of them together.
#[derive(Debug, Default)]
pub struct Told {
    /// Numbered keys that were written for sure.
    written: Mutex<Vec<String>>,
    acknowledged: AtomicU64,
    increments: AtomicU64,
    /// Increments of which nobody knows.
    unknown: AtomicU64,
    over: AtomicBool,
}

/// The clients. They end when this is dropped.
#[derive(Debug)]
pub struct Load {
    told: Arc<Told>,
    clients: JoinSet<()>,
}

impl Load {
    /// Lets `writers` write numbered keys, and `counters` count together.
    pub fn start(nodes: &Nodes, writers: usize, counters: usize) -> Self {
        let told = Arc::<Told>::default();
        let mut clients = JoinSet::new();
        for writer in 0..writers {
            clients.spawn(write(store(nodes), writer, Arc::clone(&told)));
        }
        for _ in 0..counters {
            clients.spawn(count(store(nodes), Arc::clone(&told)));
        }
        Self { told, clients }
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.told.acknowledged.load(Ordering::SeqCst)
    }

    /// Ends the clients, after what each of them is doing.
    pub async fn end(mut self) -> Arc<Told> {
        self.told.over.store(true, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client that found nothing wrong");
        }
        Arc::clone(&self.told)
    }

    /// Stops at once if a client found something wrong.
    pub fn check(&mut self) {
        while let Some(ended) = self.clients.try_join_next() {
            ended.expect("a client that found nothing wrong");
        }
    }
}

impl Told {
    /// What was acknowledged is there, on every node; and nothing was done twice.
    pub async fn assert_remembered(&self, nodes: &Nodes) {
        let everywhere = nodes.what_everybody_reads().await;
        let of_first: Vec<_> = everywhere[0].keys.iter().map(|key| (&key.key, &key.value, key.revision, key.handle)).collect();
        for (node, keys) in everywhere.iter().enumerate() {
            let of_node: Vec<_> = keys.keys.iter().map(|key| (&key.key, &key.value, key.revision, key.handle)).collect();
            assert_eq!(of_node, of_first, "node {node} has something else than node 0");
        }
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let there: std::collections::BTreeSet<&str> = everywhere[0].keys.iter().map(|key| key.key.as_str()).collect();
        let lost: Vec<&String> = written.iter().filter(|key| !there.contains(key.as_str())).collect();
        assert!(lost.is_empty(), "{} of {} acknowledged writes are lost: {lost:?}", lost.len(), written.len());
        let counter = everywhere[0].keys.iter().find(|key| key.key == COUNTER).map_or(0, |key| number(&key.value));
        let (sure, unknown) = (self.increments.load(Ordering::SeqCst), self.unknown.load(Ordering::SeqCst));
        assert!((sure..=sure + unknown).contains(&counter), "the counter is {counter}, after {sure} increments and perhaps {unknown} more");
        println!("{} numbered keys, counter {counter} after {sure} increments and {unknown} unknown ones", written.len());
    }
}

fn store(nodes: &Nodes) -> RaftStore {
    RaftStore::new(nodes.client().cluster(), TIMING, Arc::new(BootClock))
}

/// Writes a key after the other, each until it is written for sure.
async fn write(store: RaftStore, writer: usize, told: Arc<Told>) {
    for number in 0_u64.. {
        let key = format!("/numbered/{writer}/{number}");
        loop {
            if told.over.load(Ordering::SeqCst) {
                return;
            }
            match store.put(&key, number.to_string().as_bytes(), Expect::Any, Deadline::after(TRY)).await {
                Ok(Write::Applied(_)) => break,
                Ok(Write::Refused) => panic!("{key} was refused, and nothing was expected of it"),
                Err(error) => pause_after(&error).await,
            }
        }
        told.written.lock().unwrap_or_else(PoisonError::into_inner).push(key);
        told.acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}

/// Adds one to the counter, again and again, if nobody else has meanwhile.
async fn count(store: RaftStore, told: Arc<Told>) {
    while !told.over.load(Ordering::SeqCst) {
        let at_least = told.increments.load(Ordering::SeqCst);
        let seen = match store.read(COUNTER, Consistency::Linearizable, Deadline::after(TRY)).await {
            Ok(snapshot) => snapshot.entries.into_iter().next(),
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let value = seen.as_ref().map_or(0, |entry| number(&entry.value));
        assert!(value >= at_least, "the counter was read as {value} after {at_least} increments were acknowledged");
        let expected = seen.as_ref().map_or(Expect::Absent, |entry| Expect::Revision(&entry.revision));
        match store.put(COUNTER, (value + 1).to_string().as_bytes(), expected, Deadline::after(TRY)).await {
            Ok(Write::Applied(_)) => {
                told.increments.fetch_add(1, Ordering::SeqCst);
                told.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            Ok(Write::Refused) => {}
            Err(error) => {
                if error.fate == Fate::Unknown {
                    told.unknown.fetch_add(1, Ordering::SeqCst);
                }
                pause_after(&error).await;
            }
        }
    }
}

/// The cluster may be away: nobody is to ask as fast as it can fail.
async fn pause_after(error: &Error) {
    assert!(!matches!(error.kind, dcs_core::ErrorKind::Malformed | dcs_core::ErrorKind::Denied), "{}", error.chain());
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).expect("a number")
}

/// Writes until it is written.
pub async fn put(nodes: &Nodes, key: &str, value: &[u8]) {
    let written = store(nodes).put(key, value, Expect::Any, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(written.is_applied());
}

/// What a node returns for a key, by itself.
pub async fn read_from(nodes: &Nodes, node: usize, key: &str) -> Option<Vec<u8>> {
    let store = RaftStore::new(nodes.client_of(node).cluster(), TIMING, Arc::new(BootClock));
    store.get(key, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain())).map(|entry| entry.value)
}
