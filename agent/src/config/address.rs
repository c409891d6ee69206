//! Addresses as configured: `host:port`, lists of hosts, IPv6.

use ha_engine::postgres::value;

/// A port is not a number, or there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAddress {
    /// There is no port and no default.
    #[error("it has no port")]
    NoPort,
    /// The port is not a number from 0 to 65535.
    #[error("its port is not a number from 0 to 65535")]
    BadPort,
}

/// Splits at the last colon. If the rest still contains one it is a list of IPv6 addresses, which lose their brackets.
///
/// # Errors
///
/// The port is missing, with no default, or not a port.
pub fn split_host_port(text: &str, default: Option<u16>) -> Result<(String, u16), NotAnAddress> {
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| !port.trim_end().ends_with(']'));
    if !has_port && default.is_none() {
        return Err(NotAnAddress::NoPort);
    }
    value::split_host_port(text, default.unwrap_or_default()).map_err(|_| NotAnAddress::BadPort)
}

/// `scheme://host:port/path`, with brackets around IPv6. `authority` may have no port.
pub fn url(scheme: &str, authority: &str, path: &str) -> String {
    let (host, port) = match split_host_port(authority, None) {
        Ok((host, port)) => (host, format!(":{port}")),
        Err(_) => (authority.to_owned(), String::new()),
    };
    if host.contains(':') && !host.starts_with('[') {
        format!("{scheme}://[{host}]{port}/{path}")
    } else {
        format!("{scheme}://{host}{port}/{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_colon_separates_the_port() {
        for (text, host, port) in [
            ("127.0.0.1", "127.0.0.1", 5432),
            ("127.0.0.1:5400", "127.0.0.1", 5400),
            ("127.0.0.1,192.168.0.101:5400", "127.0.0.1,192.168.0.101", 5400),
            ("*:5433", "*", 5433),
            ("*", "*", 5432),
            (":5433", "", 5433),
            ("[::1]:5433", "::1", 5433),
            ("db,[fe80::1], ::2:5400", "db,fe80::1,::2", 5400),
        ] {
            assert_eq!(split_host_port(text, Some(5432)), Ok((host.to_owned(), port)), "{text}");
        }
        assert_eq!(split_host_port("a", None), Err(NotAnAddress::NoPort));
        assert_eq!(split_host_port("[::1]", Some(1)), Ok(("::1".to_owned(), 1)));
        assert_eq!(split_host_port("[::1]", None), Err(NotAnAddress::NoPort));
        for text in ["a:b", "a:", "a:70000"] {
            assert_eq!(split_host_port(text, Some(1)), Err(NotAnAddress::BadPort), "{text}");
        }
    }

    #[test]
    fn urls_put_ipv6_into_brackets() {
        assert_eq!(url("http", "10.0.0.1:8008", "patroni"), "http://10.0.0.1:8008/patroni");
        assert_eq!(url("https", "[::1]:8008", "patroni"), "https://[::1]:8008/patroni");
        assert_eq!(url("postgres", "db", "postgres"), "postgres://db/postgres");
    }
}
