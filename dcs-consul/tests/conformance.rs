//! The conformance suite on real Consul: one server, and three with an agent in front of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dcs_consul::{Config, Consul};
use dcs_core::conformance::{AsyncRevoke, KeyValueOutside, Need, Outside, Profile, Who};
use dcs_core::keys::ClusterPath;
use dcs_core::{BoxError, Clock, Entry, Timing};
use serde_json::json;
use store_servers::Servers;
use store_servers::conformance::{Client, Subject, TIMING};
use store_servers::consul::{Options, consul, leader_finder};

fn main() {
    store_servers::conformance::main([
        Box::new(On { name: "Consul", options: Options::default() }),
        Box::new(On { name: "three Consul", options: Options::three() }),
    ])
}

struct On {
    name: &'static str,
    options: Options,
}

impl On {
    /// Where clients connect: the agent, which stands behind the servers, or the only server.
    fn endpoint(&self, servers: &Servers) -> SocketAddr {
        servers.plan(servers.len() - 1).address
    }
}

/// Patience for servers that write everything to disk, and elect a leader anew when a busy machine keeps them from doing so.
const PATIENT: Timing = Timing { ttl: Duration::from_secs(8), retry_timeout: Duration::from_secs(7), ..TIMING };

fn config(endpoint: SocketAddr) -> Result<Config, BoxError> {
    Ok(Config::from_section(json!({"host": endpoint.to_string()}).as_object().ok_or("it is an object")?)?)
}

#[async_trait]
impl Subject for On {
    fn name(&self) -> &'static str {
        self.name
    }

    fn missing(&self) -> Option<String> {
        consul().err().map(|error| error.to_string())
    }

    fn timing(&self) -> Timing {
        PATIENT
    }

    fn profile(&self) -> Profile {
        // Consul writes everything of one transaction at one index, but nothing here writes two keys at once.
        Profile { largest_config: 512 << 10, too_large: Some(1 << 20), ..Profile::default() }
    }

    fn servers(&self) -> usize {
        self.options.servers.into()
    }

    fn lacks(&self, need: Need) -> Option<String> {
        // The trial allows three. A renewal proves the session and the key each with a request of its own.
        (need == Need::RequestCount).then(|| "a leader's cycle has four requests here; tests/specific counts them".to_owned())
    }

    async fn start(&self) -> Result<Servers, BoxError> {
        Ok(self.options.start().await?)
    }

    async fn client(
        &self,
        servers: &Servers,
        through: Option<&[SocketAddr]>,
        who: &Who,
        clock: Arc<dyn Clock>,
    ) -> Result<Client, BoxError> {
        let endpoint = through.and_then(|links| links.first().copied()).unwrap_or_else(|| self.endpoint(servers));
        let path = ClusterPath::new(None, &who.scope);
        let (_, dcs) = dcs_consul::open(config(endpoint)?, who.timing, clock, path, &who.scope, who.name.as_str().into());
        // An agent does not tell which server it asks, and whichever that is asks the leader: losing that one is the hardest.
        Ok(Client { dcs, server_in_use: Box::new(leader_finder(servers)) })
    }

    async fn outside(&self, servers: &Servers, scope: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Outside>, BoxError> {
        let endpoint = self.endpoint(servers);
        let store = Arc::new(Consul::new(config(endpoint)?, PATIENT, clock));
        Ok(Arc::new(KeyValueOutside { store, path: ClusterPath::new(None, scope), revoke: Revoke(endpoint) }))
    }
}

/// Ends sessions at this endpoint.
struct Revoke(SocketAddr);

#[async_trait]
impl AsyncRevoke for Revoke {
    async fn revoke(&self, entry: &Entry) -> Result<(), BoxError> {
        let session = entry.handle.as_ref().ok_or("the key is bound to nothing")?.as_str();
        let url = format!("http://{}/v1/session/destroy/{session}", self.0);
        reqwest::Client::new().put(url).send().await?.error_for_status()?;
        Ok(())
    }
}
