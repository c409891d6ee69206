//! From an accepted socket to requests.
//!
//! Every connection is a task of its own, from the TLS handshake on: who is slow is alone with it. Their number is
//! limited, so that nobody can take the file descriptors that the agent needs to keep its lock.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::response::Response;
use axum_server::accept::Accept;
use http::Request;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::app::App;
use super::auth::Caller;
use super::{routes, socket};

/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// How many connections may be open at once. More are closed as soon as they come.
pub(super) const MAX_CONNECTIONS: usize = 512;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Makes connections out of sockets.
#[derive(Clone, Debug)]
pub(super) struct Acceptor {
    tls: Arc<RwLock<Option<Arc<rustls::ServerConfig>>>>,
    room: Arc<Semaphore>,
}

impl Acceptor {
    pub(super) fn new(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        Self { tls: Arc::new(RwLock::new(tls)), room: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }

    /// How TLS is talked now.
    pub(super) fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Talks TLS like this from the next connection on; plain text if there is none.
    pub(super) fn set_tls(&self, tls: Option<Arc<rustls::ServerConfig>>) {
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = tls;
    }
}

impl Accept<TcpStream, Connection> for Acceptor {
    type Stream = Transport;
    type Service = Connection;
    type Future = BoxFuture<io::Result<(Transport, Connection)>>;

    fn accept(&self, stream: TcpStream, mut connection: Connection) -> Self::Future {
        let tls = self.tls();
        let room = Arc::clone(&self.room).try_acquire_owned();
        Box::pin(async move {
            let Ok(room) = room else {
                tracing::debug!("{} is sent away: {MAX_CONNECTIONS} connections are open", connection.caller.address);
                return Err(io::Error::other("too many connections"));
            };
            connection.room = Some(Arc::new(room));
            socket::prepare(&stream)?;
            let Some(tls) = tls else { return Ok((Transport::Plain(stream), connection)) };
            let handshake = TlsAcceptor::from(tls).accept(stream);
            let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!("No TLS with {}: {error}", connection.caller.address);
                    return Err(error);
                }
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            };
            connection.caller.has_certificate = stream.get_ref().1.peer_certificates().is_some();
            Ok((Transport::Tls(Box::new(stream)), connection))
        })
    }
}

/// One connection, as a service that answers its requests.
#[derive(Clone)]
pub(super) struct Connection {
    app: Arc<App>,
    caller: Caller,
    /// Kept as long as the connection lives.
    room: Option<Arc<OwnedSemaphorePermit>>,
}

impl Connection {
    pub(super) fn new(app: Arc<App>, address: SocketAddr) -> Self {
        let caller = Caller { address: address.ip().to_canonical(), has_certificate: false };
        Self { app, caller, room: None }
    }
}

impl tower::Service<Request<Incoming>> for Connection {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let (app, caller) = (Arc::clone(&self.app), self.caller);
        Box::pin(async move { Ok(routes::answer(&app, caller, request).await) })
    }
}

/// The stream below HTTP.
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, data),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
