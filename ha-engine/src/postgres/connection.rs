//! SQL connections: one that is kept for each purpose, and short-lived ones.
//!
//! Statements go over the simple protocol: one round trip, text in and text out, and nothing to prepare again after a
//! reconnect.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use dcs_core::{Deadline, chain};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls::{self, Attempt};
use crate::settings::{Credentials, Secret};

/// Bound of one attempt to connect.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Server settings of the connections that are kept.
pub(super) const KEPT_OPTIONS: &str = "-c statement_timeout=2000 -c pg_stat_statements.track=none -c search_path=pg_catalog";

/// Server settings of short-lived connections.
pub(super) const SHORT_OPTIONS: &str = "-c statement_timeout=2000 -c search_path=pg_catalog";

/// Server settings of connections whose statements may take their time.
pub(super) const PATIENT_OPTIONS: &str = "-c statement_timeout=0 -c search_path=pg_catalog";

/// The statement was cancelled, e.g. by `statement_timeout`.
const QUERY_CANCELED: &str = "57014";

/// Directories in which libpq's builds look for the socket of a local server.
const SOCKET_DIRECTORIES: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

/// A server, and how to log in there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// Hosts, addresses or socket directories; empty: the local socket, wherever it is.
    pub(super) hosts: Vec<String>,
    /// The port.
    pub(super) port: u16,
    /// The user; the operating-system user if absent.
    pub(super) user: Option<String>,
    /// The password.
    pub(super) password: Option<Secret>,
    /// The database.
    pub(super) dbname: String,
    /// libpq's TLS keywords.
    pub(super) tls: BTreeMap<String, String>,
    /// Whether only a writable server will do.
    pub(super) writable: bool,
}

impl Target {
    /// The server at `hosts` (comma separated; empty for the default socket), as the user of `credentials`.
    pub(super) fn new(hosts: &str, port: u16, credentials: &Credentials, dbname: &str) -> Self {
        Self {
            hosts: hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::to_owned).collect(),
            port,
            user: credentials.username.clone(),
            password: credentials.password.clone(),
            dbname: dbname.to_owned(),
            tls: credentials.options.clone(),
            writable: false,
        }
    }

    /// The same, accepting only a server that can be written to.
    pub(super) fn writable(mut self) -> Self {
        self.writable = true;
        self
    }

    /// The user name that is used.
    pub(super) fn user_name(&self) -> String {
        self.user.clone().filter(|user| !user.is_empty()).or_else(|| std::env::var("PGUSER").ok()).unwrap_or_else(|| {
            nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map_or_else(|| "postgres".to_owned(), |user| user.name)
        })
    }

    /// The hosts to try; the default socket's directory if none is named.
    pub(super) fn places(&self) -> Vec<Place> {
        if self.hosts.is_empty() {
            let socket = |directory: &&str| PathBuf::from(directory).join(format!(".s.PGSQL.{}", self.port)).exists();
            let directory = std::env::var("PGHOST").ok().filter(|host| host.starts_with('/')).unwrap_or_else(|| {
                (*SOCKET_DIRECTORIES.iter().find(|directory| socket(directory)).unwrap_or(&SOCKET_DIRECTORIES[0])).to_owned()
            });
            return vec![Place::Socket(PathBuf::from(directory))];
        }
        self.hosts
            .iter()
            .map(|host| if host.starts_with('/') { Place::Socket(PathBuf::from(host)) } else { Place::Host(host.clone()) })
            .collect()
    }

    /// The password that is used: configured, or libpq's environment variable.
    pub(super) fn password_text(&self) -> Option<String> {
        self.password
            .as_ref()
            .map(|password| password.expose().to_owned())
            .or_else(|| std::env::var("PGPASSWORD").ok())
            .filter(|password| !password.is_empty())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = if self.hosts.is_empty() { "local socket".to_owned() } else { self.hosts.join(",") };
        write!(f, "{hosts}:{}/{}", self.port, self.dbname)
    }
}

/// One place of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A TCP host.
    Host(String),
    /// The directory of a socket.
    Socket(PathBuf),
}

/// A statement had no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum SqlError {
    /// No connection could be made.
    #[error("cannot connect to PostgreSQL at {target}: {reason}")]
    Connect {
        /// Where.
        target: String,
        /// Why, in words; libraries hide it in a chain.
        reason: String,
        /// The server's error code, if it was the server who refused.
        code: Option<String>,
    },
    /// The connection was lost.
    #[error("lost the connection to PostgreSQL: {0}")]
    Lost(String),
    /// The deadline passed.
    #[error("PostgreSQL did not answer in time")]
    Late,
    /// The server refused the statement.
    #[error("{message} ({code})")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// The server's words.
        message: String,
    },
}

