//! One node: an agent, the PostgreSQL it looks after, and what can be done to them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::Child;
use tokio::time::timeout;

use crate::poll;
use crate::postgres::{self, Server};
use crate::process::{self, Program};
use crate::proxy::Proxy;
use crate::shared_memory;
use crate::yaml;

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, as it came.
    pub body: String,
}

impl Answer {
    /// The body, which is JSON.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("status {}, body {:?}", self.status, self.body))
    }
}

/// The proxies around a node whose links can be cut.
#[derive(Debug)]
pub struct Links {
    /// From the node to each server of the store, if it has servers.
    pub store: Vec<Proxy>,
    /// From others to the node's REST API and PostgreSQL.
    pub inbound: [Proxy; 2],
}

/// One member of a cluster.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Everything it has.
    pub directory: PathBuf,
    /// PostgreSQL's data.
    pub data_dir: PathBuf,
    /// PostgreSQL itself, without a proxy.
    pub postgres: Server,
    /// The REST API itself, without a proxy.
    pub rest: SocketAddr,
    /// The proxies, if the cluster was built with them.
    pub links: Option<Links>,
    program: Program,
    settings: Mutex<Value>,
    agent: Mutex<Option<Child>>,
    http: reqwest::Client,
}

impl Node {
    /// A node that does not run yet. The settings are written to its `patroni.yml`.
    ///
    /// # Errors
    ///
    /// If they cannot be written.
    pub fn prepare(
        name: &str,
        agent: &Path,
        addresses: Addresses,
        settings: Value,
        program: Program,
        links: Option<Links>,
    ) -> Result<Self> {
        let directory = program.directory.clone();
        let node = Self {
            name: name.to_owned(),
            data_dir: addresses.data_dir,
            postgres: Server { address: addresses.postgres, sockets: directory.clone() },
            rest: addresses.rest,
            links,
            program: Program { path: agent.to_owned(), ..program }.arguments([directory.join("patroni.yml")]),
            directory,
            settings: Mutex::new(settings),
            agent: Mutex::new(None),
            http: client()?,
        };
        node.change_file(|_| ())?;
        Ok(node)
    }

