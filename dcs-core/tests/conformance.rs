//! The conformance suite on the store in memory, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::adapter::KeyValueDcs;
use dcs_core::conformance::{self, AsyncRevoke, Harness, KeyValueOutside, Link, Need, NotOffered, Outside, Profile, Stage, Who};
use dcs_core::fault::{Connection, Fault, FaultyStore, Plan};
use dcs_core::keys::ClusterPath;
use dcs_core::memory::{MAX_VALUE, Server};
use dcs_core::{BoxError, Clock, Dcs, Entry, KeyValueStore, Timing, TokioClock};

const TIMING: Timing = Timing { ttl: Duration::from_secs(20), loop_wait: Duration::from_secs(5), retry_timeout: Duration::from_secs(5) };

/// The share of one attempt.
const ATTEMPT: Duration = Duration::from_millis(1_200);

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    libtest_mimic::run(&arguments, conformance::trials(Arc::new(Memory))).exit();
}

struct Memory;

#[async_trait]
impl Harness for Memory {
    fn store_name(&self) -> &'static str {
        "memory"
    }

    fn timing(&self) -> Timing {
        TIMING
    }

    fn profile(&self) -> Profile {
        Profile { expiry_granularity: Duration::ZERO, too_large: Some(MAX_VALUE), ..Profile::default() }
    }

    fn lacks(&self, need: Need) -> Option<String> {
        (need == Need::ThreeServers).then(|| "there is only one server".to_owned())
    }

    fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()
    }

    async fn stage(&self, _: &[Need]) -> Result<Arc<dyn Stage>, BoxError> {
        let server = Server::new(Arc::new(TokioClock::default()));
        Ok(Arc::new(InMemory { server, servers: Plan::new(ATTEMPT) }))
    }
}

/// One server; `servers` is what happens to it, as all clients see it.
struct InMemory {
    server: Arc<Server>,
    servers: Plan,
}

impl InMemory {
    fn client(&self, who: &Who, link: Option<Plan>) -> Arc<dyn Dcs> {
        let client: Arc<dyn KeyValueStore> = FaultyStore::new(self.server.client(who.timing), self.servers.clone());
        let store = match link {
            Some(plan) => FaultyStore::new(client, plan),
            None => client,
        };
        let path = ClusterPath::new(None, &who.scope);
        Arc::new(KeyValueDcs::new(store, self.clock(), path, who.name.as_str().into(), who.timing))
    }
}

#[async_trait]
impl Stage for InMemory {
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(self.server.clock())
    }

    async fn connect(&self, who: &Who) -> Result<Arc<dyn Dcs>, BoxError> {
        Ok(self.client(who, None))
    }

    async fn outside(&self, scope: &str) -> Result<Arc<dyn Outside>, BoxError> {
        let path = ClusterPath::new(None, scope);
        let revoke = Revoke(Arc::clone(&self.server));
        Ok(Arc::new(KeyValueOutside { store: self.server.client(TIMING), path, revoke }))
    }

    async fn connect_through_link(&self, who: &Who) -> Result<(Arc<dyn Dcs>, Arc<dyn Link>), BoxError> {
        let plan = Plan::new(ATTEMPT);
        Ok((self.client(who, Some(plan.clone())), Arc::new(Wire(plan))))
    }

    async fn kill(&self, _: usize) -> Result<(), BoxError> {
        self.servers.set_connection(Connection::Cut);
        Ok(())
    }

    async fn restart(&self, _: usize) -> Result<(), BoxError> {
        self.servers.set_connection(Connection::Up);
        Ok(())
    }

    async fn freeze(&self, _: usize) -> Result<(), BoxError> {
        self.servers.set_connection(Connection::Silent);
        Ok(())
    }

    async fn thaw(&self, _: usize) -> Result<(), BoxError> {
        self.servers.set_connection(Connection::Up);
        Ok(())
    }

    fn requests(&self) -> Option<u64> {
        Some(self.server.requests())
    }
}

struct Revoke(Arc<Server>);

#[async_trait]
impl AsyncRevoke for Revoke {
    async fn revoke(&self, entry: &Entry) -> Result<(), BoxError> {
        let handle = entry.handle.as_ref().ok_or(NotOffered(Need::Revoke))?;
        self.0.revoke(handle);
        Ok(())
    }
}

struct Wire(Plan);

#[async_trait]
impl Link for Wire {
    fn attempt(&self) -> Duration {
        ATTEMPT
    }

    async fn delay_answers(&self, delay: Duration) {
        self.0.always((!delay.is_zero()).then_some(Fault::Delay(delay)));
    }

    async fn lose_answers(&self, lose: bool) {
        self.0.always(lose.then_some(Fault::DropAnswer));
    }

    async fn cut(&self) {
        self.0.set_connection(Connection::Silent);
    }

    async fn heal(&self) {
        self.0.always(None);
        self.0.set_connection(Connection::Up);
    }
}