impl SqlError {
    /// Whether the statement was cancelled, e.g. by the statement timeout.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == QUERY_CANCELED)
    }

    /// Whether trying again on a new connection may help.
    pub(super) fn is_connection_problem(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    fn from_statement(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // 57P01, 57P02, 57P03, 57P05: the server is about to close the connection, whatever was asked.
            Some(server) if !server.code().code().starts_with("57P") => {
                Self::Refused { code: server.code().code().to_owned(), message: server.message().to_owned() }
            }
            _ => Self::Lost(chain(error)),
        }
    }
}

/// A row in text form.
#[derive(Debug)]
pub(super) struct Row(SimpleQueryRow);

impl Row {
    /// A column; nothing for NULL.
    pub(super) fn text(&self, column: usize) -> Option<&str> {
        self.0.try_get(column).ok().flatten()
    }

    /// A column, read as whatever it is; nothing for NULL and for what cannot be read.
    pub(super) fn value<T: std::str::FromStr>(&self, column: usize) -> Option<T> {
        self.text(column)?.parse().ok()
    }

    /// A boolean column; NULL is false.
    pub(super) fn flag(&self, column: usize) -> bool {
        self.text(column) == Some("t")
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    driver: JoinHandle<()>,
    /// e.g. 150013.
    pub(super) server_version: u32,
    /// Whether a statement is still running, or may be: the next one would queue behind it.
    tainted: bool,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    ///
    /// [`SqlError::Connect`] or [`SqlError::Late`].
    pub(super) async fn open(target: &Target, application_name: &str, options: &str, deadline: Deadline) -> Result<Self, SqlError> {
        let failed = |reason: String, code| SqlError::Connect { target: target.to_string(), reason, code };
        let attempts = tls::attempts(&target.tls).map_err(|error| failed(error.to_string(), None))?;
        let mut last = failed("no host is configured".to_owned(), None);
        for place in target.places() {
            let plain_only = [Attempt::Plain];
            let attempts = if matches!(place, Place::Socket(_)) { &plain_only[..] } else { &attempts[..] };
            for attempt in attempts {
                let limit = deadline.at_most(CONNECT_TIMEOUT);
                let mut config = Config::new();
                config
                    .user(target.user_name())
                    .dbname(&target.dbname)
                    .application_name(application_name)
                    .options(options)
                    .port(target.port);
                if let Some(password) = target.password_text() {
                    config.password(password);
                }
                if target.writable {
                    config.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
                }
                match &place {
                    Place::Host(host) => config.host(host),
                    Place::Socket(directory) => config.host_path(directory),
                };
                match limit.bound("a connection to PostgreSQL", Self::attempt(config, attempt, &target.tls)).await {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(error)) => {
                        last = failed(chain(&error), error.code().map(|code| code.code().to_owned()));
                    }
                    Err(_) if deadline.has_passed() => return Err(SqlError::Late),
                    Err(late) => last = failed(late.to_string(), None),
                }
            }
        }
        Err(last)
    }

    async fn attempt(mut config: Config, attempt: &Attempt, options: &BTreeMap<String, String>) -> Result<Self, tokio_postgres::Error> {
        match attempt {
            Attempt::Plain => {
                config.ssl_mode(SslMode::Disable);
                let (client, connection) = config.connect(NoTls).await?;
                let version = version_of(connection.parameter("server_version"));
                Ok(Self::drive(client, version, async move { connection.await.map_err(|error| chain(&error)) }))
            }
            Attempt::Tls { config: tls, required } => {
                config.ssl_mode(if *required { SslMode::Require } else { SslMode::Prefer });
                if options.get("sslnegotiation").is_some_and(|negotiation| negotiation == "direct") {
                    config.ssl_negotiation(tokio_postgres::config::SslNegotiation::Direct);
                }
                let tls = MakeRustlsConnect::new((**tls).clone());
                let (client, connection) = config.connect(tls).await?;
                let version = version_of(connection.parameter("server_version"));
                Ok(Self::drive(client, version, async move { connection.await.map_err(|error| chain(&error)) }))
            }
        }
    }

