//! The store that is in the agents themselves: where its nodes are, and what they say to somebody who asks from outside.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use dcs_core::Deadline;
use dcs_raft::cluster::Keys;
use dcs_raft::command::{Operation, StoredKey, Transaction};
use dcs_raft::message::{Request, Response};
use dcs_raft::status::{NodeRole, Status};
use dcs_raft::{Config, RemoteCluster};
use serde_json::{Value, json};

use super::server::Server;
use super::{Client, Guest, Store};
use crate::process::Program;
use crate::proxy::Proxy;
use crate::sandbox::Sandbox;
use crate::yaml;

const ANSWER: Duration = Duration::from_secs(2);

/// What all nodes know, and whoever asks them.
const PASSWORD: &str = "raft-secret";

/// The nodes of one store.
#[derive(Debug)]
pub struct Raft {
    nodes: Vec<Place>,
    client: RemoteCluster,
}

/// Where one node is.
#[derive(Debug)]
struct Place {
    listens: SocketAddr,
    /// Where the others reach it.
    reached: SocketAddr,
    proxy: Option<Proxy>,
}

impl Raft {
    /// Chooses the addresses of the nodes in these directories, which are those of the agents. With proxies between them each can be cut off
    /// from all others. Nothing is started but the proxies.
    ///
    /// # Errors
    ///
    /// If there is no address left.
    pub async fn plan(sandbox: &Sandbox, directories: &[PathBuf], proxies: bool) -> Result<Self> {
        let mut nodes = Vec::new();
        for host in (1..).take(directories.len()) {
            let listens = sandbox.network().free(host, 2222)?;
            let proxy = if proxies {
                let outside = sandbox.network().address(150 + host);
                Some(Proxy::between((outside, 0).into(), listens, directories).await?)
            } else {
                None
            };
            let reached = proxy.as_ref().map_or(listens, Proxy::address);
            nodes.push(Place { listens, reached, proxy });
        }
        let client = client_of(nodes.iter().map(|node| node.reached))?;
        Ok(Self { nodes, client })
    }

    /// A node without a PostgreSQL, counted from zero, that does not run yet.
    ///
    /// # Errors
    ///
    /// If its file cannot be written.
    pub fn witness(&self, node: usize, directory: &Path, daemon: &Path, sandbox: &Sandbox) -> Result<Server> {
        let file = directory.join("raft.yml");
        fs::write(&file, yaml::render(&json!({"raft": self.section(node, &directory.join("raft"))})))?;
        sandbox.account().own(&file)?;
        let program = Program::new(daemon, directory, sandbox.account()).arguments(["raft-controller".into(), file.into_os_string()]);
        Ok(Server::new(&format!("the witness in {}", directory.display()), program))
    }

    /// The section of one node's file, counted from zero. The node keeps its data in `directory`.
    #[must_use]
    pub fn section(&self, node: usize, directory: &Path) -> Value {
        let Place { listens, reached, .. } = &self.nodes[node];
        let partners: Vec<String> =
            self.nodes.iter().map(|other| other.reached.to_string()).filter(|other| *other != reached.to_string()).collect();
        let mut section = json!({
            "self_addr": reached.to_string(),
            "partner_addrs": partners,
            "data_dir": directory,
            "password": PASSWORD,
        });
        if listens != reached {
            section["bind_addr"] = json!(listens.to_string());
        }
        section
    }

