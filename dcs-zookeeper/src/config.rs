//! The options of the `zookeeper:` and `exhibitor:` sections.
//!
//! | option | meaning |
//! | --- | --- |
//! | `hosts` | a list, or text with commas, of `host:port`; `/path` after the last one is put in front of every key |
//! | `use_ssl` | TLS; without it the next five are ignored |
//! | `cacert` | whom to trust; the certificates of the operating system if absent |
//! | `cert`, `key` | the client's certificate; the key may be in the file of the certificate |
//! | `key_password` | taken, but encrypted keys are refused when they are read |
//! | `verify` | `false`: the name in the server's certificate does not matter; who signed it always does |
//! | `set_acls` | principal (`x509`) → list of `CREATE READ WRITE DELETE ADMIN ALL`, for every node that is created |
//! | `auth_data` | scheme → credential, told to every server on connecting |
//!
//! In the `exhibitor:` section `hosts` are those of Exhibitor, without ports, `port` is theirs, and `poll_interval` says
//! how often they are asked; everything else is the same. Values from the environment are text: numbers and truth values
//! are read from text too.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use dcs_core::options::{OptionError, Options};
use dcs_core::tls::{ClientTls, Verify};
use serde_json::{Map, Value};

use crate::host::{Host, parse_port};

/// How often Exhibitor is asked unless `poll_interval` says otherwise.
const POLL_INTERVAL: Duration = Duration::from_secs(300);

/// Where the servers are, how to be let in, and whom to let in.
#[derive(Clone)]
pub struct Config {
    /// The section that it was read from.
    pub(crate) section: &'static str,
    pub(crate) source: Source,
    /// In front of every key: empty, or a path that does not end with a slash.
    pub(crate) root: String,
    pub(crate) access: Access,
}

/// Who knows the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The configuration.
    Hosts(Vec<Host>),
    /// Exhibitor.
    Exhibitor(ExhibitorConfig),
}

/// Where Exhibitor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExhibitorConfig {
    pub(crate) hosts: Vec<String>,
    pub(crate) port: u16,
    pub(crate) poll_interval: Duration,
}

/// How servers let us in, and whom we let in. This part of a [`Config`] can be exchanged while the store is in use.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) tls: Option<ClientTls>,
    /// Scheme and credential.
    pub(crate) auth: Vec<(String, String)>,
    /// On every node that is created; empty means open to the world.
    pub(crate) acls: Vec<Grant>,
}

/// What somebody may do with a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The principal, as the scheme `x509` names it.
    pub(crate) principal: String,
    pub(crate) permissions: Vec<Permission>,
}

/// One thing that may be done with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    Create,
    Read,
    Write,
    Delete,
    Admin,
    All,
}

impl Config {
    /// Reads the `zookeeper:` section. Unknown options are left to whoever reads the file; nothing is looked up or opened.
    ///
    /// # Errors
    ///
    /// An option has a wrong form, or no server is named.
    ///
    /// # Example
    ///
    /// ```
    /// let section = serde_json::json!({"hosts": "10.0.0.1:2181,10.0.0.2:2181", "auth_data": {"digest": "quorate:secret"}});
    /// let config = dcs_zookeeper::Config::from_section(section.as_object().unwrap())?;
    /// assert!(!format!("{config:?}").contains("secret"));
    /// # Ok::<(), dcs_core::options::OptionError>(())
    /// ```
    pub fn from_section(section: &Map<String, Value>) -> Result<Self, OptionError> {
        let options = Options::new("zookeeper", section);
        let access = access(&options)?;
        let (hosts, root) = hosts(&options)?;
        if access.tls.is_some() {
            hosts.iter().try_for_each(|host| check_name(&options, &host.name))?;
        }
        Ok(Self { section: "zookeeper", source: Source::Hosts(hosts), root, access })
    }

