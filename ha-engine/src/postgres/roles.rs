//! The database users that the agent works with, made when a cluster is new.

use dcs_core::Deadline;

use super::LocalPostgres;
use super::connection::{Connection, SqlError, identifier, literal};
use crate::settings::Credentials;

/// Functions that `pg_rewind` calls on its source.
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// Session settings that keep passwords out of every log.
const SILENCE: &str = "SET log_statement TO none; SET log_min_duration_statement TO -1; SET log_min_error_statement TO 'log'; \
     SET pg_stat_statements.track_utility TO 'off'; SET pgaudit.log TO none";

/// Undoes [`SILENCE`].
const SPEAK: &str = "RESET log_min_error_statement; RESET log_min_duration_statement; RESET log_statement; \
     RESET pg_stat_statements.track_utility; RESET pgaudit.log";

impl LocalPostgres {
    /// Creates or alters the role of `credentials` with `attributes`; nothing without a name.
    pub(super) async fn ensure_role(
        &self,
        connection: &mut Connection,
        credentials: &Credentials,
        attributes: &str,
        deadline: Deadline,
    ) -> Result<(), SqlError> {
        let Some(name) = &credentials.username else { return Ok(()) };
        let password = credentials.password.as_ref().map(|password| password.expose()).filter(|text| !text.is_empty());
        let password = password.map(|text| format!(" PASSWORD {}", literal(text))).unwrap_or_default();
        let options = format!("{attributes} LOGIN{password}");
        connection.query(SILENCE, deadline).await?;
        let made = connection.query(&role_sql(name, options.trim_start()), deadline).await;
        connection.query(SPEAK, deadline).await?;
        made.map(drop)
    }

    /// What a role for rewinding needs beside logging in.
    pub(super) async fn grant_rewind(&self, connection: &mut Connection, name: &str, deadline: Deadline) -> Result<(), SqlError> {
        for function in REWIND_FUNCTIONS {
            let body = format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {};", identifier(name));
            connection.query(&local_block(&body), deadline).await?;
        }
        Ok(())
    }
}

/// One anonymous block, so that the role is looked up and made in one transaction that waits for no standby.
fn role_sql(name: &str, options: &str) -> String {
    let (text, role) = (literal(name), identifier(name));
    local_block(&format!(
        "PERFORM * FROM pg_catalog.pg_authid WHERE rolname = {text}; \
         IF FOUND THEN ALTER ROLE {role} WITH {options}; ELSE CREATE ROLE {role} WITH {options}; END IF;"
    ))
}

fn local_block(body: &str) -> String {
    // The delimiter must not occur in the body, which has a password in it.
    let mut tag = "quorate".to_owned();
    while body.contains(&format!("${tag}$")) {
        tag.push('_');
    }
    format!("DO ${tag}$ BEGIN SET LOCAL synchronous_commit = 'local'; {body} END ${tag}$")
}

#[cfg(test)]
mod tests {
    use super::role_sql;

    #[test]
    fn names_and_passwords_are_quoted() {
        let sql = role_sql("o\"dd", "LOGIN PASSWORD 'x$quorate$y'");
        assert!(sql.contains("ALTER ROLE \"o\"\"dd\" WITH LOGIN"), "{sql}");
        assert!(sql.starts_with("DO $quorate_$ ") && sql.ends_with("$quorate_$"), "{sql}");
    }
}
