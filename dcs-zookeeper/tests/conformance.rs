//! The conformance suite on real ZooKeeper servers: one alone, and three.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use dcs_core::adapter::KeyValueDcs;
use dcs_core::conformance::{KeyValueOutside, Need, Outside, Profile, Who};
use dcs_core::keys::ClusterPath;
use dcs_core::{BoxError, Clock};
use dcs_zookeeper::{Config, ZooKeeper};
use serde_json::json;
use store_servers::Servers;
use store_servers::conformance::{Client, Subject, TIMING};
use store_servers::zookeeper::{Options, missing};

fn main() {
    store_servers::conformance::main([
        Box::new(On { name: "zookeeper 3.8", servers: 1 }),
        Box::new(On { name: "three zookeeper 3.8", servers: 3 }),
    ])
}

struct On {
    name: &'static str,
    servers: u8,
}

fn config(hosts: &[String]) -> Result<Config, BoxError> {
    let section = json!({"hosts": hosts});
    Ok(Config::from_section(section.as_object().ok_or("it is an object")?)?)
}

#[async_trait]
impl Subject for On {
    fn name(&self) -> &'static str {
        self.name
    }

    fn missing(&self) -> Option<String> {
        missing()
    }

    fn profile(&self) -> Profile {
        // One MiB is what a request may have with everything in it.
        Profile { largest_config: 1 << 19, too_large: Some(1 << 20), ..Profile::default() }
    }

    fn servers(&self) -> usize {
        self.servers.into()
    }

    fn lacks(&self, need: Need) -> Option<String> {
        match need {
            Need::RequestCount => Some("tests/specific counts the requests of a cycle".to_owned()),
            Need::Revoke => Some("a session is ended by who has its password; tests/specific does".to_owned()),
            _ => None,
        }
    }

    async fn start(&self) -> Result<Servers, BoxError> {
        Ok(Options { servers: self.servers, ..Options::default() }.start().await?)
    }

    async fn client(
        &self,
        servers: &Servers,
        through: Option<&[SocketAddr]>,
        who: &Who,
        clock: Arc<dyn Clock>,
    ) -> Result<Client, BoxError> {
        let hosts = through.map_or_else(|| servers.hosts(), |through| through.iter().map(ToString::to_string).collect());
        let store = Arc::new(ZooKeeper::new(config(&hosts)?, who.timing, Arc::clone(&clock)));
        let path = ClusterPath::new(None, &who.scope);
        let seen = Arc::clone(&store);
        let dcs = Arc::new(KeyValueDcs::new(store, clock, path, who.name.as_str().into(), who.timing));
        Ok(Client { dcs, server_in_use: Box::new(move || seen.server()) })
    }

    async fn outside(&self, servers: &Servers, scope: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Outside>, BoxError> {
        let store = Arc::new(ZooKeeper::new(config(&servers.hosts())?, TIMING, clock));
        Ok(Arc::new(KeyValueOutside { store, path: ClusterPath::new(None, scope), revoke: () }))
    }
}
