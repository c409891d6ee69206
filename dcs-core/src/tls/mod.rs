//! TLS as all parts of the product use it, so that a certificate that works in one place works in every other.
//!
//! ```text
//!   ClientTls ──► rustls::ClientConfig    etcd, Consul, Raft peers, other agents' REST API, PostgreSQL
//!   ClientParts ──► the same              Kubernetes, whose configuration has certificates inline
//!   ServerTls ──► rustls::ServerConfig    our REST API, Raft
//! ```
//!
//! Certificates made with a plain `openssl req -x509` (`CA:TRUE`, used as CA, server and client certificate at once)
//! are what people have. A certificate that is itself a configured trust anchor is therefore accepted from servers and
//! clients, after its time, its name and the proof of its key were checked.
//!
//! Both settings read files when they are turned into a configuration, and block while they do.

mod der;
mod pem;
#[cfg(test)]
mod tests;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ServerConfig};

use self::verify::{Anchors, ClientVerifier, ServerVerifier};

/// What a client checks about its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// The chain up to a trust anchor, and that the certificate is for the host that was asked for.
    #[default]
    Full,
    /// The chain only; any name will do (`verify-ca`).
    Chain,
    /// Nothing: the connection is encrypted, with whomever.
    Nothing,
}

/// How a client talks TLS.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// The certificates to trust; those of the operating system if absent.
    pub ca: Option<PathBuf>,
    /// Revocation lists of those authorities. A server whose issuer has no list in it passes.
    pub crl: Option<PathBuf>,
    /// The own certificate, followed by intermediate ones.
    pub cert: Option<PathBuf>,
    /// The key of the own certificate; in the file of the certificate if absent.
    pub key: Option<PathBuf>,
    /// The password of the key.
    pub key_password: Option<String>,
    /// What is checked about the server.
    pub verify: Verify,
}

/// What a server wants from its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked for a certificate.
    #[default]
    Ignored,
    /// A certificate that is presented must be valid.
    Optional,
    /// Nobody gets in without a valid certificate.
    Required,
}

/// How a server talks TLS.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificate, followed by intermediate ones.
    pub cert: PathBuf,
    /// Its key; in the file of the certificate if absent.
    pub key: Option<PathBuf>,
    /// The password of the key.
    pub key_password: Option<String>,
    /// Whom to trust about clients; the operating system's certificates if absent.
    pub ca: Option<PathBuf>,
    /// What is wanted from clients.
    pub clients: ClientCertificates,
}

/// Certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read `{path}`")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file has no certificate in it.
    #[error("there is no certificate in `{path}`; it must be in PEM form (`-----BEGIN CERTIFICATE-----`)")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file has no private key in it.
    #[error("there is no private key in `{path}`; it must be in PEM form (`-----BEGIN PRIVATE KEY-----`)")]
    NoPrivateKey {
        /// The file.
        path: PathBuf,
    },
    /// A file is not what it claims to be.
    #[error("`{path}` is damaged: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A key is encrypted.
    #[error(
        "the private key in `{path}` is encrypted, which is not supported\n\nhint: write a plain copy that only the agent may read, with `openssl pkey -in {path} -out PLAIN.key`"
    )]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// No certificate of a file can be a trust anchor.
    #[error("no certificate in `{path}` can be used as a trust anchor")]
    NoAnchor {
        /// The file.
        path: PathBuf,
    },
    /// Clients shall show certificates, and nobody is trusted to sign them.
    #[error("client certificates are to be verified, but no CA file is configured and the operating system has none")]
    NoSystemAnchors,
    /// Certificate and key do not fit together, or are of an unsupported kind.
    #[error("the certificate in `{cert}` cannot be used with the key in `{key}`")]
    Identity {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The settings cannot be used together.
    #[error("cannot set up TLS")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What a client talks TLS with when it did not come from files of its own.
#[derive(Debug, Default)]
pub struct ClientParts {
    /// The certificates to trust; those of the operating system if absent.
    pub anchors: Option<Vec<CertificateDer<'static>>>,
    /// The own certificate, followed by intermediate ones, and its key.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// What is checked about the server.
    pub verify: Verify,
}

impl ClientParts {
    /// Makes a configuration.
    ///
    /// # Errors
    ///
    /// Certificate and key do not fit together.
    pub fn config(self) -> Result<ClientConfig, TlsError> {
        let anchors = match (self.verify, self.anchors) {
            (Verify::Nothing, _) => Anchors::none(),
            (_, Some(certificates)) => Anchors::new(certificates),
            (_, None) => system_anchors(),
        };
        let verifier = ServerVerifier::new(anchors, Vec::new(), self.verify, &provider()).map_err(setup)?;
        let builder = client_builder(verifier)?;
        match self.identity {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(setup),
        }
    }
}

fn client_builder(verifier: ServerVerifier) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

impl ClientTls {
    /// Reads the files and makes a configuration.
    ///
    /// # Errors
    ///
    /// A file is missing, damaged or of no use; the error names it.
    pub fn config(&self) -> Result<ClientConfig, TlsError> {
        let anchors = match (self.verify, &self.ca) {
            (Verify::Nothing, _) => Anchors::none(),
            (_, Some(path)) => anchors_in(path)?,
            // Without any, every server is refused by name: TLS may not be needed at all.
            (_, None) => system_anchors(),
        };
        let verifier = match &self.crl {
            Some(path) if self.verify != Verify::Nothing => {
                ServerVerifier::new(anchors, pem::revocation_lists(path)?, self.verify, &provider())
                    .map_err(|problem| TlsError::Damaged { path: path.clone(), problem: problem.to_string() })?
            }
            _ => ServerVerifier::new(anchors, Vec::new(), self.verify, &provider()).map_err(setup)?,
        };
        let builder = client_builder(verifier)?;
        let Some(cert) = &self.cert else { return Ok(builder.with_no_client_auth()) };
        let key = self.key.as_ref().unwrap_or(cert);
        builder.with_client_auth_cert(pem::certificates(cert)?, pem::private_key(key)?).map_err(|source| TlsError::Identity {
            cert: cert.clone(),
            key: key.clone(),
            source,
        })
    }
}

impl ServerTls {
    /// Reads the files and makes a configuration.
    ///
    /// # Errors
    ///
    /// A file is missing, damaged or of no use; the error names it.
    pub fn config(&self) -> Result<ServerConfig, TlsError> {
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().map_err(setup)?;
        let builder = if self.clients == ClientCertificates::Ignored {
            builder.with_no_client_auth()
        } else {
            let anchors = self.ca.as_deref().map_or_else(|| Ok(system_anchors()), anchors_in)?;
            if anchors.is_empty() {
                return Err(TlsError::NoSystemAnchors);
            }
            let required = self.clients == ClientCertificates::Required;
            let verifier = ClientVerifier::new(anchors, required, provider).map_err(setup)?;
            builder.with_client_cert_verifier(Arc::new(verifier))
        };
        let key = self.key.as_ref().unwrap_or(&self.cert);
        builder.with_single_cert(pem::certificates(&self.cert)?, pem::private_key(key)?).map_err(|source| TlsError::Identity {
            cert: self.cert.clone(),
            key: key.clone(),
            source,
        })
    }

    /// Every file that the configuration is made from, to notice when one of them changes.
    pub fn files(&self) -> Vec<&Path> {
        [Some(&self.cert), self.key.as_ref(), self.ca.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect()
    }
}

impl TlsError {
    /// The whole chain in one line, for a log line that stands alone.
    pub fn chain(&self) -> String {
        crate::chain(self)
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ca, crl, cert, key, key_password: _, verify } = self;
        f.debug_struct("ClientTls")
            .field("ca", ca)
            .field("crl", crl)
            .field("cert", cert)
            .field("key", key)
            .field("verify", verify)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cert, key, key_password: _, ca, clients } = self;
        f.debug_struct("ServerTls").field("cert", cert).field("key", key).field("ca", ca).field("clients", clients).finish_non_exhaustive()
    }
}

/// The one crypto provider of the product.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn setup(error: impl std::error::Error + Send + Sync + 'static) -> TlsError {
    TlsError::Setup(Box::new(error))
}

fn anchors_in(path: &Path) -> Result<Anchors, TlsError> {
    let anchors = Anchors::new(pem::certificates(path)?);
    if anchors.is_empty() { Err(TlsError::NoAnchor { path: path.to_owned() }) } else { Ok(anchors) }
}

fn system_anchors() -> Anchors {
    Anchors::new(rustls_native_certs::load_native_certs().certs)
}
