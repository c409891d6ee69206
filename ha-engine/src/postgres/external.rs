//! Commands that PostgreSQL has in its configuration and that are run for it while it is down.

use std::path::Path;

use dcs_core::Deadline;

use super::runner::Program;
use super::{LocalPostgres, PROGRAM, blocking, words};
use crate::cancel::Cancel;
use crate::ports::OperationFailed;

/// What `%r` stands for, the oldest file that a recovery still needs: the first there can be.
const OLDEST: &str = "000000010000000000000001";

impl LocalPostgres {
    /// `program` with what libpq looks for in the environment.
    pub(super) fn for_libpq(&self, program: Program, passfile: Option<&Path>) -> Program {
        let program = match passfile {
            Some(path) => program.env("PGPASSFILE", path),
            None => program,
        };
        match &self.settings().postgresql.krbsrvname {
            Some(service) => program.env("PGKRBSRVNAME", service),
            None => program,
        }
    }

    /// A server parameter as the server would have it if it were started; for servers that are down.
    pub(super) async fn configured_value(&self, name: &str) -> Option<String> {
        let mut config_file = std::ffi::OsString::from("--config-file=");
        config_file.push(&self.paths().postgresql_conf);
        let program = Program::new(self.program("postgres")).arg("-D").arg(self.data_dir()).args(["-C", name]).arg(config_file);
        match program.run(&Cancel::never(), Some(Deadline::after(PROGRAM))).await {
            Ok(done) if done.success() => Some(done.stdout.trim().to_owned()),
            Ok(done) => {
                tracing::error!("Failed to execute {program}: exit code {}: {}", done.code(), done.stderr.trim());
                None
            }
            Err(error) => {
                tracing::error!("Failed to execute {program}: {error}");
                None
            }
        }
    }

    /// `archive_command`, if archiving is on.
    pub(super) async fn archive_command(&self) -> Option<String> {
        let mode = self.configured_value("archive_mode").await?;
        if !matches!(mode.as_str(), "on" | "always") {
            return None;
        }
        self.configured_value("archive_command").await.filter(|command| !command.is_empty())
    }

    /// Archives what is ready to be archived: a server that is about to become a standby would not do it any more, and the
    /// node that was promoted may have recycled these files.
    pub(super) async fn archive_ready_wal(&self, cancel: &Cancel) {
        let Some(command) = self.archive_command().await else { return };
        let wal = self.data_dir().join("pg_wal");
        let status = wal.join("archive_status");
        let (directory, files) = (status.clone(), wal.clone());
        let ready = blocking(move || ready_segments(&directory, &files)).await;
        for segment in ready.unwrap_or_default() {
            if cancel.is_cancelled() {
                return;
            }
            let text = substitute(&command, &wal, &segment);
            tracing::info!("Trying to archive {segment}: {text}");
            let program = Program::new("/bin/sh").arg("-c").arg(&text);
            let archived = program.run(cancel, None).await.is_ok_and(|done| done.success());
            if !archived {
                tracing::info!("Failed to archive WAL segment {segment}");
                continue;
            }
            let (from, to) = (status.join(format!("{segment}.ready")), status.join(format!("{segment}.done")));
            if let Err(error) = blocking(move || std::fs::rename(from, to)).await {
                tracing::error!("Unable to mark {segment} as archived: {error}");
            }
        }
    }

    /// Archives the WAL file in which the latest checkpoint begins.
    pub(super) async fn archive_checkpoint(&self, cancel: &Cancel) -> Result<(), OperationFailed> {
        let failed = |reason: &str| OperationFailed(reason.to_owned());
        let command = self.archive_command().await.ok_or_else(|| failed("there is no archive_command"))?;
        let data = self.read_control_data(Deadline::after(PROGRAM)).await?;
        let file = data.lines.iter().find(|(label, _)| label == "Latest checkpoint's REDO WAL file").map(|(_, value)| value.as_str());
        let segment = file.filter(|name| is_segment(name)).ok_or_else(|| failed("the control file does not name it"))?;
        let text = substitute(&command, &self.data_dir().join("pg_wal"), segment);
        tracing::info!("Trying to archive {segment}: {text}");
        match Program::new("/bin/sh").arg("-c").arg(&text).run(cancel, None).await {
            Ok(done) if done.success() => Ok(()),
            Ok(done) => Err(OperationFailed(format!("`{text}` exited with code={}", done.code()))),
            Err(error) => Err(OperationFailed(dcs_core::chain(&error))),
        }
    }

