//! The options of the `consul:` section.
//!
//! | option | default | meaning |
//! | --- | --- | --- |
//! | `host`, `port` | `127.0.0.1`, 8500 | Consul's agent; `host` may be `host:port` |
//! | `url` | – | `http(s)://host[:port]` instead of `scheme`, `host` and `port` |
//! | `scheme` | `http` | `http` or `https` |
//! | `token` | – | the ACL token |
//! | `verify` | true | whether the server's certificate is checked; it always is if there is a `cacert` |
//! | `cacert` | the system's | whom to trust |
//! | `cert`, `key` | – | our certificate; the key may be in the same file |
//! | `dc` | the agent's | the datacenter |
//! | `consistency` | `default` | `default`, `consistent` or `stale`, for loading the cluster |
//! | `checks` | none | health checks that the session ends with |
//! | `register_service` | false | whether the member is registered as a service |
//! | `service_tags` | – | further tags of the service |
//! | `service_check_interval` | `5s` | how often Consul asks the REST API |
//! | `service_check_tls_server_name` | – | the name in the REST API's certificate |
//!
//! Values from the environment are text: numbers and truth values are read from text too.

use std::fmt;
use std::path::PathBuf;

use dcs_core::options::{OptionError, Options};
use dcs_core::tls::{ClientTls, Verify};
use serde_json::{Map, Value};

/// The section that these options stand in.
const SECTION: &str = "consul";

const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_PORT: u16 = 8500;

/// Where Consul's agent is, how to be let in, and what to tell it.
#[derive(Clone)]
pub struct Config {
    /// Scheme, host and port, as a URL without a slash at its end.
    pub(crate) endpoint: String,
    pub(crate) dc: Option<String>,
    pub(crate) checks: Vec<String>,
    pub(crate) access: Access,
    pub(crate) registration: Registration,
}

/// How Consul lets us in and what we ask of its answers. This part of a [`Config`] can be exchanged while the store is in use.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) token: Option<String>,
    pub(crate) tls: ClientTls,
    pub(crate) mode: Mode,
}

/// How fresh relaxed reads are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The leader answers from what it has.
    #[default]
    Default,
    /// The leader makes sure that it still is one.
    Consistent,
    /// Any server answers from what it has.
    Stale,
}

/// How the member is registered as a service. This part, too, can be exchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) enabled: bool,
    /// Sorted.
    pub(crate) tags: Vec<String>,
    pub(crate) check_interval: String,
    pub(crate) check_tls_server_name: Option<String>,
}

impl Config {
    /// Reads the section. Unknown options are left to whoever reads the file; nothing is looked up or opened.
    ///
    /// # Errors
    ///
    /// An option has a wrong form.
    ///
    /// # Example
    ///
    /// ```
    /// let section = serde_json::json!({"host": "127.0.0.1:8500", "token": "secret"});
    /// let config = dcs_consul::Config::from_section(section.as_object().unwrap())?;
    /// assert!(!format!("{config:?}").contains("secret"));
    /// # Ok::<(), dcs_core::options::OptionError>(())
    /// ```
    pub fn from_section(section: &Map<String, Value>) -> Result<Self, OptionError> {
        let section = Section(Options::new(SECTION, section));
        let tls = section.tls()?;
        let endpoint = section.endpoint()?;
        if endpoint.starts_with("https:") && tls.verify == Verify::Nothing {
            tracing::warn!("Consul's certificate is not checked because `{SECTION}.verify` is off and there is no `{SECTION}.cacert`");
        }
        let mut tags: Vec<_> = section.0.texts("service_tags", "tag")?.into_iter().map(str::to_owned).collect();
        tags.sort();
        Ok(Self {
            endpoint,
            dc: section.0.text("dc")?,
            checks: section.0.texts("checks", "check id")?.into_iter().map(str::to_owned).collect(),
            access: Access { token: section.0.text("token")?, tls, mode: section.mode()? },
            registration: Registration {
                enabled: section.0.truth("register_service")?.unwrap_or(false),
                tags,
                check_interval: section.0.text("service_check_interval")?.unwrap_or_else(|| "5s".to_owned()),
                check_tls_server_name: section.0.text("service_check_tls_server_name")?,
            },
        })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, dc, checks, access, registration } = self;
        f.debug_struct("Config")
            .field("endpoint", endpoint)
            .field("dc", dc)
            .field("checks", checks)
            .field("access", access)
            .field("registration", registration)
            .finish()
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token, tls, mode } = self;
        let token = token.as_ref().map(|_| "[hidden]");
        f.debug_struct("Access").field("token", &token).field("tls", tls).field("mode", mode).finish()
    }
}

