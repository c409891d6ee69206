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
use kube::client::{AuthError, Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError, LoadDataError};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use secrecy::ExposeSecret;
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
    Plugin {
        layer: Box<AuthLayer>,
        program: String,
    },
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
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(String),
    #[error("the credentials of the kubeconfig cannot be used: {0}")]
    Plugin(String),
    #[error("the kubeconfig names a proxy, which is not supported")]
    Proxy,
    #[error("TLS cannot be set up for the API server")]
    Tls(#[from] dcs_core::tls::TlsError),
}

/// The `kube` crate's errors quote lines of the kubeconfig, and what a credential program was given and has printed: tokens
/// and passwords. So what is passed on is said in words of our own.
impl AccessError {
    fn of_kubeconfig(error: KubeconfigError) -> Self {
        Self::Kubeconfig(match error {
            KubeconfigError::ReadConfig(source, path) => return Self::Unreadable { path, source },
            KubeconfigError::Parse(error) => match error.location() {
                Some(at) => format!("it has a mistake at line {}, column {}", at.line(), at.column()),
                None => "it has a mistake".to_owned(),
            },
            KubeconfigError::FindPath => "there is none where one is looked for".to_owned(),
            KubeconfigError::CurrentContextNotSet => "it says no current context".to_owned(),
            KubeconfigError::LoadContext(name) => format!("there is no context `{name}` in it"),
            KubeconfigError::LoadClusterOfContext(name) => format!("there is no cluster `{name}` in it"),
            KubeconfigError::MissingClusterUrl => "its cluster has no `server`".to_owned(),
            KubeconfigError::ParseClusterUrl(_) => "the `server` of its cluster is no URL".to_owned(),
            KubeconfigError::LoadCertificateAuthority(error) => return Self::of_data("certificate-authority", error),
            KubeconfigError::LoadClientCertificate(error) => return Self::of_data("client-certificate", error),
            KubeconfigError::LoadClientKey(error) => return Self::of_data("client-key", error),
            KubeconfigError::ParseCertificates(_) => "there is no certificate in `certificate-authority`".to_owned(),
            KubeconfigError::KindMismatch | KubeconfigError::ApiVersionMismatch => {
                "the files that make it up are of different kinds".to_owned()
            }
            _ => "it names a proxy that cannot be used".to_owned(),
        })
    }

    fn of_data(what: &str, error: LoadDataError) -> Self {
        let problem = match error {
            LoadDataError::ReadFile(source, path) => return Self::Unreadable { path, source },
            LoadDataError::DecodeBase64(_) => "it is not base64",
            LoadDataError::NoBase64DataOrFile => "there is none",
        };
        Self::Damaged { what: what.to_owned(), problem: problem.to_owned() }
    }

    /// `program` is what is run to get them.
    fn of_credentials(error: AuthError, program: &str) -> Self {
        Self::Plugin(match error {
            AuthError::ReadTokenFile(source, path) => return Self::Unreadable { path, source },
            AuthError::AuthExecStart(error) => format!("{program} cannot be run ({error})"),
            AuthError::AuthExecRun { out, .. } => format!("{program} failed ({})", out.status),
            AuthError::AuthExecParse(error) => match error.location() {
                Some(at) => format!("what {program} prints has a mistake at line {}, column {}", at.line(), at.column()),
                None => format!("what {program} prints has a mistake"),
            },
            AuthError::ExecPluginFailed => format!("{program} prints no `status`"),
            AuthError::MissingCommand => "no program is named to get them".to_owned(),
            AuthError::ExecMissingClusterInfo => format!("{program} wants to be told of a cluster that is not described"),
            AuthError::MalformedTokenExpirationDate(_) => format!("{program} says no valid date of expiry"),
            AuthError::InvalidBasicAuth(_) | AuthError::InvalidBearerToken(_) => "they have characters that cannot be sent".to_owned(),
            AuthError::UnrefreshableTokenResponse => format!("{program} gave a token before, and gives none any more"),
            _ => format!("{program} gives none"),
        })
    }
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
        let kubeconfig = kubeconfig.map_err(AccessError::of_kubeconfig)?;
        let options = KubeConfigOptions { context: Some(access.context.clone()), ..KubeConfigOptions::default() };
        let config = blocking(kube::Config::from_custom_kubeconfig(kubeconfig, &options));
        let config = config.map_err(AccessError::of_kubeconfig)?;
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
            Auth::Plugin { layer, program } => from_plugin(layer, program).await,
        }
    }

    /// The server does not know who we are: whatever was remembered is to be had anew. Whether that can help.
    pub(crate) fn forget_credentials(&self) -> bool {
        match &self.auth {
            Auth::File(file) => file.read.lock().unwrap_or_else(PoisonError::into_inner).take().is_some(),
            // Asked again when everything is read again.
            Auth::Plugin { .. } | Auth::Fixed(_) | Auth::Silent => true,
        }
    }
}

impl Auth {
    fn of(config: &kube::Config) -> Result<Self, AccessError> {
        let user = &config.auth_info;
        // In the order in which others take them.
        if user.auth_provider.is_none() && (user.username.is_none() || user.password.is_none()) {
            if let Some(token) = &user.token {
                return bearer("token", token.expose_secret()).map(Self::Fixed);
            }
            if let Some(path) = &user.token_file {
                return Ok(Self::File(TokenFile { path: PathBuf::from(path), read: Mutex::default() }));
            }
        }
        let program = user.exec.as_ref().and_then(|exec| exec.command.as_ref());
        let program = program.map_or_else(|| "the provider of credentials".to_owned(), |program| format!("`{program}`"));
        let layer = config.auth_layer().map_err(|error| match error {
            kube::Error::Auth(error) => AccessError::of_credentials(error, &program),
            _ => AccessError::Plugin("they are of a kind that is not known".to_owned()),
        })?;
        let Some(layer) = layer else { return Ok(Self::Silent) };
        if user.exec.is_some() || user.auth_provider.is_some() {
            return Ok(Self::Plugin { layer: Box::new(layer), program });
        }
        let header = blocking(from_plugin(&layer, &program))?;
        Ok(header.map_or(Self::Silent, Self::Fixed))
    }
}

/// What the layer adds to a request.
fn from_plugin(
    layer: &AuthLayer,
    program: &str,
) -> Pin<Box<dyn Future<Output = Result<Option<HeaderValue>, AccessError>> + Send + 'static>> {
    let asked = layer.layer(service_fn(echo)).oneshot(Request::new(Body::empty()));
    let program = program.to_owned();
    Box::pin(async move {
        let answer = asked.await.map_err(|error: BoxError| match error.downcast::<AuthError>() {
            Ok(error) => AccessError::of_credentials(*error, &program),
            Err(_) => AccessError::Plugin(format!("{program} gives none")),
        })?;
        Ok(answer.headers().get(AUTHORIZATION).cloned())
    })
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
        bearer(&self.path.display().to_string(), text.trim())
    }
}

/// The header for the token that was found in `what`.
fn bearer(what: &str, token: &str) -> Result<HeaderValue, AccessError> {
    let damaged = |problem: &str| AccessError::Damaged { what: what.to_owned(), problem: problem.to_owned() };
    if token.is_empty() {
        return Err(damaged("it is empty"));
    }
    let header = HeaderValue::try_from(format!("Bearer {token}"));
    let mut header = header.map_err(|_| damaged("there are characters in it that cannot be sent"))?;
    header.set_sensitive(true);
    Ok(header)
}

fn identity(user: &kube::config::AuthInfo) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, AccessError> {
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
