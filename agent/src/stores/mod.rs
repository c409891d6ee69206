//! From configuration to a store: one `match`, one file and one cargo feature each.
//!
//! ```text
//!   StoreSettings ──► find (the match) ──► Factory::open ──► Opened { dcs, access }
//!                                                                      │      └── a reload of the agent: passwords, certificates
//!                                                                      └── the engine, or the control tool
//! ```

#[cfg(feature = "consul")]
mod consul;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "kubernetes")]
mod kubernetes;
#[cfg(feature = "raft")]
mod raft;
#[cfg(feature = "zookeeper")]
mod zookeeper;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use dcs_core::adapter::KeyValueDcs;
use dcs_core::keys::ClusterPath;
use dcs_core::model::MemberName;
use dcs_core::options::OptionError;
use dcs_core::{Clock, Consistency, Dcs, KeyValueStore, Timing};

use crate::config::{KeyError, STORES, StoreSettings};

#[cfg(feature = "raft")]
pub use raft::{RaftNode, raft_config};

/// Without the embedded store there is no such node.
#[cfg(not(feature = "raft"))]
#[derive(Clone, Debug)]
pub enum RaftNode {}

/// The store that a section stands for, if it is built in.
fn find(section: &str) -> Option<&'static dyn Factory> {
    match section {
        #[cfg(feature = "consul")]
        "consul" => Some(&consul::Consul),
        #[cfg(feature = "etcd")]
        "etcd" => Some(&etcd::V2),
        #[cfg(feature = "etcd")]
        "etcd3" => Some(&etcd::V3),
        #[cfg(feature = "zookeeper")]
        "exhibitor" => Some(&zookeeper::EXHIBITOR),
        #[cfg(feature = "kubernetes")]
        "kubernetes" => Some(&kubernetes::Kubernetes),
        #[cfg(feature = "raft")]
        "raft" => Some(&raft::Raft),
        #[cfg(feature = "zookeeper")]
        "zookeeper" => Some(&zookeeper::NAMED),
        _ => None,
    }
}

/// What makes a store out of its section.
#[async_trait]
trait Factory: Sync {
    /// Reads the section; nothing is opened.
    fn check(&self, settings: &StoreSettings) -> Result<(), KeyError>;

    /// Opens the store. Nothing is sent to servers outside.
    async fn open(&self, opening: Opening<'_>) -> Result<Opened, KeyError>;
}

/// Which store is opened for whom.
struct Opening<'a> {
    settings: &'a StoreSettings,
    user: User,
    timing: Timing,
    clock: Arc<dyn Clock>,
}

/// Who uses a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Agent,
    /// Every read is the newest there is, and nothing is kept alive.
    ControlTool {
        /// The Citus group that it looks at, if it looks at one.
        group: Option<u32>,
    },
}

impl Opening<'_> {
    fn path(&self) -> ClusterPath {
        let path = ClusterPath::new(self.settings.namespace.as_deref(), &self.settings.scope);
        match self.user {
            User::ControlTool { group: Some(group) } => path.group(group),
            _ => path,
        }
    }

    /// The cluster in a key-value store.
    fn opened(self, store: Arc<dyn KeyValueStore>, access: impl Reload + 'static) -> Opened {
        let consistency = match self.user {
            User::Agent => Consistency::Relaxed,
            User::ControlTool { .. } => Consistency::Linearizable,
        };
        let name = MemberName::from(self.settings.name.as_str());
        let dcs = KeyValueDcs::new(store, Arc::clone(&self.clock), self.path(), name, self.timing).with_consistency(consistency);
        Opened { dcs: Arc::new(dcs), access: Access::new(self.settings, access) }
    }
}

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
    reload: Box<dyn Reload>,
}

/// What can be done with a store while it is in use.
#[async_trait]
trait Reload: Send + Sync + fmt::Debug {
    /// Takes over what can be changed now.
    async fn follow(&self, settings: &StoreSettings) -> Result<(), KeyError>;

    /// Leaves the store.
    async fn close(self: Box<Self>) {}

    /// The node of the embedded store that this agent is.
    fn raft_node(&self) -> Option<RaftNode> {
        None
    }
}

impl Access {
    fn new(settings: &StoreSettings, reload: impl Reload + 'static) -> Self {
        Self { section: settings.section, reload: Box::new(reload) }
    }

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
        self.reload.follow(settings).await
    }

    /// Leaves the store. An agent that is a node of it hands over what it leads, and closes its files.
    pub async fn close(self) {
        self.reload.close().await;
    }

    /// The node of the store that this agent is, if it is one.
    pub fn raft_node(&self) -> Option<RaftNode> {
        self.reload.raft_node()
    }
}

/// The sections that this build can use.
pub fn available() -> Vec<&'static str> {
    STORES.into_iter().filter(|section| find(section).is_some()).collect()
}

/// Checks that [`open`] would know what to do, without opening anything.
///
/// # Errors
///
/// The section names a store that is not built in, or has an unusable value.
pub fn check(settings: &StoreSettings) -> Result<(), KeyError> {
    factory(settings)?.check(settings)
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
    factory(settings)?.open(Opening { settings, user: User::Agent, timing, clock }).await
}

/// Opens the configured store, or one Citus group in it, for the control tool: every read is the newest there is.
///
/// # Errors
///
/// As for [`check`].
pub async fn open_for_control_tool(
    settings: &StoreSettings,
    group: Option<u32>,
    timing: Timing,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn Dcs>, KeyError> {
    let user = User::ControlTool { group };
    Ok(factory(settings)?.open(Opening { settings, user, timing, clock }).await?.dcs)
}

fn factory(settings: &StoreSettings) -> Result<&'static dyn Factory, KeyError> {
    find(settings.section).ok_or_else(|| KeyError {
        hint: Some(format!("configure one of: {}", available().join(", "))),
        ..settings.error("", format!("the store `{}` is not built into this program", settings.section))
    })
}

/// An option of a section cannot be used.
fn unusable(settings: &StoreSettings, error: &OptionError) -> KeyError {
    settings.error(error.key, error.to_string())
}

/// An open store, or what it is opened with, cannot be used.
fn failed(settings: &StoreSettings, error: &(dyn std::error::Error + 'static)) -> KeyError {
    settings.error("", dcs_core::chain(error))
}

#[cfg(test)]
mod tests;
