//! One connection to one server.
//!
//! The client library would connect by itself, balance over several servers and reconnect behind our back. None of that
//! is wanted here: a request must go where the rotation says, a failure to connect must be told from a lost answer, and
//! TLS must accept what [`dcs_core::tls`] accepts. So TCP and TLS are done here, and the library gets a connection that
//! works until it breaks, and never another.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::tls::ClientTls;
use dcs_core::{BoxError, Fate, Timing};
use etcd_client::{Channel, ClusterClient, ConnectOptions, KvClient, LeaseClient, WatchClient};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::{Access, Credentials};
use crate::endpoint::{Endpoint, Scheme};
use crate::error::STORE;
use crate::failure::{Class, Failure};
use crate::members;
use crate::wire::Wire;

/// A whole cluster has to fit into one answer, and gRPC's default of 4 MiB is less than two large values.
const LARGEST_ANSWER: usize = 64 << 20;

/// How often an idle watch asks whether the server is still there. etcd counts pings closer than 5 s as an attack.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// A server at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) endpoint: Endpoint,
    pub(crate) address: SocketAddr,
}

/// The clients of one live connection.
pub(crate) struct Connection {
    target: Target,
    serial: u64,
    answered: AtomicBool,
    /// Whether we present a certificate.
    certified: bool,
    kv: KvClient,
    lease: LeaseClient,
    watch: WatchClient,
    cluster: ClusterClient,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot connect to {0}")]
    Tcp(Target, #[source] io::Error),
    #[error("cannot establish TLS with {0}")]
    Tls(Target, #[source] io::Error),
    #[error("`{0}` cannot be the name of a TLS server")]
    Name(String),
    #[error("the connection to {0} has broken")]
    Broken(Target),
    #[error(
        "{0} did not agree to speak HTTP/2, which etcd's protocol needs\n\nhint: a proxy in front of etcd must pass \
         HTTP/2 (gRPC) on"
    )]
    NotHttp2(Target),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, address } = self;
        if endpoint.address().is_some() { write!(f, "{endpoint}") } else { write!(f, "{endpoint} ({})", address.ip()) }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} to {}", self.serial, self.target)
    }
}

#[async_trait]
impl Wire for Connection {
    const STORE: &'static str = STORE;

    async fn open(target: Target, serial: u64, access: Access, timing: Timing) -> Result<Self, Failure> {
        let Access { credentials, tls } = access;
        let certified = tls.cert.is_some();
        let stream = TcpStream::connect(target.address).await.map_err(|error| Failure::unreachable(Problem::Tcp(target.clone(), error)))?;
        tune(&stream, timing);
        let channel = match target.endpoint.scheme {
            Scheme::Http => channel(&target, stream, timing).await?,
            Scheme::Https => channel(&target, encrypt(&target, stream, tls).await?, timing).await?,
        };
        let client = authenticate(channel, &target, credentials)
            .await
            .map_err(|failure| usual_reason(failure, target.endpoint.scheme, certified))?;
        Ok(Self {
            target,
            serial,
            answered: AtomicBool::new(false),
            certified,
            kv: client.kv_client().max_decoding_message_size(LARGEST_ANSWER),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(LARGEST_ANSWER),
            cluster: client.cluster_client(),
        })
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn serial(&self) -> u64 {
        self.serial
    }

    fn has_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Adds the usual reasons to a connection that broke before the first answer: what the server had to say about it is
    /// mostly lost with the connection.
    fn explain(&self, failure: Failure) -> Failure {
        if self.answered.load(Ordering::Relaxed) {
            return failure;
        }
        usual_reason(failure, self.target.endpoint.scheme, self.certified)
    }

    async fn members(&self) -> Result<Vec<Endpoint>, BoxError> {
        let response = self.cluster.clone().member_list().await.map_err(|error| Failure::from(error).cause)?;
        let urls = response.members().iter().flat_map(|member| member.client_urls());
        Ok(members::usable(urls.map(String::as_str), self.target.endpoint.scheme))
    }
}

impl Connection {
    pub(crate) fn kv(&self) -> KvClient {
        self.kv.clone()
    }

    pub(crate) fn lease(&self) -> LeaseClient {
        self.lease.clone()
    }

