//! One connection that somebody made to this node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dcs_core::Deadline;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;

use super::error::TransportError;
use super::listener::{Introduction, Place, Shared};
use super::secure::{Reader, Writer};
use super::socket;
use crate::identity::NodeId;
use crate::message::{Hello, Request, Response, Welcome};

/// How long the other side may take to receive an answer.
const SEND: Duration = Duration::from_secs(10);
/// How many requests of one client are answered at once. The next ones wait in its connection.
const AT_ONCE: usize = 64;

/// Who the other side turned out to be.
enum Guest {
    Peer(NodeId),
    Client,
}

/// Serves a connection until it ends.
pub(super) async fn connection(tcp: TcpStream, from: SocketAddr, mut place: Place, shared: Arc<Shared>) {
    let deadline = Deadline::after(shared.limits.handshake);
    let ended = match admit(tcp, from, &mut place, &shared, deadline).await {
        Ok(Some((Guest::Peer(node), mut reader, _writer))) => receive(node, &mut reader, &shared).await,
        Ok(Some((Guest::Client, mut reader, mut writer))) => answer(&mut reader, &mut writer, &shared).await,
        Ok(None) => return,
        // Whoever only looks whether the port is open has done nothing wrong.
        Err(error @ (TransportError::Closed | TransportError::Broken(_))) => error,
        Err(error) => return shared.complain(from, &error),
    };
    match ended {
        TransportError::Closed | TransportError::Broken(_) | TransportError::Deadline(_) => {
            tracing::debug!(%from, "a connection to the embedded store ended: {}", ended.chain());
        }
        error => shared.complain(from, &error),
    }
}

/// Learns who the other side is; nobody if it is not welcome.
async fn admit(
    tcp: TcpStream,
    from: SocketAddr,
    place: &mut Place,
    shared: &Shared,
    deadline: Deadline,
) -> Result<Option<(Guest, Reader, Writer)>, TransportError> {
    socket::prepare(&tcp).map_err(TransportError::Broken)?;
    let (mut reader, mut writer) = shared.security.accept(tcp, deadline).await?.split();
    let hello = deadline.bound("hear who the other side is", reader.next()).await??;
    let (guest, welcome) = match hello {
        Hello::Client => (Guest::Client, Welcome::Accepted),
        Hello::Peer { from, address, to, cluster } => {
            let introduction = Introduction { from, address, to, cluster };
            let welcome = deadline.bound("decide whether a node is welcome", shared.accept.welcome(&introduction)).await?;
            (Guest::Peer(from), welcome)
        }
    };
    match (&guest, &welcome) {
        (Guest::Client, _) => place.is_client(),
        (Guest::Peer(node), Welcome::Accepted) => place.is_peer(*node),
        (Guest::Peer(_), Welcome::Refused(_)) => {}
    }
    writer.send(&welcome, deadline).await?;
    if let Welcome::Refused(why) = welcome {
        shared.was_unwelcome(from, &why);
        return Ok(None);
    }
    reader.allow_large();
    Ok(Some((guest, reader, writer)))
}

/// Passes on the frames of another node. Whether it is still there shows in the keep-alive of the connection.
async fn receive(node: NodeId, reader: &mut Reader, shared: &Shared) -> TransportError {
    loop {
        match reader.next().await {
            Ok(frame) => shared.accept.frame(node, frame).await,
            Err(error) => return error,
        }
    }
}

/// Answers the requests of a client, in the order in which the answers are ready.
async fn answer(reader: &mut Reader, writer: &mut Writer, shared: &Shared) -> TransportError {
    let mut answers = FuturesUnordered::new();
    loop {
        let done = tokio::select! {
            // A client that does not take its answers is not read on for more of them.
            biased;
            Some(done) = answers.next() => done,
            request = reader.next::<(u64, Request)>(), if answers.len() < AT_ONCE => match request {
                Ok((number, request)) => {
                    answers.push(async move { (number, shared.accept.answer(request).await) });
                    continue;
                }
                Err(error) => return error,
            },
        };
        if let Err(error) = send(writer, &done).await {
            return error;
        }
    }
}

async fn send(writer: &mut Writer, done: &(u64, Response)) -> Result<(), TransportError> {
    match writer.send(done, Deadline::after(SEND)).await {
        Err(error @ TransportError::TooLarge { .. }) => {
            let instead = (done.0, Response::Refused(format!("the answer is too large: {error}")));
            writer.send(&instead, Deadline::after(SEND)).await
        }
        sent => sent,
    }
}
