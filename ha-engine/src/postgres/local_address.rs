//! How the agent reaches its own server, and what it tells others.

use crate::settings::PostgresSettings;

use super::parameters::Parameters;
use super::value::split_host_port;

/// Where the agent's own connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalAddress {
    /// A host, or a socket directory; nothing for the library's default socket directory.
    pub(crate) host: Option<String>,
    /// The port.
    pub(crate) port: String,
}

/// Both kinds of local connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalAddresses {
    /// For SQL.
    pub(crate) sql: LocalAddress,
    /// For replication.
    pub(crate) replication: LocalAddress,
    /// `postgres://HOST:PORT/DATABASE`, as published.
    pub(crate) conn_url: String,
    /// The same for the pooler, if there is one.
    pub(crate) proxy_url: Option<String>,
}

/// Works out addresses from the parameters that the server runs with.
pub(crate) fn local_addresses(settings: &PostgresSettings, parameters: &Parameters) -> LocalAddresses {
    let port = parameters.get("port").map_or_else(|| settings.listen.port.to_string(), str::to_owned);
    let listen = parameters.get("listen_addresses").unwrap_or(&settings.listen_addresses);
    let tcp_host = tcp_host(listen);
    let tcp = || LocalAddress { host: Some(tcp_host.clone()), port: port.clone() };
    let socket = || match parameters.get("unix_socket_directories") {
        None => LocalAddress { host: None, port: port.clone() },
        Some(directories) => {
            // A relative or abstract socket cannot be told to the library as a host.
            let directory = directories.split(',').map(str::trim).find(|path| path.starts_with('/'));
            LocalAddress { host: Some(directory.unwrap_or(&tcp_host).to_owned()), port: port.clone() }
        }
    };
    let choose = |use_socket: bool| if use_socket { socket() } else { tcp() };
    let published = settings.connect_address.as_deref().filter(|address| !address.is_empty());
    LocalAddresses {
        sql: choose(settings.use_unix_socket),
        replication: choose(settings.use_unix_socket_repl),
        conn_url: match published {
            Some(address) => published_url(address, &settings.database),
            None => url(&tcp_host, &port, &settings.database),
        },
        proxy_url: settings
            .proxy_address
            .as_deref()
            .filter(|address| !address.is_empty())
            .map(|address| published_url(address, &settings.database)),
    }
}

/// `localhost` if the server listens there, otherwise the first address.
fn tcp_host(listen: &str) -> String {
    let mut addresses = listen.split(',').map(str::trim);
    let is_local = |address: &str| matches!(address, "*" | "0.0.0.0" | "127.0.0.1") || address.eq_ignore_ascii_case("localhost");
    if addresses.clone().any(is_local) {
        return "localhost".to_owned();
    }
    addresses.next().unwrap_or_default().to_owned()
}

fn published_url(address: &str, database: &str) -> String {
    match split_host_port(address, 0) {
        Ok((host, 0)) => url(&host, "", database),
        Ok((host, port)) => url(&host, &port.to_string(), database),
        // The agent has refused such an address; it is passed on as it is.
        Err(_) => format!("postgres://{address}/{database}"),
    }
}

fn url(host: &str, port: &str, database: &str) -> String {
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    let separator = if port.is_empty() { "" } else { ":" };
    format!("postgres://{host}{separator}{port}/{database}")
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn addresses(settings: PostgresSettings, parameters: &[(&str, &str)]) -> LocalAddresses {
        local_addresses(&settings, &parameters.iter().copied().collect())
    }

    fn at(host: Option<&str>, port: &str) -> LocalAddress {
        LocalAddress { host: host.map(str::to_owned), port: port.to_owned() }
    }

    /// C7-1, C7-2
    #[test]
    fn localhost_is_preferred_if_the_server_listens_there() {
        for (listen, host) in [
            ("10.0.0.5,127.0.0.1", "localhost"),
            ("10.0.0.5", "10.0.0.5"),
            (" 10.0.0.5 , 10.0.0.6", "10.0.0.5"),
            ("*", "localhost"),
            ("0.0.0.0", "localhost"),
            ("LocalHost", "localhost"),
            ("::1", "::1"),
            ("", ""),
        ] {
            let found = addresses(testing::settings(), &[("listen_addresses", listen), ("port", "5433")]);
            assert_eq!(found.sql, at(Some(host), "5433"), "{listen}");
            assert_eq!(found.replication, found.sql);
        }
    }

    /// C7-4
    #[test]
    fn a_socket_without_configured_directories_has_no_host() {
        let settings = PostgresSettings { use_unix_socket: true, ..testing::settings() };
        let found = addresses(settings, &[("port", "5433")]);
        assert_eq!(found.sql, at(None, "5433"));
        assert_eq!(found.replication, at(Some("localhost"), "5433"));
    }

    #[test]
    fn the_first_absolute_socket_directory_is_used_and_tcp_otherwise() {
        let settings = PostgresSettings { use_unix_socket_repl: true, ..testing::settings() };
        for (directories, host) in [("., @x, /run/a, /run/b", "/run/a"), ("relative", "localhost"), ("", "localhost")] {
            let found = addresses(settings.clone(), &[("unix_socket_directories", directories)]);
            assert_eq!(found.replication, at(Some(host), "5432"), "{directories}");
        }
    }

    #[test]
    fn others_are_told_the_connect_address_or_the_local_one() {
        let settings = |connect: Option<&str>, proxy: Option<&str>| PostgresSettings {
            connect_address: connect.map(str::to_owned),
            proxy_address: proxy.map(str::to_owned),
            database: "app".to_owned(),
            ..testing::settings()
        };
        let url = |connect, parameters: &[(&str, &str)]| addresses(settings(connect, None), parameters).conn_url;
        assert_eq!(url(Some("10.0.0.1:5433"), &[]), "postgres://10.0.0.1:5433/app");
        assert_eq!(url(Some("[fe80::1]:5433"), &[]), "postgres://[fe80::1]:5433/app");
        assert_eq!(url(Some("db"), &[]), "postgres://db/app");
        assert_eq!(url(None, &[("listen_addresses", "10.0.0.7"), ("port", "6000")]), "postgres://10.0.0.7:6000/app");
        assert_eq!(url(None, &[("listen_addresses", "fe80::7")]), "postgres://[fe80::7]:5432/app");
        let found = addresses(settings(None, Some("10.0.0.1:6432")), &[]);
        assert_eq!(found.proxy_url.as_deref(), Some("postgres://10.0.0.1:6432/app"));
    }
}
