//! The stores that a cluster can have: real servers, or the one that its agents are.

mod client;
mod etcd;
mod raft;
mod server;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

pub use client::Client;
pub use etcd::Etcd;
pub use raft::Raft;
pub use server::Server;

/// Which store a cluster has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// Servers of etcd.
    #[default]
    Etcd,
    /// The agents themselves.
    Raft,
}

/// The store of a cluster.
#[derive(Debug)]
pub enum Store {
    /// Servers of etcd.
    Etcd(Etcd),
    /// The agents themselves.
    Raft(Raft),
}

impl Store {
    /// The servers of etcd.
    ///
    /// # Errors
    ///
    /// If the store is another one.
    pub fn etcd(&self) -> Result<&Etcd> {
        let Self::Etcd(etcd) = self else { bail!("the store of this cluster is not etcd") };
        Ok(etcd)
    }

    /// The nodes of the embedded store.
    ///
    /// # Errors
    ///
    /// If the store is another one.
    pub fn raft(&self) -> Result<&Raft> {
        let Self::Raft(raft) = self else { bail!("the store of this cluster is not its agents") };
        Ok(raft)
    }

    /// The logs of its servers; what the embedded one says is in those of the agents.
    #[must_use]
    pub fn logs(&self) -> Vec<PathBuf> {
        match self {
            Self::Etcd(etcd) => etcd.logs(),
            Self::Raft(_) => Vec::new(),
        }
    }

    /// What a key holds.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn get(&self, key: &str) -> Result<Option<String>> {
        let found = match self {
            Self::Etcd(etcd) => etcd.get(key).await,
            Self::Raft(raft) => raft.get(key).await,
        };
        found.with_context(|| format!("reading {key}"))
    }

    /// Writes a key as nobody in particular; what is bound to a lease stays bound to it.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn put(&self, key: &str, value: &str) -> Result<()> {
        match self {
            Self::Etcd(etcd) => etcd.put(key, value).await,
            Self::Raft(raft) => raft.put(key, value).await,
        }
    }

    /// Removes every key below a prefix.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn delete_all(&self, prefix: &str) -> Result<()> {
        match self {
            Self::Etcd(etcd) => etcd.delete_all(prefix).await,
            Self::Raft(raft) => raft.delete_all(prefix).await,
        }
    }

    /// A client that asks only these of the store's nodes, counted from zero.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub async fn client(&self, nodes: &[usize]) -> Result<Client> {
        match self {
            Self::Etcd(etcd) => etcd.client(nodes).await.map(Client::etcd),
            Self::Raft(raft) => raft.client(nodes).map(Client::raft),
        }
    }

    /// Which of the store's nodes leads it, counted from zero.
    ///
    /// # Errors
    ///
    /// If none does now.
    pub async fn leader(&self) -> Result<usize> {
        match self {
            Self::Etcd(etcd) => etcd.leader().await,
            Self::Raft(raft) => raft.leader().await,
        }
    }
}
