//! The umask: what the agent and the programs that it calls create is PostgreSQL's, and closed to others.
//!
//! A script that restores a cluster or makes a replica may create the data directory itself, and PostgreSQL does not start in one that is
//! open to others. Files outside of it keep the modes that whoever started the agent has asked for.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use nix::sys::stat::Mode;

use super::data_dir;

/// The umask that this process was started with, before [`restrict`] changed it.
pub fn inherited() -> u32 {
    static INHERITED: OnceLock<u32> = OnceLock::new();
    // The system call only tells it by changing it.
    *INHERITED.get_or_init(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
    })
}

/// From now on nothing that this process creates, or a program that it starts, is open to others; to the group only if the data directory is.
pub fn restrict(data_dir: &Path) {
    inherited();
    let mask = if data_dir::is_group_readable(data_dir) { Mode::from_bits_truncate(0o027) } else { Mode::from_bits_truncate(0o077) };
    nix::sys::stat::umask(mask);
}
