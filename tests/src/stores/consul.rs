//! Consul: one server, or three with an agent of Consul beside them, which is what clients talk to.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use serde_json::{Value, json};
use store_servers::consul::Options;

use super::server::Server;
use super::{Guest, Store};
use crate::node::client;
use crate::poll;
use crate::sandbox::Sandbox;

const ANSWER: Duration = Duration::from_secs(2);

/// The servers of one store.
#[derive(Debug)]
pub struct Consul {
    servers: Vec<Server>,
    /// The one beside three servers; it is never disturbed.
    _agent: Option<Server>,
    /// Where clients connect: the agent, or the only server.
    endpoint: SocketAddr,
}

impl Consul {
    /// Starts `count` servers that form one store, and waits until it takes sessions.
    ///
    /// # Errors
    ///
    /// If Consul is not installed or does not start.
    pub async fn start(sandbox: &Sandbox, count: u8) -> Result<Self> {
        let options = Options { servers: count, agent: count > 1, ..Options::default() };
        let plans = options.plan(sandbox.network(), sandbox.directory())?;
        let endpoint = plans.last().context("a plan")?.address;
        let (_, mut servers) = Server::start_all(plans, sandbox)?;
        poll::until("Consul takes sessions", poll::PATIENCE, async || {
            for server in &servers {
                let said = fs::read_to_string(server.log())?;
                ensure!(said.contains("Synced node info"), "{} is not there", server.log().display());
            }
            Ok(())
        })
        .await?;
        let agent = if options.agent { servers.pop() } else { None };
        Ok(Self { servers, _agent: agent, endpoint })
    }

    async fn ask(&self, path: &str) -> Result<reqwest::Response> {
        Ok(client()?.get(format!("http://{}/v1/{path}", self.endpoint)).timeout(ANSWER).send().await?)
    }
}

#[async_trait]
impl Store for Consul {
    fn servers(&self) -> &[Server] {
        &self.servers
    }

    fn endpoints(&self) -> Vec<SocketAddr> {
        vec![self.endpoint]
    }

    async fn welcome(&self, node: &Guest<'_>) -> Result<(&'static str, Value)> {
        Ok(("consul", json!({"host": node.hosts(&[self.endpoint]).first()})))
    }

    async fn get(&self, key: &str) -> Result<Option<String>> {
        let answer = self.ask(&format!("kv{key}?raw&consistent")).await?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(answer.error_for_status()?.text().await?))
    }

    async fn all_healthy(&self) -> Result<()> {
        let health: Value = self.ask("operator/autopilot/health").await?.json().await?;
        let servers = health["Servers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let voters = servers.iter().filter(|server| server["Healthy"] == true && server["Voter"] == true).count();
        ensure!(voters == self.servers.len(), "{voters} healthy voters: {health}");
        Ok(())
    }
}
