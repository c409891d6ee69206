//! The conformance suite on real etcd servers: one alone, and three.

mod support;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::adapter::KeyValueDcs;
use dcs_core::conformance::proxy::Proxy;
use dcs_core::conformance::{self, AsyncRevoke, Harness, KeyValueOutside, Link, Need, Outside, Profile, Stage, Who};
use dcs_core::keys::ClusterPath;
use dcs_core::{BootClock, BoxError, Clock, Dcs, Entry, Timing};
use dcs_etcd::{Config, Etcd};
use serde_json::json;
use support::TIMING;
use support::etcd::{Cluster, Options};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Trials that run beside each other in one process. Most of them wait most of the time.
const AT_ONCE: usize = 12;

/// Trials that have servers of their own, at once, on each side.
const OWN_SERVERS: usize = 2;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    if let Some(lacking) = support::missing() {
        support::report_not_run("the conformance suite on etcd", &lacking);
        return;
    }
    // nextest runs every trial in a process of its own, each of which would have to start servers of its own. There a
    // trial is a whole suite. One alone: `cargo test -p dcs-etcd --test conformance -- a31`.
    let trials = if std::env::var_os("NEXTEST").is_some() {
        vec![whole_suite("on_one_server", ALONE), whole_suite("on_three_servers", THREE)]
    } else {
        conformance::trials(Arc::new(ALONE)).into_iter().chain(conformance::trials(Arc::new(THREE))).collect()
    };
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Ending the process would leave their data behind.
    stop_shared();
    conclusion.exit();
}

const ALONE: Servers = Servers { count: 1, name: "etcd3" };
const THREE: Servers = Servers { count: 3, name: "three etcd3" };

fn whole_suite(name: &'static str, servers: Servers) -> libtest_mimic::Trial {
    libtest_mimic::Trial::test(name, move || {
        let arguments = libtest_mimic::Arguments { test_threads: Some(AT_ONCE), ..Default::default() };
        let conclusion = libtest_mimic::run(&arguments, conformance::trials(Arc::new(servers)));
        match conclusion.num_failed {
            0 => Ok(()),
            failed => Err(format!("{failed} trials failed; they are named above").into()),
        }
    })
}

#[derive(Clone, Copy)]
struct Servers {
    count: usize,
    name: &'static str,
}

#[async_trait]
impl Harness for Servers {
    fn store_name(&self) -> &'static str {
        self.name
    }

    fn timing(&self) -> Timing {
        TIMING
    }

    fn profile(&self) -> Profile {
        // etcd writes everything of one transaction at one revision, but nothing here writes two keys at once.
        Profile { too_large: Some(2 << 20), ..Profile::default() }
    }

    fn lacks(&self, need: Need) -> Option<String> {
        match need {
            Need::ThreeServers if self.count < 3 => Some("there is only one server".to_owned()),
            // The trial allows three. A renewal proves the lease and the key each with a request of its own.
            Need::RequestCount => Some("a leader's cycle has four requests here; tests/specific counts them".to_owned()),
            _ => None,
        }
    }

    /// With three servers clients run on several threads, as they do in the agent; alone in one, where mistakes repeat.
    fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        let mut builder = match self.count {
            1 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        builder.worker_threads(2).enable_all().build()
    }

    async fn stage(&self, needs: &[Need]) -> Result<Arc<dyn Stage>, BoxError> {
        static OWN: Semaphore = Semaphore::const_new(OWN_SERVERS);
        let options = Options { servers: self.count, ..Options::default() };
        let (servers, permit) = if needs.iter().any(|need| need.disturbs_others()) {
            let permit = OWN.acquire().await?;
            (Arc::new(Cluster::start(&options).await), Some(permit))
        } else {
            (shared(&options).await, None)
        };
        Ok(Arc::new(OnEtcd { clients: Mutex::default(), servers, _permit: permit }))
    }
}

/// Servers for all trials of this process that leave them as they are: one alone, and three.
static SHARED: [Mutex<Option<Arc<Cluster>>>; 2] = [const { Mutex::new(None) }; 2];

