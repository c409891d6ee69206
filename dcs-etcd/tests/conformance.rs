//! The conformance suite on real etcd servers, of two versions: one alone, and three.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use dcs_core::adapter::KeyValueDcs;
use dcs_core::conformance::{AsyncRevoke, KeyValueOutside, Need, Outside, Profile, Who};
use dcs_core::keys::ClusterPath;
use dcs_core::{BoxError, Clock, Entry};
use dcs_etcd::{Config, Etcd};
use serde_json::json;
use store_servers::Servers;
use store_servers::conformance::{Client, Subject, TIMING};
use store_servers::etcd::{Options, Version};

fn main() {
    store_servers::conformance::main([
        Box::new(On { name: "etcd 3.4", servers: 1, version: Version::Installed }),
        Box::new(On { name: "three etcd 3.4", servers: 3, version: Version::Installed }),
        Box::new(On { name: "etcd 3.5", servers: 1, version: Version::V35 }),
        Box::new(On { name: "three etcd 3.5", servers: 3, version: Version::V35 }),
    ])
}

struct On {
    name: &'static str,
    servers: u8,
    version: Version,
}

fn config(hosts: &[String]) -> Result<Config, BoxError> {
    let section = json!({"hosts": hosts, "use_proxies": true});
    Ok(Config::from_section(section.as_object().ok_or("it is an object")?)?)
}

#[async_trait]
impl Subject for On {
    fn name(&self) -> &'static str {
        self.name
    }

    fn missing(&self) -> Option<String> {
        self.version.program().err().map(|error| error.to_string())
    }

    fn profile(&self) -> Profile {
        // etcd writes everything of one transaction at one revision, but nothing here writes two keys at once.
        Profile { too_large: Some(2 << 20), ..Profile::default() }
    }

    fn servers(&self) -> usize {
        self.servers.into()
    }

    fn lacks(&self, need: Need) -> Option<String> {
        // The trial allows three. A renewal proves the lease and the key each with a request of its own.
        (need == Need::RequestCount).then(|| "a leader's cycle has four requests here; tests/specific counts them".to_owned())
    }

    async fn start(&self) -> Result<Servers, BoxError> {
        let options = Options { servers: self.servers, version: self.version, ..Options::default() };
        Ok(options.start().await?)
    }

    async fn client(
        &self,
        servers: &Servers,
        through: Option<&[SocketAddr]>,
        who: &Who,
        clock: Arc<dyn Clock>,
    ) -> Result<Client, BoxError> {
        let config = match through {
            Some(addresses) => config(&addresses.iter().map(ToString::to_string).collect::<Vec<_>>())?,
            None => Config::from_section(json!({"hosts": servers.hosts()}).as_object().ok_or("it is an object")?)?,
        };
        let store = Arc::new(Etcd::new(config, who.timing, Arc::clone(&clock)));
        let path = ClusterPath::new(None, &who.scope);
        let seen = Arc::clone(&store);
        let dcs = Arc::new(KeyValueDcs::new(store, clock, path, who.name.as_str().into(), who.timing));
        Ok(Client { dcs, server_in_use: Box::new(move || seen.server()) })
    }

    async fn outside(&self, servers: &Servers, scope: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Outside>, BoxError> {
        let store = Arc::new(Etcd::new(config(&servers.hosts())?, TIMING, clock));
        let revoke = Revoke(etcd_client::Client::connect(servers.hosts(), None).await?);
        Ok(Arc::new(KeyValueOutside { store, path: ClusterPath::new(None, scope), revoke }))
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
