//! The options of the `raft:` section.
//!
//! | option | meaning |
//! | --- | --- |
//! | `self_addr` | `host:port` under which the others reach this node; without it the agent is a client that neither votes nor stores |
//! | `bind_addr` | `host:port` to listen on instead |
//! | `partner_addrs` | a list, or text with commas, of the other nodes' `self_addr` |
//! | `data_dir` | where the node keeps what it must not forget; the current directory by default |
//! | `password` | what all nodes and clients must know; encrypts what they say to each other |
//! | `tls` | `cert`, `key`, `ca`: certificates for all connections, in both directions |
//! | `heartbeat_ms` | how often the leader shows that it is there; 100 by default |
//! | `election_ms` | how long the others wait for it, at least; 1000 by default |
//! | `snapshot_entries` | after how many entries of the log a snapshot takes their place; 10000 by default |
//!
//! The first five are those of Patroni. Values from the environment are text: numbers are read from text too.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use dcs_core::options::{OptionError, Options};
use serde_json::{Map, Value};

use crate::transport::{Address, SecuritySettings, TlsFiles, TransportError};

/// The section that these options stand in.
const SECTION: &str = "raft";

/// How often the leader shows that it is there.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// How long the others wait for it, at least.
const ELECTION: Duration = Duration::from_millis(1_000);

/// After how many entries a snapshot takes the place of the log.
const SNAPSHOT_ENTRIES: u64 = 10_000;

/// Where the nodes are, and how they talk.
#[derive(Clone)]
pub struct Config {
    /// Where the others reach this node; nothing for a mere client.
    pub self_addr: Option<Address>,
    /// Where it listens, if that is somewhere else.
    pub bind_addr: Option<Address>,
    /// The other nodes that are known from the start.
    pub partners: Vec<Address>,
    /// Where the node keeps what it must not forget.
    pub data_dir: PathBuf,
    /// How connections are protected.
    pub security: SecuritySettings,
    /// How often the leader shows that it is there.
    pub heartbeat: Duration,
    /// How long the others wait for it, at least, before they elect another one; at most twice as long.
    pub election: Duration,
    /// After how many entries a snapshot takes the place of the log.
    pub snapshot_entries: u64,
}

impl Config {
    /// Reads the section. Unknown options are left to whoever reads the file; nothing is looked up or opened.
    ///
    /// # Errors
    ///
    /// An option has a wrong form, or no node is named.
    ///
    /// # Example
    ///
    /// ```
    /// let section = serde_json::json!({"self_addr": "10.0.0.1:2222", "partner_addrs": ["10.0.0.2:2222", "10.0.0.3:2222"], "password": "secret"});
    /// let config = dcs_raft::Config::from_section(section.as_object().unwrap())?;
    /// assert_eq!(config.partners.len(), 2);
    /// assert!(!format!("{config:?}").contains("secret"));
    /// # Ok::<(), dcs_core::options::OptionError>(())
    /// ```
    pub fn from_section(section: &Map<String, Value>) -> Result<Self, OptionError> {
        let section = Section(Options::new(SECTION, section));
        let self_addr = section.address("self_addr")?;
        let bind_addr = section.address("bind_addr")?;
        let partners: Vec<Address> =
            section.addresses("partner_addrs")?.into_iter().filter(|partner| Some(partner) != self_addr.as_ref()).collect();
        if self_addr.is_none() && partners.is_empty() {
            let problem =
                "no node is named; set `self_addr` to where the others reach this node, and `partner_addrs` to a list of the others";
            return Err(section.0.error("", problem));
        }
        let heartbeat = section.milliseconds("heartbeat_ms", 10)?.unwrap_or(HEARTBEAT);
        let election = section.milliseconds("election_ms", 50)?.unwrap_or(ELECTION);
        if election < heartbeat * 3 {
            let problem = format!("it must be at least three times `heartbeat_ms`, which is {}", heartbeat.as_millis());
            return Err(section.0.error("election_ms", problem));
        }
        Ok(Self {
            self_addr,
            bind_addr,
            partners,
            data_dir: section.0.text("data_dir")?.map_or_else(|| PathBuf::from("."), PathBuf::from),
            security: SecuritySettings { password: section.0.text("password")?, tls: section.tls()? },
            heartbeat,
            election,
            snapshot_entries: section.0.number("snapshot_entries", 100)?.unwrap_or(SNAPSHOT_ENTRIES),
        })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("self_addr", &self.self_addr)
            .field("bind_addr", &self.bind_addr)
            .field("partners", &self.partners)
            .field("data_dir", &self.data_dir)
            .field("security", &self.security)
            .finish_non_exhaustive()
    }
}

