//! Connections to the other nodes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dcs_core::Deadline;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::address::Address;
use super::error::TransportError;
use super::frame;
use super::queue::{Batch, LinkReport, Queue};
use super::quiet::Quiet;
use super::secure::{Reader, Security, Writer};
use super::{Task, lock, socket};
use crate::identity::{ClusterId, NodeId};
use crate::message::{Hello, PeerFrame, Welcome};

/// How long an attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long the other side may then take to say that this node is welcome.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the other side may take to receive what is sent at once.
const SEND: Duration = Duration::from_secs(10);
/// The pause after the first failure, which doubles with each further one, up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// About how many bytes are sent at once.
const TOGETHER: usize = 256 << 10;
/// How long a node that is no peer, as far as this one knows, is remembered after it was last heard of.
const STRANGER: Duration = Duration::from_secs(60);
/// The same failure of the same link is logged once in this time.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The node that the links belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalNode {
    /// Who it is.
    pub id: NodeId,
    /// Where the others reach it.
    pub address: String,
    /// Its cluster.
    pub cluster: ClusterId,
}

/// How the connection to another node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// Whether there is one, and the other node takes what is sent.
    pub connected: bool,
    /// How long ago the other node was last heard of.
    pub last_contact: Option<Duration>,
}

/// One connection to each other node, made again whenever it ends. Nothing here waits, so that a thread without a runtime
/// can use it; dropping it ends the connections.
#[derive(Debug)]
pub struct PeerLinks {
    local: Arc<LocalNode>,
    security: Arc<Security>,
    runtime: Handle,
    links: Mutex<HashMap<NodeId, Link>>,
}

#[derive(Debug)]
struct Link {
    address: String,
    queue: Arc<Queue>,
    state: Arc<Mutex<State>>,
    /// It is no peer, as far as this node knows, and has introduced itself.
    stranger: bool,
    _task: Task,
}

#[derive(Debug, Default)]
struct State {
    connected: bool,
    heard: Option<Instant>,
}

impl PeerLinks {
    /// Links of this node; there are none before [`set_peers`](Self::set_peers). They live in `runtime`.
    pub fn new(local: LocalNode, security: Arc<Security>, runtime: Handle) -> Self {
        Self { local: Arc::new(local), security, runtime, links: Mutex::default() }
    }

    /// Makes the links be those to these nodes, reached at these addresses. Links that stay the same go on undisturbed.
    /// This node itself may be among them, and has no link.
    pub fn set_peers(&self, peers: &BTreeMap<NodeId, String>) {
        let mut links = lock(&self.links);
        links.retain(|node, link| peers.contains_key(node) || link.stranger);
        for (&node, address) in peers {
            let (queue, state) = match links.remove(&node) {
                Some(link) if link.address == *address => {
                    links.insert(node, Link { stranger: false, ..link });
                    continue;
                }
                // What waits is for the node, wherever it is.
                Some(Link { queue, state, .. }) => {
                    let heard = lock(&state).heard;
                    (queue, Arc::new(Mutex::new(State { connected: false, heard })))
                }
                None if node == self.local.id => continue,
                None => Default::default(),
            };
            links.insert(node, self.link(node, address.clone(), queue, state));
        }
    }

    /// A node has said who and where it is. If it is no peer yet, this node has not heard of everything: the others may have
    /// let it in, and it may even lead them. Without an answer it could not tell this node of itself.
    pub fn introduce(&self, node: NodeId, address: &str) {
        let mut links = lock(&self.links);
        if node == self.local.id || links.get(&node).is_some_and(|link| !link.stranger || link.address == address) {
            return;
        }
        let state = State { connected: false, heard: Some(Instant::now()) };
        let link = self.link(node, address.to_owned(), Arc::default(), Arc::new(Mutex::new(state)));
        links.insert(node, Link { stranger: true, ..link });
    }

    fn link(&self, peer: NodeId, address: String, queue: Arc<Queue>, state: Arc<Mutex<State>>) -> Link {
        let run = Run {
            peer,
            address: address.clone(),
            local: Arc::clone(&self.local),
            security: Arc::clone(&self.security),
            queue: Arc::clone(&queue),
            state: Arc::clone(&state),
            quiet: Quiet::new(LOG_EVERY),
        };
        Link { address, queue, state, stranger: false, _task: Task(self.runtime.spawn(run.forever())) }
    }

    /// Sends a frame, sooner or later or never. Does not wait: what cannot be sent is lost.
    pub fn send(&self, to: NodeId, frame: PeerFrame) {
        if let Some(link) = lock(&self.links).get(&to) {
            link.queue.push(frame);
        }
    }

    /// Notes that a frame of another node arrived, which shows that it lives.
    pub fn heard(&self, from: NodeId) {
        if let Some(link) = lock(&self.links).get(&from) {
            lock(&link.state).heard = Some(Instant::now());
        }
    }

    /// How each connection is.
    pub fn status(&self) -> BTreeMap<NodeId, LinkStatus> {
        let of = |link: &Link| {
            let state = lock(&link.state);
            LinkStatus { connected: state.connected, last_contact: state.heard.map(|heard| heard.elapsed()) }
        };
        lock(&self.links).iter().map(|(&node, link)| (node, of(link))).collect()
    }

