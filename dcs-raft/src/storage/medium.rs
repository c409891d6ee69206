//! Where the file of a storage lies.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::redb::StorageBackend;
use ::redb::backends::FileBackend;

/// The name of the file in its directory.
pub const FILE_NAME: &str = "raft.db";

/// What the file is called, before a number, when another one took its place for good.
const KEPT_NAME: &str = "raft.db.before-recovery-";

/// A place for one file, which is made whole or not at all.
pub trait Medium: Debug + Send {
    /// What the file is called in messages.
    fn place(&self) -> String;

    /// The file, if there is one.
    ///
    /// # Errors
    ///
    /// It may be there, and cannot be read.
    fn open(&self) -> io::Result<Option<Arc<dyn StorageBackend>>>;

    /// A new, empty file beside it.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    fn create(&self) -> io::Result<Fresh>;

    /// Puts a new file that was written and synced in its place, durably. The answer is false if `replace` is not set
    /// and there is a file already, which is left alone.
    ///
    /// # Errors
    ///
    /// It was not done, or it may not last.
    fn install(&self, fresh: &Fresh, replace: bool) -> io::Result<bool>;

    /// Gives the file that is in its place a second name, durably: there it stays when another file takes its place. The
    /// answer is that name.
    ///
    /// # Errors
    ///
    /// It was not done, or it may not last.
    fn keep(&self) -> io::Result<String>;

    /// Removes a new file that will not be put in its place.
    fn discard(&self, fresh: &Fresh);

    /// Removes what earlier processes did not put in its place. Only called by who has the file locked.
    fn sweep(&self);
}

/// A new file that is not in its place yet.
#[derive(Debug)]
pub struct Fresh {
    /// The file.
    pub file: Arc<dyn StorageBackend>,
    /// What it is called until it is in its place.
    pub name: String,
}

/// A directory of the operating system.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    fn file(&self) -> PathBuf {
        self.path.join(FILE_NAME)
    }

    /// Removes a file that nobody needs: if it stays, it only takes room.
    fn remove(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.path.join(name)) {
            tracing::debug!("`{name}`, left over from a file that was not finished, was not removed: {error}");
        }
    }

    /// Makes the directory, and makes it last: a directory is as durable as its entry in the one above.
    fn ensure(&self) -> io::Result<()> {
        if self.path.is_dir() {
            return Ok(());
        }
        let missing: Vec<&Path> = self.path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        for made in missing {
            sync_above(made)?;
        }
        Ok(())
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the entry of a directory in the one above durable, as far as this user may open that one.
fn sync_above(path: &Path) -> io::Result<()> {
    match sync_directory(&path.join("..")) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

fn backend(file: File) -> io::Result<Arc<dyn StorageBackend>> {
    Ok(Arc::new(FileBackend::new(file).map_err(io::Error::other)?))
}

impl Medium for Directory {
    fn place(&self) -> String {
        self.file().display().to_string()
    }

    fn open(&self) -> io::Result<Option<Arc<dyn StorageBackend>>> {
        match OpenOptions::new().read(true).write(true).open(self.file()) {
            Ok(file) => {
                // Whoever put it there may have been killed before that was durable.
                sync_directory(&self.path)?;
                sync_above(&self.path)?;
                backend(file).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self) -> io::Result<Fresh> {
        self.ensure()?;
        let name = format!("{FILE_NAME}.{:016x}.new", fastrand::u64(..));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.path.join(&name))?;
        Ok(Fresh { file: backend(file)?, name })
    }

    fn install(&self, fresh: &Fresh, replace: bool) -> io::Result<bool> {
        let (new, file) = (self.path.join(&fresh.name), self.file());
        if replace {
            fs::rename(&new, &file)?;
        } else {
            // Unlike a rename, a link never takes the place of a file that another process made meanwhile.
            match fs::hard_link(&new, &file) {
                Err(_) if file.exists() => return Ok(false),
                linked => linked?,
            }
            self.discard(fresh);
        }
        sync_directory(&self.path)?;
        Ok(true)
    }

    fn keep(&self) -> io::Result<String> {
        let mut number = 1_u64;
        loop {
            let kept = self.path.join(format!("{KEPT_NAME}{number}"));
            match fs::hard_link(self.file(), &kept) {
                Ok(()) => {
                    sync_directory(&self.path)?;
                    return Ok(kept.display().to_string());
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn discard(&self, fresh: &Fresh) {
        self.remove(&fresh.name);
    }

    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(FILE_NAME) && name.ends_with(".new") {
                self.remove(name);
            }
        }
    }
}
