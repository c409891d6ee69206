//! Running servers for the tests of one crate.
//!
//! They end with the thread that started them (`setpriv --pdeathsig`), whatever becomes of the test. Servers allocate their
//! files in large pieces before they have anything to write, so data go to disk and never to memory, and directories are
//! removed: by their owner, and if it was killed, by whoever starts servers after it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Network, Plan, eventually, on_the_path};

/// What the directories of servers begin with.
const PREFIX: &str = "quorate-servers-";

/// The file in them that their owner holds locked.
const LOCK: &str = "owner";

/// Younger directories may not be locked yet.
const GRACE: Duration = Duration::from_secs(600);

/// The line in a log that begins what the newest process says.
const STARTED: &str = "--- started ---";

/// Running servers; killed when this is dropped, and when the test dies.
#[derive(Debug)]
pub struct Servers {
    servers: Vec<Running>,
    network: Network,
    /// Removed when this is dropped, after the servers were killed.
    directory: TempDir,
    /// Held as long as this process lives.
    _lock: File,
}

#[derive(Debug)]
struct Running {
    plan: Plan,
    child: Mutex<Option<Child>>,
}

impl Servers {
    /// Starts what `plan` says, in this order, without waiting for anything. The plan is made for a loopback network and a
    /// directory of its own.
    ///
    /// # Errors
    ///
    /// Something that is needed is not there.
    pub fn start(plan: impl FnOnce(&Network, &Path) -> Result<Vec<Plan>>) -> Result<Self> {
        remove_what_the_dead_left();
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        let lock = File::create(directory.path().join(LOCK))?;
        lock.try_lock().context("somebody else locked a directory that was just made")?;
        let network = Network::claim()?;
        let plans = plan(&network, directory.path())?;
        let mut servers = Vec::new();
        for plan in plans {
            std::fs::create_dir_all(&plan.directory)?;
            for (name, content) in &plan.files {
                std::fs::write(plan.directory.join(name), content)?;
            }
            servers.push(Running { plan, child: Mutex::new(None) });
        }
        let servers = Self { servers, network, directory, _lock: lock };
        servers.servers.iter().try_for_each(Running::start)?;
        Ok(servers)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// Where clients connect, server by server.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.plan.address).collect()
    }

    /// The same, as text.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.plan.address.to_string()).collect()
    }

    /// The loopback network that they have to themselves.
    #[must_use]
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// Where everything is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// How a server is started.
    #[must_use]
    pub fn plan(&self, index: usize) -> &Plan {
        &self.servers[index].plan
    }

    /// What a server has said since it was last started.
    #[must_use]
    pub fn log(&self, index: usize) -> String {
        let log = std::fs::read(self.servers[index].plan.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.rsplit(STARTED).next().unwrap_or_default().to_owned()
    }

    /// Waits until a server has said `words`.
    ///
    /// # Panics
    ///
    /// It does not say so in time.
    pub async fn says(&self, index: usize, words: &[&str]) {
        eventually(&format!("{} says {words:?}", self.servers[index].plan.name), Duration::from_secs(60), || async {
            let log = self.log(index);
            if words.iter().any(|word| log.contains(word)) {
                return Ok(());
            }
            Err(tail(&log, 5))
        })
        .await;
    }

    /// Kills a server as if its machine had gone.
    pub fn kill(&self, index: usize) {
        if let Some(mut child) = self.servers[index].child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a server again with its data; kills it first if it runs.
    ///
    /// # Panics
    ///
    /// It cannot be started.
    pub fn restart(&self, index: usize) {
        self.kill(index);
        self.servers[index].start().expect("a server that ran can be started again");
    }

    /// Starts a server again without its data.
    ///
    /// # Panics
    ///
    /// The data cannot be removed, or the server cannot be started.
    pub fn wipe(&self, index: usize) {
        self.kill(index);
        let plan = &self.servers[index].plan;
        std::fs::remove_dir_all(plan.directory.join(plan.data)).expect("the data can be removed");
        self.restart(index);
    }

    /// Stops a server without ending it: connections stay open and silent.
    ///
    /// # Panics
    ///
    /// It does not run, or does not stop.
    pub async fn freeze(&self, index: usize) {
        self.signal(index, Signal::SIGSTOP);
        // The signal has to reach every thread.
        eventually("the server stops", Duration::from_secs(5), || async {
            let states = self.states_of_threads(index);
            if states.iter().all(|state| *state == 'T') { Ok(()) } else { Err(format!("{states:?}")) }
        })
        .await;
    }

    /// Lets a frozen server go on.
    ///
    /// # Panics
    ///
    /// It does not run.
    pub fn thaw(&self, index: usize) {
        self.signal(index, Signal::SIGCONT);
    }

    fn states_of_threads(&self, index: usize) -> Vec<char> {
        let child = self.servers[index].child();
        let Some(child) = &*child else { return Vec::new() };
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).into_iter().flatten().flatten();
        let stat = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
        stat.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
    }

    /// Sends a signal to a server.
    ///
    /// # Panics
    ///
    /// It does not run.
    pub fn signal(&self, index: usize, signal: Signal) {
        if let Some(child) = &*self.servers[index].child() {
            kill(Pid::from_raw(child.id().cast_signed()), signal).expect("the server runs");
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for index in 0..self.servers.len() {
            self.kill(index);
        }
        if std::thread::panicking() {
            for (index, server) in self.servers.iter().enumerate() {
                eprintln!("the last lines of {}:\n{}", server.plan.name, tail(&self.log(index), 8));
            }
        }
    }
}

impl Running {
    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self) -> Result<()> {
        let plan = &self.plan;
        let mut log = OpenOptions::new().create(true).append(true).open(plan.log())?;
        writeln!(log, "{STARTED}")?;
        let mut command = match on_the_path("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(&plan.program);
                command
            }
            None => Command::new(&plan.program),
        };
        command
            .args(&plan.arguments)
            .current_dir(&plan.directory)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &plan.directory)
            .envs(plan.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log);
        let child = command.spawn().with_context(|| format!("{} cannot be started", plan.program.display()))?;
        *self.child() = Some(child);
        Ok(())
    }
}

fn tail(log: &str, lines: usize) -> String {
    let mut lines: Vec<_> = log.lines().rev().take(lines).collect();
    lines.reverse();
    lines.join("\n")
}

/// Removes directories whose owner was killed before it could do so.
fn remove_what_the_dead_left() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if !ours || age().is_none_or(|age| age < GRACE) {
            continue;
        }
        if let Ok(lock) = File::open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
