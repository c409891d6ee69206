//! Real sockets on the loopback interface.

mod certificates;
mod clients;
mod links;
mod security;
mod strangers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::Deadline;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::identity::{ClusterId, NodeId};
use crate::message::{PeerFrame, RaftMessage, Request, Response, Welcome};

const CLUSTER: ClusterId = ClusterId(1);

/// Longer than anything takes that does not fail.
fn in_time() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

/// Waits for something that nobody tells about.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = in_time();
    while !condition() {
        assert!(!deadline.has_passed(), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn raft(index: u64) -> PeerFrame {
    PeerFrame::Raft(RaftMessage { index, ..RaftMessage::default() })
}

fn echo(text: &str) -> Request {
    Request::Read { prefix: text.to_owned() }
}

fn echoed(text: &str) -> Response {
    Response::Refused(text.to_owned())
}

/// Answered when [`Door`] opens.
fn wait() -> Request {
    Request::Wait { prefix: String::new(), after: 0, milliseconds: 0 }
}

/// What a node does in these tests.
struct Door {
    frames: mpsc::Sender<(NodeId, PeerFrame)>,
    refuse: Mutex<Option<&'static str>>,
    /// As many waiting requests are answered as there are permits.
    open: Semaphore,
    /// How many requests came that wait, or that have a large answer.
    waiting: Semaphore,
    /// Held by every request that is being answered.
    working: Arc<()>,
}

#[async_trait]
impl Accept for Door {
    async fn welcome(&self, introduction: &Introduction) -> Welcome {
        assert_eq!(introduction.cluster, CLUSTER);
        lock(&self.refuse).map_or(Welcome::Accepted, |why| Welcome::Refused(why.to_owned()))
    }

    async fn frame(&self, from: NodeId, frame: PeerFrame) {
        self.frames.send((from, frame)).await.unwrap();
    }

    async fn answer(&self, request: Request) -> Response {
        let _working = Arc::clone(&self.working);
        match request {
            Request::Read { prefix } => Response::Refused(prefix),
            Request::Wait { .. } => {
                self.waiting.add_permits(1);
                self.open.acquire().await.unwrap().forget();
                Response::Done
            }
            Request::Status => {
                self.waiting.add_permits(1);
                Response::Refused("x".repeat(1 << 20))
            }
            Request::Discover => Response::Refused("x".repeat(65 << 20)),
            request => panic!("{request:?}"),
        }
    }
}

/// A node that listens.
struct House {
    listener: Listener,
    door: Arc<Door>,
    frames: mpsc::Receiver<(NodeId, PeerFrame)>,
}

impl House {
    async fn open(security: &Arc<Security>) -> Self {
        Self::open_with("127.0.0.1:0", security, Limits::default()).await
    }

    async fn open_with(bind: &str, security: &Arc<Security>, limits: Limits) -> Self {
        let (sender, frames) = mpsc::channel(1000);
        let door = Arc::new(Door {
            frames: sender,
            refuse: Mutex::default(),
            open: Semaphore::new(0),
            waiting: Semaphore::new(0),
            working: Arc::default(),
        });
        let accept = Arc::clone(&door) as Arc<dyn Accept>;
        let listener = Listener::start(&bind.parse().unwrap(), Arc::clone(security), accept, limits).await.unwrap();
        Self { listener, door, frames }
    }

    fn address(&self) -> Address {
        self.listener.local_address().into()
    }

    async fn client(&self, security: &Security) -> ClientConnection {
        ClientConnection::open(&self.address(), security, in_time()).await.unwrap()
    }

    async fn client_refused(&self, security: &Security) -> TransportError {
        ClientConnection::open(&self.address(), security, in_time()).await.unwrap_err()
    }

    async fn next_frame(&mut self) -> (NodeId, PeerFrame) {
        in_time().bound("a frame", self.frames.recv()).await.unwrap().unwrap()
    }

    /// Shows that it goes on, whatever happened.
    async fn serves(&self, security: &Security) {
        let client = self.client(security).await;
        assert_eq!(client.request(&echo("hello"), in_time()).await.unwrap(), echoed("hello"));
    }
}

fn links(id: u64, security: &Arc<Security>) -> PeerLinks {
    let local = LocalNode { id: NodeId(id), address: format!("node{id}:2222"), cluster: CLUSTER };
    PeerLinks::new(local, Arc::clone(security), Handle::current())
}

/// Links of the node 1 to the node 2 there.
fn links_to(address: &Address, security: &Arc<Security>) -> PeerLinks {
    let links = links(1, security);
    links.set_peers(&BTreeMap::from([(NodeId(2), address.to_string())]));
    links
}

fn is_connected(links: &PeerLinks) -> bool {
    links.status().values().all(|status| status.connected)
}

async fn security(password: Option<&str>, tls: Option<TlsFiles>) -> Arc<Security> {
    Arc::new(Security::new(SecuritySettings { password: password.map(str::to_owned), tls }).await.unwrap())
}

async fn plain() -> Arc<Security> {
    security(None, None).await
}

/// Everything that is logged by the thread of the test.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        let logs = Self::default();
        let writer = logs.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (logs, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(lock(&self.0).clone()).unwrap()
    }

    fn count(&self, words: &str) -> usize {
        self.text().matches(words).count()
    }

    async fn shows(&self, words: &str) {
        eventually(&format!("`{words}` in the log"), || self.count(words) > 0).await;
    }
}

impl std::io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
