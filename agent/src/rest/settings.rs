//! What can be configured about the REST API.

use std::fmt;

use dcs_core::tls::ServerTls;

use crate::http_client::BasicCredentials;

/// The `restapi` section, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestSettings {
    /// Where to listen.
    pub listen: ListenAddress,
    /// What requests that change something must present.
    pub credentials: Option<BasicCredentials>,
    /// Certificates; plain HTTP if absent.
    pub tls: Option<ServerTls>,
    /// Addresses, networks and host names from which something may be changed; empty means from everywhere.
    pub allowlist: Vec<String>,
    /// Whether the members of the cluster may change something too, and nobody else unless listed.
    pub allowlist_include_members: bool,
    /// Added to answers; already merged for the protocol that is used.
    pub extra_headers: Vec<(String, String)>,
    /// How many connections may wait to be accepted. Read at start only, and never less than 128.
    pub request_queue_size: u32,
    /// What the header `Server` says.
    pub server_tokens: ServerTokens,
}

impl RestSettings {
    /// The defaults, listening at `listen`.
    pub fn at(listen: ListenAddress) -> Self {
        Self {
            listen,
            credentials: None,
            tls: None,
            allowlist: Vec::new(),
            allowlist_include_members: false,
            extra_headers: Vec::new(),
            request_queue_size: 5,
            server_tokens: ServerTokens::default(),
        }
    }
}

/// A host and a port to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// A name or address without brackets; empty or `*` means every address of this machine.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The text is not a host and a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid \"restapi\" config: expected <HOST>:<PORT> for \"listen\", but got \"{0}\"")]
pub struct NotAListenAddress(pub String);

impl std::str::FromStr for ListenAddress {
    type Err = NotAListenAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (host, port) = text.rsplit_once(':')?;
            let host = host.trim().trim_start_matches('[').trim_end_matches(']');
            Some(Self { host: host.to_owned(), port: port.trim().parse().ok()? })
        };
        parse().ok_or_else(|| NotAListenAddress(text.to_owned()))
    }
}

impl ListenAddress {
    /// Whether this means every address of the machine.
    pub fn is_everywhere(&self) -> bool {
        self.host.is_empty() || self.host == "*"
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

/// How much the header `Server` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerTokens {
    /// There is no such header.
    #[default]
    Original,
    /// The product.
    ProductOnly,
    /// Product and version.
    Minimal,
}

impl ServerTokens {
    /// Reads the setting, in any case; nothing if it is not one of the known words.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "original" => Self::Original,
            "productonly" => Self::ProductOnly,
            "minimal" => Self::Minimal,
            _ => return None,
        })
    }

    /// The value of the header.
    pub fn header(self) -> Option<&'static str> {
        match self {
            Self::Original => None,
            Self::ProductOnly => Some("Quorate"),
            Self::Minimal => Some(concat!("Quorate/", env!("CARGO_PKG_VERSION"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_in_every_form() {
        for (text, host, port) in [
            ("127.0.0.1:8008", "127.0.0.1", 8008),
            ("[::1]:1", "::1", 1),
            ("::1:8008", "::1", 8008),
            (":8008", "", 8008),
            ("*:8008", "*", 8008),
            ("db1:8008", "db1", 8008),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port), "{text}");
        }
        for text in ["", "8008", "host:", "host:http", "host:70000"] {
            let error = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("but got \"{text}\"")), "{error}");
        }
    }

    #[test]
    fn server_tokens_in_any_case() {
        assert_eq!(ServerTokens::parse("ProductOnly").and_then(ServerTokens::header), Some("Quorate"));
        assert!(ServerTokens::parse("MINIMAL").and_then(ServerTokens::header).unwrap().starts_with("Quorate/"));
        assert_eq!(ServerTokens::parse("Original").unwrap().header(), None);
        assert_eq!(ServerTokens::parse("everything"), None);
    }
}
