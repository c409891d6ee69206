//! TLS towards PostgreSQL: libpq's `sslmode` and its companions in the words of [`dcs_core::tls`].
//!
//! What is libpq's own stays here: which mode checks what, and the files in `~/.postgresql` that nobody configured.
//! Who is believed is decided where it is for every other connection.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;

use dcs_core::tls::{ClientTls, Verify};

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
    let verifying = matches!(mode, Mode::VerifyCa | Mode::VerifyFull);
    let (root_file, _) = file(options, "sslrootcert", "root.crt");
    let mut tls = match root_file {
        // libpq does the same: a root certificate file turns `require` into `verify-ca`.
        Some(ca) if verifying || mode == Mode::Require => {
            let verify = if mode == Mode::VerifyFull { Verify::Full } else { Verify::Chain };
            ClientTls { ca: Some(ca), crl: file(options, "sslcrl", "root.crl").0, verify, ..ClientTls::default() }
        }
        // The shared helper would go on with the operating system's certificates; libpq wants to be told.
        None if verifying => {
            return Err(TlsError("`sslmode` asks for verification, and there is no `sslrootcert`".to_owned()));
        }
        _ => ClientTls { verify: Verify::Nothing, ..ClientTls::default() },
    };

    let (certificate, configured) = file(options, "sslcert", "postgresql.crt");
    let (key, _) = file(options, "sslkey", "postgresql.key");
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            tls.cert = Some(certificate);
            tls.key = Some(key);
        }
        (Some(path), None) if configured => {
            return Err(TlsError(format!("`{}`: there is no `sslkey` for it", path.display())));
        }
        _ => {}
    }
    let mut config = tls.config().map_err(|error| TlsError(error.chain()))?;
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
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

    #[test]
    fn a_root_certificate_file_is_used_by_require_and_not_by_prefer() {
        let with_root = |mode| attempts(&options(&[("sslmode", mode), ("sslrootcert", "/nonexistent/root.crt")]));
        let error = with_root("require").expect_err("there is no such file");
        assert!(error.to_string().contains("/nonexistent/root.crt"), "{error}");
        assert!(with_root("prefer").is_ok());
    }

    #[test]
    fn a_certificate_without_a_key_is_refused() {
        let error = attempts(&options(&[("sslmode", "require"), ("sslcert", "/nonexistent/own.crt")])).expect_err("there is no key");
        assert!(error.to_string().contains("there is no `sslkey`"), "{error}");
    }
}
