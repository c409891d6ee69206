//! The control file: what `pg_controldata` prints, read no more often than the file changes, and one field that is read
//! directly because somebody waits for it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use dcs_core::Deadline;

use super::runner::Program;
use super::{control_data, locked};
use crate::cancel::Cancel;
use crate::ports::{ControlData, OperationFailed};

/// A file that changed less than this before it was read may have changed again within the same tick of the file system's
/// clock.
const SETTLED: Duration = Duration::from_millis(100);

/// The state of a cluster as the control file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClusterState {
    /// Stopped cleanly as a primary.
    ShutDown,
    /// Stopped cleanly in recovery.
    ShutDownInRecovery,
    /// In recovery.
    InArchiveRecovery,
    /// Writable.
    InProduction,
    /// Anything else.
    Other,
}

impl ClusterState {
    /// Reads the state from the control file without asking a program: one read of 20 bytes. The layout of these bytes is
    /// the same from 12 to 18 and the checksum is not looked at, so this is a reason to look closer, not a proof.
    pub(super) fn peek(data_dir: &Path) -> Option<Self> {
        let mut bytes = [0; 20];
        File::open(control_file(data_dir)).ok()?.read_exact(&mut bytes).ok()?;
        let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if !(1200..2000).contains(&word(8)?) {
            return None;
        }
        Some(match word(16)? {
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => Self::Other,
        })
    }

    /// The same from `pg_controldata`'s words.
    pub(super) fn from_words(words: &str) -> Self {
        match words {
            "shut down" => Self::ShutDown,
            "shut down in recovery" => Self::ShutDownInRecovery,
            "in archive recovery" => Self::InArchiveRecovery,
            "in production" => Self::InProduction,
            _ => Self::Other,
        }
    }
}

fn control_file(data_dir: &Path) -> PathBuf {
    data_dir.join("global").join("pg_control")
}

/// Which content of a file was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    modified: SystemTime,
}

impl Identity {
    /// The file that is at `path` now.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self { device: metadata.dev(), inode: metadata.ino(), modified: metadata.modified().ok()? })
    }
}

/// The last output of `pg_controldata`, with the file it is of.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Option<(Identity, ControlData)>>);

impl Cache {
    /// The control data, from the cache if the file has not changed.
    ///
    /// # Errors
    ///
    /// `pg_controldata` failed, or what it printed cannot be used.
    pub(super) async fn read(&self, program: PathBuf, data_dir: &Path, deadline: Deadline) -> Result<ControlData, OperationFailed> {
        let path = control_file(data_dir);
        let (before, now) = super::blocking(move || (Identity::of(&path), SystemTime::now())).await;
        let cached = locked(&self.0).clone();
        if let (Some(before), Some((identity, data))) = (before, cached)
            && before == identity
        {
            return Ok(data);
        }
        let failed = |reason: String| {
            tracing::error!("Error when calling pg_controldata: {reason}");
            OperationFailed(format!("pg_controldata: {reason}"))
        };
        let output = Program::new(program)
            .arg(data_dir.as_os_str())
            .in_english()
            .run(&Cancel::never(), Some(deadline))
            .await
            .map_err(|error| failed(error.to_string()))?;
        if !output.success() {
            return Err(failed(format!("exit code {}: {}", output.code(), output.stderr.trim())));
        }
        let data = control_data::parse(&output.stdout).ok_or_else(|| failed(format!("unexpected output: {}", output.stdout.trim())))?;
        if let Some(identity) = before
            && now.duration_since(identity.modified).is_ok_and(|age| age > SETTLED)
        {
            *locked(&self.0) = Some((identity, data.clone()));
        }
        Ok(data)
    }
}
