//! Keys and certificates, read or made from the settings.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use dcs_core::BoxError;
use dcs_core::tls::{ClientCertificates, ClientTls, ServerTls, TlsError, Verify};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, PeerIncompatible, ServerConfig, SignatureScheme};

use super::preamble::Kind;
use super::proof::ProofKey;

/// What TLS is told that it carries, so that a session cannot be led to another service with the same certificate.
pub(super) const APPLICATION: &[u8] = b"quorate-raft";

/// How connections are protected. The same on all nodes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecuritySettings {
    /// What all nodes and clients know.
    pub password: Option<String>,
    /// The certificates.
    pub tls: Option<TlsFiles>,
}

/// Certificates for both directions: each side shows its own and checks the other's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by intermediate ones. It is for the host under which the others reach this node, and may
    /// be used by servers and by clients.
    pub cert: PathBuf,
    /// Its key; in the file of the certificate if absent.
    pub key: Option<PathBuf>,
    /// Who signs the certificates of all nodes.
    pub ca: PathBuf,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// There is a password, and it is empty.
    #[error("the password of the embedded store is empty")]
    EmptyPassword,
    /// The certificates cannot be used.
    #[error("cannot use the TLS files of the embedded store")]
    Files(#[from] TlsError),
    /// No key could be made.
    #[error("cannot make a key for the connections of the embedded store")]
    Key(#[source] BoxError),
}

/// What connections are made with, until something else is read.
pub(super) struct Material {
    pub(super) kind: Kind,
    pub(super) tls: Option<Tls>,
    pub(super) proof: Option<ProofKey>,
}

/// TLS for both directions.
pub(super) struct Tls {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
    /// Whether the certificate of the other side says who it is.
    pub(super) named: bool,
}

impl Material {
    /// Reads the files and derives the key. Blocks, for some tenths of a second if there is a password.
    pub(super) fn prepare(settings: &SecuritySettings) -> Result<Self, SecurityError> {
        let SecuritySettings { password, tls } = settings;
        if password.as_ref().is_some_and(String::is_empty) {
            return Err(SecurityError::EmptyPassword);
        }
        let kind = Kind::of(password.is_some(), tls.is_some());
        let proof = password.as_deref().map(ProofKey::derive);
        let tls = match tls {
            Some(files) => Some(from_files(files)?),
            None if proof.is_some() => Some(made_now().map_err(SecurityError::Key)?),
            None => None,
        };
        Ok(Self { kind, tls, proof })
    }
}

fn from_files(files: &TlsFiles) -> Result<Tls, TlsError> {
    let TlsFiles { cert, key, ca } = files.clone();
    let client =
        ClientTls { ca: Some(ca.clone()), cert: Some(cert.clone()), key: key.clone(), verify: Verify::Full, ..ClientTls::default() };
    let server = ServerTls { cert, key, ca: Some(ca), clients: ClientCertificates::Required, ..ServerTls::default() };
    Ok(finished(client.config()?, server.config()?, true))
}

/// TLS with a key that is made now and that nobody knows: who the other side is shows only in its proof.
fn made_now() -> Result<Tls, BoxError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let key = {
        use ::aws_lc_rs::rand::SystemRandom;
        use ::aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())?;
        provider.key_provider.load_private_key(PrivatePkcs8KeyDer::from(key.as_ref().to_vec()).into())?
    };
    let public = key.public_key().ok_or("the provider has no form for the public key")?;
    let shown = CertifiedKey::new(vec![CertificateDer::from(public.as_ref().to_vec())], key);
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::new(shown))));
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyKey(provider.signature_verification_algorithms)))
        .with_no_client_auth();
    client.enable_sni = false;
    Ok(finished(client, server, false))
}

/// Every connection stands for itself: no session is resumed, so that what was read anew counts for the next one.
fn finished(mut client: ClientConfig, mut server: ServerConfig, named: bool) -> Tls {
    client.resumption = Resumption::disabled();
    client.alpn_protocols = vec![APPLICATION.to_vec()];
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.alpn_protocols = vec![APPLICATION.to_vec()];
    Tls { client: Arc::new(client), server: Arc::new(server), named }
}

/// The name that TLS wants where there is none to check.
pub(super) fn no_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// Takes any key, if only the other side has it. The proof of the password decides.
#[derive(Debug)]
struct AnyKey(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(cert.as_ref()), dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl fmt::Debug for SecuritySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { password, tls } = self;
        f.debug_struct("SecuritySettings").field("password", &password.as_ref().map(|_| "..")).field("tls", tls).finish()
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("kind", &self.kind).finish_non_exhaustive()
    }
}
