//! The stores that a cluster can have: real servers, or the one that its agents are.

mod client;
mod consul;
mod etcd;
mod kubernetes;
mod raft;
mod server;
mod zookeeper;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::poll;
use crate::sandbox::Sandbox;

pub use client::Client;
pub use consul::Consul;
pub use etcd::{Api, Etcd};
pub use kubernetes::{Kubernetes, Objects};
pub use raft::Raft;
pub use server::Server;
pub use zookeeper::ZooKeeper;

/// Which store a cluster has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// Servers of etcd.
    #[default]
    Etcd,
    /// Servers of etcd, through their API of old.
    EtcdV2,
    /// The agents themselves.
    Raft,
    /// Servers of Consul.
    Consul,
    /// Servers of ZooKeeper.
    ZooKeeper,
    /// Kubernetes, in Endpoints.
    Kubernetes,
    /// Kubernetes, in ConfigMaps.
    ConfigMaps,
}

impl StoreKind {
    /// Those with servers of their own.
    pub const OUTSIDE: [Self; 6] = [Self::Etcd, Self::EtcdV2, Self::Consul, Self::ZooKeeper, Self::Kubernetes, Self::ConfigMaps];

    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::EtcdV2 => "etcd v2",
            Self::Raft => "embedded",
            Self::Consul => "Consul",
            Self::ZooKeeper => "ZooKeeper",
            Self::Kubernetes => "Kubernetes Endpoints",
            Self::ConfigMaps => "Kubernetes ConfigMaps",
        }
    }

    /// What this many servers of it need and do not find here, and what to do about it.
    #[must_use]
    pub fn lacking(self, servers: u8) -> Option<String> {
        let found = match self {
            Self::ZooKeeper => return store_servers::zookeeper::missing(),
            Self::Kubernetes | Self::ConfigMaps => return store_servers::apiserver::missing(kubernetes::options(servers)),
            Self::Etcd | Self::EtcdV2 => store_servers::etcd::Version::default().program().map(drop),
            Self::Consul => store_servers::consul::consul().map(drop),
            Self::Raft => Ok(()),
        };
        found.err().map(|error| format!("{error:#}"))
    }

    /// Starts a store of this kind for the nodes that will work in `directories`, and waits until it takes writes. The embedded one has
    /// no servers to be started: it is there when the agents are.
    ///
    /// # Errors
    ///
    /// If something that is needed is not installed.
    pub async fn start(self, sandbox: &Sandbox, servers: u8, directories: &[PathBuf], links: bool) -> Result<Box<dyn Store>> {
        Ok(match self {
            Self::Etcd => Box::new(Etcd::start(sandbox, servers, Api::V3).await?),
            Self::EtcdV2 => Box::new(Etcd::start(sandbox, servers, Api::V2).await?),
            Self::Consul => Box::new(Consul::start(sandbox, servers).await?),
            Self::ZooKeeper => Box::new(ZooKeeper::start(sandbox, servers).await?),
            Self::Kubernetes => Box::new(Kubernetes::start(sandbox, servers, Objects::Endpoints).await?),
            Self::ConfigMaps => Box::new(Kubernetes::start(sandbox, servers, Objects::ConfigMaps).await?),
            Self::Raft => Box::new(Raft::plan(sandbox, directories, links).await?),
        })
    }
}

/// A node that a store shall serve.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// Which it is, counted from zero.
    pub index: usize,
    /// Its name.
    pub name: &'a str,
    /// The cluster it belongs to.
    pub scope: &'a str,
    /// Where it works.
    pub directory: &'a Path,
    /// The addresses at which it must reach the endpoints of the store, if not their own.
    pub through: Option<&'a [SocketAddr]>,
}

impl Guest<'_> {
    /// Where it reaches the endpoints of the store.
    fn hosts(&self, endpoints: &[SocketAddr]) -> Vec<String> {
        self.through.unwrap_or(endpoints).iter().map(ToString::to_string).collect()
    }
}

/// The store of a cluster, from outside.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Its servers, which can be killed and frozen. The embedded one has none of its own.
    fn servers(&self) -> &[Server];

    /// Where agents connect.
    fn endpoints(&self) -> Vec<SocketAddr>;

    /// Makes ready what a node needs for using the store, and returns the section of its file.
    ///
    /// # Errors
    ///
    /// If something cannot be made.
    async fn welcome(&self, node: &Guest<'_>) -> Result<(&'static str, Value)>;

    /// What a key holds.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn get(&self, key: &str) -> Result<Option<String>>;

    /// Writes a key as nobody in particular; what is bound to a lease stays bound to it.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn put(&self, key: &str, _value: &str) -> Result<()> {
        bail!("no scenario has written {key} into this store from outside yet");
    }

    /// Removes every key below a prefix.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn delete_all(&self, prefix: &str) -> Result<()> {
        bail!("no scenario has emptied {prefix} in this store from outside yet");
    }

    /// Whether every server answers for the whole store.
    ///
    /// # Errors
    ///
    /// If one does not.
    async fn all_healthy(&self) -> Result<()>;

    /// A client that asks only these of the store's nodes, counted from zero.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    async fn client(&self, _nodes: &[usize]) -> Result<Client> {
        bail!("this store is not measured");
    }

    /// Which of the store's nodes leads it, counted from zero.
    ///
    /// # Errors
    ///
    /// If none does now.
    async fn leader(&self) -> Result<usize> {
        bail!("this store does not say who leads it");
    }

    /// How many requests of clients its servers have received since they were started.
    ///
    /// # Errors
    ///
    /// If the store does not say so.
    async fn requests(&self) -> Result<u64> {
        bail!("this store does not count its requests");
    }

    /// The servers of etcd.
    ///
    /// # Errors
    ///
    /// If the store is another one.
    fn etcd(&self) -> Result<&Etcd> {
        bail!("the store of this cluster is not etcd");
    }

    /// The nodes of the embedded store.
    ///
    /// # Errors
    ///
    /// If the store is another one.
    fn raft(&self) -> Result<&Raft> {
        bail!("the store of this cluster is not its agents");
    }
}

impl dyn Store {
    /// The logs of its servers; what the embedded one says is in those of the agents.
    #[must_use]
    pub fn logs(&self) -> Vec<PathBuf> {
        self.servers().iter().map(|server| server.log().to_owned()).collect()
    }

    /// Starts a server that was killed.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub async fn resurrect(&self, server: usize) -> Result<()> {
        self.server(server)?.resurrect().await
    }

    /// Sends a signal to one server.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn signal(&self, server: usize, signal: Signal) -> Result<()> {
        self.server(server)?.signal(signal)
    }

    /// Sends a signal to all servers: `SIGSTOP` makes the store silent, `SIGCONT` brings it back.
    ///
    /// # Errors
    ///
    /// If one does not run.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        self.servers().iter().try_for_each(|server| server.signal(signal))
    }

    /// Waits until every server answers for the whole store.
    ///
    /// # Errors
    ///
    /// If one does not in time.
    pub async fn eventually_all_healthy(&self) -> Result<()> {
        poll::until("all servers of the store are there", poll::PATIENCE, async || self.all_healthy().await).await
    }

    fn server(&self, server: usize) -> Result<&Server> {
        self.servers().get(server).with_context(|| format!("the store has no server {server}"))
    }
}
