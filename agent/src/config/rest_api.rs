//! The `restapi` section.

use std::path::PathBuf;

use ha_engine::settings::{Secret, values};
use serde_json::Value;

use super::address::{split_host_port, url};
use super::error::KeyError;
use super::section::Section;

/// A user name and a password for HTTP basic authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// Where the REST API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestListen {
    /// The host as configured, for messages.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl RestListen {
    /// Whether it means all addresses, IPv6 and IPv4.
    pub fn is_any(&self) -> bool {
        self.host.is_empty() || self.host == "*"
    }
}

/// Files and settings for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestTls {
    /// The certificate (and its chain).
    pub certfile: PathBuf,
    /// The key, if it is not in `certfile`.
    pub keyfile: Option<PathBuf>,
    /// The key's passphrase.
    pub keyfile_password: Option<Secret>,
    /// Whose client certificates are accepted.
    pub cafile: Option<PathBuf>,
    /// Wanted cipher suites, in OpenSSL's words.
    pub ciphers: Option<String>,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyClient {
    /// They are not asked.
    #[default]
    None,
    /// Only for requests that change something.
    Optional,
    /// Always.
    Required,
}

/// What the `Server` header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerTokens {
    /// Our own banner.
    #[default]
    Original,
    /// `Patroni`.
    ProductOnly,
    /// `Patroni/VERSION`.
    Minimal,
}

/// The `restapi` section, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestApiSettings {
    /// Where it listens.
    pub listen: RestListen,
    /// How others reach it, `host:port`; the same as `listen` by default.
    pub connect_address: String,
    /// Who may change something; everybody if absent.
    pub authentication: Option<BasicAuth>,
    /// TLS; plain HTTP if absent.
    pub tls: Option<RestTls>,
    /// Whether clients must show a certificate.
    pub verify_client: VerifyClient,
    /// Addresses, networks and host names that may change something; everybody if empty.
    pub allowlist: Vec<String>,
    /// Whether members may, whatever their address.
    pub allowlist_include_members: bool,
    /// Headers of every response, those for TLS included if TLS is on.
    pub extra_headers: Vec<(String, String)>,
    /// Length of the queue of connections that are not accepted yet.
    pub request_queue_size: u32,
    /// How many requests are worked on at once, at least. A hint.
    pub thread_pool_size: usize,
    /// What the `Server` header says.
    pub server_tokens: ServerTokens,
}

impl RestApiSettings {
    /// The published URL: `http(s)://HOST:PORT/patroni`.
    pub fn api_url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        url(scheme, &self.connect_address, "patroni")
    }

    /// Reads the section from the root of the local configuration. Also returns what is doubtful.
    pub(super) fn read(root: &Section<'_>) -> Result<(Self, Vec<String>), KeyError> {
        let mut warnings = Vec::new();
        let Some(section) = root.section("restapi")? else { return Err(root.missing("restapi")) };
        let listen_text = match section.text("listen")? {
            Some(text) => text,
            None => {
                let mut error = section.missing("listen");
                error.problem = "Can not find \"restapi.listen\" config".to_owned();
                return Err(error);
            }
        };
        let (host, port) = split_host_port(&listen_text, None).map_err(|error| {
            section.error(
                "listen",
                format!("Invalid \"restapi\" config: expected <HOST>:<PORT> for \"listen\", but got \"{listen_text}\" ({error})"),
                Some("for example `listen: 0.0.0.0:8008`".to_owned()),
            )
        })?;
        let certfile = section.path("certfile")?;
        let tls = match certfile {
            None => None,
            Some(certfile) => Some(RestTls {
                certfile,
                keyfile: section.path("keyfile")?,
                keyfile_password: section.text("keyfile_password")?.map(Secret::new),
                cafile: section.path("cafile")?,
                ciphers: section.text("ciphers")?,
            }),
        };
        let verify_client = match section.text("verify_client")?.map(|word| word.to_lowercase()).as_deref() {
            None | Some("none") => VerifyClient::None,
            Some("optional") => VerifyClient::Optional,
            Some("required") => VerifyClient::Required,
            Some(other) => {
                warnings.push(format!("Bad value in the \"restapi.verify_client\": {other}"));
                VerifyClient::None
            }
        };
        let server_tokens = match section.text("server_tokens")?.map(|word| word.to_lowercase()).as_deref() {
            None | Some("original") => ServerTokens::Original,
            Some("productonly") => ServerTokens::ProductOnly,
            Some("minimal") => ServerTokens::Minimal,
            Some(other) => {
                warnings.push(format!(
                    "restapi.server_tokens is set to {other}; allowed are Original, Minimal and ProductOnly. Using Original"
                ));
                ServerTokens::Original
            }
        };
        let request_queue_size = section.integer("request_queue_size")?.unwrap_or(5).clamp(0, 1 << 20);
        let settings = Self {
            listen: RestListen { host, port },
            connect_address: section.text("connect_address")?.unwrap_or(listen_text),
            authentication: basic_auth(&section)?,
            extra_headers: extra_headers(&section, tls.is_some())?,
            tls,
            verify_client,
            allowlist: section.texts("allowlist")?.unwrap_or_default(),
            allowlist_include_members: section.switch("allowlist_include_members"),
            request_queue_size: u32::try_from(request_queue_size).unwrap_or(5),
            thread_pool_size: pool_size(section.get("thread_pool_size"), "restapi.thread_pool_size", &mut warnings),
            server_tokens,
        };
        Ok((settings, warnings))
    }

    /// Where members verify each other when `ctl` does not say.
    pub(super) fn cafile(root: &Section<'_>) -> Result<Option<PathBuf>, KeyError> {
        root.section("restapi")?.map_or(Ok(None), |section| section.path("cafile"))
    }
}

/// `authentication` of a section: both keys or none.
pub(super) fn basic_auth(section: &Section<'_>) -> Result<Option<BasicAuth>, KeyError> {
    let Some(authentication) = section.section("authentication")? else { return Ok(None) };
    let username = authentication.required_text("username")?;
    let password = authentication.required_text("password")?;
    Ok(Some(BasicAuth { username, password: Secret::new(password) }))
}

/// Headers for every response; those for TLS replace the others of the same name.
fn extra_headers(section: &Section<'_>, tls: bool) -> Result<Vec<(String, String)>, KeyError> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for key in ["http_extra_headers", "https_extra_headers"] {
        if key == "https_extra_headers" && !tls {
            continue;
        }
        let Some(configured) = section.section(key)? else { continue };
        for name in configured.map().keys() {
            let value = configured.text(name)?.unwrap_or_default();
            headers.retain(|(known, _)| known != name);
            headers.push((name.clone(), value));
        }
    }
    Ok(headers)
}

/// At least five; five if it cannot be read.
pub(super) fn pool_size(value: Option<&Value>, key: &str, warnings: &mut Vec<String>) -> usize {
    let Some(value) = value else { return 5 };
    match values::int(value, None) {
        Some(size) => usize::try_from(size).unwrap_or(5).max(5),
        None => {
            warnings.push(format!("Failed to parse {key} value {}, using 5", values::text(value)));
            5
        }
    }
}
