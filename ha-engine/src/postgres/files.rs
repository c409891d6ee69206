//! The files around PostgreSQL: where they are, how they are written, backed up and restored.
//!
//! A configuration file is written beside itself and renamed into place, so that a crash or a full disk leaves the former
//! one. Symbolic links are followed, not replaced. Everything here blocks.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::settings::PostgresSettings;

use super::conf;
use super::data_dir;

mod directories;

pub(crate) use self::directories::ensure_directories;

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paths {
    /// The data directory.
    pub(crate) data_dir: PathBuf,
    /// Where configuration files live.
    pub(crate) config_dir: PathBuf,
    /// `postgresql.conf`.
    pub(crate) postgresql_conf: PathBuf,
    /// `postgresql.base.conf`: the original configuration.
    pub(crate) base_conf: PathBuf,
    /// `pg_hba.conf`.
    pub(crate) pg_hba: PathBuf,
    /// `pg_ident.conf`.
    pub(crate) pg_ident: PathBuf,
    /// `postgresql.auto.conf`.
    pub(crate) auto_conf: PathBuf,
    /// `standby.signal`.
    pub(crate) standby_signal: PathBuf,
    /// `recovery.signal`.
    pub(crate) recovery_signal: PathBuf,
    /// `pg_wal`.
    pub(crate) wal_dir: PathBuf,
    /// What `postgresql.conf` includes first.
    pub(crate) include: String,
    /// Whether the operator names a file to include, so that the original configuration is not touched.
    custom_conf: bool,
}

impl Paths {
    /// The files of a node with these settings.
    pub(crate) fn new(settings: &PostgresSettings) -> Self {
        let PostgresSettings { data_dir, config_dir, config_base_name: name, .. } = settings;
        let base_name = format!("{name}.base.conf");
        let custom = settings.custom_conf.as_ref().filter(|path| !path.is_empty());
        Self {
            data_dir: data_dir.clone(),
            config_dir: config_dir.clone(),
            postgresql_conf: config_dir.join(format!("{name}.conf")),
            base_conf: config_dir.join(&base_name),
            pg_hba: config_dir.join("pg_hba.conf"),
            pg_ident: config_dir.join("pg_ident.conf"),
            auto_conf: data_dir.join("postgresql.auto.conf"),
            standby_signal: data_dir.join("standby.signal"),
            recovery_signal: data_dir.join("recovery.signal"),
            wal_dir: data_dir.join("pg_wal"),
            include: custom.cloned().unwrap_or(base_name),
            custom_conf: custom.is_some(),
        }
    }

    /// Whether an `hba_file` parameter points away from ours.
    pub(crate) fn hba_redirected(&self, hba_file: Option<&str>) -> bool {
        hba_file.is_some_and(|path| Path::new(path) != self.pg_hba)
    }

    /// Whether an `ident_file` parameter points away from ours.
    pub(crate) fn ident_redirected(&self, ident_file: Option<&str>) -> bool {
        ident_file.is_some_and(|path| Path::new(path) != self.pg_ident)
    }

    /// The files that are backed up, each with its backup. Redirected files are not ours.
    fn backups(&self, hba_redirected: bool, ident_redirected: bool) -> Vec<(&Path, PathBuf)> {
        let files = [
            (&self.postgresql_conf, true),
            (&self.base_conf, !self.custom_conf),
            (&self.pg_hba, !hba_redirected),
            (&self.pg_ident, !ident_redirected),
        ];
        let pair = |path: &'_ PathBuf| {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(".backup");
            self.data_dir.join(name)
        };
        files.into_iter().filter(|(_, ours)| *ours).map(|(path, _)| (path.as_path(), pair(path))).collect()
    }
}

/// The modes of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Modes {
    /// The mode outside the data directory.
    outside: u32,
}

impl Modes {
    /// The modes for an agent that was started with this umask.
    pub(crate) fn from_umask(umask: u32) -> Self {
        Self { outside: 0o666 & !umask }
    }

    /// The mode of the file at `path` (links followed).
    fn of(self, data_dir: &Path, path: &Path) -> Permissions {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let parent = path.parent().map_or_else(PathBuf::new, real);
        if parent.starts_with(real(data_dir)) { data_dir::file_mode(data_dir) } else { Permissions::from_mode(self.outside) }
    }
}

/// Replaces the content of `path`. A symbolic link stays, what it points to is replaced. Where a file cannot be replaced (no
/// right to the directory, a bind mount, another owner) it is overwritten in place.
///
/// # Errors
///
/// The file could not be written; the former content is still there, unless it had to be overwritten in place.
pub(crate) fn write(paths: &Paths, modes: Modes, path: &Path, content: &[u8]) -> io::Result<()> {
    let target = link_target(path)?;
    let mode = modes.of(&paths.data_dir, &target);
    let written = match replace(&target, content, &mode) {
        Err(error) if may_overwrite(&error) => overwrite(&target, content, &mode),
        written => written,
    };
    written.map_err(|error| about(path, &error))
}

/// The same error, with the file that it is about.
fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}

/// Whether a failed replacement says nothing about writing to the file itself.
fn may_overwrite(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | ResourceBusy | CrossesDevices)
}

