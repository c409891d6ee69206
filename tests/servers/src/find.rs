//! Where programs are.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Finds a program as a shell would.
#[must_use]
pub fn on_the_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|candidate| is_executable(candidate))
}

/// Where `scripts/install-servers` puts what is no package of the system: `$QUORATE_SERVERS`, or a place that every user can
/// enter, since servers run as an unprivileged one.
#[must_use]
pub fn directory() -> PathBuf {
    std::env::var_os("QUORATE_SERVERS").map_or_else(|| "/var/tmp/quorate-servers".into(), PathBuf::from)
}

/// A program that `scripts/install-servers WHAT` installs, at `path` below [`directory`].
///
/// # Errors
///
/// It is not there, and what to do about it; or `SKIP` names it.
pub fn program(path: &str, what: &str) -> Result<PathBuf> {
    let left_out = std::env::var("SKIP").unwrap_or_default();
    if left_out.split([' ', ',']).any(|name| name == what) {
        bail!("left out, because `SKIP` says so: {left_out}");
    }
    let program = directory().join(path);
    if !is_executable(&program) {
        bail!("there is no {}; `scripts/install-servers {what}` installs it", program.display());
    }
    Ok(program)
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
