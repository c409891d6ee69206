//! What a killed PostgreSQL leaves in the kernel.
//!
//! Each postmaster holds a small System V segment, by which the next one sees whether its predecessor's processes are gone. One that is killed
//! cannot remove it, and the kernel has room for some thousands only. So whoever kills removes it, once nothing of that server runs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

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
