//! The agent's side: starting the guard, and telling it what to hold.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::Clock;

use super::LOCKED;
use super::record::{self, Named, Record};
use crate::ports::{Hold, LeaseGuard};
use crate::postgres::postmaster::Process;

/// The first argument of the program that is a guard.
pub const ROLE: &str = "lease-guard";
/// How long a guard may take until it is ready.
const READY: Duration = Duration::from_secs(10);
/// Seconds by which the start time of a process, and what was observed of it, may differ.
const TOLERANCE: i64 = 3;

/// A guard in a process of its own: this program again, as `<program> lease-guard GENERATION DATA_DIR`.
#[derive(Clone, Debug)]
pub struct GuardProcess {
    data_dir: PathBuf,
    generation: u64,
    record: Arc<File>,
    /// The postmaster as it was observed last, and its name.
    named: Arc<Mutex<Option<((i32, i64), Named)>>>,
    /// What was said last.
    said: Arc<Mutex<Option<Record>>>,
    running: Arc<Mutex<Option<Running>>>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// The guard sees the agent's end by its end.
    _link: UnixStream,
}

impl GuardProcess {
    /// A guard for the server of `data_dir`, not started. One that a former agent has left goes on until this one is told
    /// something.
    ///
    /// # Errors
    ///
    /// There is no place for what guard and agent share.
    pub fn new(data_dir: &Path, clock: &dyn Clock) -> io::Result<Self> {
        // The guard works elsewhere.
        let data_dir = std::path::absolute(data_dir)?;
        let record = record::open(&data_dir)?;
        // Later agents have higher numbers, as long as the machine runs; then the record is gone, too.
        let generation = u64::try_from(clock.now().since_origin().as_nanos()).unwrap_or(u64::MAX);
        Ok(Self { data_dir, generation, record: Arc::new(record), named: Arc::default(), said: Arc::default(), running: Arc::default() })
    }

    /// Starts the process, unless it runs, and waits until it is ready. Blocks.
    ///
    /// # Errors
    ///
    /// It could not be started, or ended at once.
    pub fn start(&self) -> io::Result<()> {
        let mut slot = lock(&self.running);
        if let Some(running) = &mut *slot {
            match running.child.try_wait()? {
                None => return Ok(()),
                Some(status) => tracing::error!("the lease guard has ended unexpectedly ({status}); starting another one"),
            }
        }
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg(ROLE)
            .arg(self.generation.to_string())
            .arg(&self.data_dir)
            .stdin(Stdio::from(self.record.try_clone()?))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .env_remove("NOTIFY_SOCKET")
            .current_dir("/")
            .spawn()?;
        let pid = child.id();
        ours.set_read_timeout(Some(READY))?;
        let mut said = String::new();
        BufReader::new(&ours).read_line(&mut said)?;
        *slot = Some(Running { child, _link: ours });
        match said.trim() {
            "" => return Err(io::Error::other("it ended at once")),
            LOCKED => tracing::info!("lease guard started, locked in memory (pid {pid})"),
            why => tracing::info!("lease guard started (pid {pid}), not locked in memory: {why}; `LimitMEMLOCK=infinity` would let it"),
        }
        Ok(())
    }

    /// Removes what guard and agent share, if nothing is held. The guard itself ends with this process.
    pub fn retire(&self) {
        if lock(&self.said).is_none_or(|said| said.until.is_none()) {
            // It is there for the next agent; none of them may come.
            let _ = std::fs::remove_file(record::path_of(&self.data_dir));
        }
    }

    /// The name of the postmaster that was observed, unless it has ended. Looked up once.
    fn name(&self, observed: (i32, i64)) -> Option<Named> {
        let mut named = lock(&self.named);
        if let Some((known, name)) = *named
            && known == observed
        {
            return Some(name);
        }
        let (pid, started_at) = observed;
        let process = Process::of(pid).filter(|process| (process.started_at - started_at).abs() <= TOLERANCE)?;
        let name = Named { pid, start_ticks: process.start_ticks() };
        *named = Some((observed, name));
        Some(name)
    }

    /// Starts the process again if it has gone, outside the runtime.
    fn ensure_running(&self) {
        // Held while it is being started.
        let Ok(mut running) = self.running.try_lock() else { return };
        if running.as_mut().is_some_and(|running| matches!(running.child.try_wait(), Ok(None))) {
            return;
        }
        let guard = self.clone();
        // Not waited for: what it must hold is written before it looks.
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = guard.start() {
                tracing::error!("the lease guard cannot be started: {error}");
            }
        }));
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LeaseGuard for GuardProcess {
    fn hold(&self, hold: Option<Hold>) {
        let postmaster = hold.and_then(|hold| hold.postmaster).and_then(|observed| self.name(observed));
        let record = Record { generation: self.generation, until: hold.map(|hold| hold.until), postmaster };
        let mut said = lock(&self.said);
        if *said != Some(record) {
            // A few bytes in memory.
            match record.write(&self.record) {
                Ok(()) => *said = Some(record),
                Err(error) => tracing::error!("the lease guard cannot be told of the lease: {error}"),
            }
        }
        drop(said);
        if hold.is_some() {
            self.ensure_running();
        }
    }
}