/// What only this section has.
struct Section<'a>(Options<'a>);

impl Section<'_> {
    fn milliseconds(&self, key: &'static str, least: u64) -> Result<Option<Duration>, OptionError> {
        Ok(self.0.number(key, least)?.map(Duration::from_millis))
    }

    fn parse(&self, key: &'static str, text: &str) -> Result<Address, OptionError> {
        text.trim().parse().map_err(|error: TransportError| self.0.error(key, error.to_string()))
    }

    fn address(&self, key: &'static str) -> Result<Option<Address>, OptionError> {
        self.0.text(key)?.map(|text| self.parse(key, &text)).transpose()
    }

    fn addresses(&self, key: &'static str) -> Result<Vec<Address>, OptionError> {
        let mut addresses = Vec::new();
        for text in self.0.texts(key, "host:port")? {
            let address = self.parse(key, text)?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    fn tls(&self) -> Result<Option<TlsFiles>, OptionError> {
        let Some(value) = self.0.value("tls") else { return Ok(None) };
        let Value::Object(files) = value else { return Err(self.0.error("tls", "it must be a mapping of `cert`, `key` and `ca`")) };
        let files = Options::new("raft.tls", files);
        let file = |key, what: &str| match files.text(key)? {
            Some(path) => Ok(PathBuf::from(path)),
            None => Err(files.error(key, format!("{what} is missing"))),
        };
        Ok(Some(TlsFiles {
            cert: file("cert", "the file of the certificate")?,
            key: files.text("key")?.map(PathBuf::from),
            ca: file("ca", "the file of the authority that signed all nodes' certificates")?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(section: Value) -> Result<Config, OptionError> {
        Config::from_section(section.as_object().unwrap())
    }

    #[test]
    fn partners_may_be_a_list_or_text_and_may_name_the_node_itself() {
        for partners in [json!(["a:1", "b:2", "c:3"]), json!("a:1, b:2,c:3"), json!(["b:2", "c:3", "b:2"])] {
            let config = read(json!({"self_addr": "a:1", "partner_addrs": partners})).unwrap();
            let texts: Vec<String> = config.partners.iter().map(Address::to_string).collect();
            assert_eq!(texts, ["b:2", "c:3"]);
        }
    }

    #[test]
    fn a_mere_client_needs_partners() {
        assert!(read(json!({"partner_addrs": "a:1"})).unwrap().self_addr.is_none());
        let error = read(json!({"data_dir": "/tmp"})).unwrap_err().to_string();
        assert!(error.starts_with("`raft`: no node is named"), "{error}");
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let cases = [
            (json!({"self_addr": "a"}), "raft.self_addr"),
            (json!({"self_addr": "a:1", "bind_addr": "0.0.0.0:x"}), "raft.bind_addr"),
            (json!({"self_addr": "a:1", "partner_addrs": [1]}), "raft.partner_addrs"),
            (json!({"self_addr": "a:1", "partner_addrs": {"b": 1}}), "raft.partner_addrs"),
            (json!({"self_addr": "a:1", "heartbeat_ms": "soon"}), "raft.heartbeat_ms"),
            (json!({"self_addr": "a:1", "heartbeat_ms": 500}), "raft.election_ms"),
            (json!({"self_addr": "a:1", "snapshot_entries": 1}), "raft.snapshot_entries"),
            (json!({"self_addr": "a:1", "password": ["x"]}), "raft.password"),
            (json!({"self_addr": "a:1", "tls": {"cert": "x"}}), "raft.tls.ca"),
        ];
        for (section, key) in cases {
            let error = read(section).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{key}`:")), "{error}");
        }
    }
}