async fn shared(options: &Options) -> Arc<Cluster> {
    let options = options.clone();
    let start = move || {
        let mut shared = SHARED[usize::from(options.servers > 1)].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = &*shared {
            return Arc::clone(cluster);
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        // The servers end with the thread that started them, so that one stays.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let _ = sender.send(Arc::new(runtime.block_on(Cluster::start(&options))));
            loop {
                std::thread::park();
            }
        });
        let cluster = receiver.recv().expect("the servers start");
        *shared = Some(Arc::clone(&cluster));
        cluster
    };
    tokio::task::spawn_blocking(start).await.expect("the servers start")
}

fn stop_shared() {
    for shared in &SHARED {
        shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

struct OnEtcd {
    /// In the order in which they were made.
    clients: Mutex<Vec<Arc<Etcd>>>,
    servers: Arc<Cluster>,
    /// Given back once the servers are gone.
    _permit: Option<SemaphorePermit<'static>>,
}

impl OnEtcd {
    fn client(&self, config: Config, who: &Who) -> Arc<dyn Dcs> {
        let store = Arc::new(Etcd::new(config, who.timing, self.clock()));
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&store));
        let path = ClusterPath::new(None, &who.scope);
        Arc::new(KeyValueDcs::new(store, self.clock(), path, who.name.as_str().into(), who.timing))
    }
}

#[async_trait]
impl Stage for OnEtcd {
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(BootClock)
    }

    async fn connect(&self, who: &Who) -> Result<Arc<dyn Dcs>, BoxError> {
        Ok(self.client(self.servers.config(), who))
    }

    async fn outside(&self, scope: &str) -> Result<Arc<dyn Outside>, BoxError> {
        let store = Arc::new(Etcd::new(self.servers.config(), TIMING, self.clock()));
        let revoke = Revoke(self.servers.direct().await);
        Ok(Arc::new(KeyValueOutside { store, path: ClusterPath::new(None, scope), revoke }))
    }

    async fn connect_through_link(&self, who: &Who) -> Result<(Arc<dyn Dcs>, Arc<dyn Link>), BoxError> {
        let mut proxies = Vec::new();
        for server in self.servers.addresses() {
            proxies.push(Proxy::start(server).await?);
        }
        let hosts: Vec<_> = proxies.iter().map(|proxy| proxy.address().to_string()).collect();
        let section = json!({"hosts": hosts, "use_proxies": true});
        let config = Config::from_section(section.as_object().expect("it is one"))?;
        Ok((self.client(config, who), Arc::new(Wires(proxies))))
    }

    fn servers(&self) -> usize {
        self.servers.len()
    }

    async fn server_in_use(&self) -> Result<usize, BoxError> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let server = clients.iter().rev().find_map(|client| client.server()).ok_or("no server is in use")?;
        self.servers.hosts().iter().position(|host| *host == server).ok_or_else(|| format!("{server} is unknown").into())
    }

    async fn kill(&self, server: usize) -> Result<(), BoxError> {
        self.servers.kill(server);
        Ok(())
    }

    async fn restart(&self, server: usize) -> Result<(), BoxError> {
        self.servers.restart(server);
        Ok(())
    }

    async fn freeze(&self, server: usize) -> Result<(), BoxError> {
        self.servers.freeze(server).await;
        Ok(())
    }

    async fn thaw(&self, server: usize) -> Result<(), BoxError> {
        self.servers.thaw(server);
        Ok(())
    }
}

struct Revoke(etcd_client::Client);

#[async_trait]
impl AsyncRevoke for Revoke {
    async fn revoke(&self, entry: &Entry) -> Result<(), BoxError> {
        let lease = entry.handle.as_ref().ok_or("the key is bound to nothing")?.as_str().parse()?;
        self.0.lease_client().revoke(lease).await?;
        Ok(())
    }
}

/// One link to each server, all in the same condition.
struct Wires(Vec<Proxy>);

#[async_trait]
impl Link for Wires {
    fn attempt(&self) -> Duration {
        TIMING.retry_timeout / 3
    }

    async fn delay_answers(&self, delay: Duration) {
        self.0.iter().for_each(|proxy| proxy.delay_answers(delay));
    }

    async fn lose_answers(&self, lose: bool) {
        self.0.iter().for_each(|proxy| proxy.lose_answers(lose));
    }

    async fn cut(&self) {
        self.0.iter().for_each(Proxy::cut);
    }

    async fn heal(&self) {
        self.0.iter().for_each(Proxy::heal);
    }
}
