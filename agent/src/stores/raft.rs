//! The section `raft`: the store that the agents are themselves, or other nodes of it.

use std::sync::Arc;

use async_trait::async_trait;
use dcs_raft::{Config, Node, RaftStore, RemoteCluster};

use super::{Factory, Opened, Opening, Reload, User, failed, unusable};
use crate::config::{KeyError, StoreSettings};

/// The node of the embedded store that an agent is.
pub use dcs_raft::NodeHandle as RaftNode;

pub(super) struct Raft;

/// The nodes of the embedded store.
///
/// # Errors
///
/// The section has an unusable value.
pub fn raft_config(settings: &StoreSettings) -> Result<Config, KeyError> {
    Config::from_section(&settings.options).map_err(|error| unusable(settings, &error))
}

#[async_trait]
impl Factory for Raft {
    fn check(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        raft_config(settings).map(drop)
    }

    async fn open(&self, opening: Opening<'_>) -> Result<Opened, KeyError> {
        let config = raft_config(opening.settings)?;
        let clock = Arc::clone(&opening.clock);
        if opening.user == User::Agent && config.self_addr.is_some() {
            let node = Node::start(config, Arc::clone(&clock)).await.map_err(|error| failed(opening.settings, &error))?;
            let store = RaftStore::new(node.cluster(), opening.timing, clock);
            return Ok(opening.opened(Arc::new(store), OwnNode(node)));
        }
        let store = RaftStore::new(RemoteCluster::new(&config).cluster(), opening.timing, clock);
        Ok(opening.opened(Arc::new(store), OtherNodes))
    }
}

/// The node of this agent.
#[derive(Debug)]
struct OwnNode(Node);

#[async_trait]
impl Reload for OwnNode {
    async fn follow(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        self.0.reload(&raft_config(settings)?).await.map_err(|error| failed(settings, &error))
    }

    async fn close(self: Box<Self>) {
        self.0.stop().await;
    }

    fn raft_node(&self) -> Option<RaftNode> {
        Some(self.0.handle())
    }
}

/// Only other nodes, over connections that are made as they are needed.
#[derive(Debug)]
struct OtherNodes;

#[async_trait]
impl Reload for OtherNodes {
    async fn follow(&self, settings: &StoreSettings) -> Result<(), KeyError> {
        raft_config(settings).map(drop)
    }
}
