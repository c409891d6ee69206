//! Where an etcd server listens, as people write it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// The port if none is given.
pub(crate) const DEFAULT_PORT: u16 = 2379;

/// Whether the connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// One server by name or address.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    pub(crate) scheme: Scheme,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// User name and password as part of a URL.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct UserInfo {
    pub(crate) username: String,
    pub(crate) password: Option<String>,
}

impl Scheme {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            _ => None,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Endpoint {
    /// Reads `host`, `host:port`, `[::1]`, `[::1]:port` or a bare IPv6 address; also a whole URL, because people write
    /// those in lists of hosts.
    pub(crate) fn parse(text: &str, scheme: Scheme, default_port: u16) -> Result<Self, String> {
        let text = text.trim();
        if text.contains("://") {
            let (endpoint, user) = Self::parse_url(text)?;
            return match user {
                None => Ok(endpoint),
                Some(_) => Err("user and password cannot be part of a host; use `username` and `password`".to_owned()),
            };
        }
        let (host, port) = split_host_port(text)?;
        let port = port.map_or(Ok(default_port), parse_port)?;
        Ok(Self { scheme, host: checked_host(host)?, port })
    }

    /// Reads `http(s)://[user[:password]@]host[:port][/]`. What is in front of the `@` is taken as it stands, without
    /// decoding: so do the agents that these files were written for.
    pub(crate) fn parse_url(text: &str) -> Result<(Self, Option<UserInfo>), String> {
        let (scheme, rest) = text.trim().split_once("://").ok_or("it must begin with `http://` or `https://`")?;
        let scheme = Scheme::parse(scheme).ok_or_else(|| format!("the scheme is `{scheme}`, not `http` or `https`"))?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let (host, port) = split_host_port(host)?;
        let port = port.map_or(Ok(DEFAULT_PORT), parse_port)?;
        let user = user.map(|user| match user.split_once(':') {
            Some((name, password)) => UserInfo { username: name.to_owned(), password: Some(password.to_owned()) },
            None => UserInfo { username: user.to_owned(), password: None },
        });
        Ok((Self { scheme, host: checked_host(host)?, port }, user))
    }

    /// The address, if the host is one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// `scheme://host:port`, with brackets where an IPv6 address needs them.
    pub(crate) fn url(&self) -> String {
        format!("{}://{self}", self.scheme.as_str())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme: _, host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())
    }
}

impl fmt::Debug for UserInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserInfo").field("username", &self.username).finish_non_exhaustive()
    }
}

fn split_host_port(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the closing `]` is missing")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(format!("`{rest}` after `]` is not a port")),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text, None));
    }
    Ok(match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    })
}

pub(crate) fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("`{text}` is not a port (1 to 65535)")),
    }
}

fn checked_host(host: &str) -> Result<String, String> {
    let is_name = || !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    // An IPv6 zone is left to the resolver.
    if host.parse::<IpAddr>().is_ok() || is_name() {
        Ok(host.to_owned())
    } else if host.is_empty() {
        Err("the host is missing".to_owned())
    } else {
        Err(format!("`{host}` is neither a host name nor an address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        Endpoint::parse(text, Scheme::Http, 2379).map_or_else(|problem| problem, |endpoint| endpoint.url())
    }

    #[test]
    fn hosts_are_read_as_people_write_them() {
        let cases = [
            ("localhost", "http://localhost:2379"),
            (" etcd-1.example.com:4001 ", "http://etcd-1.example.com:4001"),
            ("10.0.0.1:2379", "http://10.0.0.1:2379"),
            ("[::1]", "http://[::1]:2379"),
            ("[fe80::2]:99", "http://[fe80::2]:99"),
            ("::1", "http://[::1]:2379"),
            ("https://a:1/", "https://a:1"),
            ("a:0", "`0` is not a port (1 to 65535)"),
            ("a:b", "`b` is not a port (1 to 65535)"),
            (":2379", "the host is missing"),
            ("", "the host is missing"),
            ("[::1", "the closing `]` is missing"),
            ("a b", "`a b` is neither a host name nor an address"),
            ("ftp://a", "the scheme is `ftp`, not `http` or `https`"),
            ("http://u:p@a", "user and password cannot be part of a host; use `username` and `password`"),
        ];
        for (text, expected) in cases {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn a_url_may_carry_credentials() {
        let (endpoint, user) = Endpoint::parse_url("https://root:p@ss:w%20d@[::1]:4001/v3?x#y").unwrap();
        assert_eq!(endpoint.url(), "https://[::1]:4001");
        let user = user.unwrap();
        assert_eq!((user.username.as_str(), user.password.as_deref()), ("root", Some("p@ss:w%20d")));
        assert_eq!(format!("{user:?}"), "UserInfo { username: \"root\", .. }");
        assert_eq!(Endpoint::parse_url("HTTP://a").unwrap().0.url(), "http://a:2379");
    }
}
