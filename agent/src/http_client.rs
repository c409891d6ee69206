//! The one place that makes HTTP clients, so that the agent and the control tool reach every REST API alike.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dcs_core::tls::{ClientTls, TlsError, Verify};
use ha_engine::settings::Secret;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use crate::config::BasicAuth;

/// How REST APIs are called: the `ctl` section, and the `restapi` section where that says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpClientSettings {
    /// The name and password sent with every request.
    pub credentials: Option<BasicCredentials>,
    /// The certificates to trust; those of the operating system if absent.
    pub ca: Option<PathBuf>,
    /// The client certificate.
    pub cert: Option<PathBuf>,
    /// Its key; in the same file if absent.
    pub key: Option<PathBuf>,
    /// The password of the key.
    pub key_password: Option<Secret>,
    /// Whether servers are not verified. With a client certificate their chain still is, but not their name.
    pub insecure: bool,
}

/// A name and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicCredentials {
    /// The name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

impl From<&BasicAuth> for BasicCredentials {
    fn from(auth: &BasicAuth) -> Self {
        Self { username: auth.username.clone(), password: auth.password.clone() }
    }
}

impl BasicCredentials {
    /// What stands after `Basic ` in the header `Authorization`.
    pub fn encoded(&self) -> String {
        STANDARD.encode(format!("{}:{}", self.username, self.password.expose()))
    }
}

/// No client can be made from the settings.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The credentials cannot stand in a header.
    #[error("the REST API credentials cannot be sent in an HTTP header")]
    Credentials,
    /// The HTTP library refuses.
    #[error("cannot make an HTTP client")]
    Library(#[source] reqwest::Error),
}

impl HttpClientSettings {
    /// Makes a client. Reads files, and blocks while it does.
    ///
    /// The client has no time limits of its own: every request carries one. It keeps no idle connections, so that a
    /// request never goes to a connection that died with its node.
    ///
    /// # Errors
    ///
    /// Certificates, keys or credentials cannot be used.
    pub fn client(&self) -> Result<reqwest::Client, HttpClientError> {
        let mut headers = HeaderMap::new();
        if let Some(credentials) = &self.credentials {
            let mut value = HeaderValue::try_from(format!("Basic {}", credentials.encoded())).map_err(|_| HttpClientError::Credentials)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        reqwest::Client::builder()
            .user_agent(concat!("Quorate/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .tls_backend_preconfigured(self.tls().config()?)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .tcp_keepalive(Duration::from_secs(3))
            .build()
            .map_err(HttpClientError::Library)
    }

    fn tls(&self) -> ClientTls {
        let verify = match (self.insecure, &self.cert) {
            (false, _) => Verify::Full,
            (true, Some(_)) => Verify::Chain,
            (true, None) => Verify::Nothing,
        };
        ClientTls {
            ca: self.ca.clone(),
            crl: None,
            cert: self.cert.clone(),
            key: self.key.clone(),
            key_password: self.key_password.as_ref().map(|password| password.expose().to_owned()),
            verify,
        }
    }
}

/// The URL of `endpoint` on the server that `api_url` belongs to; nothing if that is not a URL.
pub fn endpoint_url(api_url: &str, endpoint: &str) -> Option<String> {
    let mut url = reqwest::Url::parse(api_url).ok().filter(reqwest::Url::has_host)?;
    url.set_path(endpoint);
    url.set_query(None);
    url.set_fragment(None);
    Some(url.into())
}

/// An error of the HTTP client with all its causes, without the URL.
pub fn explain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_found_beside_the_published_url() {
        assert_eq!(endpoint_url("http://10.0.0.1:8008/patroni", "liveness").as_deref(), Some("http://10.0.0.1:8008/liveness"));
        assert_eq!(endpoint_url("https://[::1]:8008/patroni?x=1#y", "a").as_deref(), Some("https://[::1]:8008/a"));
        assert_eq!(endpoint_url("nonsense", "a"), None);
        assert_eq!(endpoint_url("mailto:a@b", "a"), None);
    }

    #[test]
    fn insecure_means_less_with_a_client_certificate() {
        let mut settings = HttpClientSettings::default();
        assert_eq!(settings.tls().verify, Verify::Full);
        settings.insecure = true;
        assert_eq!(settings.tls().verify, Verify::Nothing);
        settings.cert = Some("client.crt".into());
        assert_eq!(settings.tls().verify, Verify::Chain);
    }
}
