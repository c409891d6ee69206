//! The options of the `etcd3:` and `etcd:` sections, which are the same.
//!
//! | option | meaning |
//! | --- | --- |
//! | `host` | `host[:port]`, port 2379 unless `port` says otherwise |
//! | `hosts` | a list, or text with commas, of the same |
//! | `port` | the port of hosts that have none |
//! | `protocol` | `http` (default) or `https` |
//! | `url` | `http(s)://[user:password@]host[:port]` |
//! | `proxy` | like `url`; implies `use_proxies` |
//! | `use_proxies` | use the servers as they are written, without asking them for others |
//! | `username`, `password` | authentication of etcd |
//! | `cacert` | whom to trust; without it servers are not verified, as before |
//! | `cert`, `key` | the client's certificate; the key may be in the file of the certificate |
//! | `srv`, `srv_suffix` | the domain whose DNS service records name the servers, and what is added to their names |
//! | `discovery_srv`, `srv_domain` | older names of `srv` |
//!
//! Of several ways to name servers the first of `proxy`, `srv`, `hosts`, `url`, `host` counts; if DNS names none, the others
//! are used. Values from the environment are text: numbers and truth values are read from text too.

use std::fmt;
use std::path::PathBuf;

use dcs_core::options::{OptionError, Options};
use dcs_core::tls::{ClientTls, Verify};
use serde_json::{Map, Value};

use crate::endpoint::{DEFAULT_PORT, Endpoint, Scheme, parse_port};

/// Where the servers are and how to be let in.
#[derive(Clone)]
pub struct Config {
    /// As they are written. Empty only if there is `srv`.
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) srv: Option<Srv>,
    /// Whether servers are asked for the others.
    pub(crate) discover: bool,
    pub(crate) access: Access,
}

/// How servers let us in. This part of a [`Config`] can be exchanged while the store is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) credentials: Option<Credentials>,
    pub(crate) tls: ClientTls,
}

/// Where DNS names the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Srv {
    pub(crate) domain: String,
    pub(crate) suffix: Option<String>,
    /// Whom to ask instead of the system's name servers.
    #[cfg(test)]
    pub(crate) name_server: Option<std::net::SocketAddr>,
}

/// User name and password of etcd's own authentication.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

impl Config {
    /// Reads the section. Unknown options are left to whoever reads the file; nothing is looked up or opened.
    ///
    /// # Errors
    ///
    /// An option has a wrong form, or no server is named.
    ///
    /// # Example
    ///
    /// ```
    /// let section = serde_json::json!({"hosts": "10.0.0.1:2379,10.0.0.2:2379", "username": "quorate", "password": "secret"});
    /// let config = dcs_etcd::Config::from_section(section.as_object().unwrap())?;
    /// assert!(!format!("{config:?}").contains("secret"));
    /// # Ok::<(), dcs_core::options::OptionError>(())
    /// ```
    pub fn from_section(section: &Map<String, Value>) -> Result<Self, OptionError> {
        Self::from_section_named("etcd3", section)
    }

    /// Reads a section of the same form under another name.
    pub(crate) fn from_section_named(name: &'static str, section: &Map<String, Value>) -> Result<Self, OptionError> {
        let section = Section(Options::new(name, section));
        let proxy = section.0.text("proxy")?;
        let proxies = proxy.is_some() || section.0.truth("use_proxies")?.unwrap_or(false);

        let mut credentials = section.credentials()?;
        let url = match &proxy {
            Some(proxy) => Some(("proxy", proxy.clone())),
            None => section.0.text("url")?.map(|url| ("url", url)),
        };
        let mut of_url = None;
        if let Some((key, url)) = url {
            let (endpoint, user) = Endpoint::parse_url(&url).map_err(|problem| section.0.error(key, problem))?;
            if let Some(user) = user {
                let password = user.password.unwrap_or_default();
                credentials = Some(Credentials { username: user.username, password });
            }
            of_url = Some(endpoint);
        }
        let srv = if proxy.is_some() { None } else { section.srv()? };
        let endpoints = match of_url {
            Some(endpoint) if proxy.is_some() || section.0.value("hosts").is_none() => vec![endpoint],
            // A URL tells the protocol of servers that do not.
            of_url => section.hosts(of_url.map(|endpoint| endpoint.scheme), srv.is_none())?,
        };

        let encrypted = endpoints.iter().any(|endpoint| endpoint.scheme == Scheme::Https);
        let tls = section.tls()?;
        if encrypted && tls.verify == Verify::Nothing {
            tracing::warn!("etcd servers are not verified because `{name}.cacert` is not set");
        }
        Ok(Self { endpoints, srv, discover: !proxies, access: Access { credentials, tls } })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, srv, discover, access: Access { credentials, tls } } = self;
        f.debug_struct("Config")
            .field("endpoints", endpoints)
            .field("srv", srv)
            .field("discover", discover)
            .field("credentials", credentials)
            .field("tls", tls)
            .finish()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What only this section has.
struct Section<'a>(Options<'a>);

