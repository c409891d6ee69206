//! A TCP proxy in user space: one link that can be cut, slowed down or refused.
//!
//! A cut link behaves like a network that loses everything: connections stay open and silent, new ones get no answer. What was on its way
//! arrives when the link heals, as retransmission would see to.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::process;

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

/// What a link does with whom.
#[derive(Clone, Debug)]
struct Conditions {
    everybody: Condition,
    /// For what runs in these directories, if it is not healthy.
    of: BTreeMap<PathBuf, Condition>,
}

impl Conditions {
    fn for_caller(&self, caller: Option<&PathBuf>) -> Condition {
        match self.everybody {
            Condition::Healthy => caller.and_then(|caller| self.of.get(caller)).copied().unwrap_or(Condition::Healthy),
            condition => condition,
        }
    }
}

/// One link, until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    listen: SocketAddr,
    conditions: watch::Sender<Conditions>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens at `listen` and passes connections on to `target`.
    ///
    /// # Errors
    ///
    /// If it cannot listen there.
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> Result<Self> {
        Self::between(listen, target, &[]).await
    }

    /// The same, for callers that can be told apart: each works in one of these directories.
    ///
    /// # Errors
    ///
    /// If it cannot listen there.
    pub async fn between(listen: SocketAddr, target: SocketAddr, callers: &[PathBuf]) -> Result<Self> {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen at {listen}"))?;
        let listen = listener.local_addr()?;
        let (conditions, observed) = watch::channel(Conditions { everybody: Condition::Healthy, of: BTreeMap::new() });
        let task = tokio::spawn(serve(listener, target, callers.into(), observed));
        Ok(Self { listen, conditions, task })
    }

    /// Where to connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Changes what the link does, for what is under way as well.
    pub fn set(&self, condition: Condition) {
        self.conditions.send_modify(|conditions| conditions.everybody = condition);
    }

    /// Changes what the link does with what comes from one of the callers, and goes back there.
    pub fn set_for(&self, caller: &Path, condition: Condition) {
        self.conditions.send_modify(|conditions| {
            conditions.of.insert(caller.to_owned(), condition);
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, callers: Arc<[PathBuf]>, conditions: watch::Receiver<Conditions>) {
    // The connections end with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((inbound, from)) = accepted {
                    let link = Link { caller: caller(&callers, from), conditions: conditions.clone() };
                    connections.spawn(connection(inbound, target, link));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Whose end of a connection this address is: that of the program whose socket has it.
fn caller(callers: &[PathBuf], from: SocketAddr) -> Option<PathBuf> {
    let socket = format!("socket:[{}]", socket_at(from)?);
    callers.iter().find(|directory| process::working_in(directory).into_iter().any(|pid| holds(pid, &socket))).cloned()
}

/// The number of the socket with this local address.
fn socket_at(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let wanted = format!("{:08X}:{:04X}", u32::from(*address.ip()).swap_bytes(), address.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find(|fields| fields.get(1) == Some(&wanted.as_str()))?.get(9).map(|inode| (*inode).to_owned())
}

fn holds(process: nix::unistd::Pid, socket: &str) -> bool {
    let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket))
}

/// What one connection must know.
#[derive(Clone, Debug)]
struct Link {
    caller: Option<PathBuf>,
    conditions: watch::Receiver<Conditions>,
}

impl Link {
    /// Waits while the link is cut. False: it refuses, or nobody is there to heal it.
    async fn passable(&mut self) -> bool {
        let caller = self.caller.as_ref();
        let found = self.conditions.wait_for(|conditions| conditions.for_caller(caller) != Condition::Cut).await;
        let Ok(condition) = found.map(|conditions| conditions.for_caller(caller)) else { return false };
        match condition {
            Condition::Healthy | Condition::Cut => true,
            Condition::Slow(delay) => {
                sleep(delay).await;
                true
            }
            Condition::Refusing => false,
        }
    }

    async fn refused(&mut self) {
        let caller = self.caller.as_ref();
        let _ = self.conditions.wait_for(|conditions| conditions.for_caller(caller) == Condition::Refusing).await;
    }
}

async fn connection(inbound: TcpStream, target: SocketAddr, mut link: Link) {
    if !link.passable().await {
        return;
    }
    let Ok(outbound) = TcpStream::connect(target).await else { return };
    let _ = (inbound.set_nodelay(true), outbound.set_nodelay(true));
    let (from_client, to_client) = inbound.into_split();
    let (from_server, to_server) = outbound.into_split();
    let (there, back) = (pump(from_client, to_server, link.clone()), pump(from_server, to_client, link.clone()));
    tokio::select! {
        ((), ()) = async { tokio::join!(there, back) } => {}
        () = link.refused() => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut link: Link) {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let Ok(length) = from.read(&mut buffer).await else { return };
        if !link.passable().await {
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

    #[tokio::test]
    async fn a_link_that_is_cut_for_one_caller_serves_the_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path();
        let proxy = Proxy::between(([127, 0, 0, 1], 0).into(), echo().await, &[directory.to_owned()]).await.expect("a proxy");
        proxy.set_for(directory, Condition::Cut);
        let port = proxy.address().port();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; echo word >&3; read -r -u 3 word; echo $word");
        let mut caller = tokio::process::Command::new("bash");
        caller.arg("-c").arg(script).current_dir(directory).stdout(std::process::Stdio::piped()).kill_on_drop(true);
        let caller = caller.spawn().expect("bash").wait_with_output();
        let mut caller = std::pin::pin!(caller);
        assert!(tokio::time::timeout(Duration::from_millis(500), &mut caller).await.is_err());

        let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
        assert_eq!(says(&mut stream, b"one").await.expect("an echo"), b"one");
        proxy.set_for(directory, Condition::Healthy);
        assert_eq!(caller.await.expect("an end").stdout, b"word\n");
    }
}
