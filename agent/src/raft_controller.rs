//! A witness: a node of the embedded store without a PostgreSQL. It votes and stores, so that two agents and it survive the
//! loss of any one of the three. It needs the sections `raft` and `log` of a configuration, and nothing else.

use std::sync::Arc;

use dcs_core::{BootClock, chain};
use dcs_raft::Node;

use crate::config::{ConfigError, KeyError, LocalConfig};
use crate::stores;

/// A witness cannot be brought up.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// There is no `raft` section.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The section cannot be used, or its files or addresses cannot.
    #[error(transparent)]
    Raft(#[from] KeyError),
}

/// A running witness.
#[derive(Debug)]
pub struct RaftController {
    local: LocalConfig,
    node: Node,
}

impl RaftController {
    /// Opens the files of the node and listens. It looks for the others in the background: they need not be there.
    ///
    /// # Errors
    ///
    /// The `raft` section is missing, has no `self_addr` or an unusable value, or its files or address cannot be used.
    pub async fn start(local: LocalConfig) -> Result<Self, ControllerError> {
        let settings = local.raft()?;
        let config = stores::raft_config(&settings)?;
        if config.self_addr.is_none() {
            let problem = "`raft.self_addr` is missing: a witness is a node, and needs an address under which the others reach it";
            let hint = "set it to `HOST:PORT` of this machine; the others name the same in their `partner_addrs`";
            return Err(KeyError { hint: Some(hint.to_owned()), ..settings.error("self_addr", problem) }.into());
        }
        let node = Node::start(config, Arc::new(BootClock)).await.map_err(|error| settings.error("", chain(&error)))?;
        tracing::info!("this is a witness of the embedded store, reached at {}: it votes and stores, without a PostgreSQL", node.address());
        Ok(Self { local, node })
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Reads the configuration again: certificates and the password are for connections that are made from now on, the rest
    /// waits for a restart. What cannot be used is said in the log. Returns the configuration in force, for its log.
    pub async fn reload(&mut self) -> &LocalConfig {
        match self.local.read_again() {
            Ok(Some(local)) => match secrets_of(&local, &self.node).await {
                Ok(()) => self.local = local,
                Err(error) => tracing::error!("the former configuration stays in force: {}", chain(&error)),
            },
            // It is the environment, which does not change; files of certificates may have.
            Ok(None) => {
                if let Err(error) = secrets_of(&self.local, &self.node).await {
                    tracing::error!("the former certificates stay in force: {}", chain(&error));
                }
            }
            Err(error) => tracing::error!("the former configuration stays in force: {}", chain(&error)),
        }
        &self.local
    }

    /// Waits until the node can take part no more, which it does not by itself unless its storage fails; says why.
    pub async fn ended(&self) -> String {
        self.node.ended().await
    }

    /// Hands over what it leads, and closes its files.
    pub async fn stop(self) {
        self.node.stop().await;
    }
}

async fn secrets_of(local: &LocalConfig, node: &Node) -> Result<(), ControllerError> {
    let settings = local.raft()?;
    let config = stores::raft_config(&settings)?;
    Ok(node.reload(&config).await.map_err(|error| settings.error("", chain(&error)))?)
}

#[cfg(test)]
mod tests;
