//! TLS as the client library wants to be told of it.

use std::path::Path;

use base64::Engine;
use dcs_core::tls::{ClientTls, TlsError, Verify};
use rustls_pki_types::ServerName;
use zookeeper_client::{TlsCa, TlsCerts, TlsIdentity, TlsOptions};

use crate::host::Host;

/// Reads the files of `tls` and makes the options for a connection to `host`. Blocks.
pub(crate) fn options(tls: &ClientTls, host: &Host) -> Result<TlsOptions, TlsError> {
    // The library would end in the middle of a connection over such a name. Those of the configuration were checked when it
    // was read; these are Exhibitor's.
    ServerName::try_from(host.name.as_str()).map_err(setup)?;
    // Everything that can be wrong with the files is found here, in the words of all other stores.
    tls.config()?;
    // The library takes the process's provider, and there is only one in this tree. Whoever embeds us may have set another.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut certs = TlsCerts::builder();
    let ca = match &tls.ca {
        Some(path) => read(path)?,
        None => system()?,
    };
    certs = certs.with_ca(TlsCa::from_pem(&ca).map_err(setup)?);
    if let Some(cert) = &tls.cert {
        let key = tls.key.as_ref().unwrap_or(cert);
        certs = certs.with_identity(TlsIdentity::from_pem(&read(cert)?, &read(key)?).map_err(setup)?);
    }
    let options = TlsOptions::new().with_certs(certs.build().map_err(setup)?);
    match tls.verify {
        Verify::Full => Ok(options),
        #[expect(unsafe_code, reason = "asked for with `verify: false`; nothing about memory is unsafe in it")]
        // SAFETY: the library marks this so because of who may listen in, which the configuration accepts.
        Verify::Chain | Verify::Nothing => Ok(unsafe { options.with_no_hostname_verification() }),
    }
}

/// The authorities that the operating system trusts, in PEM form, because the library takes no other.
fn system() -> Result<String, TlsError> {
    let mut pem = String::new();
    for cert in rustls_native_certs::load_native_certs().certs {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        pem.push_str(&base64::engine::general_purpose::STANDARD.encode(&cert));
        pem.push_str("\n-----END CERTIFICATE-----\n");
    }
    if pem.is_empty() {
        return Err(setup(NoAuthority));
    }
    Ok(pem)
}

#[derive(Debug, thiserror::Error)]
#[error("no `cacert` is set, and the operating system trusts nobody")]
struct NoAuthority;

fn read(path: &Path) -> Result<String, TlsError> {
    std::fs::read_to_string(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}

fn setup(error: impl std::error::Error + Send + Sync + 'static) -> TlsError {
    TlsError::Setup(Box::new(error))
}
