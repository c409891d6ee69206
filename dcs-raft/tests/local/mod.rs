//! A cluster of one node without Raft: what is proposed is applied at once, at the time of a clock.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::{Clock, Deadline, Timing};
use dcs_raft::changes::ChangeLog;
use dcs_raft::cluster::{Cluster, ClusterError, Keys};
use dcs_raft::command::{Command, Foundation, Record, Reply, StoredKey, Transaction};
use dcs_raft::identity::{ClusterId, ProposalId};
use dcs_raft::message::ChangedKeys;
use dcs_raft::state::State;
use dcs_raft::store::RaftStore;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The node. What is due expires as long as it lives.
#[derive(Debug)]
pub(crate) struct Local {
    node: Arc<Node>,
    ticking: AbortHandle,
}

#[derive(Debug)]
struct Node {
    state: Mutex<State>,
    changes: ChangeLog,
    clock: Arc<dyn Clock>,
    applied: Notify,
    clients: AtomicU64,
    requests: AtomicU64,
}

impl Local {
    /// A cluster without keys whose log clock is `clock`.
    pub(crate) fn found(clock: Arc<dyn Clock>) -> Arc<Self> {
        let foundation = Foundation { cluster: ClusterId(1), members: Vec::new() };
        let node = Arc::new(Node {
            state: Mutex::new(State::founded(&foundation)),
            changes: ChangeLog::new(0),
            clock,
            applied: Notify::new(),
            clients: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        });
        let ticking = tokio::spawn(Arc::clone(&node).tick()).abort_handle();
        Arc::new(Self { node, ticking })
    }

    /// A client with proposals of its own.
    pub(crate) fn client(&self) -> Arc<Client> {
        let id = self.node.clients.fetch_add(1, Ordering::Relaxed);
        Arc::new(Client { node: Arc::clone(&self.node), id, number: AtomicU64::new(0), delay: Mutex::default() })
    }

    /// The store of a client.
    pub(crate) fn store(&self, timing: Timing) -> Arc<RaftStore> {
        Arc::new(RaftStore::new(self.client(), timing, Arc::clone(self.clock())))
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.node.clock
    }

    /// How many proposals and reads there were.
    pub(crate) fn requests(&self) -> u64 {
        self.node.requests.load(Ordering::Relaxed)
    }

    /// A key as it is now.
    pub(crate) fn get(&self, key: &str) -> Option<StoredKey> {
        self.node.state().get(key)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.ticking.abort();
    }
}

impl Node {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.now().since_origin().as_millis()).expect("the test is young")
    }

    fn apply(&self, proposal: Option<ProposalId>, command: Command) -> Option<Reply> {
        let record = Record { time_ms: self.now_ms(), proposal, command };
        let applied = {
            let mut state = self.state();
            let index = state.applied() + 1;
            let applied = state.apply(index, &record);
            self.changes.append(index, applied.changes);
            applied.reply
        };
        self.applied.notify_one();
        applied
    }

    /// Moves the log clock whenever something is due.
    async fn tick(self: Arc<Self>) {
        loop {
            let due_ms = self.state().due_ms();
            match due_ms.map(|due_ms| due_ms.saturating_sub(self.now_ms())) {
                Some(0) => drop(self.apply(None, Command::Tick)),
                Some(left_ms) => tokio::select! {
                    () = self.applied.notified() => {}
                    () = tokio::time::sleep(Duration::from_millis(left_ms)) => {}
                },
                None => self.applied.notified().await,
            }
        }
    }
}

/// A client of the node.
#[derive(Debug)]
pub(crate) struct Client {
    node: Arc<Node>,
    id: u64,
    number: AtomicU64,
    delay: Mutex<Duration>,
}

impl Client {
    /// How long each way takes from now on, there and back.
    pub(crate) fn set_delay(&self, delay: Duration) {
        *self.delay.lock().expect("nothing panics while it is held") = delay;
    }

    /// Where a request or an answer may be dropped.
    async fn travel(&self) {
        let delay = *self.delay.lock().expect("nothing panics while it is held");
        if delay.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(delay).await;
        }
    }
}

#[async_trait]
impl Cluster for Client {
    /// The network doubles everything: each proposal arrives once more, after others had time to come in between.
    async fn propose(&self, transaction: Transaction, _: Deadline) -> Result<Reply, ClusterError> {
        self.node.requests.fetch_add(1, Ordering::Relaxed);
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let apply = || self.node.apply(Some(ProposalId { client: self.id, number }), Command::Transaction(transaction.clone()));
        self.travel().await;
        let first = apply();
        self.travel().await;
        assert_eq!(apply(), first, "a repeated proposal is answered with the first answer");
        first.ok_or_else(|| ClusterError::NoAnswer("the proposal was not new".into()))
    }

    async fn read(&self, prefix: &str, _: Deadline) -> Result<Keys, ClusterError> {
        self.node.requests.fetch_add(1, Ordering::Relaxed);
        self.travel().await;
        let keys = {
            let state = self.node.state();
            Keys { keys: state.keys_with_prefix(prefix), index: state.applied() }
        };
        self.travel().await;
        Ok(keys)
    }

    async fn wait(&self, prefix: &str, after: u64, deadline: Deadline) -> Result<ChangedKeys, ClusterError> {
        Ok(self.node.changes.wait(prefix, after, deadline).await)
    }
}
