//! Directories that parameters name and that have to exist before the server starts.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::super::data_dir;
use super::super::parameters::Parameters;

/// A directory that the server or the agent needs cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is defined in {origin}, {problem}", path.display())]
pub(crate) struct DirectoryError {
    path: PathBuf,
    origin: &'static str,
    problem: &'static str,
}

/// Makes sure that the directories of sockets, statistics and the password file exist and can be written to. The latter is
/// left out with Kerberos.
///
/// # Errors
///
/// One of them is missing and cannot be created, is not a directory, or is read-only.
pub(crate) fn ensure_directories(data_dir: &Path, parameters: &Parameters, passfile: Option<&Path>) -> Result<(), DirectoryError> {
    let sockets = parameters.get("unix_socket_directories").unwrap_or_default();
    // An abstract socket (`@name`) has no directory.
    for directory in sockets.split(',').map(str::trim).filter(|name| !(name.is_empty() || name.starts_with('@'))) {
        ensure(data_dir, Path::new(directory), "unix_socket_directories")?;
    }
    if let Some(directory) = parameters.get("stats_temp_directory").filter(|path| !path.is_empty()) {
        ensure(data_dir, Path::new(directory), "stats_temp_directory")?;
    }
    match passfile.and_then(Path::parent) {
        Some(directory) => ensure(data_dir, directory, "`postgresql.pgpass`"),
        None => Ok(()),
    }
}

fn ensure(data_dir: &Path, directory: &Path, origin: &'static str) -> Result<(), DirectoryError> {
    let path = data_dir.join(directory);
    let inside = path.starts_with(data_dir);
    if inside && data_dir::is_empty(data_dir).unwrap_or(false) {
        // initdb or a copy would stumble over it.
        return Ok(());
    }
    let problem = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut builder = DirBuilder::new();
            if inside {
                builder.mode(if data_dir::is_group_readable(data_dir) { 0o750 } else { 0o700 });
            }
            builder.recursive(true).create(&path).err().map(|_| "couldn't create the directory")
        }
        Err(_) => Some("couldn't create the directory"),
        Ok(metadata) if !metadata.is_dir() => Some("is not a directory"),
        Ok(_) => (!is_writable(&path)).then_some("the directory is not writable"),
    };
    problem.map_or(Ok(()), |problem| Err(DirectoryError { path, origin, problem }))
}

/// Trying is the only test that knows about read-only mounts and quotas.
fn is_writable(directory: &Path) -> bool {
    let probe = directory.join(format!(".quorate-probe-{}", std::process::id()));
    let created = fs::OpenOptions::new().write(true).create(true).truncate(true).open(&probe).is_ok();
    created && fs::remove_file(&probe).is_ok()
}
