//! Published connection URLs.

use std::fmt;

/// A `postgres://HOST:PORT/DATABASE` URL, as published in member keys. No credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnUrl {
    /// The host, without brackets; a comma-separated list for several.
    pub host: String,
    /// The port; 5432 if the URL has none.
    pub port: u16,
    /// The database, if the URL names one.
    pub dbname: Option<String>,
}

impl ConnUrl {
    /// Reads a published URL; nothing if it is not one.
    pub fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))?;
        let rest = rest.split(['?', '#']).next()?;
        let (authority, dbname) = match rest.split_once('/') {
            Some((authority, dbname)) => (authority, Some(dbname).filter(|name| !name.is_empty())),
            None => (rest, None),
        };
        let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, tail) = rest.split_once(']')?;
                (host, tail.strip_prefix(':'))
            }
            None => match address.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let port = match port.filter(|port| !port.is_empty()) {
            Some(port) => port.parse().ok()?,
            None => 5432,
        };
        Some(Self { host: host.to_owned(), port, dbname: dbname.map(str::to_owned) })
    }
}

impl fmt::Display for ConnUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            write!(f, "postgres://[{host}]:{port}/")?;
        } else {
            write!(f, "postgres://{host}:{port}/")?;
        }
        f.write_str(self.dbname.as_deref().unwrap_or("postgres"))
    }
}

#[cfg(test)]
mod tests {
    use super::ConnUrl;

    #[test]
    fn published_urls_are_read_and_written_back() {
        for url in ["postgres://10.0.0.1:5433/postgres", "postgres://[fe80::1]:5432/app"] {
            assert_eq!(ConnUrl::parse(url).expect("a published URL").to_string(), url);
        }
    }

    #[test]
    fn missing_parts_have_their_defaults() {
        let url = ConnUrl::parse("postgres://db").expect("a host is enough");
        assert_eq!((url.host.as_str(), url.port, url.dbname), ("db", 5432, None));
    }

    #[test]
    fn garbage_is_not_a_url() {
        for url in ["", "http://x", "postgres://h:port/x", "postgres://[::1/x"] {
            assert_eq!(ConnUrl::parse(url), None, "{url}");
        }
    }
}
