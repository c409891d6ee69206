//! From configuration to a store: one `match`, one cargo feature each.

use std::sync::Arc;

use dcs_core::adapter::KeyValueDcs;
use dcs_core::keys::ClusterPath;
use dcs_core::model::MemberName;
use dcs_core::{Clock, Consistency, Dcs, KeyValueStore, Timing};

use crate::config::{KeyError, StoreSettings};

/// The sections that this build can use.
pub fn available() -> Vec<&'static str> {
    let mut names = Vec::new();
    if cfg!(feature = "etcd") {
        names.push("etcd3");
    }
    if cfg!(feature = "raft") {
        names.push("raft");
    }
    names
}

/// Checks that [`open`] would know what to do, without opening anything.
///
/// # Errors
///
/// The section names a store that is not built in, or has an unusable value.
pub fn check(settings: &StoreSettings) -> Result<(), KeyError> {
    match settings.section {
        #[cfg(feature = "etcd")]
        "etcd3" => etcd_config(settings).map(drop),
        #[cfg(feature = "raft")]
        "raft" => raft_config(settings).map(drop),
        _ => Err(refusal(settings)),
    }
}

/// The node of the embedded store that an agent is.
#[cfg(feature = "raft")]
pub use dcs_raft::NodeHandle as RaftNode;

/// Without the embedded store there is no such node.
#[cfg(not(feature = "raft"))]
#[derive(Clone, Debug)]
pub enum RaftNode {}

/// An open store.
#[derive(Debug)]
pub struct Opened {
    /// What the engine sees of it.
    pub dcs: Arc<dyn Dcs>,
    /// What a reload changes.
    pub access: Access,
}

/// The way into an open store: users, passwords and certificates, which a reload exchanges.
#[derive(Debug)]
pub struct Access {
    section: &'static str,
    backend: Backend,
}

#[derive(Debug)]
enum Backend {
    #[cfg(feature = "etcd")]
    Etcd(Arc<dcs_etcd::Etcd>),
    /// The node of this agent.
    #[cfg(feature = "raft")]
    RaftNode(Box<dcs_raft::Node>),
    /// Only other nodes, over connections that are made as they are needed.
    #[cfg(feature = "raft")]
    RaftNodes,
}

impl Access {
    /// Takes over what can be changed while the store is in use. Anything else waits for a restart of the agent.
    ///
    /// # Errors
    ///
    /// The section is another one, has an unusable value, or names certificates that cannot be used. Nothing changes then.
    pub async fn follow(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        if settings.section != self.section {
            let problem = format!("the store is `{}` until the agent is restarted", self.section);
            return Err(settings.error("", problem));
        }
        // By value: without any store built in there is nothing to match.
        match self.backend {
            #[cfg(feature = "etcd")]
            Backend::Etcd(ref etcd) => {
                let config = etcd_config(settings)?;
                etcd.set_access(&config).await.map_err(|error| settings.error("", dcs_core::chain(&error)))
            }
            #[cfg(feature = "raft")]
            Backend::RaftNode(ref node) => {
                let config = raft_config(settings)?;
                node.reload(&config).await.map_err(|error| settings.error("", dcs_core::chain(&error)))
            }
            #[cfg(feature = "raft")]
            Backend::RaftNodes => raft_config(settings).map(drop),
        }
    }

    /// Leaves the store. An agent that is a node of it hands over what it leads, and closes its files.
    pub async fn close(self) {
        #[cfg(feature = "raft")]
        if let Backend::RaftNode(node) = self.backend {
            node.stop().await;
        }
    }

    /// The node of the store that this agent is, if it is one.
    pub fn raft_node(&self) -> Option<RaftNode> {
        match self.backend {
            #[cfg(feature = "raft")]
            Backend::RaftNode(ref node) => Some(node.handle()),
            _ => None,
        }
    }
}

