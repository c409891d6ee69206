//! One or three servers of ZooKeeper.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use dcs_core::{BootClock, Deadline, KeyValueStore, Timing};
use serde_json::{Value, json};
use store_servers::zookeeper::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::server::Server;
use super::{Guest, Store};
use crate::poll;
use crate::sandbox::Sandbox;

const ANSWER: Duration = Duration::from_secs(3);

/// The servers of one store.
#[derive(Debug)]
pub struct ZooKeeper {
    endpoints: Vec<SocketAddr>,
    servers: Vec<Server>,
}

impl ZooKeeper {
    /// Starts `count` servers that form one store, and waits until all of them serve.
    ///
    /// # Errors
    ///
    /// If ZooKeeper is not installed or does not start.
    pub async fn start(sandbox: &Sandbox, count: u8) -> Result<Self> {
        let options = Options { servers: count, ..Options::default() };
        let (endpoints, servers) = Server::start_all(options.plan(sandbox.network(), sandbox.directory())?, sandbox)?;
        let store = Self { endpoints, servers };
        poll::until("ZooKeeper serves", poll::PATIENCE, async || store.all_healthy().await).await?;
        Ok(store)
    }

    /// What each server says about itself.
    async fn tell(&self) -> Result<Vec<String>> {
        let mut told = Vec::new();
        for server in &self.endpoints {
            let answer = timeout(ANSWER, tell(*server)).await.with_context(|| format!("{server} does not answer"))?;
            told.push(answer.with_context(|| format!("{server} does not answer"))?);
        }
        Ok(told)
    }
}

async fn tell(server: SocketAddr) -> Result<String> {
    let mut connection = TcpStream::connect(server).await?;
    connection.write_all(b"srvr").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[async_trait]
impl Store for ZooKeeper {
    fn servers(&self) -> &[Server] {
        &self.servers
    }

    fn endpoints(&self) -> Vec<SocketAddr> {
        self.endpoints.clone()
    }

    async fn welcome(&self, node: &Guest<'_>) -> Result<(&'static str, Value)> {
        Ok(("zookeeper", json!({"hosts": node.hosts(&self.endpoints)})))
    }

    async fn get(&self, key: &str) -> Result<Option<String>> {
        let hosts: Vec<String> = self.endpoints.iter().map(ToString::to_string).collect();
        let section = json!({"hosts": hosts});
        let config = dcs_zookeeper::Config::from_section(section.as_object().context("a section is an object")?)?;
        let timing = Timing { ttl: ANSWER, loop_wait: ANSWER, retry_timeout: ANSWER };
        let store = dcs_zookeeper::ZooKeeper::new(config, timing, Arc::new(BootClock));
        let found = store.get(key, Deadline::after(ANSWER)).await?;
        Ok(found.map(|found| String::from_utf8_lossy(&found.value).into_owned()))
    }

    async fn all_healthy(&self) -> Result<()> {
        for told in self.tell().await? {
            ensure!(told.contains("\nMode: "), "a server does not serve: {told}");
        }
        Ok(())
    }

    /// Packets, also those that only say that a session lives.
    async fn requests(&self) -> Result<u64> {
        let mut sum = 0;
        for told in self.tell().await? {
            let count = told.lines().find_map(|line| line.strip_prefix("Received: ")).context("a server does not count")?;
            sum += count.trim().parse::<u64>()?;
        }
        Ok(sum)
    }
}
