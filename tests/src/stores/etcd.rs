//! One or three real etcd servers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use etcd_client::{Client, ConnectOptions, DeleteOptions, EventType, PutOptions};
use serde_json::{Value, json};
use store_servers::etcd::Options;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::server::Server;
use super::{Guest, Store};
use crate::node::client;
use crate::poll;
use crate::sandbox::Sandbox;

const ANSWER: Duration = Duration::from_secs(2);

/// Who may manage users.
const ROOT: (&str, &str) = ("root", "root-secret");

/// What agents speak with etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Of old; keys of the other cannot be seen.
    V2,
    /// gRPC.
    V3,
}

/// The servers of one store.
#[derive(Debug)]
pub struct Etcd {
    api: Api,
    endpoints: Vec<SocketAddr>,
    servers: Vec<Server>,
}

impl Etcd {
    /// Starts `count` servers that form one store, and waits until it takes writes.
    ///
    /// # Errors
    ///
    /// If etcd is not installed or does not start.
    pub async fn start(sandbox: &Sandbox, count: u8, api: Api) -> Result<Self> {
        let more = if api == Api::V2 { vec!["--enable-v2".to_owned()] } else { Vec::new() };
        let options = Options { servers: count, more, ..Options::default() };
        let plans = options.plan(sandbox.network(), sandbox.directory())?;
        let (endpoints, servers) = Server::start_all(plans, sandbox)?;
        let store = Self { api, endpoints, servers };
        poll::until("etcd takes writes", poll::PATIENCE, async || store.put("/harness", "up").await).await?;
        Ok(store)
    }

    /// Waits until a key is removed, by anybody or by the end of its lease, and returns the moment. The watch is set up when this returns.
    ///
    /// # Errors
    ///
    /// If no server answers.
    pub async fn watch_removal(&self, key: &str) -> Result<JoinHandle<Result<Instant>>> {
        // Its answers have no limit: this one may come late.
        let mut client = Client::connect(self.hosts(), None).await?;
        let mut changes = client.watch(key, None).await?;
        Ok(tokio::spawn(async move {
            let _connection = client;
            while let Some(change) = changes.message().await? {
                if change.events().iter().any(|event| event.event_type() == EventType::Delete) {
                    return Ok(Instant::now());
                }
            }
            bail!("the watch ended before the key was removed")
        }))
    }

    /// Lets nobody in from now on but this user, who may do everything, and `root`.
    ///
    /// # Errors
    ///
    /// If no server answers.
    pub async fn admit_only(&self, user: &str, password: &str) -> Result<()> {
        let mut client = self.connect(&self.hosts()).await?;
        client.role_add("root").await?;
        for (user, password) in [ROOT, (user, password)] {
            client.user_add(user, password, None).await?;
            client.user_grant_role(user, "root").await?;
        }
        client.auth_enable().await?;
        Ok(())
    }

    /// Gives a user another password, after [`Etcd::admit_only`].
    ///
    /// # Errors
    ///
    /// If no server answers, or there is no such user.
    pub async fn change_password(&self, user: &str, password: &str) -> Result<()> {
        let options = ConnectOptions::new().with_connect_timeout(ANSWER).with_timeout(ANSWER).with_user(ROOT.0, ROOT.1);
        Client::connect(self.hosts(), Some(options)).await?.user_change_password(user, password).await?;
        Ok(())
    }

    fn hosts(&self) -> Vec<String> {
        self.endpoints.iter().map(ToString::to_string).collect()
    }

    /// A client whose every question is answered soon or not at all.
    async fn connect(&self, hosts: &[String]) -> Result<Client> {
        let options = ConnectOptions::new().with_connect_timeout(ANSWER).with_timeout(ANSWER);
        Ok(Client::connect(hosts, Some(options)).await?)
    }
}

#[async_trait]
impl Store for Etcd {
    fn servers(&self) -> &[Server] {
        &self.servers
    }

    fn endpoints(&self) -> Vec<SocketAddr> {
        self.endpoints.clone()
    }

    async fn welcome(&self, node: &Guest<'_>) -> Result<(&'static str, Value)> {
        let mut section = json!({"hosts": node.hosts(&self.endpoints)});
        if node.through.is_some() {
            // Or the agent asks the store for its servers, and finds the way around the proxies.
            section["use_proxies"] = json!(true);
        }
        Ok((if self.api == Api::V2 { "etcd" } else { "etcd3" }, section))
    }

    async fn get(&self, key: &str) -> Result<Option<String>> {
        if self.api == Api::V2 {
            let url = format!("http://{}/v2/keys{key}?quorum=true", self.endpoints.first().context("a server")?);
            let answer: Value = client()?.get(url).timeout(ANSWER).send().await?.json().await?;
            return Ok(answer["node"]["value"].as_str().map(str::to_owned));
        }
        let answer = self.connect(&self.hosts()).await?.get(key, None).await?;
        Ok(answer.kvs().first().map(|entry| String::from_utf8_lossy(entry.value()).into_owned()))
    }

    async fn put(&self, key: &str, value: &str) -> Result<()> {
        let mut client = self.connect(&self.hosts()).await?;
        let before = client.get(key, None).await?;
        let lease = before.kvs().first().map_or(0, etcd_client::KeyValue::lease);
        client.put(key, value, Some(PutOptions::new().with_lease(lease))).await?;
        Ok(())
    }

    async fn delete_all(&self, prefix: &str) -> Result<()> {
        self.connect(&self.hosts()).await?.delete(prefix, Some(DeleteOptions::new().with_prefix())).await?;
        Ok(())
    }

    async fn all_healthy(&self) -> Result<()> {
        for host in self.hosts() {
            let mut client = self.connect(std::slice::from_ref(&host)).await?;
            client.get("/harness", None).await.with_context(|| format!("{host} does not answer"))?;
        }
        Ok(())
    }

    async fn client(&self, nodes: &[usize]) -> Result<super::Client> {
        let hosts: Vec<String> = nodes.iter().map(|node| self.endpoints[*node].to_string()).collect();
        let options = ConnectOptions::new().with_connect_timeout(ANSWER);
        Ok(super::Client::etcd(Client::connect(hosts, Some(options)).await?))
    }

    async fn leader(&self) -> Result<usize> {
        for (server, host) in self.hosts().into_iter().enumerate() {
            let status = self.connect(&[host]).await?.status().await?;
            if status.header().is_some_and(|header| header.member_id() == status.leader()) {
                return Ok(server);
            }
        }
        bail!("no server of etcd leads")
    }

    /// Messages of gRPC: one for each request, also for each that comes through the HTTP gateway, and one for each renewal of a lease.
    async fn requests(&self) -> Result<u64> {
        let mut sum = 0;
        for host in self.hosts() {
            let metrics = client()?.get(format!("http://{host}/metrics")).timeout(ANSWER).send().await?.text().await?;
            let received = metrics.lines().filter(|line| line.starts_with("grpc_server_msg_received_total{"));
            let counts = received.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            sum += counts.sum::<u64>();
        }
        Ok(sum)
    }

    fn etcd(&self) -> Result<&Etcd> {
        Ok(self)
    }
}
