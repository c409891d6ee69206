//! Where the API is and who we are there: from the pod we run in, or from a kubeconfig.
//!
//! Reading a kubeconfig, with everything that may stand in it, is the `kube` crate's, and so are credential plugins. Tokens in
//! files are read here: whenever they are a minute old, and at once when the server does not know them any more.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dcs_core::tls::{ClientParts, Verify};
use dcs_core::{BoxError, Clock, Moment};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, Uri};
use kube::client::middleware::AuthLayer;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tower::{Layer, ServiceExt, service_fn};

use crate::config::Access;

/// How old a token that was read from a file may become.
const TOKEN_AGE: Duration = Duration::from_secs(60);

/// Everything that connections need to know.
pub(crate) struct Entrance {
    pub(crate) server: Uri,
    /// What is checked about a server by its own name; nothing for plain HTTP.
    pub(crate) tls: Arc<rustls::ClientConfig>,
    /// The same for servers that are reached by addresses which their certificates need not name.
    pub(crate) tls_by_address: Arc<rustls::ClientConfig>,
    /// The name that the server's certificate has instead of that in its address.
    pub(crate) server_name: Option<ServerName<'static>>,
    auth: Auth,
}

/// How we say who we are.
enum Auth {
    /// With a client certificate, or not at all.
    Silent,
    Fixed(HeaderValue),
    File(TokenFile),
    /// A program, or something else that only the `kube` crate knows.
    Plugin(Box<AuthLayer>),
}

/// A token in a file that somebody else exchanges.
struct TokenFile {
    path: PathBuf,
    read: Mutex<Option<(HeaderValue, Moment)>>,
}

/// The API cannot be reached with what is configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("cannot read `{path}`")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{what}` cannot be used: {problem}")]
    Damaged { what: String, problem: String },
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    #[error("the credentials of the kubeconfig cannot be used")]
    Plugin(#[source] BoxError),
    #[error("the kubeconfig names a proxy, which is not supported")]
    Proxy,
    #[error("TLS cannot be set up for the API server")]
    Tls(#[from] dcs_core::tls::TlsError),
}

impl Entrance {
    /// Reads everything anew. Blocks.
    pub(crate) fn open(access: &Access) -> Result<Self, AccessError> {
        let from_pod = access.in_pod.clone().or_else(|| {
            let variable = |name| std::env::var(name).ok().filter(|text: &String| !text.is_empty());
            // A kubeconfig that was asked for counts even in a pod.
            access.kubeconfig.is_none().then_some(())?;
            Some((variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?.parse().ok()?))
        });
        match from_pod {
            Some((host, port)) => Self::of_pod(access, &host, port),
            None => Self::of_kubeconfig(access),
        }
    }

    fn of_pod(access: &Access, host: &str, port: u16) -> Result<Self, AccessError> {
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        let ca = access.cacert.clone().unwrap_or_else(|| access.service_account.join("ca.crt"));
        let anchors = certificates(&ca.display().to_string(), &read(&ca)?)?;
        let server = uri(&format!("https://{host}:{port}"))?;
        let token = TokenFile { path: access.service_account.join("token"), read: Mutex::default() };
        Self::new(server, Some(anchors), None, Verify::Full, None, Auth::File(token))
    }

    fn of_kubeconfig(access: &Access) -> Result<Self, AccessError> {
        let kubeconfig = match &access.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let kubeconfig = kubeconfig.map_err(AccessError::Kubeconfig)?;
        let options = KubeConfigOptions { context: Some(access.context.clone()), ..KubeConfigOptions::default() };
        let config = blocking(kube::Config::from_custom_kubeconfig(kubeconfig, &options));
        let config = config.map_err(AccessError::Kubeconfig)?;
        if config.proxy_url.is_some() {
            return Err(AccessError::Proxy);
        }
        let anchors = match &access.cacert {
            Some(path) => Some(certificates(&path.display().to_string(), &read(path)?)?),
            None => config.root_cert.clone().map(|bundle| bundle.into_iter().map(CertificateDer::from).collect()),
        };
        let verify = if config.accept_invalid_certs { Verify::Nothing } else { Verify::Full };
        let server_name = config.tls_server_name.as_deref().map(|name| {
            ServerName::try_from(name.to_owned())
                .map_err(|problem| AccessError::Damaged { what: "tls-server-name".to_owned(), problem: problem.to_string() })
        });
        let identity = identity(&config.auth_info)?;
        let auth = Auth::of(&config)?;
        Self::new(config.cluster_url.clone(), anchors, identity, verify, server_name.transpose()?, auth)
    }

    fn new(
        server: Uri,
        anchors: Option<Vec<CertificateDer<'static>>>,
        identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
        verify: Verify,
        server_name: Option<ServerName<'static>>,
        auth: Auth,
    ) -> Result<Self, AccessError> {
        let by_address = if verify == Verify::Full { Verify::Chain } else { verify };
        let copy = identity.as_ref().map(|(chain, key)| (chain.clone(), key.clone_key()));
        let tls = ClientParts { anchors: anchors.clone(), identity: copy, verify }.config()?;
        let tls_by_address = ClientParts { anchors, identity, verify: by_address }.config()?;
        Ok(Self { server, tls: Arc::new(tls), tls_by_address: Arc::new(tls_by_address), server_name, auth })
    }

    /// The `Authorization` header, if there is one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub(crate) async fn authorization(&self, clock: &dyn Clock) -> Result<Option<HeaderValue>, AccessError> {
        match &self.auth {
            Auth::Silent => Ok(None),
            Auth::Fixed(header) => Ok(Some(header.clone())),
            Auth::File(file) => file.token(clock).await.map(Some),
            Auth::Plugin(layer) => from_plugin(layer).await.map_err(AccessError::Plugin),
        }
    }

    /// The server does not know who we are: whatever was remembered is to be had anew. Whether that can help.
    pub(crate) fn forget_credentials(&self) -> bool {
        match &self.auth {
            Auth::File(file) => file.read.lock().unwrap_or_else(PoisonError::into_inner).take().is_some(),
            // Asked again when everything is read again.
            Auth::Plugin(_) | Auth::Fixed(_) | Auth::Silent => true,
        }
    }
}

