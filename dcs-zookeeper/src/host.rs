//! Where a ZooKeeper server listens, as people write it.

use std::fmt;
use std::net::IpAddr;

/// The port if none is given.
pub(crate) const DEFAULT_PORT: u16 = 2181;

/// One server by name or address.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    /// Without brackets.
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl Host {
    /// Reads `host`, `host:port`, `[::1]`, `[::1]:port` or a bare IPv6 address.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, port) = split(text.trim())?;
        let port = port.map_or(Ok(DEFAULT_PORT), parse_port)?;
        Self::new(name, port)
    }

    /// A name without a port in it, and a port.
    pub(crate) fn new(name: &str, port: u16) -> Result<Self, String> {
        if name.is_empty() {
            return Err("the name of the host is missing".to_owned());
        }
        if let Some(wrong) = name.chars().find(|c| c.is_whitespace() || matches!(c, '/' | ',' | '@' | '[' | ']')) {
            return Err(format!("`{wrong}` cannot be part of a host's name"));
        }
        Ok(Self { name: name.to_owned(), port })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        if name.contains(':') { write!(f, "[{name}]:{port}") } else { write!(f, "{name}:{port}") }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn split(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (name, rest) = rest.split_once(']').ok_or("the closing `]` is missing")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((name, Some(port))),
            None if rest.is_empty() => Ok((name, None)),
            None => Err(format!("`{rest}` after the `]` is not a port")),
        };
    }
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, None));
    }
    match text.rsplit_once(':') {
        Some((name, _)) if name.contains(':') => Err("an IPv6 address with a port needs brackets".to_owned()),
        Some((name, port)) => Ok((name, Some(port))),
        None => Ok((text, None)),
    }
}

/// Reads a port.
pub(crate) fn parse_port(text: &str) -> Result<u16, String> {
    text.trim().parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("`{text}` is not a port (1 to 65535)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_with_and_without_port_and_brackets() {
        let cases = [
            ("zk1", "zk1:2181"),
            ("zk1:2182", "zk1:2182"),
            ("10.0.0.1", "10.0.0.1:2181"),
            ("[::1]", "[::1]:2181"),
            ("[fd00::7]:99", "[fd00::7]:99"),
            ("fd00::7", "[fd00::7]:2181"),
        ];
        for (text, expected) in cases {
            assert_eq!(Host::parse(text).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn what_is_no_host_is_refused_in_words() {
        let cases = [
            ("", "the name of the host is missing"),
            (":2181", "the name of the host is missing"),
            ("zk1:x", "`x` is not a port (1 to 65535)"),
            ("zk1:0", "`0` is not a port (1 to 65535)"),
            ("[::1", "the closing `]` is missing"),
            ("[::1]x", "`x` after the `]` is not a port"),
            ("fd00::7::1:2", "an IPv6 address with a port needs brackets"),
            ("zk 1", "` ` cannot be part of a host's name"),
        ];
        for (text, expected) in cases {
            assert_eq!(Host::parse(text).unwrap_err(), expected, "{text}");
        }
    }
}
