//! The lease guard: a small process beside the agent that holds the same deadline, and stops PostgreSQL when the agent, being
//! stopped, stuck or dead, can't.
//!
//! ```text
//!   agent ──(record in memory: until when, which postmaster)──► guard ──(SIGQUIT, SIGKILL)──► PostgreSQL
//!     └──────────────(a socket that ends with the agent)──────────┘
//! ```
//!
//! It survives the agent, in a session of its own. The next agent of the same data directory has a guard of its own, and by
//! its first word in the same record the former guard ends. What it does not survive is the machine: that takes a watchdog.

mod process;
mod record;
mod watch;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use dcs_core::BootClock;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::signal::SigSet;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use self::process::{GuardProcess, ROLE};
use self::watch::Guard;

/// What a guard says on its socket once it is ready, and locked in memory.
const LOCKED: &str = "locked";

/// The life of a guard, as the program that [`GuardProcess`] has started. Standard input is the record, standard output the
/// socket to the agent.
///
/// # Errors
///
/// It was not started by an agent.
pub fn run(generation: u64, data_dir: PathBuf) -> std::io::Result<()> {
    // Nothing that is sent to a terminal's or a service's processes ends it: it ends when there is nothing to guard. Stopping
    // the agent ends that.
    SigSet::all().thread_block()?;
    // Whoever started us may be the leader of a group already; then it has its own session.
    let _ = nix::unistd::setsid();
    let record = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut agent = UnixStream::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let locked = match lock_memory() {
        Ok(()) => LOCKED.to_owned(),
        Err(error) => error.to_string(),
    };
    // An agent that is gone already is noticed by the watch.
    let _ = writeln!(agent, "{locked}");
    static CLOCK: BootClock = BootClock;
    Guard { clock: &CLOCK, record, agent, generation, data_dir, say }.watch();
    Ok(())
}

/// Keeps what the guard needs in memory: a system that swaps or a disk that hangs must not hold it up.
fn lock_memory() -> nix::Result<()> {
    let limit = getrlimit(Resource::Memlock);
    // As far as we may; a refusal shows below.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: limit.maximum, maximum: limit.maximum });
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
}

/// Beside the log of the agent, which may be unable to write it.
fn say(text: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "{} ERROR: lease guard: {text}", jiff::Timestamp::now());
}
