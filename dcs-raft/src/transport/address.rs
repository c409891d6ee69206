//! Where a node is reached.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use dcs_core::Deadline;

use super::error::TransportError;

/// `host:port`, where the host is a name or an IP address; an IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What the name means just now; there is at least one. Asked anew each time: names move.
    pub(super) async fn resolve(&self, deadline: Deadline) -> Result<Vec<SocketAddr>, TransportError> {
        let resolve = |source| TransportError::Resolve { host: self.host.clone(), source };
        let looked_up = tokio::net::lookup_host((self.host.as_str(), self.port));
        let found = deadline.bound("resolve a name", looked_up).await;
        let found = found.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let found: Vec<_> = found.map_err(resolve)?.collect();
        if found.is_empty() { Err(resolve(std::io::Error::other("it has no address"))) } else { Ok(found) }
    }
}

impl FromStr for Address {
    type Err = TransportError;

    fn from_str(text: &str) -> Result<Self, TransportError> {
        let wrong = |problem| TransportError::Address { address: text.to_owned(), problem };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once("]:").ok_or_else(|| wrong("`]:` and a port are missing"))?;
                host.parse::<Ipv6Addr>().map_err(|_| wrong("what stands in brackets is not an IPv6 address"))?;
                (host, port)
            }
            None => text.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?,
        };
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        if host.contains(':') && !text.starts_with('[') {
            return Err(wrong("an IPv6 address must stand in brackets, as in `[::1]:2222`"));
        }
        let port = port.parse().map_err(|_| wrong("the port must be a number up to 65535"))?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port_and_is_written_as_it_was_read() {
        for (text, host, port) in [("db1:2222", "db1", 2222), ("10.0.0.1:1", "10.0.0.1", 1), ("[fe80::1]:65535", "fe80::1", 65535)] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host(), address.port(), address.to_string().as_str()), (host, port, text));
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        for (text, problem) in [
            ("db1", "the port is missing"),
            (":2222", "the host is missing"),
            ("db1:", "must be a number"),
            ("db1:65536", "must be a number"),
            ("::1:2222", "must stand in brackets"),
            ("[::1]", "`]:` and a port"),
            ("[db1]:2222", "not an IPv6 address"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains(text), "{error}");
        }
    }
}
