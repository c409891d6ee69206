//! A TCP proxy in user space: one link that can be cut, slowed down or refused.
//!
//! A cut link behaves like a network that loses everything: connections stay open and silent, new ones get no answer. What was on its way
//! arrives when the link heals, as retransmission would see to.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// What a link does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Passes it on.
    Healthy,
    /// Passes it on, later.
    Slow(Duration),
    /// Keeps it, and says nothing.
    Cut,
    /// Closes every connection.
    Refusing,
}

/// One link, until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    listen: SocketAddr,
    condition: watch::Sender<Condition>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens at `listen` and passes connections on to `target`.
    ///
    /// # Errors
    ///
    /// If it cannot listen there.
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen at {listen}"))?;
        let listen = listener.local_addr()?;
        let (condition, observed) = watch::channel(Condition::Healthy);
        let task = tokio::spawn(serve(listener, target, observed));
        Ok(Self { listen, condition, task })
    }

    /// Where to connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Changes what the link does, for what is under way as well.
    pub fn set(&self, condition: Condition) {
        self.condition.send_replace(condition);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, condition: watch::Receiver<Condition>) {
    // The connections end with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((inbound, _)) = accepted {
                    connections.spawn(connection(inbound, target, condition.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(inbound: TcpStream, target: SocketAddr, mut condition: watch::Receiver<Condition>) {
    if !passable(&mut condition).await {
        return;
    }
    let Ok(outbound) = TcpStream::connect(target).await else { return };
    let _ = (inbound.set_nodelay(true), outbound.set_nodelay(true));
    let (from_client, to_client) = inbound.into_split();
    let (from_server, to_server) = outbound.into_split();
    let mut refused = condition.clone();
    tokio::select! {
        ((), ()) = async { tokio::join!(pump(from_client, to_server, condition.clone()), pump(from_server, to_client, condition.clone())) } => {}
        _ = refused.wait_for(|condition| *condition == Condition::Refusing) => {}
    }
}

/// Waits while the link is cut. False: it refuses, or nobody is there to heal it.
async fn passable(condition: &mut watch::Receiver<Condition>) -> bool {
    match condition.wait_for(|condition| *condition != Condition::Cut).await.map(|condition| *condition) {
        Ok(Condition::Healthy | Condition::Cut) => true,
        Ok(Condition::Slow(delay)) => {
            sleep(delay).await;
            true
        }
        Ok(Condition::Refusing) | Err(_) => false,
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut condition: watch::Receiver<Condition>) {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let Ok(length) = from.read(&mut buffer).await else { return };
        if !passable(&mut condition).await {
            return;
        }
        if length == 0 {
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn says(stream: &mut TcpStream, word: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(word).await?;
        let mut answer = vec![0; word.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_cut_link_keeps_what_it_was_given_until_it_heals() {
        let proxy = Proxy::start(([127, 0, 0, 1], 0).into(), echo().await).await.expect("a proxy");
        let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
        assert_eq!(says(&mut stream, b"one").await.expect("an echo"), b"one");

        proxy.set(Condition::Cut);
        let mut waiting = tokio::spawn(async move { says(&mut stream, b"two").await });
        assert!(tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.is_err());

        proxy.set(Condition::Healthy);
        assert_eq!(waiting.await.expect("no panic").expect("an echo"), b"two");
    }

    #[tokio::test]
    async fn a_refusing_link_closes_what_was_open() {
        let proxy = Proxy::start(([127, 0, 0, 1], 0).into(), echo().await).await.expect("a proxy");
        let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
        assert_eq!(says(&mut stream, b"one").await.expect("an echo"), b"one");

        proxy.set(Condition::Refusing);
        assert!(says(&mut stream, b"two").await.is_err());
    }
}
