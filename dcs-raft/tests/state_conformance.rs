//! The conformance suite on the replicated state and the store around it, in virtual time and without Raft: what fails
//! here is a fault of theirs and of nobody else's.

mod local;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::adapter::KeyValueDcs;
use dcs_core::conformance::{self, AsyncRevoke, Harness, KeyValueOutside, Link, Need, NotOffered, Outside, Profile, Stage, Who};
use dcs_core::fault::{Connection, Fault, FaultyStore, Plan};
use dcs_core::keys::ClusterPath;
use dcs_core::{BoxError, Clock, Dcs, Deadline, Entry, KeyValueStore, Timing, TokioClock};
use dcs_raft::cluster::Cluster;
use dcs_raft::command::{Operation, Transaction};
use dcs_raft::store::MAX_VALUE;

use self::local::{Client, Local};

const TIMING: Timing = Timing { ttl: Duration::from_secs(20), loop_wait: Duration::from_secs(5), retry_timeout: Duration::from_secs(5) };

/// The share of one attempt.
const ATTEMPT: Duration = Duration::from_millis(1_200);

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    libtest_mimic::run(&arguments, conformance::trials(Arc::new(WithoutRaft))).exit();
}

struct WithoutRaft;

#[async_trait]
impl Harness for WithoutRaft {
    fn store_name(&self) -> &'static str {
        "raft"
    }

    fn timing(&self) -> Timing {
        TIMING
    }

    fn profile(&self) -> Profile {
        // Handles live a millisecond longer than their leases.
        Profile { expiry_granularity: Duration::from_millis(1), too_large: Some(MAX_VALUE), ..Profile::default() }
    }

    fn lacks(&self, need: Need) -> Option<String> {
        (need == Need::ThreeServers).then(|| "there is only one server".to_owned())
    }

    fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()
    }

    async fn stage(&self, _: &[Need]) -> Result<Arc<dyn Stage>, BoxError> {
        let local = Local::found(Arc::new(TokioClock::default()));
        Ok(Arc::new(OneNode { local, servers: Plan::new(ATTEMPT) }))
    }
}

/// One node; `servers` is what happens to it, as all clients see it.
struct OneNode {
    local: Arc<Local>,
    servers: Plan,
}

impl OneNode {
    fn client(&self, who: &Who, link: Option<Plan>) -> Arc<dyn Dcs> {
        let client: Arc<dyn KeyValueStore> = FaultyStore::new(self.local.store(who.timing), self.servers.clone());
        let store = match link {
            Some(plan) => FaultyStore::new(client, plan),
            None => client,
        };
        let path = ClusterPath::new(None, &who.scope);
        Arc::new(KeyValueDcs::new(store, self.clock(), path, who.name.as_str().into(), who.timing))
    }
}

#[async_trait]
impl Stage for OneNode {
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(self.local.clock())
    }

    async fn connect(&self, who: &Who) -> Result<Arc<dyn Dcs>, BoxError> {
        Ok(self.client(who, None))
    }

    async fn outside(&self, scope: &str) -> Result<Arc<dyn Outside>, BoxError> {
        let path = ClusterPath::new(None, scope);
        Ok(Arc::new(KeyValueOutside { store: self.local.store(TIMING), path, revoke: Revoke(self.local.client()) }))
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
        Some(self.local.requests())
    }
}

struct Revoke(Arc<Client>);

#[async_trait]
impl AsyncRevoke for Revoke {
    async fn revoke(&self, entry: &Entry) -> Result<(), BoxError> {
        let handle = entry.handle.as_ref().ok_or(NotOffered(Need::Revoke))?.as_str().parse()?;
        let then = vec![Operation::Revoke { handle }];
        self.0.propose(Transaction { then, ..Transaction::default() }, Deadline::after(TIMING.retry_timeout)).await?;
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