    pub(crate) fn watch(&self) -> WatchClient {
        self.watch.clone()
    }
}

fn usual_reason(failure: Failure, scheme: Scheme, certified: bool) -> Failure {
    if failure.class != Class::Broken {
        return failure;
    }
    failure.perhaps(match (scheme, certified) {
        (Scheme::Http, _) => "perhaps it speaks TLS, or does not speak HTTP/2, which etcd's protocol (gRPC) needs",
        (Scheme::Https, true) => "perhaps the server does not accept our client certificate",
        (Scheme::Https, false) => "perhaps the server asks for a client certificate (`cert` and `key`)",
    })
}

async fn authenticate(
    channel: tonic::transport::Channel,
    target: &Target,
    credentials: Option<Credentials>,
) -> Result<etcd_client::Client, Failure> {
    // A server that has lost its leader says so at once instead of letting us wait.
    let options = ConnectOptions::new().with_require_leader(true);
    let without_user = |channel| etcd_client::Client::from_channel(Channel::Tonic(channel), Some(options.clone()));
    let Some(Credentials { username, password }) = credentials else { return Ok(without_user(channel).await?) };
    let with_user = options.clone().with_user(username, password).with_auto_token_refresh(true);
    match etcd_client::Client::from_channel(Channel::Tonic(channel.clone()), Some(with_user)).await {
        Ok(client) => Ok(client),
        Err(error) => match Failure::from(error) {
            Failure { class: Class::AuthOff, .. } => {
                tracing::debug!(server = %target, "etcd does not ask for a user: going on without");
                Ok(without_user(channel).await?)
            }
            // Nothing but the question for a token was sent.
            failure => Err(Failure { fate: Fate::NotApplied, ..failure }),
        },
    }
}

/// A dead peer is noticed within the ttl, as the specification asks. Not being able to set that is no reason to fail.
fn tune(stream: &TcpStream, timing: Timing) {
    let idle = timing.loop_wait + timing.retry_timeout;
    let interval = (timing.ttl.saturating_sub(idle) / 3).max(Duration::from_secs(1));
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(3);
    let tuned = stream
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(timing.ttl)));
    if let Err(error) = tuned {
        tracing::debug!(%error, "TCP keepalive cannot be set");
    }
}

async fn encrypt(target: &Target, stream: TcpStream, settings: ClientTls) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    // Read anew for every connection, so that renewed certificates are used without a restart. Small local files.
    let mut tls = match tokio::task::spawn_blocking(move || settings.config()).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            return Err(Failure { class: Class::Misconfigured, fate: Fate::NotApplied, cause: Box::new(error) });
        }
        Err(error) => return Err(Failure::unreachable(error)),
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(target.endpoint.host.clone())
        .map_err(|_| Failure::unreachable(Problem::Name(target.endpoint.host.clone())))?;
    let stream = TlsConnector::from(Arc::new(tls))
        .connect(name, stream)
        .await
        .map_err(|error| Failure::unreachable(Problem::Tls(target.clone(), error)))?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(Failure::unreachable(Problem::NotHttp2(target.clone())));
    }
    Ok(stream)
}

/// Speaks HTTP/2 over `io`, once: when it breaks, requests fail without having been sent.
async fn channel<S>(target: &Target, io: S, timing: Timing) -> Result<tonic::transport::Channel, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let invalid = |error: BoxError| Failure::unreachable(Problem::Tcp(target.clone(), io::Error::other(error)));
    let origin = target.endpoint.url().parse::<tonic::transport::Uri>().map_err(|error| invalid(error.into()))?;
    let mut io = Some(TokioIo::new(io));
    let server = target.clone();
    let connector = tower::service_fn(move |_| std::future::ready(io.take().ok_or_else(|| Problem::Broken(server.clone()))));
    // The scheme of the address says "no TLS" to the library; the origin says to etcd what it really is, without which it
    // would not look at the client's certificate.
    tonic::transport::Endpoint::from_shared(format!("http://{}", target.endpoint))
        .map_err(|error| invalid(error.into()))?
        .origin(origin)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout((timing.retry_timeout / 2).max(Duration::from_secs(1)))
        .keep_alive_while_idle(false)
        .connect_with_connector(connector)
        .await
        .map_err(|error| invalid(error.into()))
}
