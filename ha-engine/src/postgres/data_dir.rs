//! The data directory as a directory: whether there is a cluster in it, and how it is put out of the way.
//!
//! Everything here blocks.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::decide::observation::DataDir;

/// Looks at the data directory.
pub(crate) fn observe(data_dir: &Path) -> DataDir {
    if let Err(error) = readable(data_dir) {
        return DataDir::Inaccessible(error.to_string());
    }
    match is_empty(data_dir) {
        Ok(true) => DataDir::Empty,
        Ok(false) => DataDir::Present { recovery_file: has_recovery_file(data_dir), backup_label: data_dir.join("backup_label").is_file() },
        Err(error) => DataDir::Inaccessible(error.to_string()),
    }
}

/// A directory that exists has to be readable and searchable; whether it may be written to shows at the first write.
fn readable(data_dir: &Path) -> io::Result<()> {
    match fs::metadata(data_dir) {
        Ok(_) => fs::read_dir(data_dir).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether there is nothing to lose: the directory is missing, or has only dot-files and `lost+found`. With a control file it
/// is never empty.
///
/// # Errors
///
/// The directory cannot be read.
pub(crate) fn is_empty(data_dir: &Path) -> io::Result<bool> {
    if data_dir.join("global/pg_control").is_file() {
        return Ok(false);
    }
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        if !(name.as_encoded_bytes().starts_with(b".") || name == "lost+found") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the next start is a recovery: a signal file exists.
pub(crate) fn has_recovery_file(data_dir: &Path) -> bool {
    ["standby.signal", "recovery.signal"].iter().any(|name| data_dir.join(name).exists())
}

/// The major version of the cluster in the directory, e.g. 150000; nothing without a readable `PG_VERSION`.
pub(crate) fn major_version(data_dir: &Path) -> Option<u32> {
    // A half-made directory has no version yet.
    let text = fs::read_to_string(data_dir.join("PG_VERSION")).ok()?;
    parse_major(text.trim())
}

fn parse_major(text: &str) -> Option<u32> {
    match text.split_once('.') {
        None => text.parse::<u32>().ok().filter(|major| (10..1000).contains(major)).map(|major| major * 10_000),
        Some((nine, minor)) => {
            let (nine, minor): (u32, u32) = (nine.parse().ok()?, minor.parse().ok()?);
            (nine < 10 && minor < 10).then(|| nine * 10_000 + minor * 100)
        }
    }
}

/// Removes the data directory with what its links point to: a symbolic link in its place is only taken away. If that does not
/// work it is moved aside.
///
/// # Errors
///
/// It could neither be removed nor moved.
pub(crate) fn remove(data_dir: &Path) -> io::Result<()> {
    let data_dir = without_trailing_slash(data_dir);
    tracing::info!("Removing data directory: {}", data_dir.display());
    remove_all(&data_dir).or_else(|error| {
        tracing::error!("Could not remove data directory {}: {error}", data_dir.display());
        move_aside(&data_dir)
    })
}

fn remove_all(data_dir: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(data_dir) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_dir() {
        return fs::remove_file(data_dir);
    }
    if let Some((_, target)) = wal_link(data_dir) {
        tracing::info!("Removing WAL directory: {}", target.display());
        fs::remove_dir_all(target)?;
    }
    for (_, target) in tablespace_links(data_dir) {
        tracing::info!("Removing user defined tablespace directory: {}", target.display());
        if let Err(error) = fs::remove_dir_all(&target) {
            tracing::debug!("{}: {error}", target.display());
        }
    }
    fs::remove_dir_all(data_dir)
}

/// Renames the data directory and what its links point to: to the same names with `.failed`, which replace earlier ones.
///
/// # Errors
///
/// Something could not be renamed; what was renamed before that stays renamed, with its link adjusted.
pub(crate) fn move_aside(data_dir: &Path) -> io::Result<()> {
    let data_dir = without_trailing_slash(data_dir);
    if !data_dir.is_dir() {
        return Ok(());
    }
    let moved = move_all(&data_dir);
    if let Err(error) = &moved {
        tracing::error!("Could not rename data directory {}: {error}", data_dir.display());
    }
    moved
}

fn move_all(data_dir: &Path) -> io::Result<()> {
    if let Some((link, target)) = wal_link(data_dir) {
        tracing::info!("renaming WAL directory and updating symlink: {}", target.display());
        rename_target(&link, &target)?;
    }
    for (link, target) in tablespace_links(data_dir) {
        tracing::info!("renaming user defined tablespace directory and updating symlink: {}", target.display());
        rename_target(&link, &target)?;
    }
    let failed = failed_name(data_dir);
    tracing::info!("renaming data directory to {}", failed.display());
    clear(&failed)?;
    fs::rename(data_dir, failed)
}

fn rename_target(link: &Path, target: &Path) -> io::Result<()> {
    let failed = failed_name(target);
    clear(&failed)?;
    fs::rename(target, &failed)?;
    fs::remove_file(link)?;
    symlink(failed, link)
}

fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn failed_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".failed");
    name.into()
}

/// `/data/` and `/data` are one directory, but `/data/.failed` is not beside it.
fn without_trailing_slash(path: &Path) -> PathBuf {
    path.components().collect()
}

/// A linked `pg_wal` and the directory behind it.
fn wal_link(data_dir: &Path) -> Option<(PathBuf, PathBuf)> {
    link_target(data_dir.join("pg_wal"))
}

/// The links of tablespaces and the directories behind them, in order.
fn tablespace_links(data_dir: &Path) -> Vec<(PathBuf, PathBuf)> {
    let Ok(entries) = fs::read_dir(data_dir.join("pg_tblspc")) else { return Vec::new() };
    let mut links: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .filter_map(|entry| link_target(entry.path()))
        .collect();
    links.sort();
    links
}

fn link_target(link: PathBuf) -> Option<(PathBuf, PathBuf)> {
    let is_link = fs::symlink_metadata(&link).is_ok_and(|metadata| metadata.is_symlink());
    let target = is_link.then(|| fs::canonicalize(&link).ok()).flatten()?;
    Some((link, target))
}

/// Whether the group may read the data directory: its mode has all of `u=rwx,g=rx`.
pub(crate) fn is_group_readable(data_dir: &Path) -> bool {
    fs::metadata(data_dir).is_ok_and(|metadata| metadata.permissions().mode() & 0o750 == 0o750)
}

/// The mode of files in the data directory.
pub(crate) fn file_mode(data_dir: &Path) -> Permissions {
    Permissions::from_mode(if is_group_readable(data_dir) { 0o640 } else { 0o600 })
}

#[cfg(test)]
mod tests;
