//! The server: listening, reloading, ending.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum_server::Handle;
use dcs_core::Deadline;
use dcs_core::tls::{ServerTls, TlsError};
use ha_engine::EngineHandle;
use ha_engine::ports::Peers;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::app::{App, Live, ReloadHook};
use super::connection::{Acceptor, Connection};
use super::settings::{ListenAddress, RestSettings};
use super::socket;

/// How long a client may take to send the head of its request, and how long a connection may be idle.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// The largest head of a request.
const MAX_HEAD: usize = 64 * 1024;

/// How long running requests may go on after their listener was replaced.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// How long a listener that ends may keep its socket.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// How often the files of certificates are looked at.
const CERTIFICATE_PERIOD: Duration = Duration::from_secs(10);

/// The REST API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// The address cannot be used.
    #[error("cannot listen at `{address}`, please check `restapi.listen`")]
    Listen {
        /// The address.
        address: ListenAddress,
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

/// Serves the REST API of a node until it is shut down.
///
/// # Errors
///
/// The address or the certificates cannot be used.
pub async fn serve(
    settings: RestSettings,
    handle: EngineHandle,
    peers: Arc<dyn Peers>,
    reload: ReloadHook,
) -> Result<RestServer, RestError> {
    let tls = tls_config(settings.tls.as_ref()).await?;
    let acceptor = Acceptor::new(tls);
    let app = Arc::new(App::new(handle, peers, reload, Live::new(&settings).await));
    let listening = Listening::start(&settings, &acceptor, &app).await?;
    let certificates = watch_certificates(settings.tls.clone(), acceptor.clone());
    Ok(RestServer { app, acceptor, running: Mutex::new(Running { settings, listening, certificates }) })
}

/// A running server.
#[derive(Debug)]
pub struct RestServer {
    app: Arc<App>,
    acceptor: Acceptor,
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    settings: RestSettings,
    listening: Listening,
    certificates: Option<JoinHandle<()>>,
}

impl RestServer {
    /// Where it listens.
    pub async fn local_addr(&self) -> SocketAddr {
        self.running.lock().await.listening.address
    }

    /// Takes new settings into use, without losing a request. Certificates are read again in any case.
    ///
    /// # Errors
    ///
    /// The new settings cannot be used; the former ones stay in force.
    pub async fn reload(&self, settings: RestSettings) -> Result<(), RestError> {
        let mut running = self.running.lock().await;
        let tls = tls_config(settings.tls.as_ref()).await?;
        if settings.listen != running.settings.listen {
            running.move_to(&settings, &self.acceptor, &self.app).await?;
        }
        self.acceptor.set_tls(tls);
        self.app.set_live(Live::new(&settings).await);
        if let Some(watch) = running.certificates.take() {
            watch.abort();
        }
        running.certificates = watch_certificates(settings.tls.clone(), self.acceptor.clone());
        running.settings = settings;
        Ok(())
    }

    /// Stops listening at once, lets running requests end within `grace`, and cuts those that do not.
    pub async fn shutdown(self, grace: Duration) {
        let running = self.running.into_inner();
        if let Some(watch) = running.certificates {
            watch.abort();
        }
        running.listening.stop(grace).await;
    }
}

impl Running {
    /// Listens somewhere else. The new listener comes first, unless the old one is in its way.
    async fn move_to(&mut self, settings: &RestSettings, acceptor: &Acceptor, app: &Arc<App>) -> Result<(), RestError> {
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
async fn start_soon(settings: &RestSettings, acceptor: &Acceptor, app: &Arc<App>) -> Result<Listening, RestError> {
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
    task: JoinHandle<()>,
}

impl Listening {
    async fn start(settings: &RestSettings, acceptor: &Acceptor, app: &Arc<App>) -> Result<Self, RestError> {
        let failed = |source| RestError::Listen { address: settings.listen.clone(), source };
        let listener = socket::listen(&settings.listen, settings.request_queue_size).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let handle = Handle::new();
        let task = tokio::spawn(run(listener, acceptor.clone(), Arc::clone(app), handle.clone()));
        Ok(Self { address, handle, task })
    }

    async fn stop(self, grace: Duration) {
        self.handle.graceful_shutdown(Some(grace));
        // A task that panicked has nothing left to stop.
        let _ = self.task.await;
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

/// Reads the certificates, beside the tasks that must not wait for a disk.
async fn tls_config(tls: Option<&ServerTls>) -> Result<Option<Arc<rustls::ServerConfig>>, TlsError> {
    let Some(tls) = tls.cloned() else { return Ok(None) };
    let config = tokio::task::spawn_blocking(move || tls.config()).await;
    let mut config = config.map_err(|panic| TlsError::Setup(Box::new(panic)))??;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

/// Serves renewed certificates as soon as they are there. What cannot be read yet leaves the former ones in place.
fn watch_certificates(tls: Option<ServerTls>, acceptor: Acceptor) -> Option<JoinHandle<()>> {
    let tls = tls?;
    let files: Vec<PathBuf> = tls.files().into_iter().map(PathBuf::from).collect();
    Some(tokio::spawn(async move {
        let mut known = marks(&files).await;
        loop {
            tokio::time::sleep(CERTIFICATE_PERIOD).await;
            let marks = marks(&files).await;
            if marks == known {
                continue;
            }
            known = marks;
            match tls_config(Some(&tls)).await {
                Ok(config) => {
                    tracing::info!("The certificates of the REST API have changed, using the new ones");
                    acceptor.set_tls(config);
                }
                Err(error) => tracing::warn!(
                    "The certificates of the REST API have changed and cannot be used, keeping the former ones: {}",
                    error.chain()
                ),
            }
        }
    }))
}

/// What changes when a file does.
async fn marks(files: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let mut marks = Vec::with_capacity(files.len());
    for file in files {
        let metadata = tokio::fs::metadata(file).await.ok();
        marks.push(metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len()))));
    }
    marks
}
