//! Programs that a test starts: how they begin, how signals reach them, and how all of them are found again.
//!
//! PostgreSQL's postmaster leaves the process group and the session of whoever started it, so neither finds it. What it cannot leave are the
//! environment it was started with and, since it works there, its data directory. Processes are therefore found by these two.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, User};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const LONGEST_RUN: Duration = Duration::from_secs(180);

/// The environment variable that marks what was started for a directory; descendants inherit it.
pub const MARK: &str = "QUORATE_TEST_DIRECTORY";

/// The user that servers and agents run as.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its name, which is also the operating system's user in messages.
    pub name: String,
    uid: Uid,
    gid: Gid,
    /// Whether we have to become this user, being root.
    switch: bool,
}

impl Account {
    /// The user we are, or an unprivileged one if we are root, as PostgreSQL refuses to run as root.
    ///
    /// # Errors
    ///
    /// If we are root and there is neither `postgres` nor `nobody`.
    pub fn unprivileged() -> Result<Self> {
        let uid = Uid::effective();
        if !uid.is_root() {
            let user = User::from_uid(uid)?.context("the user that runs the tests has no entry in the user database")?;
            return Ok(Self { name: user.name, uid, gid: user.gid, switch: false });
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name)? {
                return Ok(Self { name: user.name, uid: user.uid, gid: user.gid, switch: true });
            }
        }
        bail!("PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as");
    }

    /// Gives a file or directory to this user.
    ///
    /// # Errors
    ///
    /// If that is refused.
    pub fn own(&self, path: &Path) -> Result<()> {
        if self.switch {
            nix::unistd::chown(path, Some(self.uid), Some(self.gid))
                .with_context(|| format!("cannot give {} to {}", path.display(), self.name))?;
        }
        Ok(())
    }
}

/// A program to be started.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Further environment variables.
    pub environment: Vec<(String, String)>,
    /// Where it works, and what it is found by.
    pub directory: PathBuf,
    /// Who runs it.
    pub account: Account,
}

impl Program {
    /// A program without arguments.
    #[must_use]
    pub fn new(path: &Path, directory: &Path, account: &Account) -> Self {
        Self {
            path: path.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: directory.to_owned(),
            account: account.clone(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// The command, with an environment that does not depend on who runs the tests.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .current_dir(&self.directory)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()))
            .env("HOME", &self.directory)
            .env("LC_ALL", "C.UTF-8")
            .env(MARK, &self.directory)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .process_group(0);
        if self.account.switch {
            command.uid(self.account.uid.as_raw()).gid(self.account.gid.as_raw());
        }
        command
    }

    /// Starts it, with its output appended to `log`.
    ///
    /// # Errors
    ///
    /// If the log cannot be opened or the program cannot be started.
    pub fn spawn(&self, log: &Path) -> Result<Child> {
        let output = fs::OpenOptions::new().create(true).append(true).open(log)?;
        self.command().stdout(output.try_clone()?).stderr(output).spawn().with_context(|| format!("cannot start {}", self.path.display()))
    }

    /// Runs it to its end, for at most three minutes: a switchover or a copy takes its time.
    ///
    /// # Errors
    ///
    /// If it cannot be started or does not end. Its own failure is in the result.
    pub async fn run(&self) -> Result<Finished> {
        let output = timeout(LONGEST_RUN, self.command().kill_on_drop(true).output())
            .await
            .with_context(|| format!("{} {:?} does not end", self.path.display(), self.arguments))?
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        Ok(Finished {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// How a program ended and what it said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The exit status, unless a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// The standard output of a program that succeeded.
    ///
    /// # Errors
    ///
    /// If it did not, with everything it said.
    pub fn success(self) -> Result<String> {
        match self.code {
            Some(0) => Ok(self.stdout),
            code => bail!("exit status {code:?}\n{}{}", self.stdout, self.stderr),
        }
    }
}

/// The processes that work in `directory` or were started for it, or for a directory below it.
///
/// Processes that are over but not yet waited for do not count.
#[must_use]
pub fn working_in(directory: &Path) -> Vec<Pid> {
    let own = std::process::id().cast_signed();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok().map(|pid| (pid, entry.path())))
        .filter(|(pid, path)| {
            *pid != own && std::iter::once(path.clone()).chain(threads_left(path)).any(|path| belongs_to(&path, directory))
        })
        .map(|(pid, _)| Pid::from_raw(pid))
        .collect()
}

/// The threads of a process whose first one is over: the process has lost its directory and its environment with it, while the others finish
/// what they are doing in the kernel, such as making a file.
fn threads_left(process: &Path) -> Vec<PathBuf> {
    if !is_over(process) {
        return Vec::new();
    }
    threads(process).collect()
}

fn threads(process: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(process.join("task")).into_iter().flatten().flatten().map(|thread| thread.path())
}

fn belongs_to(process: &Path, directory: &Path) -> bool {
    works_in(process, directory) || is_marked(process, directory)
}

fn works_in(process: &Path, directory: &Path) -> bool {
    // A directory that was removed reads as `path (deleted)`: below `directory` that changes nothing.
    fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
}

fn is_marked(process: &Path, directory: &Path) -> bool {
    let Ok(environment) = fs::read(process.join("environ")) else { return false };
    environment.split(|byte| *byte == 0).any(|variable| {
        variable
            .strip_prefix(MARK.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="))
            .is_some_and(|value| Path::new(OsStr::from_bytes(value)).starts_with(directory))
    })
}

/// Sends a signal to each of the processes; one that is already gone is not an error.
pub fn signal_all(processes: &[Pid], signal: Signal) {
    for process in processes {
        let _ = kill(*process, signal);
    }
}

/// Whether there is such a process that has not ended, with all its threads.
#[must_use]
pub fn is_alive(process: Pid) -> bool {
    threads(Path::new(&format!("/proc/{process}"))).any(|thread| !is_over(&thread))
}

/// Whether a process or thread has ended, be it waited for or not.
fn is_over(process: &Path) -> bool {
    let Ok(stat) = fs::read_to_string(process.join("stat")) else { return true };
    // pid (name) state ...; the name may contain anything, the last parenthesis ends it.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}
