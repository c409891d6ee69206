//! Connections that others make.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::Deadline;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use super::address::Address;
use super::error::TransportError;
use super::quiet::Quiet;
use super::secure::Security;
use super::{Task, lock, serve};
use crate::identity::{ClusterId, NodeId};
use crate::message::{PeerFrame, Request, Response, Welcome};

/// How a node that connects introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Who it is.
    pub from: NodeId,
    /// Where it is reached.
    pub address: String,
    /// Whom it wants to talk to.
    pub to: NodeId,
    /// The cluster that it believes both belong to.
    pub cluster: ClusterId,
}

/// What a node does with those who connect. All of them know the password or have a certificate, if that is asked for.
#[async_trait]
pub trait Accept: Send + Sync + 'static {
    /// Whether a node may send its frames here. A refusal is shown in the log of the other node.
    async fn welcome(&self, introduction: &Introduction) -> Welcome;

    /// Takes a frame of a node that was welcome. No more frames are read from it until this returns.
    async fn frame(&self, from: NodeId, frame: PeerFrame);

    /// Answers a client, within a time of its own choosing. Dropped when the client goes away. Several requests are
    /// answered at once.
    async fn answer(&self, request: Request) -> Response;
}

/// What strangers may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a connection may take to say who it is.
    pub handshake: Duration,
    /// How many connections may be about to say it. One more, and the one that has taken longest is closed.
    pub strangers: usize,
    /// How many connections there may be in all.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(5), strangers: 64, connections: 1024 }
    }
}

/// One log line of a kind in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// How long nothing is accepted after the system could not, for instance because there were too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes connections until it is stopped or dropped.
pub struct Listener {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: Task,
    #[cfg(test)]
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Listener {
    /// Listens on `bind`: the first address of its host that belongs to this machine. Port 0 stands for any free port.
    ///
    /// # Errors
    ///
    /// The host means nothing, or the port cannot be listened on.
    pub async fn start(bind: &Address, security: Arc<Security>, accept: Arc<dyn Accept>, limits: Limits) -> Result<Self, TransportError> {
        let cannot = |source| TransportError::Listen { address: bind.to_string(), source };
        let found = bind.resolve(Deadline::after(limits.handshake)).await?;
        let listener = TcpListener::bind(found.as_slice()).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let shared = Arc::new(Shared { security, accept, limits, quiet: Quiet::new(LOG_EVERY), places: Mutex::default() });
        let (stop, stopped) = oneshot::channel();
        tracing::info!(%address, "listening for the other nodes of the embedded store");
        let task = Task(tokio::spawn(accept_all(listener, Arc::clone(&shared), stopped)));
        Ok(Self {
            address,
            stop: Some(stop),
            task,
            #[cfg(test)]
            shared,
        })
    }

    /// Where it listens.
    pub const fn local_address(&self) -> SocketAddr {
        self.address
    }

    #[cfg(test)]
    pub(super) fn peers(&self) -> usize {
        lock(&self.shared.places).peers.len()
    }

    /// Ends all connections, and returns when the port is free.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        // It ends by itself, at once: nothing in it waits for anybody.
        let _ended = (&mut self.task.0).await;
    }
}

/// What all connections of a listener have in common.
pub(super) struct Shared {
    pub(super) security: Arc<Security>,
    pub(super) accept: Arc<dyn Accept>,
    pub(super) limits: Limits,
    quiet: Quiet,
    places: Mutex<Places>,
}

/// Who is there.
#[derive(Default)]
struct Places {
    next: u64,
    /// Connections that did not say who they are yet, oldest first.
    strangers: BTreeMap<u64, AbortHandle>,
    /// The connection of each node. It has one: a newer one means that the older one is dead, and only this side does not
    /// know yet.
    peers: HashMap<NodeId, (u64, AbortHandle)>,
}

/// The place of one connection among the others, given back when it ends.
pub(super) struct Place {
    number: u64,
    peer: Option<NodeId>,
    shared: Arc<Shared>,
}

impl Place {
    /// The other side is a client.
    pub(super) fn is_client(&self) {
        lock(&self.shared.places).strangers.remove(&self.number);
    }

    /// The other side is this node, and any earlier connection of it is over.
    pub(super) fn is_peer(&mut self, node: NodeId) {
        let mut places = lock(&self.shared.places);
        let Some(handle) = places.strangers.remove(&self.number) else { return };
        self.peer = Some(node);
        let older = places.peers.insert(node, (self.number, handle));
        drop(places);
        if let Some((_, older)) = older {
            older.abort();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = lock(&self.shared.places);
        places.strangers.remove(&self.number);
        if let Some(node) = self.peer
            && places.peers.get(&node).is_some_and(|(number, _)| *number == self.number)
        {
            places.peers.remove(&node);
        }
    }
}

impl Shared {
    /// Says what was wrong with a connection, unless the same was said just now.
    pub(super) fn complain(&self, from: SocketAddr, error: &TransportError) {
        if let Some(suppressed) = self.quiet.admit(error.kind()) {
            tracing::warn!(%from, suppressed, "a connection to the embedded store was refused: {}", error.chain());
        }
    }

    /// Says why a node was not welcome, unless another one was not just now.
    pub(super) fn was_unwelcome(&self, from: SocketAddr, why: &str) {
        if let Some(suppressed) = self.quiet.admit("unwelcome") {
            tracing::warn!(%from, suppressed, "a node of the embedded store was refused: {why}");
        }
    }

    fn take_in(self: &Arc<Self>, tcp: TcpStream, from: SocketAddr, connections: &mut JoinSet<()>) {
        let Some(number) = self.make_room(connections.len(), from) else { return };
        let place = Place { number, peer: None, shared: Arc::clone(self) };
        let shared = Arc::clone(self);
        let (go, may_go) = oneshot::channel();
        let handle = connections.spawn(async move {
            if may_go.await.is_ok() {
                serve::connection(tcp, from, place, shared).await;
            }
        });
        lock(&self.places).strangers.insert(number, handle);
        // It waited for its handle to be there, and is gone only if the runtime is.
        let _gone = go.send(());
    }

    /// The number of a new connection, for which an older one may have to go; none if there is no place for it.
    fn make_room(&self, connections: usize, from: SocketAddr) -> Option<u64> {
        let Limits { strangers, connections: all, .. } = self.limits;
        let mut places = lock(&self.places);
        let number = places.next;
        places.next += 1;
        if places.strangers.len() < strangers && connections < all {
            return Some(number);
        }
        let oldest = places.strangers.pop_first();
        drop(places);
        match oldest {
            Some((_, oldest)) => {
                oldest.abort();
                if let Some(suppressed) = self.quiet.admit("strangers") {
                    tracing::warn!(suppressed, "there are too many connections to the embedded store that do not say who they are");
                }
                Some(number)
            }
            None => {
                if let Some(suppressed) = self.quiet.admit("full") {
                    tracing::warn!(%from, suppressed, "a connection to the embedded store was closed: there are too many");
                }
                None
            }
        }
    }
}

async fn accept_all(listener: TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((tcp, from)) => shared.take_in(tcp, from, &mut connections),
                Err(error) => {
                    if let Some(suppressed) = shared.quiet.admit("accept") {
                        tracing::warn!(suppressed, "cannot accept connections to the embedded store: {error}");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}
