//! A log file that is rotated before it becomes too large: `patroni.log`, `.1`, `.2`, …

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use ha_engine::postgres::umask;

use crate::config::LogFile;

/// The name of the file in the configured directory.
pub const FILE_NAME: &str = "patroni.log";

/// The log file.
#[derive(Debug)]
pub struct RollingFile {
    settings: LogFile,
    path: PathBuf,
    file: File,
    size: u64,
}

impl RollingFile {
    /// Opens the file for appending.
    ///
    /// # Errors
    ///
    /// The directory does not exist or does not take the file.
    pub fn open(settings: LogFile) -> io::Result<Self> {
        let path = settings.dir.join(FILE_NAME);
        let file = open(&path, settings.mode)?;
        let size = file.metadata()?.len();
        Ok(Self { settings, path, file, size })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// New limits for the same file.
    pub fn set_limits(&mut self, settings: LogFile) {
        self.settings = settings;
    }

    /// Appends `line`, after rotating if the file would reach its limit. A record is never split between two files.
    ///
    /// # Errors
    ///
    /// The line was not written, or only in part. The file stays usable.
    pub fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let limit = self.settings.file_size;
        let reaches_limit = limit > 0 && self.size.saturating_add(line.len() as u64) >= limit;
        if reaches_limit && self.settings.file_num > 0 && self.size > 0 {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.settings.file_num).rev() {
            rename(&self.numbered(number), &self.numbered(number + 1))?;
        }
        rename(&self.path, &self.numbered(1))?;
        // What an earlier, larger `file_num` left behind.
        for number in self.settings.file_num + 1.. {
            if fs::remove_file(self.numbered(number)).is_err() {
                break;
            }
        }
        self.file = open(&self.path, self.settings.mode)?;
        self.size = self.file.metadata()?.len();
        Ok(())
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn open(path: &Path, mode: Option<u32>) -> io::Result<File> {
    let is_new = !path.exists();
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    // The umask of the moment is that of PostgreSQL's files, which is not meant for the log.
    if let Some(mode) = mode.or_else(|| is_new.then(|| 0o666 & !umask::inherited())) {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(file)
}

/// Renames, unless there is nothing to rename.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path, file_size: u64, file_num: usize) -> LogFile {
        LogFile { dir: dir.to_owned(), mode: Some(0o640), file_size, file_num }
    }

    fn contents(dir: &Path) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(dir)
            .expect("readable")
            .map(|entry| entry.expect("an entry"))
            .map(|entry| (entry.file_name().into_string().expect("UTF-8"), fs::read_to_string(entry.path()).expect("readable")))
            .collect();
        files.sort();
        files
    }

    fn named(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn whole_lines_move_on_and_the_oldest_file_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = RollingFile::open(settings(dir.path(), 8, 2)).expect("writable");
        for line in ["one\n", "two\n", "three\n", "four\n", "five\n"] {
            log.write_line(line.as_bytes()).expect("writable");
        }
        assert_eq!(contents(dir.path()), named(&[("patroni.log", "five\n"), ("patroni.log.1", "four\n"), ("patroni.log.2", "three\n")]));
    }

    #[test]
    fn fewer_files_remove_the_rest_at_the_next_rotation() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = RollingFile::open(settings(dir.path(), 2, 4)).expect("writable");
        for line in ["a\n", "b\n", "c\n", "d\n", "e\n", "f\n"] {
            log.write_line(line.as_bytes()).expect("writable");
        }
        assert_eq!(contents(dir.path()).len(), 5);
        log.set_limits(settings(dir.path(), 2, 2));
        log.write_line(b"g\n").expect("writable");
        assert_eq!(contents(dir.path()), named(&[("patroni.log", "g\n"), ("patroni.log.1", "f\n"), ("patroni.log.2", "e\n")]));
    }

    #[test]
    fn without_a_limit_or_without_old_files_nothing_is_rotated() {
        for (size, number) in [(0, 4), (4, 0)] {
            let dir = tempfile::tempdir().expect("a directory");
            let mut log = RollingFile::open(settings(dir.path(), size, number)).expect("writable");
            log.write_line(b"one\n").expect("writable");
            log.write_line(b"two\n").expect("writable");
            assert_eq!(contents(dir.path()), named(&[("patroni.log", "one\ntwo\n")]));
        }
    }

    #[test]
    fn an_old_file_is_continued_and_gets_its_mode() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(FILE_NAME), "old\n").expect("writable");
        let mut log = RollingFile::open(settings(dir.path(), 100, 1)).expect("writable");
        log.write_line(b"new\n").expect("writable");
        assert_eq!(contents(dir.path()), named(&[("patroni.log", "old\nnew\n")]));
        let mode = fs::metadata(dir.path().join(FILE_NAME)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn a_new_file_has_the_mode_that_the_umask_of_the_start_gives_and_an_old_one_keeps_its_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        let limits = || LogFile { mode: None, ..settings(dir.path(), 100, 1) };
        let mode = || fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        drop(RollingFile::open(limits()).expect("writable"));
        assert_eq!(mode(), 0o666 & !umask::inherited());
        fs::set_permissions(&path, Permissions::from_mode(0o604)).expect("ours");
        drop(RollingFile::open(limits()).expect("writable"));
        assert_eq!(mode(), 0o604);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        assert!(RollingFile::open(settings(Path::new("/nonexistent"), 1, 1)).is_err());
    }
}
