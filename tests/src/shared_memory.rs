//! What a killed PostgreSQL leaves in the kernel.
//!
//! Each postmaster holds a small System V segment, by which the next one sees whether its predecessor's processes are gone. One that is killed
//! cannot remove it, and the kernel has room for some thousands only. So whoever kills removes it, once nothing of that server runs.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The length of the record that an agent shares with its guard.
const RECORD: usize = 48;

/// Removes the segment that the data directory's `postmaster.pid` names, if there is one.
///
/// To be called when nothing of that server runs any more: the segment is what keeps a second server out.
pub fn release(data_dir: &Path) {
    let Ok(file) = fs::read_to_string(data_dir.join("postmaster.pid")) else { return };
    // The seventh line holds the key and the identifier.
    let Some(identifier) = file.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) else { return };
    // One that is gone already is as good.
    let _ = Command::new("ipcrm").args(["-m", identifier]).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Removes what the agents of data directories below `directory`, and the guards beside them, have left in memory.
pub fn release_records_below(directory: &Path) {
    let Ok(entries) = fs::read_dir("/dev/shm") else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("quorate-lease-guard.")) {
        let Ok(content) = fs::read(entry.path()) else { continue };
        // Behind the record stands the data directory that it is about.
        let about = content.get(RECORD..).unwrap_or_default();
        if Path::new(OsStr::from_bytes(about)).starts_with(directory) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The same for every data directory below `directory`, not further down than harness and agents make them.
pub fn release_below(directory: &Path) {
    descend(directory, 4);
}

fn descend(directory: &Path, levels: u32) {
    release(directory);
    if levels == 0 || directory.join("PG_VERSION").exists() {
        return;
    }
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        descend(&entry.path(), levels - 1);
    }
}
