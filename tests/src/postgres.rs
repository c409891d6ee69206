//! PostgreSQL: where its programs are, and SQL on one server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::timeout;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, NoTls};

/// Names the directory of PostgreSQL's programs, if it is not an obvious one.
pub const BIN_DIR: &str = "QUORATE_TEST_PG_BIN";

/// The superuser of the clusters, and its password.
pub const SUPERUSER: (&str, &str) = ("postgres", "super-secret");

/// How long one statement may take before its connection is thrown away.
pub const STATEMENT: Duration = Duration::from_secs(3);

/// The directory with PostgreSQL's programs: the one that the environment names, the newest that Debian installed, or `pg_config`'s.
///
/// # Errors
///
/// If there is none.
pub fn bin_dir() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os(BIN_DIR) {
        return Ok(directory.into());
    }
    newest_of_debian().or_else(of_pg_config).context(
        "PostgreSQL's programs are not installed (looked for `initdb` in /usr/lib/postgresql/*/bin and with `pg_config`)\n\n\
         hint: `apt-get install postgresql`",
    )
}

fn newest_of_debian() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    versions
        .flatten()
        .filter_map(|version| Some((version.file_name().to_str()?.parse::<u32>().ok()?, version.path().join("bin"))))
        .filter(|(_, bin)| has_server(bin))
        .max()
        .map(|(_, bin)| bin)
}

fn of_pg_config() -> Option<PathBuf> {
    let output = Command::new(store_servers::on_the_path("pg_config")?).arg("--bindir").output().ok()?;
    let bin = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    has_server(&bin).then_some(bin)
}

fn has_server(bin: &Path) -> bool {
    bin.join("initdb").is_file() && bin.join("pg_basebackup").is_file()
}

/// A server as clients know it.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where others find it.
    pub address: SocketAddr,
    /// The directory of its socket. The harness comes this way: thousands of its sessions would each cost a password's key derivation.
    pub sockets: PathBuf,
}

impl Server {
    fn connection(&self, sessions: TargetSessionAttrs) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&self.sockets)
            .port(self.address.port())
            .user(SUPERUSER.0)
            .dbname("postgres")
            .application_name("harness")
            .target_session_attrs(sessions);
        config
    }
}

/// Connects within `limit`.
///
/// The limit covers the whole handshake: a stopped postmaster has its connections accepted by the kernel and then says nothing.
///
/// # Errors
///
/// If that fails or takes longer.
pub async fn connect(server: &Server, sessions: TargetSessionAttrs, limit: Duration) -> Result<Client> {
    let config = server.connection(sessions);
    let (client, link) =
        timeout(limit, config.connect(NoTls)).await.with_context(|| format!("no session on {} in {limit:?}", server.address))??;
    // It ends when the client is dropped, or with the connection.
    tokio::spawn(link);
    Ok(client)
}

/// One value of one row, in text form.
///
/// # Errors
///
/// If the server cannot be reached or refuses.
pub async fn ask(server: &Server, query: &str) -> Result<String> {
    let client = connect(server, TargetSessionAttrs::Any, STATEMENT).await?;
    let answer = timeout(STATEMENT * 10, client.simple_query(query)).await.with_context(|| format!("no answer to {query}"))??;
    let row = answer.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(row.and_then(|row| row.get(0)).unwrap_or_default().to_owned())
}

/// Carries out statements.
///
/// # Errors
///
/// If the server cannot be reached or refuses.
pub async fn execute(server: &Server, statements: &str) -> Result<()> {
    let client = connect(server, TargetSessionAttrs::Any, STATEMENT).await?;
    timeout(STATEMENT * 10, client.batch_execute(statements)).await.with_context(|| format!("no answer to {statements}"))??;
    Ok(())
}
