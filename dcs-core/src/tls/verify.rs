//! Who is believed: verifiers for both sides that also accept a certificate which is itself a trust anchor.
//!
//! `rustls-webpki` refuses a certificate with `CA:TRUE` as the certificate of a server or client. That is right for the
//! web and wrong for what `openssl req -x509` makes and what people copy to every node: one file as CA, server and
//! client certificate. Such a certificate is accepted if it is byte for byte one of the configured anchors; whoever
//! presents it still has to prove that the key is theirs, and its time and name are checked as for any other.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::Verify;
use super::der::Facts;

/// The certificates that are trusted as they are.
#[derive(Clone)]
pub(super) struct Anchors {
    /// The same, as issuers.
    pub(super) store: Arc<RootCertStore>,
    certificates: Arc<[CertificateDer<'static>]>,
}

impl Anchors {
    /// Trusts nothing.
    pub(super) fn none() -> Self {
        Self { store: Arc::new(RootCertStore::empty()), certificates: Arc::new([]) }
    }

    /// Trusts `certificates`; those that cannot be parsed are left out.
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        let mut store = RootCertStore::empty();
        let usable: Vec<_> = certificates.into_iter().filter(|certificate| store.add(certificate.clone()).is_ok()).collect();
        Self { store: Arc::new(store), certificates: usable.into() }
    }

    /// Whether nothing is trusted.
    pub(super) fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }

    fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|anchor| anchor == certificate)
    }
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} trust anchors", self.certificates.len())
    }
}

/// Checks the time of a certificate that needs no chain.
fn check_time(facts: &Facts<'_>, now: UnixTime) -> Result<(), Error> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let unix = |seconds: i64| UnixTime::since_unix_epoch(Duration::from_secs(seconds.max(0).unsigned_abs()));
    if seconds < facts.not_before {
        let not_before = unix(facts.not_before);
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if seconds > facts.not_after {
        let not_after = unix(facts.not_after);
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    Ok(())
}

/// Checks servers.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    anchors: Anchors,
    /// Nothing if there is no anchor that a chain could end at.
    chains: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    mode: Verify,
}

impl ServerVerifier {
    /// A verifier that also refuses what `revoked` lists. A certificate whose issuer has no list there passes.
    ///
    /// # Errors
    ///
    /// A list cannot be parsed.
    pub(super) fn new(
        anchors: Anchors,
        revoked: Vec<CertificateRevocationListDer<'static>>,
        mode: Verify,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let chains = if anchors.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::clone(&anchors.store), Arc::clone(provider));
            Some(builder.with_crls(revoked).allow_unknown_revocation_status().build()?)
        };
        Ok(Self { anchors, chains, algorithms: provider.signature_verification_algorithms, mode })
    }

    /// A certificate that is an anchor: time and name, where an old one without alternative names is known by its
    /// common name.
    fn check_anchor(&self, certificate: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        let facts = Facts::read(certificate).ok_or(CertificateError::BadEncoding)?;
        check_time(&facts, now)?;
        if self.mode != Verify::Full {
            return Ok(());
        }
        match verify_server_name(&ParsedCertificate::try_from(certificate)?, name) {
            Err(_) if !facts.has_alternative_names && facts.common_name.is_some_and(|cn| is_called(cn, name)) => Ok(()),
            result => result,
        }
    }
}

fn is_called(common_name: &str, name: &ServerName<'_>) -> bool {
    match name {
        ServerName::DnsName(name) => name.as_ref().eq_ignore_ascii_case(common_name),
        ServerName::IpAddress(address) => {
            let address = std::net::IpAddr::from(*address);
            common_name.parse().is_ok_and(|named: std::net::IpAddr| named == address)
        }
        _ => false,
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.mode == Verify::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let Some(chains) = &self.chains else { return Err(CertificateError::UnknownIssuer.into()) };
        match chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // Being an anchor does not help against a list of its issuer.
            revoked @ Err(Error::InvalidCertificate(CertificateError::Revoked)) => revoked,
            _ if self.anchors.contains(end_entity) => {
                self.check_anchor(end_entity, server_name, now)?;
                Ok(ServerCertVerified::assertion())
            }
            // The name is looked at last: everything else was in order.
            Err(Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }))
                if self.mode == Verify::Chain =>
            {
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
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Checks clients that present a certificate.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    anchors: Anchors,
    chains: Arc<dyn ClientCertVerifier>,
}

impl ClientVerifier {
    /// A verifier that insists on a certificate, or only looks at one that is there.
    pub(super) fn new(anchors: Anchors, required: bool, provider: Arc<CryptoProvider>) -> Result<Self, VerifierBuilderError> {
        let builder = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::clone(&anchors.store), provider);
        let builder = if required { builder } else { builder.allow_unauthenticated() };
        Ok(Self { anchors, chains: builder.build()? })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chains.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chains.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !self.anchors.contains(end_entity) {
            return self.chains.verify_client_cert(end_entity, intermediates, now);
        }
        let facts = Facts::read(end_entity).ok_or(CertificateError::BadEncoding)?;
        check_time(&facts, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
