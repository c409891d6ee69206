//! Bringing an agent up, keeping it in touch with the operating system, and taking it down in order.
//!
//! ```text
//!   configuration ─► store, PostgreSQL, peers ─► engine starts ─► REST API ─► engine runs
//!   SIGHUP, POST /reload ─► engine reads the files again ─► store, REST API, peers, log follow
//!   SIGTERM, SIGINT ─► REST API ends ─► engine stops PostgreSQL and lets go of the lock
//! ```

use std::sync::Arc;

use dcs_core::{BootClock, chain};
use ha_engine::driver::{Ended, Engine, Parts};
use ha_engine::ports::{LeaseGuard, NoLeaseGuard};
use ha_engine::postgres::lease_guard::GuardProcess;
use ha_engine::postgres::{LocalPostgres, umask};
use ha_engine::settings::{EffectiveSettings, LeaseGuardMode, SettingsError, SettingsSource};
use ha_engine::watchdog::MachineWatchdog;
use ha_engine::{Command, EngineHandle};
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::config::{AgentSettings, ConfigError, CtlSettings, LocalConfig};
use crate::http_client::{BasicCredentials, HttpClientError, HttpClientSettings};
use crate::peers::HttpPeers;
use crate::rest::{self, RestError, RestServer};
use crate::stores;

/// Why an agent could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] crate::config::KeyError),
    /// The settings that result from it cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Other agents could not be asked.
    #[error("the settings for calling other agents cannot be used")]
    Client(#[from] HttpClientError),
    /// The REST API could not be opened.
    #[error(transparent)]
    Rest(#[from] RestError),
    /// The agent must not run here.
    #[error("{0}")]
    Refused(String),
}

/// Settings that tell others when the local files were read again.
#[derive(Debug)]
struct ReloadingSource {
    settings: Arc<AgentSettings>,
    reloads: watch::Sender<u64>,
}

impl SettingsSource for ReloadingSource {
    fn effective(&self, dynamic: &Map<String, Value>) -> Result<Arc<EffectiveSettings>, SettingsError> {
        self.settings.effective(dynamic)
    }

    fn reload_local(&self) -> Result<bool, SettingsError> {
        let outcome = self.settings.reload_local();
        // Certificates may be new even if the files of the configuration are not.
        self.reloads.send_modify(|count| *count += 1);
        outcome
    }

    fn initial_dynamic(&self) -> Map<String, Value> {
        self.settings.initial_dynamic()
    }

    fn store_dynamic_cache(&self, dynamic: &Map<String, Value>) -> Result<(), SettingsError> {
        self.settings.store_dynamic_cache(dynamic)
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    handle: EngineHandle,
    engine: tokio::task::JoinHandle<Ended>,
    rest: RestServer,
    settings: Arc<AgentSettings>,
    peers: Arc<HttpPeers>,
    store: stores::Access,
    guard: Option<GuardProcess>,
    reloads: watch::Receiver<u64>,
}

impl Agent {
    /// Brings an agent up: connects to the store (and waits for it), takes over a PostgreSQL that runs already, opens the
    /// REST API, and starts deciding. `stop` ends the waiting. From then on the process has the umask that PostgreSQL wants.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used, the REST API cannot be opened, or another agent of this name is running.
    pub async fn start(local: LocalConfig, stop: impl Future<Output = ()> + Send) -> Result<Option<Self>, StartError> {
        let clock: Arc<dyn dcs_core::Clock> = Arc::new(BootClock);
        let settings = Arc::new(AgentSettings::new(local)?);
        let store = settings.local().store()?;
        let effective = settings.effective(&settings.initial_dynamic())?;
        let stores::Opened { dcs, access: store } = stores::open(&store, effective.global.timing(), Arc::clone(&clock)).await?;
        umask::restrict(&effective.postgresql.data_dir);
        let postgres = LocalPostgres::new(Arc::clone(&effective), Arc::clone(&clock));
        let peers = Arc::new(HttpPeers::new(client(&settings.local().ctl()?)?));
        let (source, reloads) = {
            let reloads = watch::Sender::new(0);
            let receiver = reloads.subscribe();
            (Arc::new(ReloadingSource { settings: Arc::clone(&settings), reloads }), receiver)
        };
        let watchdog = Arc::new(MachineWatchdog::new(Arc::clone(&clock)));
        let guard = start_lease_guard(&effective, &*clock).await;
        let lease_guard = guard.clone().map_or_else(|| Arc::new(NoLeaseGuard) as Arc<dyn LeaseGuard>, |guard| Arc::new(guard) as _);
        let peers_of_engine = Arc::clone(&peers) as _;
        let parts = Parts { dcs, postgres, peers: peers_of_engine, watchdog, lease_guard, clock, source, settings: effective };
        let (mut engine, handle) = Engine::new(parts);
        tokio::select! {
            started = engine.start() => started.map_err(StartError::Refused)?,
            () = stop => {
                store.close().await;
                return Ok(None);
            }
        }
        let (rest_settings, warnings) = settings.local().rest_api()?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let rest = rest::serve(&rest_settings, handle.clone(), Arc::clone(&peers) as _, store.raft_node()).await?;
        let engine = tokio::spawn(engine.run());
        Ok(Some(Self { handle, engine, rest, settings, peers, store, guard, reloads }))
    }

    /// A handle to the engine.
    pub fn handle(&self) -> &EngineHandle {
        &self.handle
    }

    /// Runs until the engine ends, or `stop` completes: then ends in order. Follows reloads meanwhile, and calls `reloaded`
    /// with the local configuration for what is outside the agent (its log).
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send, mut reloaded: impl FnMut(&LocalConfig) + Send) -> Ended {
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                ended = &mut self.engine => {
                    self.rest.shutdown().await;
                    self.store.close().await;
                    return ended.unwrap_or_else(|error| Ended::Fatal(format!("the engine ended unexpectedly: {error}")));
                }
                () = &mut stop => break,
                Ok(()) = self.reloads.changed() => {
                    reloaded(&self.settings.local());
                    self.follow_reload().await;
                }
            }
        }
        let Self { handle, engine, rest, store, guard, .. } = self;
        // Clients get "connection refused" while PostgreSQL is being stopped.
        rest.shutdown().await;
        // An engine that is gone already has nothing left to stop.
        let _ = handle.send(Command::Shutdown).await;
        let ended = engine.await.unwrap_or_else(|error| Ended::Fatal(format!("the engine ended unexpectedly: {error}")));
        store.close().await;
        if let Some(guard) = guard {
            guard.retire();
        }
        ended
    }

    /// The engine has read the local files again: what does not belong to it follows.
    async fn follow_reload(&mut self) {
        let local = self.settings.local();
        let store = async { self.store.follow(&local.store()?).await.map_err(StartError::from) };
        if let Err(error) = store.await {
            tracing::error!("the former access to the store stays in force: {}", chain(&error));
        }
        match local.ctl().map_err(StartError::from).and_then(|ctl| Ok(client(&ctl)?)) {
            Ok(client) => self.peers.replace(client),
            Err(error) => tracing::error!("the former settings for calling other agents stay in force: {}", chain(&error)),
        }
        match local.rest_api() {
            Ok((settings, warnings)) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                if let Err(error) = self.rest.reload(&settings).await {
                    tracing::error!("the former settings of the REST API stay in force: {}", chain(&error));
                }
            }
            Err(error) => tracing::error!("the former settings of the REST API stay in force: {}", chain(&error)),
        }
    }
}

