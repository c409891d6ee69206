//! One connection to one API server.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use dcs_core::{BoxError, Deadline, Timing};
use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How connections are made.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) tls: Arc<rustls::ClientConfig>,
    /// The name in the server's certificate, if it is not that of the address.
    pub(crate) server_name: Option<ServerName<'static>>,
    pub(crate) timing: Timing,
    /// How long making one may take.
    pub(crate) patience: Duration,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(&server).await.map(TokioIo::new) })
    }
}

impl Connector {
    async fn connect(&self, server: &Uri) -> Result<Wire, BoxError> {
        let deadline = Deadline::after(self.patience);
        let host = server.host().ok_or("the server's address has no host")?;
        // An address of version 6 stands in brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let encrypted = server.scheme() != Some(&Scheme::HTTP);
        let port = server.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let stream = self.reach(host, port, deadline).await?;
        stream.set_nodelay(true)?;
        self.keep_alive(&stream)?;
        if !encrypted {
            return Ok(Wire(Box::new(stream)));
        }
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())?,
        };
        let handshake = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream);
        Ok(Wire(Box::new(deadline.bound("agree on TLS", handshake).await??)))
    }

    /// The first of the name's addresses that answers, each with its share of the time.
    async fn reach(&self, host: &str, port: u16, deadline: Deadline) -> Result<TcpStream, BoxError> {
        let found = deadline.bound("look up the server", tokio::net::lookup_host((host, port))).await??;
        let addresses: Vec<SocketAddr> = found.collect();
        let mut last: BoxError = "the server's name has no address".into();
        for (index, address) in addresses.iter().enumerate() {
            let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let share = deadline.at_most(deadline.remaining() / left);
            match share.bound("connect", TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error.into(),
                Err(expired) => last = expired.into(),
            }
        }
        Err(last)
    }

    /// A server that vanished without a word must be noticed within the ttl, also by whoever only listens.
    fn keep_alive(&self, stream: &TcpStream) -> io::Result<()> {
        const PROBES: u32 = 3;
        let Timing { ttl, loop_wait, retry_timeout } = self.timing;
        let idle = loop_wait + retry_timeout;
        let interval = (ttl.saturating_sub(idle) / PROBES).max(Duration::from_secs(1));
        let socket = SockRef::from(stream);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(PROBES))?;
        socket.set_tcp_user_timeout(Some(ttl))
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, encrypted or not.
pub(crate) struct Wire(Box<dyn Duplex>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}
