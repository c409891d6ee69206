//! HTTP as this crate asks for it.

use dcs_core::tls::{ClientTls, TlsError};

/// A client that goes where it is told and nowhere else: no proxies of the environment, no redirects, no attempts of its own
/// that would hide what became of a request. Reads the files of `tls`, and blocks while it does.
pub(crate) fn builder(tls: &ClientTls) -> Result<reqwest::ClientBuilder, TlsError> {
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls.config()?)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .http1_only()
        .user_agent(concat!("quorate/", env!("CARGO_PKG_VERSION"))))
}
