//! Crash recovery in single-user mode: a clean shutdown for a server that did not have one.

use std::collections::BTreeMap;
use std::path::Path;

use super::runner::Program;
use super::{LocalPostgres, blocking, files};
use crate::cancel::Cancel;
use crate::ports::OperationFailed;

impl LocalPostgres {
    pub(super) async fn recover_in_single_user_mode(&self, cancel: &Cancel) -> Result<(), OperationFailed> {
        if self.postmaster().await.is_some() {
            return Err(OperationFailed("crash recovery is not possible while PostgreSQL runs".to_owned()));
        }
        self.archive_ready_wal(cancel).await;
        let (data_dir, paths) = (self.data_dir(), self.paths());
        let options = blocking(move || {
            clear_archive_status(&data_dir.join("pg_wal").join("archive_status"));
            let options = started_with(&data_dir);
            files::remove_recovery_files(&paths).map(|()| options)
        })
        .await
        .map_err(|error| OperationFailed(format!("recovery settings could not be removed: {error}")))?;
        self.book().recovery = None;

        let mut program = Program::new(self.program("postgres")).arg("--single").arg("-D").arg(self.data_dir());
        for (name, value) in &options {
            program = program.arg("-c").arg(format!("{name}={value}"));
        }
        let done = program.arg("template1").run(cancel, None).await.map_err(|error| OperationFailed(format!("crash recovery: {error}")))?;
        if done.success() {
            return Ok(());
        }
        tracing::error!("Crash recovery finished with code={}", done.code());
        tracing::info!(" stdout={}", done.stdout);
        tracing::info!(" stderr={}", done.stderr);
        Err(OperationFailed(format!("crash recovery finished with code {}", done.code())))
    }
}

/// The options that the server was last started with. Nothing must be archived: files that matter were archived before.
fn started_with(data_dir: &Path) -> BTreeMap<String, String> {
    let mut options = match std::fs::read_to_string(data_dir.join("postmaster.opts")) {
        Ok(text) => parse_options(&text),
        Err(error) => {
            tracing::error!("Error when reading postmaster.opts: {error}");
            BTreeMap::new()
        }
    };
    options.insert("archive_mode".to_owned(), "on".to_owned());
    options.insert("archive_command".to_owned(), "false".to_owned());
    options
}

/// `program "-D" "/data" "--port=5432" …`
fn parse_options(text: &str) -> BTreeMap<String, String> {
    text.trim_end()
        .split("\" \"")
        .filter_map(|option| option.trim_end_matches('"').strip_prefix("--")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn clear_archive_status(directory: &Path) {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::error!("Unable to list {}: {error}", directory.display());
            return;
        }
    };
    for entry in entries.flatten().filter(|entry| !entry.path().is_dir() || entry.path().is_symlink()) {
        if let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::error!("Unable to remove {}: {error}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_options;

    #[test]
    fn the_options_of_the_last_start_are_read() {
        let text = "/usr/bin/postgres \"-D\" \"/data\" \"--config-file=/etc/pg.conf\" \"--port=5432\" \"--cluster_name=a=b\"\n";
        let options: Vec<_> = parse_options(text).into_iter().collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(options, [pair("cluster_name", "a=b"), pair("config-file", "/etc/pg.conf"), pair("port", "5432")]);
    }
}