/// What only this section has.
struct Section<'a>(Options<'a>);

impl Section<'_> {
    fn endpoint(&self) -> Result<String, OptionError> {
        if let Some(url) = self.0.text("url")? {
            return parse_url(url.trim()).map_err(|problem| self.0.error("url", problem));
        }
        let scheme = self.0.text("scheme")?.unwrap_or_else(|| "http".to_owned());
        if !matches!(scheme.as_str(), "http" | "https") {
            return Err(self.0.error("scheme", format!("`{scheme}` is neither `http` nor `https`")));
        }
        let host = self.0.text("host")?.unwrap_or_else(|| DEFAULT_HOST.to_owned());
        let (name, port) = split_port(host.trim()).map_err(|problem| self.0.error("host", problem))?;
        // As before, `port` counts more than the port in `host`.
        let port = match self.0.number("port", 1)? {
            None => port.unwrap_or(DEFAULT_PORT),
            Some(port) => u16::try_from(port).map_err(|_| self.0.error("port", "it must be at most 65535"))?,
        };
        Ok(format!("{scheme}://{name}:{port}"))
    }

    fn tls(&self) -> Result<ClientTls, OptionError> {
        let path = |key| self.0.text(key).map(|text| text.map(PathBuf::from));
        let (ca, cert, key) = (path("cacert")?, path("cert")?, path("key")?);
        if key.is_some() && cert.is_none() {
            return Err(self.0.error("cert", "it is missing, although there is a `key`"));
        }
        let checked = ca.is_some() || self.0.truth("verify")?.unwrap_or(true);
        let verify = if checked { Verify::Full } else { Verify::Nothing };
        Ok(ClientTls { ca, cert, key, verify, ..ClientTls::default() })
    }

    fn mode(&self) -> Result<Mode, OptionError> {
        match self.0.text("consistency")?.as_deref().map(str::trim) {
            None | Some("default") => Ok(Mode::Default),
            Some("consistent") => Ok(Mode::Consistent),
            Some("stale") => Ok(Mode::Stale),
            Some(other) => Err(self.0.error("consistency", format!("`{other}` is none of `default`, `consistent` and `stale`"))),
        }
    }
}

fn parse_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).map_err(|problem| problem.to_string())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("it must begin with `http://` or `https://`".to_owned());
    }
    let Some(host) = url.host_str() else { return Err("it names no host".to_owned()) };
    // A library's idea of a default port is not Consul's; what is written counts.
    let written = text.split_once("://").map_or("", |(_, rest)| rest).split(['/', '?', '#']).next().unwrap_or_default();
    let (_, port) = split_port(written.rsplit('@').next().unwrap_or_default())?;
    Ok(format!("{}://{host}:{}", url.scheme(), port.unwrap_or(DEFAULT_PORT)))
}