    /// The proxies in front of the nodes, in their order, if there are any.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.nodes.iter().filter_map(|node| node.proxy.as_ref())
    }

    /// What a node, counted from zero, says of itself.
    ///
    /// # Errors
    ///
    /// If it does not answer, or is not part of a cluster yet.
    pub async fn status(&self, node: usize) -> Result<Status> {
        let address = self.nodes[node].listens.to_string().parse()?;
        match self.client.request_of(&address, &Request::Status, Deadline::after(ANSWER)).await? {
            Response::Status(status) => Ok(*status),
            other => bail!("{address} answers {other:?}"),
        }
    }

    /// Hands the leadership to a node, counted from zero.
    ///
    /// # Errors
    ///
    /// If it does not get it now.
    pub async fn hand_over_to(&self, node: usize) -> Result<()> {
        let leader = self.leader().await?;
        if leader != node {
            let to = self.status(node).await?.id;
            let address = self.nodes[leader].listens.to_string().parse()?;
            let answer = self.client.request_of(&address, &Request::Transfer { to: Some(to) }, Deadline::after(ANSWER)).await?;
            ensure!(matches!(answer, Response::Done), "{answer:?}");
        }
        let leader = self.leader().await?;
        ensure!(leader == node, "node {leader} leads");
        Ok(())
    }

    async fn stored(&self, key: &str) -> Result<Option<StoredKey>> {
        let Keys { keys, .. } = self.client.cluster().read(key, Deadline::after(ANSWER)).await?;
        Ok(keys.into_iter().find(|found| found.key == key))
    }

    async fn apply(&self, operation: Operation) -> Result<()> {
        let transaction = Transaction { then: vec![operation], ..Transaction::default() };
        self.client.cluster().propose(transaction, Deadline::after(ANSWER)).await?;
        Ok(())
    }
}

#[async_trait]
impl Store for Raft {
    fn servers(&self) -> &[Server] {
        &[]
    }

    fn endpoints(&self) -> Vec<SocketAddr> {
        // Its proxies stand between all nodes, and are its own.
        Vec::new()
    }

    async fn welcome(&self, node: &Guest<'_>) -> Result<(&'static str, Value)> {
        Ok(("raft", self.section(node.index, &node.directory.join("raft"))))
    }

    async fn get(&self, key: &str) -> Result<Option<String>> {
        let found = self.stored(key).await?;
        Ok(found.map(|found| String::from_utf8_lossy(&found.value).into_owned()))
    }

    async fn put(&self, key: &str, value: &str) -> Result<()> {
        let handle = self.stored(key).await?.and_then(|found| found.handle);
        self.apply(Operation::Put { key: key.to_owned(), value: value.as_bytes().to_vec(), handle }).await
    }

    async fn delete_all(&self, prefix: &str) -> Result<()> {
        self.apply(Operation::DeletePrefix { prefix: prefix.to_owned() }).await
    }

    /// Whether every node has what the leader has.
    async fn all_healthy(&self) -> Result<()> {
        let leader = self.status(self.leader().await?).await?;
        for peer in &leader.peers {
            let reached = peer.match_index >= Some(leader.commit);
            ensure!(peer.voter && reached, "{} has {:?} of {} entries", peer.address, peer.match_index, leader.commit);
        }
        ensure!(leader.peers.len() + 1 == self.nodes.len(), "{} nodes of {}", leader.peers.len() + 1, self.nodes.len());
        Ok(())
    }

    async fn client(&self, nodes: &[usize]) -> Result<Client> {
        client_of(nodes.iter().map(|node| self.nodes[*node].reached)).map(Client::raft)
    }

    /// The node that leads and is followed by a majority.
    async fn leader(&self) -> Result<usize> {
        let mut seen = Vec::new();
        for node in 0..self.nodes.len() {
            match self.status(node).await {
                Ok(status) if status.role == NodeRole::Leader && status.has_quorum => return Ok(node),
                Ok(status) => seen.push(format!("{:?} in term {}", status.role, status.term)),
                Err(error) => seen.push(format!("{error:#}")),
            }
        }
        bail!("no node leads the Raft cluster: {}", seen.join("; "))
    }

    fn raft(&self) -> Result<&Raft> {
        Ok(self)
    }
}

fn client_of(nodes: impl Iterator<Item = SocketAddr>) -> Result<RemoteCluster> {
    let nodes: Vec<String> = nodes.map(|node| node.to_string()).collect();
    let section = json!({"partner_addrs": nodes, "password": PASSWORD});
    let config = Config::from_section(section.as_object().context("a section is an object")?)?;
    Ok(RemoteCluster::new(&config))
}
