//! Asking nodes on other machines: one connection at a time, and the next node when one does not answer.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::Deadline;
use tokio::sync::OnceCell;

use crate::client::{Ask, AskError, Client};
use crate::cluster::{Cluster, ClusterError};
use crate::config::Config;
use crate::message::{Request, Response};
use crate::transport::{Address, ClientConnection, RequestError, Security, SecuritySettings, TransportError};

/// How long it may take to reach a node, before the next one is tried.
const CONNECT: Duration = Duration::from_secs(1);

/// The nodes of a cluster, asked from outside: by a control tool, or by an agent that has no node of its own.
#[derive(Clone, Debug)]
pub struct RemoteCluster(Arc<Client<Remote>>);

impl RemoteCluster {
    /// The nodes that a configuration names, its own among them. Nothing is sent yet.
    pub fn new(config: &Config) -> Self {
        let nodes = config.self_addr.iter().chain(&config.partners).cloned().collect();
        Self(Arc::new(Client::new(Remote::new(nodes, config.security.clone()))))
    }

    /// The cluster, for a [`RaftStore`](crate::store::RaftStore).
    pub fn cluster(&self) -> Arc<dyn Cluster> {
        Arc::clone(&self.0) as _
    }

    /// The node that it is connected to, and asks next.
    pub fn node_in_use(&self) -> Option<Address> {
        let remote = self.0.asked();
        let current = remote.current();
        current.connection.as_ref().filter(|connection| !connection.is_closed())?;
        remote.nodes.get(current.node).cloned()
    }

    /// Asks one node after the other until one of them answers.
    ///
    /// # Errors
    ///
    /// None did, or what is asked for is refused.
    pub async fn request(&self, request: &Request, deadline: Deadline) -> Result<Response, ClusterError> {
        self.0.ask_until_answered(request, deadline).await
    }

    /// Asks the node at `address` itself, once.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub async fn request_of(&self, address: &Address, request: &Request, deadline: Deadline) -> Result<Response, ClusterError> {
        self.0.asked().ask_node(address, request, deadline).await.map_err(|error| match error {
            AskError::NotSent(problem) => ClusterError::NotTaken(problem),
            AskError::Denied(problem) => ClusterError::Denied(problem),
            AskError::Unanswered(problem) => ClusterError::NoAnswer(problem),
        })
    }
}

/// The nodes that are known, one of which is in use.
#[derive(Debug)]
struct Remote {
    nodes: Vec<Address>,
    settings: SecuritySettings,
    /// Made of the settings when it is first needed, which takes a while if there is a password.
    security: OnceCell<Security>,
    current: std::sync::Mutex<Current>,
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Current {
    /// Which of the nodes is in use, or will be tried next.
    node: usize,
    connection: Option<Arc<ClientConnection>>,
}

impl Remote {
    /// A client of these nodes. Nothing is sent yet.
    fn new(nodes: Vec<Address>, settings: SecuritySettings) -> Self {
        let first = if nodes.is_empty() { 0 } else { fastrand::usize(..nodes.len()) };
        let current = Current { node: first, connection: None };
        Self {
            nodes,
            settings,
            security: OnceCell::new(),
            current: std::sync::Mutex::new(current),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    async fn security(&self) -> Result<&Security, AskError> {
        let made = self.security.get_or_try_init(|| Security::new(self.settings.clone())).await;
        made.map_err(|error| AskError::Denied(error.into()))
    }

    async fn ask_node(&self, node: &Address, request: &Request, deadline: Deadline) -> Result<Response, AskError> {
        let connection = ClientConnection::open(node, self.security().await?, deadline)
            .await
            .map_err(|error| if error.needs_a_person() { AskError::Denied(error.into()) } else { AskError::NotSent(error.into()) })?;
        connection.request(request, deadline).await.map_err(ask_error)
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_connection(&self) -> Option<Arc<ClientConnection>> {
        self.current().connection.clone().filter(|connection| !connection.is_closed())
    }

    /// The connection in use, or a new one to the first node that can be reached.
    async fn connection(&self, deadline: Deadline) -> Result<Arc<ClientConnection>, AskError> {
        if let Some(connection) = self.open_connection() {
            return Ok(connection);
        }
        let late = |expired: dcs_core::DeadlineExpired| AskError::NotSent(expired.into());
        let _only_one_connects = deadline.bound("wait for a connection", self.connecting.lock()).await.map_err(late)?;
        if let Some(connection) = self.open_connection() {
            return Ok(connection);
        }
        let security = self.security().await?;
        let first = self.current().node;
        let mut last_problem: Option<TransportError> = None;
        let mut all_refuse = true;
        for node in (first..first + self.nodes.len()).map(|node| node % self.nodes.len()) {
            match ClientConnection::open(&self.nodes[node], security, deadline.at_most(CONNECT)).await {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    *self.current() = Current { node, connection: Some(Arc::clone(&connection)) };
                    return Ok(connection);
                }
                Err(error) => {
                    tracing::debug!("cannot use the node at {}: {}", self.nodes[node], error.chain());
                    all_refuse &= error.needs_a_person();
                    last_problem = Some(error);
                }
            }
            if deadline.has_passed() {
                break;
            }
        }
        Err(match last_problem {
            Some(error) if all_refuse => AskError::Denied(error.into()),
            Some(error) => AskError::NotSent(error.into()),
            None => AskError::NotSent("no node is known".into()),
        })
    }

    /// The next request goes to the next node.
    fn leave(&self, connection: &Arc<ClientConnection>) {
        let mut current = self.current();
        if current.connection.as_ref().is_some_and(|used| Arc::ptr_eq(used, connection)) {
            *current = Current { node: (current.node + 1) % self.nodes.len().max(1), connection: None };
        }
    }
}

#[async_trait]
impl Ask for Remote {
    async fn ask(&self, request: &Request, deadline: Deadline) -> Result<Response, AskError> {
        let connection = self.connection(deadline).await?;
        match connection.request(request, deadline).await {
            Ok(response) => {
                if matches!(response, Response::Unknown(_)) {
                    // A node that is cut off from the others goes on answering like that.
                    self.leave(&connection);
                }
                Ok(response)
            }
            Err(error) => {
                self.leave(&connection);
                Err(ask_error(error))
            }
        }
    }
}

fn ask_error(error: RequestError) -> AskError {
    match error {
        RequestError::NotSent(error) => AskError::NotSent(error.into()),
        RequestError::Unanswered(error) => AskError::Unanswered(error.into()),
    }
}
