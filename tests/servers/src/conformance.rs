//! The harness of the conformance suite over servers that are started for it.
//!
//! A store says how its servers are started and how a client is made ([`Subject`]); this is everything else: servers shared
//! between trials that leave them as they are, servers of their own for the others, links made of proxies.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::conformance::proxy::Proxy;
use dcs_core::conformance::{self, Harness, Link, Need, Outside, Profile, Stage, Who};
use dcs_core::{BootClock, BoxError, Clock, Dcs, Timing};
use libtest_mimic::{Arguments, Conclusion, Trial};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Servers, report_not_run};

/// Short, but long enough for three servers on a busy machine to elect a leader within `retry_timeout`.
pub const TIMING: Timing = Timing { ttl: Duration::from_secs(6), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(5) };

/// Trials that run beside each other in one process. Most of them wait most of the time.
const AT_ONCE: usize = 12;

/// Trials that have servers of their own, at once, of each subject.
const OWN_SERVERS: usize = 2;

/// A store on a number of servers.
#[async_trait]
pub trait Subject: Send + Sync + 'static {
    /// The title of its column in the matrix, e.g. `three etcd 3.4`.
    fn name(&self) -> &'static str;

    /// Why it cannot be tried here, and what to do about it; nothing if it can.
    fn missing(&self) -> Option<String>;

    /// The timings of the trials.
    fn timing(&self) -> Timing {
        TIMING
    }

    /// How it differs from others.
    fn profile(&self) -> Profile;

    /// How many servers clients can use. With one, trials that need three do not run.
    fn servers(&self) -> usize;

    /// Why `need` cannot be had for a reason of its own; nothing if it can.
    fn lacks(&self, _need: Need) -> Option<String> {
        None
    }

    /// How many trials with servers of their own run at once.
    fn own_servers(&self) -> usize {
        OWN_SERVERS
    }

    /// The longest that a client waits for one answer of one server.
    fn attempt(&self) -> Duration {
        self.timing().retry_timeout / 3
    }

    /// Starts servers and waits until they serve. The first [`Subject::servers`] of them are those that clients use.
    ///
    /// # Errors
    ///
    /// They cannot be started.
    async fn start(&self) -> Result<Servers, BoxError>;

    /// A client of a member. With `through` it must use these addresses instead of the servers' own, one for each, and no others.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    async fn client(&self, servers: &Servers, through: Option<&[SocketAddr]>, who: &Who, clock: Arc<dyn Clock>)
    -> Result<Client, BoxError>;

    /// A hand in the cluster `scope` that is none of its members.
    ///
    /// # Errors
    ///
    /// It cannot be had.
    async fn outside(&self, servers: &Servers, scope: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Outside>, BoxError>;

    /// Starts a killed server again with its data; for stores where one must be told of the others.
    fn restart(&self, servers: &Servers, index: usize) {
        servers.restart(index);
    }
}

/// What clients run on: with three servers on several threads, as they do in the agent; with one in one, where mistakes repeat.
///
/// # Errors
///
/// The system has no room for it.
pub fn runtime(servers: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match servers {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads(2).enable_all().build()
}

type InUse = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// A client, and which of the servers it uses.
pub struct Client {
    /// The client.
    pub dcs: Arc<dyn Dcs>,
    /// The `host:port` that it uses now, if any.
    pub server_in_use: InUse,
}

/// The whole of a test program with `harness = false`: runs the suite on every subject and ends the process.
///
/// nextest runs every trial in a process of its own, each of which would have to start servers of its own. There a trial is a
/// whole suite. One alone: `cargo test -p dcs-etcd --test conformance -- a31`.
pub fn main<const N: usize>(subjects: [Box<dyn Subject>; N]) -> ! {
    main_with(subjects, [])
}

/// The same with further harnesses, which need no servers.
pub fn main_with<const N: usize, const M: usize>(subjects: [Box<dyn Subject>; N], others: [Arc<dyn Harness>; M]) -> ! {
    let arguments = Arguments::from_args();
    let mut suites = Vec::new();
    for subject in subjects {
        match subject.missing() {
            Some(lacking) => report_not_run(&format!("the conformance suite on {}", subject.name()), &lacking),
            None => suites.push(Suite::of(subject)),
        }
    }
    let harnesses = suites.iter().map(|suite| Arc::new(suite.clone()) as Arc<dyn Harness>).chain(others);
    let trials = if std::env::var_os("NEXTEST").is_some() {
        harnesses.map(whole).collect()
    } else {
        harnesses.flat_map(conformance::trials).collect()
    };
    let conclusion = libtest_mimic::run(&arguments, trials);
    end(&suites, &conclusion)
}

/// Ending the process at once would leave the servers' data behind.
fn end(suites: &[Suite], conclusion: &Conclusion) -> ! {
    for suite in suites {
        suite.shared().take();
    }
    conclusion.exit()
}

fn whole(harness: Arc<dyn Harness>) -> Trial {
    let name = format!("on_{}", harness.store_name().replace([' ', '.'], "_").replace(',', ""));
    Trial::test(name, move || {
        let arguments = Arguments { test_threads: Some(AT_ONCE), ..Arguments::default() };
        let conclusion = libtest_mimic::run(&arguments, conformance::trials(harness));
        match conclusion.num_failed {
            0 => Ok(()),
            failed => Err(format!("{failed} trials failed; they are named above").into()),
        }
    })
}

/// One subject and its servers.
#[derive(Clone)]
struct Suite {
    subject: Arc<dyn Subject>,
    /// For all trials that leave them as they are.
    shared: Arc<Mutex<Option<Arc<Servers>>>>,
    /// How many more trials may have servers of their own.
    own: Arc<Semaphore>,
}

impl Suite {
    fn of(subject: Box<dyn Subject>) -> Self {
        let own = Arc::new(Semaphore::new(subject.own_servers()));
        Self { subject: subject.into(), shared: Arc::default(), own }
    }

    fn shared(&self) -> MutexGuard<'_, Option<Arc<Servers>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_shared(&self) -> Result<Arc<Servers>, BoxError> {
        let mut shared = self.shared();
        if let Some(servers) = &*shared {
            return Ok(Arc::clone(servers));
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let subject = Arc::clone(&self.subject);
        // Servers end with the thread that started them, so that one stays.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let _ = sender.send(runtime.block_on(subject.start()));
            loop {
                std::thread::park();
            }
        });
        let servers = Arc::new(receiver.recv()??);
        *shared = Some(Arc::clone(&servers));
        Ok(servers)
    }
}

