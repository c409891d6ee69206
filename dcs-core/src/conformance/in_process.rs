//! The suite on a store that runs in this process, in virtual time. What happens to its servers happens in front of them:
//! a [`Plan`] that all clients share stands for "the servers", and one of a client's own for its link.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{AsyncRevoke, Harness, KeyValueOutside, Link, Need, Outside, Profile, Stage, Who};
use crate::adapter::KeyValueDcs;
use crate::fault::{Connection, Fault, FaultyStore, Plan};
use crate::keys::ClusterPath;
use crate::{BoxError, Clock, Dcs, Entry, KeyValueStore, Timing, TokioClock};

const TIMING: Timing = Timing { ttl: Duration::from_secs(20), loop_wait: Duration::from_secs(5), retry_timeout: Duration::from_secs(5) };

/// The share of one attempt.
const ATTEMPT: Duration = Duration::from_millis(1_200);

/// A store without anything between it and its clients.
#[async_trait]
pub trait InProcess: Send + Sync + 'static {
    /// A client of its own.
    fn client(&self, timing: Timing) -> Arc<dyn KeyValueStore>;

    /// How many requests it has got.
    fn requests(&self) -> u64;

    /// Ends the handle that `entry` is bound to.
    ///
    /// # Errors
    ///
    /// It is bound to none.
    async fn revoke(&self, entry: &Entry) -> Result<(), BoxError>;
}

/// The harness of such a store. `found` makes an empty one, whose time is that of the clock.
#[derive(Clone, Copy, Debug)]
pub struct InVirtualTime<F> {
    /// As in [`Harness::store_name`].
    pub name: &'static str,
    /// As in [`Harness::profile`].
    pub profile: Profile,
    /// Makes a store; in a runtime.
    pub found: F,
}

#[async_trait]
impl<F, S> Harness for InVirtualTime<F>
where
    F: Fn(Arc<dyn Clock>) -> S + Send + Sync + 'static,
    S: InProcess,
{
    fn store_name(&self) -> &'static str {
        self.name
    }

    fn timing(&self) -> Timing {
        TIMING
    }

    fn profile(&self) -> Profile {
        self.profile
    }

    fn lacks(&self, need: Need) -> Option<String> {
        (need == Need::ThreeServers).then(|| "there is only one server".to_owned())
    }

    fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()
    }

    async fn stage(&self, _: &[Need]) -> Result<Arc<dyn Stage>, BoxError> {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let store = Arc::new((self.found)(Arc::clone(&clock)));
        Ok(Arc::new(Set { store, clock, servers: Plan::new(ATTEMPT) }))
    }
}

struct Set<S> {
    store: Arc<S>,
    clock: Arc<dyn Clock>,
    /// What happens to the servers, as all clients see it.
    servers: Plan,
}

impl<S: InProcess> Set<S> {
    fn client(&self, who: &Who, link: Option<Plan>) -> Arc<dyn Dcs> {
        let client: Arc<dyn KeyValueStore> = FaultyStore::new(self.store.client(who.timing), self.servers.clone());
        let store = match link {
            Some(plan) => FaultyStore::new(client, plan),
            None => client,
        };
        let path = ClusterPath::new(None, &who.scope);
        Arc::new(KeyValueDcs::new(store, self.clock(), path, who.name.as_str().into(), who.timing))
    }
}

#[async_trait]
impl<S: InProcess> Stage for Set<S> {
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    async fn connect(&self, who: &Who) -> Result<Arc<dyn Dcs>, BoxError> {
        Ok(self.client(who, None))
    }

    async fn outside(&self, scope: &str) -> Result<Arc<dyn Outside>, BoxError> {
        let path = ClusterPath::new(None, scope);
        let revoke = Revoke(Arc::clone(&self.store));
        Ok(Arc::new(KeyValueOutside { store: self.store.client(TIMING), path, revoke }))
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
        Some(self.store.requests())
    }
}

struct Revoke<S>(Arc<S>);

#[async_trait]
impl<S: InProcess> AsyncRevoke for Revoke<S> {
    async fn revoke(&self, entry: &Entry) -> Result<(), BoxError> {
        self.0.revoke(entry).await
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