/// Opens the configured store for an agent. Nothing is sent to a store outside; the embedded one starts its node, which
/// looks for the others in the background.
///
/// # Errors
///
/// As for [`check`], and if the node of the embedded store cannot open its files or listen.
pub async fn open(settings: &StoreSettings, timing: Timing, clock: Arc<dyn Clock>) -> Result<Opened, KeyError> {
    if !settings.ignored.is_empty() {
        tracing::warn!("Several stores are configured; `{}` is used, and `{}` not", settings.section, settings.ignored.join("`, `"));
    }
    #[cfg(feature = "raft")]
    if settings.section == "raft"
        && let config = raft_config(settings)?
        && config.self_addr.is_some()
    {
        let node = dcs_raft::Node::start(config, Arc::clone(&clock)).await;
        let node = node.map_err(|error| settings.error("", dcs_core::chain(&error)))?;
        let store = Arc::new(dcs_raft::RaftStore::new(node.cluster(), timing, Arc::clone(&clock)));
        let backend = Backend::RaftNode(Box::new(node));
        return Ok(opened(settings, store, backend, cluster_path(settings), Consistency::Relaxed, timing, clock));
    }
    open_path(settings, cluster_path(settings), Consistency::Relaxed, timing, clock)
}

/// Opens the configured store, or one Citus group in it, for the control tool: every read is the newest there is.
///
/// # Errors
///
/// As for [`check`].
pub fn open_for_control_tool(
    settings: &StoreSettings,
    group: Option<u32>,
    timing: Timing,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn Dcs>, KeyError> {
    let path = cluster_path(settings);
    let path = group.map_or(path.clone(), |group| path.group(group));
    Ok(open_path(settings, path, Consistency::Linearizable, timing, clock)?.dcs)
}

fn cluster_path(settings: &StoreSettings) -> ClusterPath {
    ClusterPath::new(settings.namespace.as_deref(), &settings.scope)
}

fn open_path(
    settings: &StoreSettings,
    path: ClusterPath,
    consistency: Consistency,
    timing: Timing,
    clock: Arc<dyn Clock>,
) -> Result<Opened, KeyError> {
    let (store, backend): (Arc<dyn KeyValueStore>, _) = match settings.section {
        #[cfg(feature = "etcd")]
        "etcd3" => {
            let etcd = Arc::new(dcs_etcd::Etcd::new(etcd_config(settings)?, timing, Arc::clone(&clock)));
            (Arc::clone(&etcd) as _, Backend::Etcd(etcd))
        }
        #[cfg(feature = "raft")]
        "raft" => {
            let nodes = dcs_raft::RemoteCluster::new(&raft_config(settings)?);
            (Arc::new(dcs_raft::RaftStore::new(nodes.cluster(), timing, Arc::clone(&clock))), Backend::RaftNodes)
        }
        _ => return Err(refusal(settings)),
    };
    Ok(opened(settings, store, backend, path, consistency, timing, clock))
}

fn opened(
    settings: &StoreSettings,
    store: Arc<dyn KeyValueStore>,
    backend: Backend,
    path: ClusterPath,
    consistency: Consistency,
    timing: Timing,
    clock: Arc<dyn Clock>,
) -> Opened {
    let name = MemberName::from(settings.name.as_str());
    let dcs = Arc::new(KeyValueDcs::new(store, clock, path, name, timing).with_consistency(consistency));
    Opened { dcs, access: Access { section: settings.section, backend } }
}

#[cfg(feature = "etcd")]
fn etcd_config(settings: &StoreSettings) -> Result<dcs_etcd::Config, KeyError> {
    dcs_etcd::Config::from_section(&settings.options).map_err(|error| settings.error(error.key, error.to_string()))
}

/// The nodes of the embedded store.
///
/// # Errors
///
/// The section has an unusable value.
#[cfg(feature = "raft")]
pub fn raft_config(settings: &StoreSettings) -> Result<dcs_raft::Config, KeyError> {
    dcs_raft::Config::from_section(&settings.options).map_err(|error| settings.error(error.key, error.problem))
}

/// Why the section cannot be used.
fn refusal(settings: &StoreSettings) -> KeyError {
    let section = settings.section;
    let (problem, hint) = if section == "etcd" {
        (
            "`etcd:` is the etcd v2 API, which this version does not have".to_owned(),
            "if your servers are etcd 3.4 or newer, rename the section to `etcd3:`. The two APIs do not see each other's keys: do it \
             on all nodes of the cluster at once"
                .to_owned(),
        )
    } else {
        let available = available().join(", ");
        (format!("the store `{section}` is not built into this version yet"), format!("configure one of: {available}"))
    };
    KeyError { hint: Some(hint), ..settings.error("", problem) }
}