    /// The node's configuration file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.join("patroni.yml")
    }

    /// The agent's output.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    /// Everything the agent has said.
    #[must_use]
    pub fn read_log(&self) -> String {
        fs::read(self.log()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Changes the configuration file; the agent reads it when it is told to, or starts.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn change_file(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut settings = lock(&self.settings);
        change(&mut settings);
        fs::write(self.file(), yaml::render(&settings))?;
        self.program.account.own(&self.file())
    }

    /// A program that runs as this node's user, in its directory.
    #[must_use]
    pub fn program(&self, path: &Path) -> Program {
        Program { path: path.to_owned(), arguments: Vec::new(), ..self.program.clone() }
    }

    // ---- the agent

    /// Starts the agent.
    ///
    /// # Errors
    ///
    /// If it runs already or cannot be started.
    pub fn start(&self) -> Result<()> {
        ensure!(!self.is_agent_running(), "the agent of {} runs already", self.name);
        *lock(&self.agent) = Some(self.program.spawn(&self.log())?);
        Ok(())
    }

    /// Whether the agent's process is there.
    #[must_use]
    pub fn is_agent_running(&self) -> bool {
        lock(&self.agent).as_mut().is_some_and(|agent| matches!(agent.try_wait(), Ok(None)))
    }

    /// Sends a signal to the agent alone.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn signal_agent(&self, signal: Signal) -> Result<()> {
        let pid = lock(&self.agent).as_ref().and_then(Child::id).with_context(|| format!("the agent of {} does not run", self.name))?;
        kill(Pid::from_raw(pid.cast_signed()), signal)?;
        Ok(())
    }

    /// Kills the agent alone, so that it can do nothing more.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub async fn kill_agent(&self) -> Result<()> {
        self.signal_agent(Signal::SIGKILL)?;
        self.eventually_ended(Duration::from_secs(10)).await?;
        Ok(())
    }

    /// Stops the agent as an init system would, and returns its exit status.
    ///
    /// # Errors
    ///
    /// If it does not run, or does not end.
    pub async fn stop(&self) -> Result<Option<i32>> {
        self.signal_agent(Signal::SIGTERM)?;
        self.eventually_ended(Duration::from_secs(60)).await
    }

    /// Waits for the end of the agent's process, and returns its exit status if it was not a signal.
    ///
    /// # Errors
    ///
    /// If it goes on for longer than `limit`.
    pub async fn eventually_ended(&self, limit: Duration) -> Result<Option<i32>> {
        let Some(mut agent) = lock(&self.agent).take() else { return Ok(None) };
        let ended = timeout(limit, agent.wait()).await;
        match ended {
            Ok(status) => Ok(status?.code()),
            Err(_) => {
                *lock(&self.agent) = Some(agent);
                bail!("the agent of {} did not end within {limit:?}; its log ends with\n{}", self.name, tail(&self.log(), 20));
            }
        }
    }

    /// The process id of the agent, if it runs.
    #[must_use]
    pub fn agent_pid(&self) -> Option<Pid> {
        lock(&self.agent).as_ref().and_then(Child::id).map(|pid| Pid::from_raw(pid.cast_signed()))
    }

    // ---- PostgreSQL's processes

    /// The postmaster, if there is one.
    #[must_use]
    pub fn postmaster(&self) -> Option<Pid> {
        let file = fs::read_to_string(self.data_dir.join("postmaster.pid")).ok()?;
        let pid = Pid::from_raw(file.lines().next()?.trim().parse().ok()?);
        process::is_alive(pid).then_some(pid)
    }

    /// Sends a signal to the postmaster alone.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn signal_postmaster(&self, signal: Signal) -> Result<()> {
        let postmaster = self.postmaster().with_context(|| format!("no postmaster runs on {}", self.name))?;
        kill(postmaster, signal)?;
        Ok(())
    }

    /// Kills everything on the node at once, as losing power does: agent, its helpers, PostgreSQL.
    ///
    /// # Errors
    ///
    /// If something survives.
    pub async fn kill(&self) -> Result<()> {
        // Stopped first, nothing reacts to the death of anything else.
        process::signal_all(&process::working_in(&self.directory), Signal::SIGSTOP);
        poll::until(&format!("nothing runs on {}", self.name), Duration::from_secs(20), async || {
            let alive: Vec<_> = process::working_in(&self.directory).into_iter().filter(|pid| process::is_alive(*pid)).collect();
            process::signal_all(&alive, Signal::SIGKILL);
            ensure!(alive.is_empty(), "{alive:?} still run");
            Ok(())
        })
        .await?;
        shared_memory::release(&self.data_dir);
        if let Some(mut agent) = lock(&self.agent).take() {
            let _ = agent.try_wait();
        }
        Ok(())
    }

    /// When the data directory came into being. Rewinding and restarting keep it; a base backup makes a new one.
    ///
    /// # Errors
    ///
    /// If there is none, or the file system does not know.
    pub fn data_born(&self) -> Result<SystemTime> {
        // The directory itself may be emptied and filled again; its oldest file cannot.
        let file = self.data_dir.join("PG_VERSION");
        fs::metadata(&file).and_then(|found| found.created()).with_context(|| format!("when was {} created?", file.display()))
    }

    // ---- the REST API

    /// `GET path`.
    ///
    /// # Errors
    ///
    /// If there is no answer within five seconds.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        let request = self.http.get(format!("http://{}{path}", self.rest)).timeout(Duration::from_secs(5));
        answer(request).await.with_context(|| format!("GET {path} on {}", self.name))
    }

    /// `method path` with a JSON body; switchovers and restarts answer when they are done.
    ///
    /// # Errors
    ///
    /// If there is no answer within two minutes.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        let method = method.parse::<reqwest::Method>()?;
        let what = format!("{method} {path} on {}", self.name);
        let request = self.http.request(method, format!("http://{}{path}", self.rest)).json(body).timeout(Duration::from_secs(120));
        answer(request).await.with_context(|| what)
    }

    /// `GET /patroni`: what the agent says of itself.
    ///
    /// # Errors
    ///
    /// If there is no answer, or it is not JSON.
    pub async fn status(&self) -> Result<Value> {
        self.get("/patroni").await?.json()
    }

    // ---- SQL

    /// One value from this node's PostgreSQL.
    ///
    /// # Errors
    ///
    /// If it cannot be reached or refuses.
    pub async fn ask(&self, query: &str) -> Result<String> {
        postgres::ask(&self.postgres, query).await.with_context(|| format!("`{query}` on {}", self.name))
    }

    /// Carries out statements on this node's PostgreSQL.
    ///
    /// # Errors
    ///
    /// If it cannot be reached or refuses.
    pub async fn execute(&self, statements: &str) -> Result<()> {
        postgres::execute(&self.postgres, statements).await.with_context(|| format!("`{statements}` on {}", self.name))
    }

    /// The timeline that the node writes, or last received or replayed.
    ///
    /// # Errors
    ///
    /// If PostgreSQL cannot be reached.
    pub async fn timeline(&self) -> Result<u32> {
        // What a standby's control file says lags behind; what its WAL receiver says is current.
        let query = "SELECT CASE WHEN pg_is_in_recovery() \
             THEN COALESCE((SELECT received_tli FROM pg_stat_wal_receiver), (SELECT timeline_id FROM pg_control_checkpoint())) \
             ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END";
        Ok(self.ask(query).await?.parse()?)
    }
}

/// Where a node is.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Where PostgreSQL listens.
    pub postgres: SocketAddr,
    /// Where the REST API listens.
    pub rest: SocketAddr,
    /// PostgreSQL's data.
    pub data_dir: PathBuf,
}

/// An HTTP client that a proxy of the environment does not disturb.
pub(crate) fn client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().build()?)
}

/// The last lines of a file.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Answer> {
    let response = request.send().await?;
    Ok(Answer { status: response.status().as_u16(), body: response.text().await? })
}

/// What a panicking test left behind is still good enough to be looked at.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
