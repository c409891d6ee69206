//! One or three real etcd servers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use etcd_client::{Client, ConnectOptions, DeleteOptions, EventType, GetOptions, PutOptions};
use nix::sys::signal::Signal;
use store_servers::etcd::Options;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::server::Server;
use crate::poll;
use crate::sandbox::Sandbox;

const ANSWER: Duration = Duration::from_secs(2);

/// Who may manage users.
const ROOT: (&str, &str) = ("root", "root-secret");

/// The servers of one store.
#[derive(Debug)]
pub struct Etcd {
    /// Each with the address for its clients.
    servers: Vec<(SocketAddr, Server)>,
}

impl Etcd {
    /// Starts `count` servers that form one store, and waits until it takes writes.
    ///
    /// # Errors
    ///
    /// If etcd is not installed or does not start.
    pub async fn start(sandbox: &Sandbox, count: u8) -> Result<Self> {
        let options = Options { servers: count, ..Options::default() };
        let plans = options.plan(sandbox.network(), sandbox.directory())?;
        let servers = plans.into_iter().map(|plan| Ok((plan.address, Server::planned(plan, sandbox)?))).collect::<Result<_>>()?;
        let store = Self { servers };
        store.servers.iter().try_for_each(|(_, server)| server.start())?;
        poll::until("etcd takes writes", poll::PATIENCE, async || store.put("/harness", "up").await).await?;
        Ok(store)
    }

    /// Where clients connect, server by server.
    #[must_use]
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|(client, _)| *client).collect()
    }

    /// The servers' logs.
    #[must_use]
    pub fn logs(&self) -> Vec<PathBuf> {
        self.servers.iter().map(|(_, server)| server.log().to_owned()).collect()
    }

    /// Starts a server that was killed.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn resurrect(&self, index: usize) -> Result<()> {
        self.servers[index].1.start()
    }

    /// Sends a signal to one server.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        self.servers[index].1.signal(signal)
    }

    /// Sends a signal to all servers: `SIGSTOP` makes the store silent, `SIGCONT` brings it back.
    ///
    /// # Errors
    ///
    /// If one does not run.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        (0..self.servers.len()).try_for_each(|index| self.signal(index, signal))
    }

    /// What a key holds.
    ///
    /// # Errors
    ///
    /// If no server answers.
    pub async fn get(&self, key: &str) -> Result<Option<String>> {
        let mut client = self.connect().await?;
        let answer = client.get(key, None).await?;
        Ok(answer.kvs().first().map(|entry| String::from_utf8_lossy(entry.value()).into_owned()))
    }

    /// Every key below a prefix.
    ///
    /// # Errors
    ///
    /// If no server answers.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let mut client = self.connect().await?;
        let answer = client.get(prefix, Some(GetOptions::new().with_prefix())).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(answer.kvs().iter().map(|entry| (text(entry.key()), text(entry.value()))).collect())
    }

    /// Writes a key as nobody in particular; what is bound to a lease stays bound to it.
    ///
    /// # Errors
    ///
    /// If no server answers.
    pub async fn put(&self, key: &str, value: &str) -> Result<()> {
        let mut client = self.connect().await?;
        let before = client.get(key, None).await?;
        let lease = before.kvs().first().map_or(0, etcd_client::KeyValue::lease);
        client.put(key, value, Some(PutOptions::new().with_lease(lease))).await?;
        Ok(())
    }

    /// Waits until a key is removed, by anybody or by the end of its lease, and returns the moment. The watch is set up when this returns.
    ///
    /// # Errors
    ///
    /// If no server answers.
    pub async fn watch_removal(&self, key: &str) -> Result<JoinHandle<Result<Instant>>> {
        // Not the client of `connect`, whose answers have a limit: this one may come late.
        let endpoints: Vec<String> = self.endpoints().iter().map(ToString::to_string).collect();
        let mut client = Client::connect(endpoints, None).await?;
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

    /// Removes a key.
    ///
    /// # Errors
    ///
    /// If no server answers, or there is no such key.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let mut client = self.connect().await?;
        let answer = client.delete(key, None).await?;
        ensure!(answer.deleted() == 1, "there is no key {key}");
        Ok(())
    }

    /// Removes every key below a prefix.
    ///
    /// # Errors
    ///
    /// If no server answers.
    pub async fn delete_all(&self, prefix: &str) -> Result<()> {
        let mut client = self.connect().await?;
        client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await?;
        Ok(())
    }

    /// Whether each server answers for the whole store.
    ///
    /// # Errors
    ///
    /// If one does not.
    pub async fn all_healthy(&self) -> Result<()> {
        for (address, _) in &self.servers {
            let options = ConnectOptions::new().with_connect_timeout(ANSWER).with_timeout(ANSWER);
            let mut client = Client::connect([address.to_string()], Some(options)).await?;
            client.get("/harness", None).await.with_context(|| format!("{address} does not answer"))?;
        }
        Ok(())
    }

    /// Which server leads, counted from zero.
    ///
    /// # Errors
    ///
    /// If none says so.
    pub async fn leader(&self) -> Result<usize> {
        for server in 0..self.servers.len() {
            let status = self.client(&[server]).await?.status().await?;
            if status.header().is_some_and(|header| header.member_id() == status.leader()) {
                return Ok(server);
            }
        }
        bail!("no server of etcd leads")
    }

    pub(super) async fn client(&self, servers: &[usize]) -> Result<Client> {
        let endpoints: Vec<String> = servers.iter().map(|server| self.servers[*server].0.to_string()).collect();
        let options = ConnectOptions::new().with_connect_timeout(ANSWER);
        Ok(Client::connect(endpoints, Some(options)).await?)
    }

    /// Lets nobody in from now on but this user, who may do everything, and `root`.
    ///
    /// # Errors
    ///
    /// If no server answers.
    pub async fn admit_only(&self, user: &str, password: &str) -> Result<()> {
        let mut client = self.connect().await?;
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
        let endpoints: Vec<String> = self.endpoints().iter().map(ToString::to_string).collect();
        let options = ConnectOptions::new().with_connect_timeout(ANSWER).with_timeout(ANSWER).with_user(ROOT.0, ROOT.1);
        Client::connect(endpoints, Some(options)).await?.user_change_password(user, password).await?;
        Ok(())
    }

    async fn connect(&self) -> Result<Client> {
        let endpoints: Vec<String> = self.endpoints().iter().map(ToString::to_string).collect();
        let options = ConnectOptions::new().with_connect_timeout(ANSWER).with_timeout(ANSWER);
        Ok(Client::connect(endpoints, Some(options)).await?)
    }
}