/// A host as it stands in a URL, and the port behind it, if any.
fn split_port(text: &str) -> Result<(String, Option<u16>), String> {
    let bare_v6 = text.parse::<std::net::Ipv6Addr>().is_ok();
    let (host, port) = match text.rsplit_once(':') {
        _ if bare_v6 => return Ok((format!("[{text}]"), None)),
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if host.is_empty() || host.contains(['/', '@', ' ']) || (host.contains(':') && !host.starts_with('[')) {
        return Err(format!("`{text}` is not of the form `host:port`"));
    }
    match port.map(str::parse::<u16>) {
        None => Ok((host.to_owned(), None)),
        Some(Ok(port)) if port > 0 => Ok((host.to_owned(), Some(port))),
        Some(_) => Err(format!("`{}` is not a port (1 to 65535)", port.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(section: Value) -> Result<Config, OptionError> {
        Config::from_section(section.as_object().unwrap())
    }

    fn endpoint(section: Value) -> String {
        read(section).unwrap().endpoint
    }

    #[test]
    fn the_agent_is_on_this_machine_unless_told_otherwise() {
        assert_eq!(endpoint(json!({})), "http://127.0.0.1:8500");
        assert_eq!(endpoint(json!({"host": "c", "scheme": "https"})), "https://c:8500");
        assert_eq!(endpoint(json!({"host": "c:7"})), "http://c:7");
        assert_eq!(endpoint(json!({"host": "c:7", "port": "8"})), "http://c:8");
        assert_eq!(endpoint(json!({"host": "::1"})), "http://[::1]:8500");
        assert_eq!(endpoint(json!({"host": "[::1]:7"})), "http://[::1]:7");
    }

    #[test]
    fn a_url_counts_more_than_the_rest() {
        let rest = |url: &str| json!({"url": url, "host": "x", "port": 1, "scheme": "http"});
        assert_eq!(endpoint(rest("https://c:7/")), "https://c:7");
        assert_eq!(endpoint(rest("https://c")), "https://c:8500");
        assert_eq!(endpoint(rest("https://c:443")), "https://c:443");
        assert_eq!(endpoint(rest("http://[::1]:80/v1")), "http://[::1]:80");
    }

    #[test]
    fn servers_are_verified_unless_that_is_turned_off_and_nobody_is_named_to_trust() {
        let verify = |section| read(section).unwrap().access.tls.verify;
        assert_eq!(verify(json!({})), Verify::Full);
        assert_eq!(verify(json!({"verify": "off"})), Verify::Nothing);
        assert_eq!(verify(json!({"verify": false, "cacert": "/ca"})), Verify::Full);
    }

    #[test]
    fn lists_may_be_lists_or_text() {
        let config = read(json!({"checks": "serfHealth, service:x", "service_tags": ["b", "a"]})).unwrap();
        assert_eq!(config.checks, ["serfHealth", "service:x"]);
        assert_eq!(config.registration.tags, ["a", "b"]);
        assert!(!config.registration.enabled);
        assert_eq!(config.registration.check_interval, "5s");
        assert!(read(json!({"checks": []})).unwrap().checks.is_empty());
        assert!(read(json!({"register_service": "on"})).unwrap().registration.enabled);
    }

    #[test]
    fn the_token_is_never_shown() {
        let config = read(json!({"token": "secret"})).unwrap();
        assert_eq!(config.access.token.as_deref(), Some("secret"));
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn every_complaint_names_its_key() {
        let cases = [
            (json!({"url": "c:8500"}), "`consul.url`: it must begin with `http://` or `https://`"),
            (json!({"url": "http://c:x"}), "`consul.url`: invalid port number"),
            (json!({"scheme": "ftp"}), "`consul.scheme`: `ftp` is neither `http` nor `https`"),
            (json!({"host": "c:0"}), "`consul.host`: `0` is not a port (1 to 65535)"),
            (json!({"host": "a/b"}), "`consul.host`: `a/b` is not of the form `host:port`"),
            (json!({"port": "x"}), "`consul.port`: `x` is not a whole number"),
            (json!({"port": 70000}), "`consul.port`: it must be at most 65535"),
            (json!({"key": "/k"}), "`consul.cert`: it is missing, although there is a `key`"),
            (json!({"verify": "maybe"}), "`consul.verify`: `maybe` is neither true nor false"),
            (json!({"consistency": "strong"}), "`consul.consistency`: `strong` is none of `default`, `consistent` and `stale`"),
            (json!({"checks": 5}), "`consul.checks`: it must be a list, or text with commas, of `check id`"),
        ];
        for (section, expected) in cases {
            assert_eq!(read(section).unwrap_err().to_string(), expected);
        }
    }
}
