//! A directory for one test, and the certainty that nothing outlives it.
//!
//! Beside each sandbox runs a *warden* (`src/bin/warden.rs`), which waits for the end of a pipe that only the test holds. When the test ends,
//! by returning, by panic or by `SIGKILL`, the pipe ends, and the warden kills what still works in the directory, unmounts what was mounted
//! there and removes it. `PR_SET_PDEATHSIG` would not do: it watches the thread that started a process, and PostgreSQL daemonises.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use store_servers::Network;

use crate::agents;
use crate::process::{self, Account};
use crate::shared_memory;

/// Set to keep the directories of all tests, for looking at their logs.
pub const KEEP: &str = "QUORATE_TEST_KEEP";

/// A directory, a network and a user for one test.
#[derive(Debug)]
pub struct Sandbox {
    directory: PathBuf,
    network: Network,
    account: Account,
    warden: Child,
}

impl Sandbox {
    /// Makes a fresh one.
    ///
    /// # Errors
    ///
    /// If there is no directory that an unprivileged user can reach, or the warden cannot be started.
    pub fn create() -> Result<Self> {
        let account = Account::unprivileged()?;
        let directory = tempfile::Builder::new()
            .prefix("quorate-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(reachable_base()?)?
            .keep();
        account.own(&directory)?;
        let warden = Command::new(agents::beside_us("warden")?)
            .arg(&directory)
            .current_dir("/")
            .stdin(Stdio::piped())
            .process_group(0) // what kills the test's group must not kill the warden
            .spawn()
            .context("cannot start the warden")?;
        let sandbox = Self { directory, network: Network::claim()?, account, warden };
        if std::env::var_os(KEEP).is_some() {
            eprintln!("logs are in {}", sandbox.directory.display());
        }
        Ok(sandbox)
    }

    /// Where everything is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Who runs what is started here.
    #[must_use]
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// The addresses of this test.
    #[must_use]
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// Makes a directory that belongs to the unprivileged user.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        self.account.own(&path)?;
        Ok(path)
    }

    /// Makes a small file system of its own, for filling it up. It needs root.
    ///
    /// # Errors
    ///
    /// If it cannot be mounted.
    pub fn make_volume(&self, name: &str, size: &str) -> Result<PathBuf> {
        let path = self.make(name)?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o"]).arg(format!("size={size}")).arg("tmpfs").arg(&path).status()?;
        ensure!(mounted.success(), "cannot mount a file system at {}", path.display());
        self.account.own(&path)?;
        Ok(path)
    }
}

impl Drop for Sandbox {
    /// Lets the warden do its work and waits for it, so that the next test finds the machine empty.
    fn drop(&mut self) {
        if let Some(mut pipe) = self.warden.stdin.take()
            && std::env::var_os(KEEP).is_some()
        {
            let _ = pipe.write_all(b"keep");
        }
        let _ = self.warden.wait();
    }
}

/// A directory for temporary files whose every parent lets other users through.
fn reachable_base() -> Result<PathBuf> {
    let candidates = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
    for base in &candidates {
        if agents::is_open_to_all(base) {
            return Ok(base.clone());
        }
    }
    bail!("an unprivileged user can reach none of {candidates:?}");
}

/// The warden's whole life: waits until standard input ends, then clears `directory`.
///
/// # Errors
///
/// If something could not be killed, unmounted or removed.
pub fn watch_over(directory: &Path) -> Result<()> {
    let mut word = String::new();
    // A broken pipe is as good as its end.
    let _ = std::io::stdin().read_to_string(&mut word);

    let mut alive = Vec::new();
    for _ in 0..200 {
        alive = process::working_in(directory).into_iter().filter(|process| process::is_alive(*process)).collect();
        if alive.is_empty() {
            break;
        }
        process::signal_all(&alive, Signal::SIGKILL);
        pause(Duration::from_millis(25));
    }
    if !alive.is_empty() {
        bail!("cannot kill {alive:?}, which work in {}", directory.display());
    }
    shared_memory::release_below(directory);
    shared_memory::release_records_below(directory);
    for mount in mounts_in(directory) {
        let _ = Command::new("umount").arg(&mount).status();
    }
    if word != "keep" {
        fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the warden has one thread and nothing else to do")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

fn mounts_in(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/mounts").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .map(PathBuf::from)
        .filter(|mount| mount.starts_with(directory))
        .collect()
}