    /// Fetches `segment` with `restore_command`, which is split into words and not given to a shell.
    pub(super) async fn restore_segment(&self, command: &str, segment: &str, cancel: &Cancel) -> bool {
        let text = substitute(command, &self.data_dir().join("pg_wal"), segment);
        tracing::info!("Trying to fetch the missing wal: {text}");
        let Ok(words) = words::split(&text) else { return false };
        let Some((program, arguments)) = words.split_first() else { return false };
        Program::new(program).args(arguments).run(cancel, None).await.is_ok_and(|done| done.success())
    }
}

/// Segments that are marked as ready and still there, oldest first.
fn ready_segments(status: &Path, wal: &Path) -> std::io::Result<Vec<String>> {
    let mut found: Vec<String> = std::fs::read_dir(status)
        .inspect_err(|error| tracing::error!("Unable to list {}: {error}", status.display()))?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".ready").map(str::to_owned))
        .filter(|name| is_segment(name.strip_suffix(".partial").unwrap_or(name)) && wal.join(name).is_file())
        .collect();
    found.sort();
    Ok(found)
}

fn is_segment(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte))
}

/// Puts `segment` into an archive or restore command.
fn substitute(command: &str, wal: &Path, segment: &str) -> String {
    let mut text = String::with_capacity(command.len());
    let mut letters = command.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        match letters.next() {
            Some('p') => text.push_str(&wal.join(segment).to_string_lossy()),
            Some('f') => text.push_str(segment),
            Some('r') => text.push_str(OLDEST),
            Some('%') | None => text.push('%'),
            Some(other) => text.extend(['%', other]),
        }
    }
    text
}

/// The segment that `pg_rewind` complains about, in any of its output.
pub(super) fn missing_segment(output: &str) -> Option<String> {
    output.lines().find_map(|line| {
        let (_, rest) = line.split_once("could not open file \"")?;
        let (path, _) = rest.split_once("\": ")?;
        let (directory, name) = path.rsplit_once('/')?;
        (directory.ends_with("/pg_wal") && name.len() == 24).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{missing_segment, ready_segments, substitute};

    #[test]
    fn placeholders_are_replaced_and_others_left() {
        let text = substitute("cp %p /a/%f %r 100%% %x %", Path::new("/d/pg_wal"), "000000010000000000000003");
        assert_eq!(text, "cp /d/pg_wal/000000010000000000000003 /a/000000010000000000000003 000000010000000000000001 100% %x %");
    }

    #[test]
    fn a_missing_segment_is_found_in_the_output() {
        let output = "pg_rewind: servers diverged\npg_rewind: error: could not open file \
                      \"/d/pg_wal/0000000A00006AA100000068\": No such file or directory\n";
        assert_eq!(missing_segment(output).as_deref(), Some("0000000A00006AA100000068"));
        assert_eq!(missing_segment("could not open file \"/d/global/pg_control\": gone"), None);
    }

    #[test]
    fn only_segments_that_are_still_there_are_archived() {
        let dir = tempfile::tempdir().expect("a directory");
        let status = dir.path().join("archive_status");
        std::fs::create_dir(&status).expect("a directory");
        for name in ["000000010000000000000004", "000000010000000000000003.partial"] {
            std::fs::write(dir.path().join(name), "").expect("a segment");
            std::fs::write(status.join(format!("{name}.ready")), "").expect("a mark");
        }
        for name in ["000000010000000000000005.ready", "00000002.history.ready", "000000010000000000000004.done"] {
            std::fs::write(status.join(name), "").expect("a mark");
        }
        assert_eq!(
            ready_segments(&status, dir.path()).expect("it can be read"),
            ["000000010000000000000003.partial", "000000010000000000000004"]
        );
    }
}
