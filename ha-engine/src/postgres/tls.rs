//! TLS towards PostgreSQL: libpq's `sslmode` and its companions as rustls configurations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Never.
    Disable,
    /// Only if the server insists.
    Allow,
    /// If possible.
    #[default]
    Prefer,
    /// Always, whoever the server is (unless there is a root certificate file, which is then used).
    Require,
    /// With a certificate of a known authority.
    VerifyCa,
    /// With a certificate of a known authority for this host.
    VerifyFull,
}

/// One way of trying to connect.
#[derive(Clone, Debug)]
pub(super) enum Attempt {
    /// Without TLS.
    Plain,
    /// With TLS.
    Tls {
        /// How.
        config: Arc<ClientConfig>,
        /// Whether it fails if the server does not offer TLS; otherwise it goes on without.
        required: bool,
    },
}

/// TLS could not be set up as configured.
#[derive(Debug, thiserror::Error)]
#[error("TLS settings for PostgreSQL: {0}")]
pub(super) struct TlsError(String);

impl Mode {
    fn parse(text: Option<&str>) -> Result<Self, TlsError> {
        Ok(match text.unwrap_or("prefer") {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" | "" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            other => return Err(TlsError(format!("`sslmode` is `{other}`, which is not a mode"))),
        })
    }
}

/// The ways to try for libpq's `options`, in order.
///
/// # Errors
///
/// A file that is configured cannot be read.
pub(super) fn attempts(options: &BTreeMap<String, String>) -> Result<Vec<Attempt>, TlsError> {
    let mode = Mode::parse(options.get("sslmode").map(String::as_str))?;
    let tls = |required| client_config(mode, options).map(|config| Attempt::Tls { config: Arc::new(config), required });
    Ok(match mode {
        Mode::Disable => vec![Attempt::Plain],
        Mode::Allow => vec![Attempt::Plain, tls(true)?],
        Mode::Prefer => vec![tls(false)?, Attempt::Plain],
        Mode::Require | Mode::VerifyCa | Mode::VerifyFull => vec![tls(true)?],
    })
}

/// A file that libpq looks for in `~/.postgresql` when it is not configured.
fn file(options: &BTreeMap<String, String>, key: &str, default: &str) -> (Option<PathBuf>, bool) {
    if let Some(path) = options.get(key).filter(|path| !path.is_empty()) {
        return (Some(PathBuf::from(path)), true);
    }
    let path = std::env::var_os("HOME").map(|home| Path::new(&home).join(".postgresql").join(default));
    (path.filter(|path| path.is_file()), false)
}

fn client_config(mode: Mode, options: &BTreeMap<String, String>) -> Result<ClientConfig, TlsError> {
    let failed = |path: &Path, error: &dyn std::fmt::Display| TlsError(format!("`{}`: {error}", path.display()));
    let provider = CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()));

    let (root_file, _) = file(options, "sslrootcert", "root.crt");
    let verifying = matches!(mode, Mode::VerifyCa | Mode::VerifyFull);
    let trust = match root_file {
        // libpq does the same: a root certificate file turns `require` into `verify-ca`.
        Some(path) if verifying || mode == Mode::Require => {
            let certificates: Vec<CertificateDer<'static>> =
                CertificateDer::pem_file_iter(&path).and_then(Iterator::collect).map_err(|error| failed(&path, &error))?;
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates.iter().cloned());
            let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            if let (Some(path), _) = file(options, "sslcrl", "root.crl") {
                let lists: Vec<CertificateRevocationListDer<'static>> = CertificateRevocationListDer::pem_file_iter(&path)
                    .and_then(Iterator::collect)
                    .map_err(|error| failed(&path, &error))?;
                builder = builder.with_crls(lists).allow_unknown_revocation_status();
            }
            let chain = builder.build().map_err(|error| failed(&path, &error))?;
            Some(Trust { chain, anchors: certificates, names: mode == Mode::VerifyFull })
        }
        None if verifying => {
            return Err(TlsError("`sslmode` asks for verification, and there is no `sslrootcert`".to_owned()));
        }
        _ => None,
    };

    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { trust, provider }));

    let (certificate, configured) = file(options, "sslcert", "postgresql.crt");
    let (key, _) = file(options, "sslkey", "postgresql.key");
    let mut config = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(&certificate)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| failed(&certificate, &error))?;
            let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| failed(&key, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| failed(&certificate, &error))?
        }
        (Some(path), None) if configured => return Err(failed(&path, &"there is no `sslkey` for it")),
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
}

/// Judges a server's certificate as libpq does for a mode.
#[derive(Debug)]
struct Verifier {
    /// Whom to trust; nobody: whoever answers is right.
    trust: Option<Trust>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Trust {
    chain: Arc<WebPkiServerVerifier>,
    anchors: Vec<CertificateDer<'static>>,
    /// Whether the certificate must be for this host.
    names: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(trust) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let verdict = trust.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verdict {
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }))
                if !trust.names =>
            {
                Ok(ServerCertVerified::assertion())
            }
            // `openssl req -x509` makes certificates with CA:TRUE, which people use as authority and server certificate at
            // once. webpki looks at the validity period before it refuses such a certificate, so this refusal means that
            // the time is right; the certificate itself is the trust anchor, and only the name is left to be checked.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(ref other)))
                if is_ca_used_as_end_entity(other) && trust.anchors.iter().any(|anchor| anchor == end_entity) =>
            {
                if trust.names {
                    webpki::EndEntityCert::try_from(end_entity)
                        .and_then(|certificate| certificate.verify_is_valid_for_subject_name(server_name))
                        .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::NotValidForName))?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn is_ca_used_as_end_entity(other: &rustls::OtherError) -> bool {
    matches!(other.0.downcast_ref::<webpki::Error>(), Some(webpki::Error::CaUsedAsEndEntity))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Attempt, attempts};

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn prefer_falls_back_to_an_unencrypted_connection_and_require_does_not() {
        let prefer = attempts(&options(&[])).expect("no files are needed");
        assert!(matches!(prefer.as_slice(), [Attempt::Tls { required: false, .. }, Attempt::Plain]));
        let require = attempts(&options(&[("sslmode", "require")])).expect("no files are needed");
        assert!(matches!(require.as_slice(), [Attempt::Tls { required: true, .. }]));
        let disable = attempts(&options(&[("sslmode", "disable")])).expect("no files are needed");
        assert!(matches!(disable.as_slice(), [Attempt::Plain]));
    }

    #[test]
    fn verification_without_a_root_certificate_is_refused() {
        let error =
            attempts(&options(&[("sslmode", "verify-full"), ("sslrootcert", "/nonexistent/root.crt")])).expect_err("there is no such file");
        assert!(error.to_string().contains("/nonexistent/root.crt"), "{error}");
        assert!(attempts(&options(&[("sslmode", "maybe")])).is_err());
    }
}
