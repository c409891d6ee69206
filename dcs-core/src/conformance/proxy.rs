//! A link between one client and one server that can be slow, lossy or cut.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// What the link does.
#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    /// Answers come this much later.
    delay: Duration,
    /// Questions go through; answers vanish.
    loses_answers: bool,
    /// Nothing goes through, in either direction.
    cut: bool,
    /// Connections made before this number changed are broken.
    generation: u64,
}

/// The link. Works until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    listen: SocketAddr,
    condition: watch::Sender<Condition>,
    task: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// A link to `server`, which need not be there yet.
    ///
    /// # Errors
    ///
    /// There is no port to listen on.
    pub async fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let listen = listener.local_addr()?;
        let (condition, observed) = watch::channel(Condition::default());
        let task = tokio::spawn(serve(listener, server, observed)).abort_handle();
        Ok(Self { listen, condition, task })
    }

    /// Where the client connects.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Delays every answer; zero ends it.
    pub fn delay_answers(&self, delay: Duration) {
        self.condition.send_modify(|condition| condition.delay = delay);
    }

    /// Lets questions through and keeps answers back. Ending it breaks the connections: what was lost never comes.
    pub fn lose_answers(&self, lose: bool) {
        self.condition.send_modify(|condition| {
            condition.loses_answers = lose;
            condition.generation += u64::from(!lose);
        });
    }

    /// Lets nothing through, and tells nobody.
    pub fn cut(&self) {
        self.condition.send_modify(|condition| condition.cut = true);
    }

    /// Breaks every connection; new ones work.
    pub fn break_connections(&self) {
        self.condition.send_modify(|condition| condition.generation += 1);
    }

    /// Ends everything, and breaks the connections.
    pub fn heal(&self) {
        self.condition.send_modify(|condition| {
            *condition = Condition { generation: condition.generation + 1, ..Condition::default() };
        });
    }
}

async fn serve(listener: TcpListener, server: SocketAddr, condition: watch::Receiver<Condition>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(connect(client, server, condition.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, server: SocketAddr, mut condition: watch::Receiver<Condition>) {
    let generation = condition.borrow().generation;
    let mut during = condition.clone();
    let relay = async move {
        if during.wait_for(|condition| !condition.cut).await.is_err() {
            return;
        }
        let Ok(server) = TcpStream::connect(server).await else { return };
        let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        // Either end closing ends both.
        tokio::select! {
            () = questions(from_client, to_server, during.clone()) => {}
            () = answers(from_server, to_client, during.clone()) => {}
        }
    };
    tokio::select! {
        () = relay => {}
        _ = condition.wait_for(|condition| condition.generation != generation) => {}
    }
}

async fn questions(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut condition: watch::Receiver<Condition>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if condition.wait_for(|condition| !condition.cut).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Answers keep their order and their distances: a delay shifts them all by the same time.
async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut condition: watch::Receiver<Condition>) {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let observed = condition.clone();
    let receive = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let now = *observed.borrow();
            if !now.loses_answers && queue.send((Instant::now() + now.delay, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let send = async move {
        while let Some((at, bytes)) = queued.recv().await {
            sleep_until(at).await;
            let open = condition.wait_for(|condition| !condition.cut).await.is_ok();
            if !open || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(receive, send);
}