impl Auth {
    fn of(config: &kube::Config) -> Result<Self, AccessError> {
        let user = &config.auth_info;
        // In the order in which others take them.
        if user.auth_provider.is_none()
            && user.token.is_none()
            && (user.username.is_none() || user.password.is_none())
            && let Some(path) = &user.token_file
        {
            return Ok(Self::File(TokenFile { path: PathBuf::from(path), read: Mutex::default() }));
        }
        let layer = config.auth_layer().map_err(|error| AccessError::Plugin(error.into()))?;
        let Some(layer) = layer else { return Ok(Self::Silent) };
        if user.exec.is_some() || user.auth_provider.is_some() {
            return Ok(Self::Plugin(Box::new(layer)));
        }
        let header = blocking(from_plugin(&layer)).map_err(AccessError::Plugin)?;
        Ok(header.map_or(Self::Silent, Self::Fixed))
    }
}

/// What the layer adds to a request.
fn from_plugin(layer: &AuthLayer) -> Pin<Box<dyn Future<Output = Result<Option<HeaderValue>, BoxError>> + Send + 'static>> {
    let asked = layer.layer(service_fn(echo)).oneshot(Request::new(Body::empty()));
    Box::pin(async move { Ok(asked.await?.headers().get(AUTHORIZATION).cloned()) })
}

/// The header of a request comes back to us as that of an answer.
fn echo(request: Request<Body>) -> std::future::Ready<Result<Response<()>, BoxError>> {
    let mut response = Response::new(());
    if let Some(header) = request.headers().get(AUTHORIZATION) {
        response.headers_mut().insert(AUTHORIZATION, header.clone());
    }
    std::future::ready(Ok(response))
}

/// Runs something asynchronous on the thread for blocking work that reads the files.
fn blocking<F: Future>(future: F) -> F::Output {
    tokio::runtime::Handle::current().block_on(future)
}

impl TokenFile {
    async fn token(&self, clock: &dyn Clock) -> Result<HeaderValue, AccessError> {
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((header, read_at)) = &known
            && clock.now() - *read_at < TOKEN_AGE
        {
            return Ok(header.clone());
        }
        match self.read_anew().await {
            Ok(header) => {
                *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some((header.clone(), clock.now()));
                Ok(header)
            }
            // It may be being exchanged just now.
            Err(error) => known.map_or(Err(error), |(header, _)| Ok(header)),
        }
    }

    async fn read_anew(&self) -> Result<HeaderValue, AccessError> {
        let text =
            tokio::fs::read_to_string(&self.path).await.map_err(|source| AccessError::Unreadable { path: self.path.clone(), source })?;
        let damaged = |problem: String| AccessError::Damaged { what: self.path.display().to_string(), problem };
        if text.trim().is_empty() {
            return Err(damaged("it is empty".to_owned()));
        }
        let mut header = HeaderValue::try_from(format!("Bearer {}", text.trim())).map_err(|error| damaged(error.to_string()))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

fn identity(user: &kube::config::AuthInfo) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, AccessError> {
    use secrecy::ExposeSecret;
    let (what_cert, cert) = match (&user.client_certificate_data, &user.client_certificate) {
        (Some(data), _) => ("client-certificate-data".to_owned(), decoded("client-certificate-data", data)?),
        (None, Some(path)) => (path.clone(), read(Path::new(path))?),
        (None, None) => return Ok(None),
    };
    let (what_key, key) = match (&user.client_key_data, &user.client_key) {
        (Some(data), _) => ("client-key-data".to_owned(), decoded("client-key-data", data.expose_secret())?),
        (None, Some(path)) => (path.clone(), read(Path::new(path))?),
        // It may stand in the file of the certificate.
        (None, None) => (what_cert.clone(), cert.clone()),
    };
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|problem| AccessError::Damaged { what: what_key, problem: format!("there is no private key in it ({problem})") })?;
    Ok(Some((certificates(&what_cert, &cert)?, key)))
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let damaged = |problem: String| AccessError::Damaged { what: what.to_owned(), problem };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|problem| damaged(problem.to_string()))?;
    if found.is_empty() { Err(damaged("there is no certificate in it".to_owned())) } else { Ok(found) }
}

fn decoded(what: &str, data: &str) -> Result<Vec<u8>, AccessError> {
    BASE64.decode(data.trim()).map_err(|problem| AccessError::Damaged { what: what.to_owned(), problem: problem.to_string() })
}

fn read(path: &Path) -> Result<Vec<u8>, AccessError> {
    std::fs::read(path).map_err(|source| AccessError::Unreadable { path: path.to_owned(), source })
}

fn uri(text: &str) -> Result<Uri, AccessError> {
    text.parse().map_err(|problem: http::uri::InvalidUri| AccessError::Damaged { what: text.to_owned(), problem: problem.to_string() })
}
