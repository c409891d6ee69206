//! What runs beside every scenario: a client that writes numbered rows, and a sampler of every node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::config::TargetSessionAttrs;

use crate::history::{Accepted, History};
use crate::node;
use crate::postgres::{self, Server};

/// The table of the writer, and that of the sampler.
pub const TABLES: &str = "CREATE TABLE IF NOT EXISTS ledger (number bigint PRIMARY KEY, written timestamptz DEFAULT clock_timestamp()); \
     CREATE TABLE IF NOT EXISTS probes (at timestamptz DEFAULT clock_timestamp())";

/// How long a client waits for one answer before it looks for another server.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A node as clients know it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its PostgreSQL.
    pub postgres: Server,
    /// Its REST API.
    pub rest: SocketAddr,
}

/// How often clients come.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two rows.
    pub rows: Duration,
    /// Between two samples of a node; without it nothing is sampled.
    pub samples: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rows: Duration::from_millis(20), samples: Some(Duration::from_millis(150)) }
    }
}

/// The clients, until they are stopped or dropped.
#[derive(Debug)]
pub struct Checker {
    history: Arc<History>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Checker {
    /// Starts writing and sampling. The tables must be there.
    #[must_use]
    pub fn start(targets: &[Target], pace: Pace) -> Self {
        let history = Arc::new(History::default());
        let (stop, stopped) = watch::channel(false);
        let mut tasks = vec![tokio::spawn(write_rows(targets.to_vec(), history.clone(), pace.rows, stopped.clone()))];
        if let Some(period) = pace.samples {
            for target in targets {
                tasks.push(tokio::spawn(sample_health(target.clone(), history.clone(), period, stopped.clone())));
                tasks.push(tokio::spawn(sample_writes(target.clone(), history.clone(), period, stopped.clone())));
            }
        }
        Self { history, stop, tasks }
    }

    /// What was seen so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Ends the clients after what they are doing, so that the history is complete.
    pub async fn stop(&mut self) {
        self.stop.send_replace(true);
        join_all(self.tasks.drain(..)).await;
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Writes row after row to whichever node takes writes, like an application with a multi-host connection string.
async fn write_rows(targets: Vec<Target>, history: Arc<History>, pace: Duration, stop: watch::Receiver<bool>) {
    let mut session: Option<(Client, String)> = None;
    let mut number = 0;
    while !*stop.borrow() {
        let Some((client, node)) = &session else {
            session = connect_read_write(&targets).await;
            if session.is_none() {
                sleep(Duration::from_millis(20)).await;
            }
            continue;
        };
        // A number whose fate is unknown is not used again.
        number += 1;
        let statement = format!("INSERT INTO ledger (number) VALUES ({number}) RETURNING pg_walfile_name(pg_current_wal_insert_lsn())");
        match write(client, node, &statement).await {
            Ok(write) => {
                history.row(number, write);
                sleep(pace).await;
            }
            Err(_) => session = None,
        }
    }
}

/// The first of the nodes that gives a session that can write. Each is given a short time for the whole handshake, as libpq does.
async fn connect_read_write(targets: &[Target]) -> Option<(Client, String)> {
    for target in targets {
        if let Ok(client) = postgres::connect(&target.postgres, TargetSessionAttrs::ReadWrite, Duration::from_millis(500)).await {
            return Some((client, target.name.clone()));
        }
    }
    None
}

/// Tries to write to one node, whatever anybody says of it.
async fn sample_writes(target: Target, history: Arc<History>, period: Duration, stop: watch::Receiver<bool>) {
    let mut session: Option<Client> = None;
    while !*stop.borrow() {
        if let Some(client) = &session {
            let statement = "INSERT INTO probes DEFAULT VALUES RETURNING pg_walfile_name(pg_current_wal_insert_lsn())";
            match write(client, &target.name, statement).await {
                Ok(write) => history.probe(write),
                // A standby says no and keeps the session; everything else ends it.
                Err(error) => {
                    let refused = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
                    if refused != Some(&tokio_postgres::error::SqlState::READ_ONLY_SQL_TRANSACTION) {
                        session = None;
                    }
                }
            }
        } else {
            session = postgres::connect(&target.postgres, TargetSessionAttrs::Any, PATIENCE).await.ok();
        }
        sleep(period).await;
    }
}

async fn sample_health(target: Target, history: Arc<History>, period: Duration, stop: watch::Receiver<bool>) {
    let Ok(client) = node::client() else { return };
    let url = format!("http://{}/primary", target.rest);
    while !*stop.borrow() {
        let sent = Instant::now();
        let answer = client.head(&url).timeout(PATIENCE).send().await;
        history.health(&target.name, answer.is_ok_and(|answer| answer.status() == 200), sent);
        sleep(period).await;
    }
}

/// Sends one write, and returns when and on which timeline it was accepted.
async fn write(client: &Client, node: &str, statement: &str) -> Result<Accepted> {
    let sent = Instant::now();
    let answer = timeout(PATIENCE, client.simple_query(statement)).await??;
    let acknowledged = Instant::now();
    let segment = answer
        .iter()
        .find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .context("an insert that returns nothing")?;
    let timeline = segment.get(..8).context("a WAL file name that is too short")?;
    Ok(Accepted { node: node.to_owned(), timeline: u32::from_str_radix(timeline, 16)?, sent, acknowledged })
}