impl Section<'_> {
    fn port(&self) -> Result<u16, OptionError> {
        let Some(text) = self.0.text("port")? else { return Ok(DEFAULT_PORT) };
        parse_port(&text).map_err(|problem| self.0.error("port", problem))
    }

    fn scheme(&self) -> Result<Scheme, OptionError> {
        let Some(text) = self.0.text("protocol")? else { return Ok(Scheme::Http) };
        Scheme::parse(text.trim()).ok_or_else(|| self.0.error("protocol", format!("`{text}` is neither `http` nor `https`")))
    }

    fn hosts(&self, scheme: Option<Scheme>, needed: bool) -> Result<Vec<Endpoint>, OptionError> {
        let scheme = scheme.map_or_else(|| self.scheme(), Ok)?;
        let port = self.port()?;
        let (key, texts) = match (self.0.value("hosts"), self.0.value("host")) {
            (Some(_), _) => ("hosts", self.0.texts("hosts", "host:port")?),
            (None, Some(Value::String(text))) => ("host", vec![text.trim()]),
            (None, Some(_)) => return Err(self.0.error("host", "it must be text of the form `host:port`")),
            (None, None) => ("", Vec::new()),
        };
        if texts.is_empty() && needed {
            let problem = "no server is named; set `hosts` to a list of `host:port`";
            return Err(self.0.error(key, problem));
        }
        let mut endpoints = Vec::with_capacity(texts.len());
        for text in texts {
            let endpoint = Endpoint::parse(text, scheme, port).map_err(|problem| self.0.error(key, format!("`{text}`: {problem}")))?;
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        Ok(endpoints)
    }

    fn srv(&self) -> Result<Option<Srv>, OptionError> {
        for key in ["srv", "discovery_srv", "srv_domain"] {
            let Some(domain) = self.0.text(key)? else { continue };
            if cfg!(not(feature = "srv")) {
                return Err(self.0.error(key, "this program was built without DNS service records; list the servers in `hosts`"));
            }
            let domain = domain.trim().trim_end_matches('.').to_owned();
            let suffix = self.0.text("srv_suffix")?.map(|suffix| suffix.trim().to_owned());
            for (key, part) in [(key, Some(&domain)), ("srv_suffix", suffix.as_ref())] {
                if part.is_some_and(|part| !is_part_of_a_name(part)) {
                    return Err(self.0.error(key, "it cannot be part of a name in DNS"));
                }
            }
            return Ok(Some(Srv {
                domain,
                suffix,
                #[cfg(test)]
                name_server: None,
            }));
        }
        Ok(None)
    }

    fn credentials(&self) -> Result<Option<Credentials>, OptionError> {
        match (self.0.text("username")?, self.0.text("password")?) {
            (Some(username), Some(password)) => Ok(Some(Credentials { username, password })),
            (Some(_), None) => Err(self.0.error("password", "it is missing, although there is a `username`")),
            (None, Some(_)) => Err(self.0.error("username", "it is missing, although there is a `password`")),
            (None, None) => Ok(None),
        }
    }

    fn tls(&self) -> Result<ClientTls, OptionError> {
        let path = |key| self.0.text(key).map(|text| text.map(PathBuf::from));
        let (ca, cert, key) = (path("cacert")?, path("cert")?, path("key")?);
        if key.is_some() && cert.is_none() {
            return Err(self.0.error("cert", "it is missing, although there is a `key`"));
        }
        let verify = if ca.is_some() { Verify::Full } else { Verify::Nothing };
        Ok(ClientTls { ca, cert, key, verify, ..ClientTls::default() })
    }
}