    /// Reads the `exhibitor:` section. Unknown options are left to whoever reads the file; nothing is looked up or opened.
    ///
    /// # Errors
    ///
    /// An option has a wrong form, or no host or port is named.
    pub fn from_exhibitor_section(section: &Map<String, Value>) -> Result<Self, OptionError> {
        let options = Options::new("exhibitor", section);
        let mut hosts = Vec::new();
        for text in options.texts("hosts", "host")? {
            let host = Host::new(text.trim_start_matches('[').trim_end_matches(']'), 1);
            hosts.push(host.map_err(|problem| options.error("hosts", format!("`{text}`: {problem}")))?.name);
        }
        if hosts.is_empty() {
            return Err(options.error("hosts", "no host is named; set it to the list of hosts that run Exhibitor"));
        }
        let Some(port) = options.text("port")? else {
            return Err(options.error("port", "it is missing; set it to the port of Exhibitor, usually 8181"));
        };
        let port = parse_port(&port).map_err(|problem| options.error("port", problem))?;
        let poll_interval = options.number("poll_interval", 1)?.map_or(POLL_INTERVAL, Duration::from_secs);
        let source = Source::Exhibitor(ExhibitorConfig { hosts, port, poll_interval });
        Ok(Self { section: "exhibitor", source, root: String::new(), access: access(&options)? })
    }
}

/// The hosts, and the path after the last one.
fn hosts(options: &Options<'_>) -> Result<(Vec<Host>, String), OptionError> {
    let texts = options.texts("hosts", "host:port")?;
    let mut root = String::new();
    let mut hosts = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let (text, path) = text.split_once('/').map_or((*text, None), |(host, path)| (host, Some(path)));
        if let Some(path) = path {
            if index + 1 < texts.len() {
                return Err(options.error("hosts", format!("`/{path}`: a path may only follow the last host")));
            }
            root = checked_root(path).map_err(|problem| options.error("hosts", format!("`/{path}`: {problem}")))?;
        }
        let host = Host::parse(text).map_err(|problem| options.error("hosts", format!("`{text}`: {problem}")))?;
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    if hosts.is_empty() {
        return Err(options.error("hosts", "no server is named; set it to a list of `host:port`"));
    }
    Ok((hosts, root))
}

fn checked_root(path: &str) -> Result<String, String> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return Ok(String::new());
    }
    match path.split('/').find(|part| part.is_empty() || matches!(*part, "." | "..")) {
        Some(part) => Err(format!("`{part}` cannot be part of a path")),
        None => Ok(format!("/{path}")),
    }
}

/// The client would end in the middle of a connection over a name that no certificate can be for.
fn check_name(options: &Options<'_>, name: &str) -> Result<(), OptionError> {
    match rustls_pki_types::ServerName::try_from(name) {
        Ok(_) => Ok(()),
        Err(_) => Err(options.error("hosts", format!("`{name}`: no certificate can be for this name, and `use_ssl` is set"))),
    }
}

fn access(options: &Options<'_>) -> Result<Access, OptionError> {
    let tls = if options.truth("use_ssl")?.unwrap_or(false) { Some(tls(options)?) } else { None };
    Ok(Access { tls, auth: auth(options)?, acls: acls(options)? })
}

fn tls(options: &Options<'_>) -> Result<ClientTls, OptionError> {
    let path = |key| options.text(key).map(|text| text.map(PathBuf::from));
    let (ca, cert, key) = (path("cacert")?, path("cert")?, path("key")?);
    if key.is_some() && cert.is_none() {
        return Err(options.error("cert", "it is missing, although there is a `key`"));
    }
    let verify = if options.truth("verify")?.unwrap_or(true) { Verify::Full } else { Verify::Chain };
    if verify == Verify::Chain && ca.is_none() {
        let problem = "who signed the server's certificate is verified in any case: set `cacert` to a file with the authority";
        return Err(options.error("verify", problem));
    }
    Ok(ClientTls { ca, cert, key, key_password: options.text("key_password")?, verify, ..ClientTls::default() })
}

/// A mapping whose values are read by `read`.
fn mapping<T>(
    options: &Options<'_>,
    key: &'static str,
    form: &str,
    read: impl Fn(&str, &Value) -> Result<T, String>,
) -> Result<Vec<T>, OptionError> {
    match options.value(key) {
        None => Ok(Vec::new()),
        Some(Value::Object(map)) => {
            let entries = map.iter().map(|(name, value)| read(name, value).map_err(|problem| options.error(key, problem)));
            entries.collect()
        }
        Some(_) => Err(options.error(key, format!("it must be a mapping of {form}"))),
    }
}

fn auth(options: &Options<'_>) -> Result<Vec<(String, String)>, OptionError> {
    mapping(options, "auth_data", "scheme to credential", |scheme, credential| match credential {
        Value::String(credential) => Ok((scheme.to_owned(), credential.clone())),
        _ => Err(format!("the credential of `{scheme}` must be text")),
    })
}

