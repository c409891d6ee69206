//! The conformance suite on real etcd servers, by both protocols: of two versions, one alone, and three.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use dcs_core::adapter::KeyValueDcs;
use dcs_core::conformance::{AsyncRevoke, KeyValueOutside, Need, Outside, Profile, Who};
use dcs_core::keys::ClusterPath;
use dcs_core::{BoxError, Clock, Deadline, Entry, Expect, KeyValueStore};
use dcs_etcd::v2::EtcdV2;
use dcs_etcd::{Config, Etcd, v2};
use serde_json::{Map, Value, json};
use store_servers::Servers;
use store_servers::conformance::{Client, Subject, TIMING};
use store_servers::etcd::{Options, Version};

fn main() {
    store_servers::conformance::main([
        Box::new(On { name: "etcd 3.4", servers: 1, version: Version::Installed }),
        Box::new(On { name: "three etcd 3.4", servers: 3, version: Version::Installed }),
        Box::new(On { name: "etcd 3.5", servers: 1, version: Version::V35 }),
        Box::new(On { name: "three etcd 3.5", servers: 3, version: Version::V35 }),
        Box::new(ByV2 { name: "etcd v2", servers: 1 }),
        Box::new(ByV2 { name: "three etcd v2", servers: 3 }),
    ])
}

struct On {
    name: &'static str,
    servers: u8,
    version: Version,
}

/// The section of a client of `servers`, or of one that uses other addresses instead.
fn section(servers: &Servers, through: Option<&[SocketAddr]>) -> Map<String, Value> {
    let section = match through {
        Some(addresses) => json!({"hosts": addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), "use_proxies": true}),
        None => json!({"hosts": servers.hosts()}),
    };
    section.as_object().cloned().unwrap_or_default()
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
        let config = Config::from_section(&section(servers, through))?;
        let store = Arc::new(Etcd::new(config, who.timing, Arc::clone(&clock)));
        let path = ClusterPath::new(None, &who.scope);
        let seen = Arc::clone(&store);
        let dcs = Arc::new(KeyValueDcs::new(store, clock, path, who.name.as_str().into(), who.timing));
        Ok(Client { dcs, server_in_use: Box::new(move || seen.server()) })
    }

    async fn outside(&self, servers: &Servers, scope: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Outside>, BoxError> {
        let store = Arc::new(Etcd::new(Config::from_section(&section(servers, None))?, TIMING, clock));
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

/// The API of version 2, which etcd 3.4 still has.
struct ByV2 {
    name: &'static str,
    servers: u8,
}

#[async_trait]
impl Subject for ByV2 {
    fn name(&self) -> &'static str {
        self.name
    }

    fn missing(&self) -> Option<String> {
        Version::Installed.program().err().map(|error| error.to_string())
    }

    fn profile(&self) -> Profile {
        Profile { watches_everything: false, liveness_per_key: true, ..Profile::default() }
    }

    fn servers(&self) -> usize {
        self.servers.into()
    }

    fn lacks(&self, need: Need) -> Option<String> {
        (need == Need::RequestCount).then(|| "the member key is written in every cycle; tests/specific counts".to_owned())
    }

    async fn start(&self) -> Result<Servers, BoxError> {
        let options = Options { servers: self.servers, more: vec!["--enable-v2".to_owned()], ..Options::default() };
        Ok(options.start().await?)
    }

    async fn client(
        &self,
        servers: &Servers,
        through: Option<&[SocketAddr]>,
        who: &Who,
        clock: Arc<dyn Clock>,
    ) -> Result<Client, BoxError> {
        let config = v2::Config::from_section(&section(servers, through))?;
        let store = Arc::new(EtcdV2::new(config, who.timing, Arc::clone(&clock)));
        let path = ClusterPath::new(None, &who.scope);
        let seen = Arc::clone(&store);
        let dcs = Arc::new(KeyValueDcs::new(store, clock, path, who.name.as_str().into(), who.timing));
        Ok(Client { dcs, server_in_use: Box::new(move || seen.server()) })
    }

    async fn outside(&self, servers: &Servers, scope: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Outside>, BoxError> {
        let store = Arc::new(EtcdV2::new(v2::Config::from_section(&section(servers, None))?, TIMING, clock));
        let revoke = End(Arc::clone(&store));
        Ok(Arc::new(KeyValueOutside { store, path: ClusterPath::new(None, scope), revoke }))
    }
}

/// A key that lives by itself ends by itself.
struct End(Arc<EtcdV2>);

#[async_trait]
impl AsyncRevoke for End {
    async fn revoke(&self, entry: &Entry) -> Result<(), BoxError> {
        self.0.delete(&entry.key, Expect::Any, Deadline::after(TIMING.retry_timeout)).await?;
        Ok(())
    }
}