fn replace(target: &Path, content: &[u8], mode: &Permissions) -> io::Result<()> {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".quorate.tmp");
    let temporary = target.with_file_name(name);
    let written = write_beside(target, &temporary, content, mode);
    if written.is_err() {
        // Whatever went wrong, a half-written file is of no use; that it could not be removed changes nothing.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_beside(target: &Path, temporary: &Path, content: &[u8], mode: &Permissions) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
    file.set_permissions(mode.clone())?;
    let (new, old) = (file.metadata()?, fs::metadata(target).ok());
    if old.is_some_and(|old| (old.uid(), old.gid()) != (new.uid(), new.gid())) {
        // Replacing it would give it to somebody else.
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(temporary, target)?;
    sync_directory(target)
}

fn overwrite(target: &Path, content: &[u8], mode: &Permissions) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode.mode()).open(target)?;
    file.write_all(content)?;
    file.sync_all()?;
    // The mode of a file of somebody else is theirs.
    let _ = file.set_permissions(mode.clone());
    Ok(())
}

fn sync_directory(target: &Path) -> io::Result<()> {
    target.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// The file that `path` stands for: at the end of all links, even if it does not exist yet.
fn link_target(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_path_buf();
    for _ in 0..40 {
        match fs::read_link(&target) {
            Ok(next) => target = target.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => return Ok(target),
        }
    }
    Err(io::Error::other(format!("too many symbolic links at {}", path.display())))
}

/// Keeps the original configuration under its own name, the first time. Does nothing later, and nothing if the operator
/// names a file to include.
///
/// # Errors
///
/// There is no configuration to keep, or it could not be renamed.
pub(crate) fn keep_original_conf(paths: &Paths, modes: Modes) -> io::Result<()> {
    if paths.custom_conf || paths.base_conf.exists() {
        return Ok(());
    }
    if !is_generated(&paths.postgresql_conf) {
        let renamed = fs::rename(&paths.postgresql_conf, &paths.base_conf);
        return renamed.map_err(|error| about(&paths.postgresql_conf, &error));
    }
    // Somebody removed it. A generated file in its place would include itself for ever.
    let backups = paths.backups(true, true);
    let backup = backups.iter().find(|(path, _)| *path == paths.base_conf).map(|(_, backup)| backup);
    let original = backup.and_then(|backup| fs::read(backup).ok());
    tracing::warn!(
        "{} is missing and {}",
        paths.base_conf.display(),
        if original.is_some() { "is restored from its backup" } else { "has no backup, an empty one is created" }
    );
    write(paths, modes, &paths.base_conf, &original.unwrap_or_default())
}

fn is_generated(path: &Path) -> bool {
    fs::read(path).is_ok_and(|content| content.starts_with(conf::HEADER_MARK.as_bytes()))
}

/// Takes recovery parameters out of `postgresql.auto.conf`, where they would win over ours.
pub(crate) fn clean_auto_conf(paths: &Paths, modes: Modes) {
    let content = match fs::read(&paths.auto_conf) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::info!("Failed to read {}: {error}", paths.auto_conf.display());
            return;
        }
    };
    let Some(cleaned) = conf::without_recovery_settings(&content) else { return };
    if let Err(error) = write(paths, modes, &paths.auto_conf, &cleaned) {
        tracing::error!("Failed to remove some unwanted parameters from {error}");
    }
}

/// Copies the configuration files into the data directory, where a base backup finds them. Failures are logged.
pub(crate) fn save_backups(paths: &Paths, modes: Modes, hba_redirected: bool, ident_redirected: bool) {
    for (file, backup) in paths.backups(hba_redirected, ident_redirected) {
        let saved = match fs::read(file) {
            // An unchanged copy is not written again: this runs at every start.
            Ok(content) if fs::read(&backup).is_ok_and(|saved| saved == content) => Ok(()),
            Ok(content) => write(paths, modes, &backup, &content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(about(file, &error)),
        };
        if let Err(error) = saved {
            tracing::error!("unable to create backup copies of configuration files: {error}");
        }
    }
}

/// Puts missing configuration files back from their copies. `pg_ident.conf` is created empty if there is no copy. Failures
/// are logged.
pub(crate) fn restore_backups(paths: &Paths, modes: Modes, hba_redirected: bool, ident_redirected: bool) {
    for (file, backup) in paths.backups(hba_redirected, ident_redirected) {
        if file.is_file() {
            continue;
        }
        let restored = match fs::read(&backup) {
            Ok(content) => write(paths, modes, file, &content),
            Err(error) if error.kind() == io::ErrorKind::NotFound && file == paths.pg_ident => write(paths, modes, file, b""),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(about(&backup, &error)),
        };
        if let Err(error) = restored {
            tracing::error!("unable to restore configuration files from backup: {error}");
        }
    }
}

/// Makes the next start a standby, or a recovery that ends by itself.
///
/// # Errors
///
/// A signal file could not be created or removed.
pub(crate) fn write_signal(paths: &Paths, modes: Modes, standby: bool) -> io::Result<()> {
    if standby {
        write(paths, modes, &paths.standby_signal, b"")
    } else {
        remove_file(&paths.standby_signal)?;
        write(paths, modes, &paths.recovery_signal, b"")
    }
}

/// Makes the next start that of a primary.
///
/// # Errors
///
/// A file could not be removed.
pub(crate) fn remove_recovery_files(paths: &Paths) -> io::Result<()> {
    // The first is of version 11 and older; later versions refuse to start with it.
    let old = paths.data_dir.join("recovery.conf");
    [&old, &paths.standby_signal, &paths.recovery_signal].into_iter().try_for_each(|path| remove_file(path))
}

/// Removes the file whose appearance promotes a standby, so that a copied one does not.
///
/// # Errors
///
/// It is there and could not be removed.
pub(crate) fn remove_trigger_file(data_dir: &Path, configured: Option<&str>) -> io::Result<()> {
    let name = configured.filter(|name| !name.is_empty()).unwrap_or("promote");
    remove_file(&data_dir.join(name))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|error| about(path, &error)),
    }
}

#[cfg(test)]
mod tests;