fn acls(options: &Options<'_>) -> Result<Vec<Grant>, OptionError> {
    mapping(options, "set_acls", "principal to a list of permissions", |principal, permissions| {
        let words: Option<Vec<&str>> = match permissions {
            Value::String(text) => Some(text.split(',').collect()),
            Value::Array(list) => list.iter().map(Value::as_str).collect(),
            _ => None,
        };
        let words = words.ok_or_else(|| format!("the permissions of `{principal}` must be a list of words"))?;
        let permissions = words.into_iter().map(Permission::parse).collect::<Result<Vec<_>, _>>()?;
        if permissions.is_empty() {
            return Err(format!("the permissions of `{principal}` are missing"));
        }
        Ok(Grant { principal: principal.to_owned(), permissions })
    })
}

impl Permission {
    fn parse(word: &str) -> Result<Self, String> {
        match word.trim().to_ascii_uppercase().as_str() {
            "CREATE" => Ok(Self::Create),
            "READ" => Ok(Self::Read),
            "WRITE" => Ok(Self::Write),
            "DELETE" => Ok(Self::Delete),
            "ADMIN" => Ok(Self::Admin),
            "ALL" => Ok(Self::All),
            _ => Err(format!("`{word}` is none of CREATE, READ, WRITE, DELETE, ADMIN and ALL")),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { section, source, root, access } = self;
        f.debug_struct("Config").field("section", section).field("source", source).field("root", root).field("access", access).finish()
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tls, auth, acls } = self;
        let schemes: Vec<_> = auth.iter().map(|(scheme, _)| scheme).collect();
        f.debug_struct("Access").field("tls", tls).field("auth", &schemes).field("acls", acls).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(section: Value) -> Result<Config, OptionError> {
        Config::from_section(section.as_object().unwrap())
    }

    fn read_exhibitor(section: Value) -> Result<Config, OptionError> {
        Config::from_exhibitor_section(section.as_object().unwrap())
    }

    fn hosts_of(section: Value) -> (String, String) {
        let config = read(section).unwrap();
        let Source::Hosts(hosts) = config.source else { panic!("not hosts") };
        (hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), config.root)
    }

    #[test]
    fn hosts_may_be_a_list_or_text_and_end_with_a_path() {
        let both = "a:2181 b:2182".to_owned();
        assert_eq!(hosts_of(json!({"hosts": ["a", "b:2182", "a:2181"]})), (both.clone(), String::new()));
        assert_eq!(hosts_of(json!({"hosts": "a:2181, b:2182"})), (both.clone(), String::new()));
        assert_eq!(hosts_of(json!({"hosts": "a:2181,b:2182/"})), (both.clone(), String::new()));
        assert_eq!(hosts_of(json!({"hosts": "a:2181,b:2182/apps/pg"})), (both.clone(), "/apps/pg".to_owned()));
        assert_eq!(hosts_of(json!({"hosts": ["a:2181", "b:2182/apps"]})), (both, "/apps".to_owned()));
        assert_eq!(hosts_of(json!({"hosts": "[::1]:7/x"})), ("[::1]:7".to_owned(), "/x".to_owned()));
    }

    #[test]
    fn tls_options_count_only_with_use_ssl() {
        assert_eq!(read(json!({"hosts": "a", "cacert": "/ca", "verify": "nonsense"})).unwrap().access.tls, None);
        let tls = read(json!({"hosts": "a", "use_ssl": "on", "cert": "/c", "key": "/k", "key_password": 5})).unwrap().access.tls.unwrap();
        assert_eq!((tls.verify, tls.ca, tls.key_password.as_deref()), (Verify::Full, None, Some("5")));
        let tls = read(json!({"hosts": "a", "use_ssl": true, "cacert": "/ca", "verify": "off"})).unwrap().access.tls.unwrap();
        assert_eq!(tls.verify, Verify::Chain);
    }

    #[test]
    fn permissions_are_read_in_any_case() {
        let config = read(json!({"hosts": "a", "set_acls": {"CN=pg": ["create", "Read"], "CN=ops": "all"}})).unwrap();
        let expected = [
            Grant { principal: "CN=pg".to_owned(), permissions: vec![Permission::Create, Permission::Read] },
            Grant { principal: "CN=ops".to_owned(), permissions: vec![Permission::All] },
        ];
        assert_eq!(config.access.acls, expected);
    }

