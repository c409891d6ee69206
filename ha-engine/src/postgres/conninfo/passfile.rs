//! The password file.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::ConnInfo;

/// One line per host. libpq looks for `localhost` when it connects through the default socket directory, so a socket
/// directory among the hosts brings a line for that too.
pub(super) fn lines(conninfo: &ConnInfo) -> Option<String> {
    let password = field(Some(conninfo.get("password")?));
    let user = field(conninfo.get("user"));
    let listed = conninfo.get("host").filter(|host| !host.is_empty()).unwrap_or("*");
    let hosts: Vec<String> = listed.split(',').map(str::trim).filter(|host| !host.is_empty()).map(|host| field(Some(host))).collect();
    // Several hosts may have a port each.
    let ports: Vec<&str> = conninfo.get("port").unwrap_or_default().split(',').map(str::trim).collect();
    let port = |index: usize| {
        let port = if ports.len() == 1 { ports.first() } else { ports.get(index) };
        field(port.copied())
    };
    let mut lines: Vec<String> = (0..hosts.len()).map(|index| line(&hosts[index], &port(index), &user, &password)).collect();
    if let Some(index) = hosts.iter().position(|host| host.starts_with('/'))
        && !hosts.iter().any(|host| host == "localhost")
    {
        lines.push(line("localhost", &port(index), &user, &password));
    }
    Some(lines.concat())
}

fn line(host: &str, port: &str, user: &str, password: &str) -> String {
    format!("{host}:{port}:*:{user}:{password}\n")
}

fn field(text: Option<&str>) -> String {
    match text {
        None | Some("") => "*".to_owned(),
        Some(text) => text.replace('\\', "\\\\").replace(':', "\\:"),
    }
}

/// Writes a password file. It is emptied and closed to others before the first secret is in it.
///
/// # Errors
///
/// The file could not be written.
pub(crate) fn write_passfile(path: &Path, lines: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(lines.as_bytes())
}