/// Starts the lease guard, unless it is switched off: then it is started when it is switched on. Without one the agent goes on.
async fn start_lease_guard(settings: &EffectiveSettings, clock: &dyn dcs_core::Clock) -> Option<GuardProcess> {
    let guard = match GuardProcess::new(&settings.postgresql.data_dir, clock) {
        Ok(guard) => guard,
        Err(error) => {
            tracing::error!("there is no lease guard: {error}");
            return None;
        }
    };
    if settings.global.lease_guard != LeaseGuardMode::Off {
        let starting = guard.clone();
        let started = tokio::task::spawn_blocking(move || starting.start()).await;
        if let Err(error) = started.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            tracing::error!("the lease guard cannot be started: {error}");
        }
    }
    Some(guard)
}

/// The client for calling other agents.
fn client(ctl: &CtlSettings) -> Result<reqwest::Client, HttpClientError> {
    HttpClientSettings {
        credentials: ctl
            .authentication
            .as_ref()
            .map(|auth| BasicCredentials { username: auth.username.clone(), password: auth.password.clone() }),
        ca: ctl.cacert.clone(),
        cert: ctl.certfile.clone(),
        key: ctl.keyfile.clone(),
        key_password: ctl.keyfile_password.clone(),
        // As in Patroni, an agent does not insist on the other's certificate: what it learns is confirmed by the store.
        insecure: true,
    }
    .client()
}