    #[test]
    fn credentials_are_never_shown() {
        let config =
            read(json!({"hosts": "a", "auth_data": {"digest": "user:secret"}, "use_ssl": true, "key_password": "secret"})).unwrap();
        assert_eq!(config.access.auth, [("digest".to_owned(), "user:secret".to_owned())]);
        let text = format!("{config:?}");
        assert!(text.contains("digest") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn the_section_of_exhibitor_names_hosts_and_one_port() {
        let config = read_exhibitor(json!({"hosts": ["e1", "e2"], "port": "8181"})).unwrap();
        let expected = ExhibitorConfig { hosts: vec!["e1".into(), "e2".into()], port: 8181, poll_interval: Duration::from_secs(300) };
        assert_eq!(config.source, Source::Exhibitor(expected));
        let config = read_exhibitor(json!({"hosts": "e1", "port": 1, "poll_interval": 5, "auth_data": {"digest": "x"}})).unwrap();
        assert!(matches!(config.source, Source::Exhibitor(ExhibitorConfig { poll_interval, .. }) if poll_interval.as_secs() == 5));
        assert_eq!(config.access.auth.len(), 1);
    }

    #[test]
    fn every_complaint_names_its_key() {
        let cases = [
            (json!({}), "`zookeeper.hosts`: no server is named; set it to a list of `host:port`"),
            (json!({"hosts": [5]}), "`zookeeper.hosts`: every element must be text of the form `host:port`"),
            (json!({"hosts": "a:x"}), "`zookeeper.hosts`: `a:x`: `x` is not a port (1 to 65535)"),
            (json!({"hosts": "a/x,b"}), "`zookeeper.hosts`: `/x`: a path may only follow the last host"),
            (json!({"hosts": "a/x//y"}), "`zookeeper.hosts`: `/x//y`: `` cannot be part of a path"),
            (json!({"hosts": "a", "use_ssl": 7}), "`zookeeper.use_ssl`: `7` is neither true nor false"),
            (
                json!({"hosts": "zk_1,b", "use_ssl": true, "cacert": "/ca"}),
                "", // an underscore is fine
            ),
            (
                json!({"hosts": "zk!1", "use_ssl": true}),
                "`zookeeper.hosts`: `zk!1`: no certificate can be for this name, and `use_ssl` is set",
            ),
            (json!({"hosts": "a", "use_ssl": true, "key": "/k"}), "`zookeeper.cert`: it is missing, although there is a `key`"),
            (
                json!({"hosts": "a", "use_ssl": true, "verify": false}),
                "`zookeeper.verify`: who signed the server's certificate is verified in any case: set `cacert` to a file with the authority",
            ),
            (json!({"hosts": "a", "auth_data": "x"}), "`zookeeper.auth_data`: it must be a mapping of scheme to credential"),
            (json!({"hosts": "a", "auth_data": {"digest": 1}}), "`zookeeper.auth_data`: the credential of `digest` must be text"),
            (json!({"hosts": "a", "set_acls": []}), "`zookeeper.set_acls`: it must be a mapping of principal to a list of permissions"),
            (
                json!({"hosts": "a", "set_acls": {"CN=x": ["RULE"]}}),
                "`zookeeper.set_acls`: `RULE` is none of CREATE, READ, WRITE, DELETE, ADMIN and ALL",
            ),
            (json!({"hosts": "a", "set_acls": {"CN=x": []}}), "`zookeeper.set_acls`: the permissions of `CN=x` are missing"),
        ];
        for (section, expected) in cases {
            let said = read(section).err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(said, expected);
        }
        let cases = [
            (json!({"port": 1}), "`exhibitor.hosts`: no host is named; set it to the list of hosts that run Exhibitor"),
            (json!({"hosts": "a"}), "`exhibitor.port`: it is missing; set it to the port of Exhibitor, usually 8181"),
            (json!({"hosts": "a", "port": 70000}), "`exhibitor.port`: `70000` is not a port (1 to 65535)"),
            (json!({"hosts": "a", "port": 1, "poll_interval": 0}), "`exhibitor.poll_interval`: it must be at least 1"),
        ];
        for (section, expected) in cases {
            assert_eq!(read_exhibitor(section).unwrap_err().to_string(), expected);
        }
    }
}
