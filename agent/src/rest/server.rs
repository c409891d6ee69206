//! The server: listening, reloading, ending.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use dcs_core::Deadline;
use dcs_core::tls::TlsError;
use ha_engine::EngineHandle;
use ha_engine::ports::Peers;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::app::{App, Live};
use super::connection::{Acceptor, Connection};
use super::{socket, tls};
use crate::config::{RestApiSettings, RestListen};
use crate::stores::RaftNode;

/// How long a client may take to send the head of its request, and how long a connection may be idle.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// The largest head of a request.
const MAX_HEAD: usize = 64 * 1024;

/// How long running requests may go on after their listener was replaced.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// How long running requests may go on when the agent ends: PostgreSQL is not stopped before they have.
const GRACE: Duration = Duration::from_millis(500);

/// How long a listener that ends may keep its socket.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// The REST API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// The address cannot be used.
    #[error("cannot listen at `{}:{}`, please check `restapi.listen`", address.host, address.port)]
    Listen {
        /// The address.
        address: RestListen,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Certificates or keys cannot be used.
    #[error("the certificates of the REST API cannot be used")]
    Tls(#[from] TlsError),
}

impl RestError {
    fn is_in_use(&self) -> bool {
        matches!(self, Self::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse)
    }
}

/// Serves the REST API of a node until it is shut down. `raft`: the node of the embedded store that it is as well.
///
/// # Errors
///
/// The address or the certificates cannot be used.
pub async fn serve(
    settings: &RestApiSettings,
    handle: EngineHandle,
    peers: Arc<dyn Peers>,
    raft: Option<RaftNode>,
) -> Result<RestServer, RestError> {
    let acceptor = Acceptor::new(tls::config(settings).await?);
    let app = Arc::new(App::new(handle, peers, raft, Live::new(settings).await));
    let listening = Listening::start(settings, &acceptor, &app).await?;
    let certificates = tls::watch(settings, acceptor.clone(), tls::PERIOD);
    Ok(RestServer { app, acceptor, running: Mutex::new(Running { settings: settings.clone(), listening, certificates }) })
}

/// A running server. Dropping it without a shutdown leaves it running.
#[derive(Debug)]
pub struct RestServer {
    app: Arc<App>,
    acceptor: Acceptor,
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    settings: RestApiSettings,
    listening: Listening,
    certificates: Option<JoinHandle<()>>,
}

impl RestServer {
    /// Where it listens.
    pub async fn local_addr(&self) -> SocketAddr {
        self.running.lock().await.listening.address
    }

    /// Takes new settings into use, without losing a request. Certificates are read again in any case. The length of the
    /// queue stays as it was at start, unless the address changes.
    ///
    /// # Errors
    ///
    /// The new settings cannot be used; the former ones stay in force.
    pub async fn reload(&self, settings: &RestApiSettings) -> Result<(), RestError> {
        let mut running = self.running.lock().await;
        let tls = tls::config(settings).await?;
        if settings.listen != running.settings.listen {
            running.move_to(settings, &self.acceptor, &self.app).await?;
        }
        self.acceptor.set_tls(tls);
        self.app.set_live(Live::new(settings).await);
        running.stop_watching();
        running.certificates = tls::watch(settings, self.acceptor.clone(), tls::PERIOD);
        running.settings = settings.clone();
        Ok(())
    }

    /// Stops listening at once, lets running requests end within half a second, and cuts those that do not. A second call
    /// does nothing.
    pub async fn shutdown(&self) {
        let mut running = self.running.lock().await;
        running.stop_watching();
        running.listening.stop().await;
    }
}

impl Running {
    fn stop_watching(&mut self) {
        if let Some(watch) = self.certificates.take() {
            watch.abort();
        }
    }

    /// Listens somewhere else. The new listener comes first, unless the old one is in its way.
    async fn move_to(&mut self, settings: &RestApiSettings, acceptor: &Acceptor, app: &Arc<App>) -> Result<(), RestError> {
        let fresh = match Listening::start(settings, acceptor, app).await {
            Err(problem) if problem.is_in_use() => {
                self.listening.handle.graceful_shutdown(Some(DRAIN_LIMIT));
                match start_soon(settings, acceptor, app).await {
                    Ok(fresh) => fresh,
                    Err(problem) => {
                        match start_soon(&self.settings, acceptor, app).await {
                            Ok(former) => self.listening = former,
                            Err(error) => tracing::error!("The REST API is not served any more: {error}"),
                        }
                        return Err(problem);
                    }
                }
            }
            outcome => outcome?,
        };
        let former = std::mem::replace(&mut self.listening, fresh);
        // It ends by itself: its connections are closed as soon as they are idle.
        former.handle.graceful_shutdown(Some(DRAIN_LIMIT));
        tracing::info!("The REST API listens at {} now", self.listening.address);
        Ok(())
    }
}

/// Listens as soon as a listener that is ending has closed its socket.
async fn start_soon(settings: &RestApiSettings, acceptor: &Acceptor, app: &Arc<App>) -> Result<Listening, RestError> {
    let end = Deadline::after(RELEASE_LIMIT);
    loop {
        match Listening::start(settings, acceptor, app).await {
            Err(problem) if problem.is_in_use() && !end.has_passed() => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            outcome => return outcome,
        }
    }
}

/// One listening socket and the connections that came through it.
#[derive(Debug)]
struct Listening {
    address: SocketAddr,
    handle: Handle<SocketAddr>,
    task: Option<JoinHandle<()>>,
}

impl Listening {
    async fn start(settings: &RestApiSettings, acceptor: &Acceptor, app: &Arc<App>) -> Result<Self, RestError> {
        let failed = |source| RestError::Listen { address: settings.listen.clone(), source };
        let listener = socket::listen(&settings.listen, settings.request_queue_size).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let handle = Handle::new();
        let task = tokio::spawn(run(listener, acceptor.clone(), Arc::clone(app), handle.clone()));
        Ok(Self { address, handle, task: Some(task) })
    }

    async fn stop(&mut self) {
        self.handle.graceful_shutdown(Some(GRACE));
        if let Some(task) = self.task.take() {
            // A task that panicked has nothing left to stop.
            let _ = task.await;
        }
    }
}

async fn run(listener: TcpListener, acceptor: Acceptor, app: Arc<App>, handle: Handle<SocketAddr>) {
    let connections = tower::service_fn(move |address: SocketAddr| {
        let connection = Connection::new(Arc::clone(&app), address);
        async move { Ok::<_, std::convert::Infallible>(connection) }
    });
    let mut server = axum_server::Server::<SocketAddr>::from_listener(listener).acceptor(acceptor).handle(handle);
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(MAX_HEAD).half_close(true);
    if let Err(error) = server.http1_only().serve(connections).await {
        tracing::error!("The REST API is not served any more: {error}");
    }
}
