//! Certificates, made with the same program and the same options as people use.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A directory of certificates.
#[derive(Debug)]
pub struct Workshop(tempfile::TempDir);

impl Workshop {
    /// Nothing if there is no `openssl` here.
    ///
    /// # Panics
    ///
    /// There can be no directory.
    #[must_use]
    pub fn open() -> Option<Self> {
        super::on_the_path("openssl")?;
        Some(Self(tempfile::tempdir().expect("a directory")))
    }

    /// Where they are.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn files(&self, name: &str) -> Files {
        Files { cert: self.path().join(format!("{name}.crt")), key: self.path().join(format!("{name}.key")) }
    }

    /// The one plain certificate that is CA, server and client at once: `openssl req -x509`.
    ///
    /// # Panics
    ///
    /// `openssl` does not do it.
    #[must_use]
    pub fn self_signed(&self, name: &str, alternative_names: &str) -> Files {
        let files = self.files(name);
        let names = format!("subjectAltName={alternative_names}");
        openssl(&[
            &["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "10", "-subj", &format!("/CN={name}")],
            &["-addext", &names, "-keyout", text(&files.key), "-out", text(&files.cert)][..],
        ]);
        files
    }

    /// A certificate of `authority`.
    ///
    /// # Panics
    ///
    /// `openssl` does not do it.
    #[must_use]
    pub fn signed_by(&self, authority: &Files, name: &str, alternative_names: &str, days: &str) -> Files {
        let files = self.files(name);
        let (request, extensions) = (self.path().join(format!("{name}.csr")), self.path().join(format!("{name}.ext")));
        let usage = "extendedKeyUsage=serverAuth,clientAuth\nkeyUsage=digitalSignature,keyEncipherment\n";
        std::fs::write(&extensions, format!("subjectAltName={alternative_names}\n{usage}")).expect("a file");
        openssl(&[
            &["req", "-newkey", "rsa:2048", "-nodes", "-subj", &format!("/CN={name}")],
            &["-keyout", text(&files.key), "-out", text(&request)][..],
        ]);
        openssl(&[
            &["x509", "-req", "-in", text(&request), "-CA", text(&authority.cert), "-CAkey", text(&authority.key)],
            &["-CAcreateserial", "-days", days, "-extfile", text(&extensions), "-out", text(&files.cert)][..],
        ]);
        files
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of our own making")
}

fn openssl(arguments: &[&[&str]]) {
    let output = Command::new("openssl").args(arguments.concat()).output().expect("openssl runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
