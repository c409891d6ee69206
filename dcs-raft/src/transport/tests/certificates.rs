//! Certificates as files.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::super::TlsFiles;

/// Signs certificates, and keeps them in a directory of its own.
pub(super) struct Authority {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    ca: PathBuf,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let ca = directory.path().join("ca.crt");
        std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key), ca }
    }

    pub(super) fn ca(&self) -> &Path {
        &self.ca
    }

    /// A certificate for a host.
    pub(super) fn signs(&self, host: &str) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let cert = self.directory.path().join(format!("{host}.crt"));
        std::fs::write(&cert, params.signed_by(&key, &self.issuer).unwrap().pem() + &key.serialize_pem()).unwrap();
        TlsFiles { cert, key: None, ca: self.ca.clone() }
    }
}
