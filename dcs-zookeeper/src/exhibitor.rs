//! Exhibitor, which knows the servers of ZooKeeper and changes them.
//!
//! `GET http://HOST:PORT/exhibitor/v1/cluster/list` of any of its hosts answers `{"servers": ["a", "b"], "port": 2181}`. The
//! hosts that it names are asked next time, and those of the configuration if none of them answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use crate::config::ExhibitorConfig;
use crate::error::Failure;
use crate::host::Host;

/// How long one host may take.
const PATIENCE: Duration = Duration::from_millis(3100);

/// Asks Exhibitor.
#[derive(Clone, Debug)]
pub(crate) struct Exhibitor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ExhibitorConfig,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    servers: Vec<Host>,
    /// When it is asked again.
    due: Option<Instant>,
    /// Somebody is asking.
    asking: bool,
}

/// What Exhibitor answers.
#[derive(Debug, Deserialize)]
struct List {
    servers: Vec<String>,
    port: u16,
}

impl Exhibitor {
    pub(crate) fn new(config: ExhibitorConfig) -> Self {
        Self(Arc::new(Inner { config, known: Mutex::default() }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers as last named; asks if nobody has named any yet.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub(crate) async fn servers(&self) -> Result<Vec<Host>, Failure> {
        let known = self.known().servers.clone();
        if !known.is_empty() {
            return Ok(known);
        }
        self.ask().await
    }

    /// Asks in the background if it is time to, and nobody does.
    pub(crate) fn refresh(&self) {
        {
            let mut known = self.known();
            let due = known.due.is_none_or(|due| due <= Instant::now());
            if known.asking || !due || known.servers.is_empty() {
                return;
            }
            known.asking = true;
        }
        let exhibitor = self.clone();
        tokio::spawn(async move {
            if let Err(failure) = exhibitor.ask().await {
                tracing::info!("{failure}; the servers that it named before stay in use");
            }
            let mut known = exhibitor.known();
            known.asking = false;
            // A failure is not asked after again before its time either.
            known.due = Some(Instant::now() + exhibitor.0.config.poll_interval);
        });
    }

    async fn ask(&self) -> Result<Vec<Host>, Failure> {
        let ExhibitorConfig { hosts, port, poll_interval } = &self.0.config;
        let mut named: Vec<String> = self.known().servers.iter().map(|host| host.name.clone()).collect();
        let mut configured = hosts.clone();
        fastrand::shuffle(&mut named);
        fastrand::shuffle(&mut configured);
        configured.retain(|host| !named.contains(host));
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build();
        let client = client.map_err(|error| Failure::NoHosts(format!("waiting on exhibitor: {error}")))?;
        let mut problem = "no host".to_owned();
        for host in named.into_iter().chain(configured) {
            let host = match Host::new(&host, *port) {
                Ok(host) => host,
                Err(wrong) => {
                    problem = wrong;
                    continue;
                }
            };
            match list(&client, &host).await {
                Ok(servers) => {
                    self.take(&servers, *poll_interval);
                    return Ok(servers);
                }
                Err(wrong) => problem = format!("{host}: {wrong}"),
            }
        }
        Err(Failure::NoHosts(format!("waiting on exhibitor: {problem}")))
    }

    fn take(&self, servers: &[Host], interval: Duration) {
        let mut known = self.known();
        known.due = Some(Instant::now() + interval);
        if known.servers != servers {
            tracing::info!(?servers, before = ?known.servers, "Exhibitor names the servers of ZooKeeper");
            known.servers = servers.to_vec();
        }
    }
}

async fn list(client: &reqwest::Client, host: &Host) -> Result<Vec<Host>, String> {
    let url = format!("http://{host}/exhibitor/v1/cluster/list");
    let chain = |error: reqwest::Error| dcs_core::chain(&error);
    let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(chain)?;
    let List { mut servers, port } = answer.json().await.map_err(chain)?;
    servers.sort();
    servers.dedup();
    if servers.is_empty() || port == 0 {
        return Err("it names no server".to_owned());
    }
    servers.iter().map(|name| Host::new(name, port)).collect()
}