fn is_part_of_a_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(section: Value) -> Result<Config, OptionError> {
        Config::from_section(section.as_object().unwrap())
    }

    fn endpoints(section: Value) -> Vec<String> {
        read(section).unwrap().endpoints.iter().map(Endpoint::url).collect()
    }

    #[test]
    fn hosts_may_be_a_list_or_text() {
        let both = ["http://a:2379", "http://b:4001"];
        assert_eq!(endpoints(serde_json::json!({"hosts": ["a", "b:4001", "a:2379"]})), both);
        assert_eq!(endpoints(serde_json::json!({"hosts": "a:2379, b:4001,"})), both);
        assert_eq!(endpoints(serde_json::json!({"hosts": "a,b:4001", "port": "2379"})), both);
        assert_eq!(endpoints(serde_json::json!({"host": "[::1]:4001", "protocol": "https"})), ["https://[::1]:4001"]);
        assert_eq!(endpoints(serde_json::json!({"host": "a", "port": 7})), ["http://a:7"]);
    }

    #[test]
    fn the_first_of_proxy_hosts_url_and_host_counts() {
        let mut section = serde_json::json!({
            "proxy": "https://p:1", "url": "http://u:2", "hosts": "h:3", "host": "x:4",
        });
        for (key, expected) in [("proxy", "https://p:1"), ("hosts", "http://h:3"), ("url", "http://u:2"), ("host", "http://x:4")] {
            assert_eq!(endpoints(section.clone()), [expected]);
            section.as_object_mut().unwrap().remove(key);
        }
    }

    #[cfg(feature = "srv")]
    #[test]
    fn service_records_need_no_other_servers_and_have_older_names() {
        for key in ["srv", "discovery_srv", "srv_domain"] {
            let config = read(serde_json::json!({(key): "example.com.", "srv_suffix": "db"})).unwrap();
            let srv = config.srv.unwrap();
            assert_eq!((srv.domain.as_str(), srv.suffix.as_deref()), ("example.com", Some("db")));
            assert!(config.endpoints.is_empty());
        }
        let both = read(serde_json::json!({"srv": "example.com", "hosts": "a"})).unwrap();
        assert!(both.srv.is_some() && both.endpoints.len() == 1);
        assert_eq!(read(serde_json::json!({"srv": "example.com", "proxy": "http://p"})).unwrap().srv, None);
    }

    #[test]
    fn a_url_tells_the_protocol_and_the_user_of_hosts() {
        let config = read(serde_json::json!({"url": "https://u:p@x", "hosts": "a,b"})).unwrap();
        assert_eq!(config.endpoints.iter().map(Endpoint::url).collect::<Vec<_>>(), ["https://a:2379", "https://b:2379"]);
        assert!(config.access.credentials.is_some());
    }

    #[test]
    fn proxies_are_not_asked_for_other_servers() {
        assert!(!read(serde_json::json!({"proxy": "http://p"})).unwrap().discover);
        assert!(!read(serde_json::json!({"host": "a", "use_proxies": "on"})).unwrap().discover);
        assert!(read(serde_json::json!({"host": "a", "use_proxies": false})).unwrap().discover);
    }

    #[test]
    fn credentials_come_from_the_url_or_from_options_and_are_never_shown() {
        let config = read(serde_json::json!({"url": "http://u:secret@a", "username": "x", "password": "y"})).unwrap();
        assert_eq!(config.access.credentials.as_ref().unwrap().username, "u");
        let text = format!("{config:?}");
        assert!(text.contains("\"u\"") && !text.contains("secret"), "{text}");
        let config = read(serde_json::json!({"host": "a", "username": "x", "password": 123})).unwrap();
        assert_eq!(config.access.credentials.unwrap().password, "123");
    }

    #[test]
    fn servers_are_verified_if_and_only_if_there_is_a_ca() {
        let config = read(serde_json::json!({"host": "a", "protocol": "https", "cacert": "/ca.crt"})).unwrap();
        assert_eq!(config.access.tls.verify, Verify::Full);
        let config = read(serde_json::json!({"host": "a", "protocol": "https", "cert": "/c.pem"})).unwrap();
        assert_eq!(config.access.tls.verify, Verify::Nothing);
    }

    #[test]
    fn every_complaint_names_its_key() {
        let cases = [
            (serde_json::json!({}), "`etcd3`: no server is named; set `hosts` to a list of `host:port`"),
            (serde_json::json!({"hosts": []}), "`etcd3.hosts`: no server is named; set `hosts` to a list of `host:port`"),
            (serde_json::json!({"hosts": 5}), "`etcd3.hosts`: it must be a list, or text with commas, of `host:port`"),
            (serde_json::json!({"hosts": [5]}), "`etcd3.hosts`: every element must be text of the form `host:port`"),
            (serde_json::json!({"host": "a:x"}), "`etcd3.host`: `a:x`: `x` is not a port (1 to 65535)"),
            (serde_json::json!({"host": "a", "protocol": "ftp"}), "`etcd3.protocol`: `ftp` is neither `http` nor `https`"),
            (serde_json::json!({"host": "a", "port": 70000}), "`etcd3.port`: `70000` is not a port (1 to 65535)"),
            (serde_json::json!({"url": "a:2379"}), "`etcd3.url`: it must begin with `http://` or `https://`"),
            (serde_json::json!({"host": "a", "use_proxies": "maybe"}), "`etcd3.use_proxies`: `maybe` is neither true nor false"),
            (serde_json::json!({"host": "a", "username": "u"}), "`etcd3.password`: it is missing, although there is a `username`"),
            (serde_json::json!({"host": "a", "key": "/k"}), "`etcd3.cert`: it is missing, although there is a `key`"),
            (serde_json::json!({"srv_suffix": "a"}), "`etcd3`: no server is named; set `hosts` to a list of `host:port`"),
            #[cfg(feature = "srv")]
            (serde_json::json!({"srv": "a b"}), "`etcd3.srv`: it cannot be part of a name in DNS"),
            #[cfg(feature = "srv")]
            (serde_json::json!({"srv": "a", "srv_suffix": "x/y"}), "`etcd3.srv_suffix`: it cannot be part of a name in DNS"),
            #[cfg(not(feature = "srv"))]
            (
                serde_json::json!({"host": "a", "srv": "example.com"}),
                "`etcd3.srv`: this program was built without DNS service records; list the servers in `hosts`",
            ),
        ];
        for (section, expected) in cases {
            assert_eq!(read(section).unwrap_err().to_string(), expected);
        }
    }
}