    /// What became of the frames since this was asked last. To be asked about once per heartbeat.
    pub fn take_reports(&self) -> Vec<(NodeId, LinkReport)> {
        let mut links = lock(&self.links);
        let was_heard = |link: &Link| lock(&link.state).heard.is_some_and(|heard| heard.elapsed() < STRANGER);
        links.retain(|_, link| !link.stranger || was_heard(link));
        links.iter().flat_map(|(&node, link)| link.queue.reports().map(move |report| (node, report))).collect()
    }
}

/// What keeps one link.
struct Run {
    peer: NodeId,
    address: String,
    local: Arc<LocalNode>,
    security: Arc<Security>,
    queue: Arc<Queue>,
    state: Arc<Mutex<State>>,
    quiet: Quiet,
}

impl Run {
    async fn forever(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let error = match self.attempt().await {
                Ok((reader, writer)) => {
                    let (peer, address) = (self.peer, &self.address);
                    self.set_connected(true);
                    tracing::info!(%peer, address, "connected to another node of the embedded store");
                    let error = self.keep(reader, writer).await;
                    self.set_connected(false);
                    tracing::info!(%peer, address, "the connection to another node of the embedded store ended: {}", error.chain());
                    // What fails from now on is news.
                    self.quiet = Quiet::new(LOG_EVERY);
                    // A node that takes a connection and drops it again is not asked more often than one that takes none.
                    if begun.elapsed() > LAST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    error
                }
                Err(error) => {
                    self.log(&error);
                    error
                }
            };
            self.queue.failed();
            if error.needs_a_person() {
                pause = LAST_PAUSE;
            }
            tokio::time::sleep(pause.mul_f64(0.75 + 0.25 * fastrand::f64())).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    fn set_connected(&self, connected: bool) {
        let mut state = lock(&self.state);
        state.connected = connected;
        if connected {
            state.heard = Some(Instant::now());
        }
    }

    fn log(&self, error: &TransportError) {
        let Some(suppressed) = self.quiet.admit(error.kind()) else { return };
        let (peer, address, error_chain) = (self.peer, &self.address, error.chain());
        if error.needs_a_person() {
            tracing::warn!(%peer, address, suppressed, "no connection to another node of the embedded store: {error_chain}");
        } else {
            tracing::info!(%peer, address, suppressed, "no connection to another node of the embedded store: {error_chain}");
        }
    }

    async fn attempt(&self) -> Result<(Reader, Writer), TransportError> {
        let LocalNode { id, address, cluster } = &*self.local;
        let hello = Hello::Peer { from: *id, address: address.clone(), to: self.peer, cluster: *cluster };
        let address: Address = self.address.parse()?;
        let tcp = socket::connect(&address, Deadline::after(CONNECT)).await?;
        let deadline = Deadline::after(HANDSHAKE);
        let (mut reader, mut writer) = self.security.connect(tcp, address.host(), deadline).await?.split();
        writer.send(&hello, deadline).await?;
        welcomed(&mut reader, deadline).await?;
        Ok((reader, writer))
    }

    /// Sends what comes until the connection ends; why it did.
    async fn keep(&self, mut reader: Reader, mut writer: Writer) -> TransportError {
        let mut bytes = Vec::new();
        loop {
            let first = tokio::select! {
                frame = self.queue.next() => frame,
                // Nothing is said on the way back, but it ends when the other side does.
                said = reader.next::<Welcome>() => return match said {
                    Ok(Welcome::Refused(why)) => TransportError::Refused(why),
                    Ok(Welcome::Accepted) => TransportError::Foreign,
                    Err(error) => error,
                },
            };
            let mut batch = Batch::new(Arc::clone(&self.queue));
            let mut frame = Some(first);
            bytes.clear();
            while let Some(next) = frame {
                self.put(&next, &mut batch, writer.is_checksummed(), &mut bytes);
                frame = if bytes.len() < TOGETHER { self.queue.take() } else { None };
            }
            if let Err(error) = writer.send_encoded(&bytes, Deadline::after(SEND)).await {
                return error;
            }
            batch.sent();
            bytes.shrink_to(TOGETHER);
        }
    }

    fn put(&self, next: &PeerFrame, batch: &mut Batch, checksummed: bool, bytes: &mut Vec<u8>) {
        match frame::encode(next, checksummed, bytes) {
            Ok(()) => batch.add(next),
            Err(error) => {
                // The batch that it would have been in is lost alone.
                let mut alone = Batch::new(Arc::clone(&self.queue));
                alone.add(next);
                if let Some(suppressed) = self.quiet.admit("unsent") {
                    tracing::warn!(peer = %self.peer, suppressed, "a frame cannot be sent to another node: {}", error.chain());
                }
            }
        }
    }
}

/// Waits for the answer to a hello.
pub(super) async fn welcomed(reader: &mut Reader, deadline: Deadline) -> Result<(), TransportError> {
    match deadline.bound("hear whether this side is welcome", reader.next()).await?? {
        Welcome::Accepted => {
            reader.allow_large();
            Ok(())
        }
        Welcome::Refused(why) => Err(TransportError::Refused(why)),
    }
}