    fn drive(client: Client, server_version: u32, connection: impl Future<Output = Result<(), String>> + Send + 'static) -> Self {
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection to PostgreSQL ended: {error}");
            }
        });
        Self { client, driver, server_version, tainted: false }
    }

    /// Runs one or several statements; the rows of all of them.
    ///
    /// # Errors
    ///
    /// [`SqlError`]; after anything but [`SqlError::Refused`] the connection is of no use any more.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the statement running; the connection must not be used again ([`Self::is_usable`]).
    pub(super) async fn query(&mut self, sql: &str, deadline: Deadline) -> Result<Vec<Row>, SqlError> {
        self.tainted = true;
        let answer = deadline.bound("a statement", self.client.simple_query(sql)).await.map_err(|_| SqlError::Late)?;
        let answer = answer.map_err(|error| SqlError::from_statement(&error));
        self.tainted = matches!(answer, Err(ref error) if error.is_connection_problem());
        Ok(answer?
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(Row(row)),
                _ => None,
            })
            .collect())
    }

    /// Whether another statement may be run here.
    pub(super) fn is_usable(&self) -> bool {
        !self.tainted && !self.client.is_closed()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // An idle connection says goodbye by itself. One with a statement under way would wait for its end first.
        if self.tainted {
            self.driver.abort();
        }
    }
}

/// `15.13 (Debian 15.13-0+deb12u1)` is 150013; 0 if it is not a version.
pub(super) fn version_of(text: Option<&str>) -> u32 {
    let number: String = text.unwrap_or_default().chars().take_while(|letter| letter.is_ascii_digit() || *letter == '.').collect();
    let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    parts.next().unwrap_or(0) * 10_000 + parts.next().unwrap_or(0)
}

/// A connection that is kept, and made anew when it is needed and gone.
#[derive(Debug)]
pub(super) struct Session {
    name: &'static str,
    application_name: String,
    connection: Mutex<Option<Connection>>,
}

impl Session {
    /// A session called `name` in log lines; not connected.
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, application_name: format!("Patroni {name}"), connection: Mutex::new(None) }
    }

    /// Runs statements, connecting first if necessary. Also tells the server's version.
    ///
    /// # Errors
    ///
    /// [`SqlError`]. A connection that missed the deadline is thrown away: the server may still be busy with the old
    /// statement.
    ///
    /// # Cancel safety
    ///
    /// A dropped call throws the connection away.
    pub(super) async fn query(&self, target: &Target, sql: &str, deadline: Deadline) -> Result<(Vec<Row>, u32), SqlError> {
        let mut slot = deadline.bound("the connection", self.connection.lock()).await.map_err(|_| SqlError::Late)?;
        // Taken out for the time of the statement, so that a dropped call leaves nothing behind.
        let mut connection = match slot.take().filter(Connection::is_usable) {
            Some(connection) => connection,
            None => {
                tracing::info!("establishing a new patroni {} connection to postgres", self.name);
                Connection::open(target, &self.application_name, KEPT_OPTIONS, deadline).await?
            }
        };
        let result = connection.query(sql, deadline).await;
        let version = connection.server_version;
        if connection.is_usable() {
            *slot = Some(connection);
        }
        Ok((result?, version))
    }

    /// Closes the connection; true if there was one.
    pub(super) async fn close(&self) -> bool {
        self.connection.lock().await.take().is_some()
    }
}

/// `text` as a string literal.
pub(super) fn literal(text: &str) -> String {
    postgres_protocol::escape::escape_literal(text)
}

/// `text` as a name.
pub(super) fn identifier(text: &str) -> String {
    postgres_protocol::escape::escape_identifier(text)
}

/// `{'a','b'}` as a text array.
pub(super) fn text_array<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| literal(item.as_ref())).collect();
    format!("ARRAY[{}]::text[]", items.join(","))
}

#[cfg(test)]
mod tests {
    use super::{Place, Target, text_array, version_of};
    use crate::settings::Credentials;

    #[test]
    fn versions_of_packages_are_read() {
        assert_eq!(version_of(Some("15.13 (Debian 15.13-0+deb12u1)")), 150_013);
        assert_eq!(version_of(Some("18beta1")), 180_000);
        assert_eq!(version_of(None), 0);
    }

    #[test]
    fn directories_are_sockets_and_names_are_hosts() {
        let target = Target::new("10.0.0.1, /tmp", 5432, &Credentials::default(), "postgres");
        assert_eq!(target.places(), [Place::Host("10.0.0.1".to_owned()), Place::Socket("/tmp".into())]);
    }

    #[test]
    fn arrays_quote_their_items() {
        assert_eq!(text_array(["a", "it's"]), "ARRAY['a','it''s']::text[]");
    }
}
