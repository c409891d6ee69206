//! Servers of etcd for these tests, and what is asked of them.

use std::ops::Deref;

use dcs_etcd::Config;
use serde_json::{Map, Value, json};
use store_servers::Servers;
use store_servers::etcd::{self, Options, Version};
use store_servers::report_not_run;

/// Running servers, and how to reach them.
pub(crate) struct Cluster {
    servers: Servers,
    scheme: &'static str,
}

impl Deref for Cluster {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        &self.servers
    }
}

/// Whether `test` can run here; says so if not.
pub(crate) fn can_run(test: &str) -> bool {
    let lacking = Version::default().program().err();
    lacking.iter().for_each(|lacking| report_not_run(test, &lacking.to_string()));
    lacking.is_none()
}

impl Cluster {
    /// Starts servers and waits until all of them serve.
    pub(crate) async fn start(options: &Options) -> Self {
        Self { servers: options.start().await.expect("etcd starts"), scheme: options.scheme() }
    }

    /// Waits until a server that was started again serves.
    pub(crate) async fn serves(&self, index: usize) {
        etcd::serves(&self.servers, index).await;
    }

    /// The section of a configuration that names all servers, and `more`.
    pub(crate) fn section(&self, more: Value) -> Map<String, Value> {
        let mut section = json!({"hosts": self.hosts(), "protocol": self.scheme});
        let section = section.as_object_mut().expect("it is an object");
        section.extend(more.as_object().expect("options are an object").clone());
        section.clone()
    }

    /// The configuration that names all servers.
    pub(crate) fn config(&self) -> Config {
        Config::from_section(&self.section(json!({}))).expect("a good section")
    }

    /// A client of the library, to look behind the store's back.
    pub(crate) async fn direct(&self) -> etcd_client::Client {
        etcd_client::Client::connect(self.hosts(), None).await.expect("a client")
    }

    /// How many requests the servers have got so far; streams count by their messages, watches and questions about the
    /// cluster itself not at all.
    pub(crate) fn requests(&self) -> Option<u64> {
        let counted = ["grpc_service=\"etcdserverpb.KV\"", "grpc_service=\"etcdserverpb.Lease\""];
        etcd::metric(&self.servers, "grpc_server_msg_received_total{", &counted)
    }

    /// How many watches are open.
    pub(crate) fn watches(&self) -> Option<u64> {
        etcd::metric(&self.servers, "etcd_debugging_mvcc_watcher_total ", &[""])
    }
}