#[async_trait]
impl Harness for Suite {
    fn store_name(&self) -> &'static str {
        self.subject.name()
    }

    fn timing(&self) -> Timing {
        self.subject.timing()
    }

    fn profile(&self) -> Profile {
        self.subject.profile()
    }

    fn lacks(&self, need: Need) -> Option<String> {
        match need {
            Need::ThreeServers if self.subject.servers() < 3 => Some("there is only one server".to_owned()),
            need => self.subject.lacks(need),
        }
    }

    fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        runtime(self.subject.servers())
    }

    async fn stage(&self, needs: &[Need]) -> Result<Arc<dyn Stage>, BoxError> {
        let (servers, permit) = if needs.iter().any(|need| need.disturbs_others()) {
            let permit = Arc::clone(&self.own).acquire_owned().await?;
            (Arc::new(self.subject.start().await?), Some(permit))
        } else {
            let suite = self.clone();
            (tokio::task::spawn_blocking(move || suite.start_shared()).await??, None)
        };
        Ok(Arc::new(OnServers { clients: Mutex::default(), subject: Arc::clone(&self.subject), servers, _permit: permit }))
    }
}

struct OnServers {
    /// Which server each client uses, in the order in which they were made.
    clients: Mutex<Vec<InUse>>,
    subject: Arc<dyn Subject>,
    servers: Arc<Servers>,
    /// Given back once the servers are gone.
    _permit: Option<OwnedSemaphorePermit>,
}

impl OnServers {
    async fn client(&self, through: Option<&[SocketAddr]>, who: &Who) -> Result<Arc<dyn Dcs>, BoxError> {
        let client = self.subject.client(&self.servers, through, who, self.clock()).await?;
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).push(client.server_in_use);
        Ok(client.dcs)
    }
}

#[async_trait]
impl Stage for OnServers {
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(BootClock)
    }

    async fn connect(&self, who: &Who) -> Result<Arc<dyn Dcs>, BoxError> {
        self.client(None, who).await
    }

    async fn outside(&self, scope: &str) -> Result<Arc<dyn Outside>, BoxError> {
        self.subject.outside(&self.servers, scope, self.clock()).await
    }

    async fn connect_through_link(&self, who: &Who) -> Result<(Arc<dyn Dcs>, Arc<dyn Link>), BoxError> {
        let mut proxies = Vec::new();
        for server in self.servers.addresses().into_iter().take(self.subject.servers()) {
            proxies.push(Proxy::start(server).await?);
        }
        let through: Vec<_> = proxies.iter().map(Proxy::address).collect();
        let dcs = self.client(Some(&through), who).await?;
        Ok((dcs, Arc::new(Wires { proxies, attempt: self.subject.attempt() })))
    }

    fn servers(&self) -> usize {
        self.subject.servers()
    }

    async fn server_in_use(&self) -> Result<usize, BoxError> {
        let server = {
            let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            clients.iter().rev().find_map(|client| client()).ok_or("no server is in use")?
        };
        self.servers.hosts().iter().position(|host| *host == server).ok_or_else(|| format!("{server} is unknown").into())
    }

    async fn kill(&self, server: usize) -> Result<(), BoxError> {
        self.servers.kill(server);
        Ok(())
    }

    async fn restart(&self, server: usize) -> Result<(), BoxError> {
        self.subject.restart(&self.servers, server);
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

/// One link to each server, all in the same condition.
struct Wires {
    proxies: Vec<Proxy>,
    attempt: Duration,
}

#[async_trait]
impl Link for Wires {
    fn attempt(&self) -> Duration {
        self.attempt
    }

    async fn delay_answers(&self, delay: Duration) {
        self.proxies.iter().for_each(|proxy| proxy.delay_answers(delay));
    }

    async fn lose_answers(&self, lose: bool) {
        self.proxies.iter().for_each(|proxy| proxy.lose_answers(lose));
    }

    async fn cut(&self) {
        self.proxies.iter().for_each(Proxy::cut);
    }

    async fn heal(&self) {
        self.proxies.iter().for_each(Proxy::heal);
    }
}
