//! The postmaster: how it is recognised, launched, signalled, and how its end is noticed.
//!
//! ```text
//!   agent ── spawns ──► setsid --fork ──► sh (writes its pid to us) ──exec──► postgres
//!                           │
//!                           └ ends at once; the postmaster belongs to init, and survives the agent
//! ```

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use dcs_core::Moment;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::processes::{self, Stat};
use crate::ports::StopMode;

/// How often a process is looked at where the kernel has no process handles.
const POLL: Duration = Duration::from_millis(100);

/// How far the start times of the pid file and of the process may be apart.
const START_TIME_TOLERANCE: f64 = 3.0;

/// `postmaster.pid`, as far as it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PidFile {
    /// Negative for a single-user server.
    pub(super) pid: i32,
    /// Seconds since the epoch; as text, because it may be garbage.
    start_time: Option<String>,
    /// What the postmaster says it is doing: `starting`, `stopping`, `ready` or `standby`.
    pub(super) status: Option<String>,
}

impl PidFile {
    /// Reads the file of a data directory; nothing if it is missing or has no pid.
    pub(super) fn read(data_dir: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(data_dir.join("postmaster.pid")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let pid = lines.first()?.parse().ok().filter(|pid| *pid != 0)?;
        let line = |number: usize| lines.get(number).filter(|line| !line.is_empty()).map(|line| (*line).to_owned());
        Some(Self { pid, start_time: line(2), status: line(7) })
    }
}

/// One postmaster, for ever: a pid with its start time, and the kernel's handle if there is one.
#[derive(Clone, Debug)]
pub(super) struct Process {
    stat: Stat,
    /// Seconds since the epoch.
    pub(super) started_at: i64,
    /// Whether it is a single-user server.
    pub(super) single_user: bool,
    handle: Option<Arc<OwnedFd>>,
}

/// What a stop signal did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signalled {
    /// It was delivered.
    Yes,
    /// The process is gone already.
    Gone,
    /// It could not be delivered; the reason was logged.
    No,
}

impl Process {
    /// The process `pid`, if it is alive.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = Stat::of(pid).filter(|stat| !stat.ended)?;
        let handle = rustix::process::Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).map(Arc::new);
        // Between the two system calls the pid may have been given to another process.
        if !processes::is_alive(&stat) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "seconds since the epoch")]
        let started_at = stat.started_at().unwrap_or(0.0) as i64;
        Some(Self { stat, started_at, single_user: false, handle })
    }

    /// The postmaster (or single-user server) that owns `data_dir` according to its pid file, if it is one.
    pub(super) fn owner_of(data_dir: &Path) -> Option<Self> {
        let file = PidFile::read(data_dir)?;
        let mut process = Self::of(file.pid.checked_abs()?)?;
        process.single_user = file.pid < 0;
        process.is_plausible(&file).then_some(process)
    }

    /// The process that the pid file names although it is not a running postmaster of this directory. A new postmaster would
    /// take it for one: even the zombie of the former postmaster, where init reaps late, answers signals.
    fn squatter_of(data_dir: &Path) -> Option<i32> {
        let file = PidFile::read(data_dir)?;
        let pid = file.pid.checked_abs()?;
        match Self::of(pid) {
            Some(process) => (!process.is_plausible(&file)).then_some(pid),
            None => Stat::of(pid).map(|stat| stat.pid),
        }
    }

    fn is_plausible(&self, file: &PidFile) -> bool {
        match file.start_time.as_deref().map(str::parse::<i64>) {
            Some(Ok(in_file)) if in_file != 0 => {
                let of_process = self.stat.started_at();
                #[expect(clippy::cast_precision_loss, reason = "seconds since the epoch")]
                let apart = of_process.map_or(0.0, |started| (started - in_file as f64).abs());
                if apart > START_TIME_TOLERANCE {
                    tracing::info!(
                        "Process {} is not postmaster, too much difference between PID file start time {in_file} and \
                         process start time {}",
                        self.pid(),
                        of_process.unwrap_or_default()
                    );
                    return false;
                }
            }
            Some(Err(_)) => tracing::warn!("Garbage start time value in pid file: '{}'", file.start_time.as_deref().unwrap_or_default()),
            Some(Ok(_)) | None => {}
        }
        // A pid file that was copied or survived a reboot may name us. A child of ours is a program that we run.
        let me = Pid::this().as_raw();
        ![me, Pid::parent().as_raw()].contains(&self.pid()) && self.stat.parent != me
    }

    /// The pid.
    pub(super) fn pid(&self) -> i32 {
        self.stat.pid
    }

    /// When it was started, in clock ticks since boot: with the pid it names one process for ever.
    pub(super) fn start_ticks(&self) -> u64 {
        self.stat.start_ticks
    }

    /// When it was started, on the clock that counts suspend.
    pub(super) fn started(&self) -> Moment {
        self.stat.started()
    }

    /// Whether it serves clients: not a single-user server.
    pub(super) fn is_postmaster(&self) -> bool {
        !self.single_user
    }

    /// Whether it is alive. A zombie is not.
    pub(super) fn is_alive(&self) -> bool {
        processes::is_alive(&self.stat)
    }

    /// Waits for its end. Safe to drop.
    pub(super) async fn ended(&self) {
        if let Some(handle) = self.handle.as_ref().and_then(|handle| watched(handle).ok())
            && handle.readable().await.is_ok()
        {
            return;
        }
        while self.is_alive() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks it to stop.
    pub(super) fn signal_stop(&self, mode: StopMode) -> Signalled {
        if self.single_user {
            tracing::warn!("Cannot stop server; single-user server is running (PID: {})", self.pid());
            return Signalled::No;
        }
        self.signal(match mode {
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        })
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal) -> Signalled {
        if !self.is_alive() {
            return Signalled::Gone;
        }
        // Through the handle a signal cannot reach another process that got the pid meanwhile.
        let sent = match (&self.handle, rustix::process::Signal::from_named_raw(signal as i32)) {
            (Some(handle), Some(named)) => pidfd_send_signal(handle, named).map_err(|error| Errno::from_raw(error.raw_os_error())),
            _ => kill(Pid::from_raw(self.pid()), signal),
        };
        match sent {
            Ok(()) => Signalled::Yes,
            Err(Errno::ESRCH) => Signalled::Gone,
            Err(error) => {
                tracing::warn!("Could not send {signal} to PostgreSQL: {error}");
                Signalled::No
            }
        }
    }

    /// Kills it with all its descendants and waits until they are gone.
    pub(super) async fn kill(&self) {
        tracing::warn!("Sending SIGKILL to Postmaster and its children");
        let pid = self.pid();
        let killed = tokio::task::spawn_blocking(move || processes::kill_tree(pid)).await.unwrap_or_default();
        while killed.iter().any(processes::is_alive) || self.is_alive() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Titles of its children that may still acknowledge something to a client.
    pub(super) fn client_backends(&self) -> Vec<String> {
        processes::children(self.pid())
            .into_iter()
            .filter_map(|child| processes::title(child.pid))
            .filter(|title| !title.is_empty() && !is_auxiliary(title))
            .collect()
    }
}

/// A process handle that the runtime waits for: it becomes readable when the process ends.
fn watched(handle: &OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "unsound for types that may replace their descriptor, which `OwnedFd` does not; what it is replaced by is unsafe"
    )]
    AsyncFd::with_interest(handle.try_clone()?, Interest::READABLE)
}

/// Whether a process title is that of one of PostgreSQL's own processes, versions 12 to 18.
///
/// `postgres: [cluster name: ]checkpointer `, `postgres: walsender repl 10.0.0.1(5) streaming 0/3000060`, …
fn is_auxiliary(title: &str) -> bool {
    const KINDS: [&str; 23] = [
        "archiver",
        "startup",
        "autovacuum launcher",
        "autovacuum worker",
        "checkpointer",
        "logger",
        "stats collector",
        "wal receiver",
        "wal writer",
        "writer",
        "walreceiver",
        "wal sender process",
        "walsender",
        "walwriter",
        "background writer",
        "logical replication launcher",
        "logical replication worker for subscription",
        "logical replication tablesync worker for subscription",
        "logical replication parallel apply worker for subscription",
        "logical replication apply worker for subscription",
        "slotsync worker",
        "walsummarizer",
        "io worker",
    ];
    let Some(rest) = title.strip_prefix("postgres: ") else { return false };
    let is_kind = |text: &str| {
        text.starts_with("bgworker:")
            || KINDS.iter().any(|kind| text.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')))
    };
    // The cluster name stands in front of the kind, ends in ": ", and may contain anything. A user called like one of the
    // kinds would be overlooked here, as in Patroni.
    is_kind(rest) || rest.match_indices(": ").any(|(at, _)| is_kind(&rest[at + 2..]))
}

/// How a postmaster is launched.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    /// The program `postgres`.
    pub(super) program: PathBuf,
    /// The data directory.
    pub(super) data_dir: PathBuf,
    /// `postgresql.conf`.
    pub(super) config_file: PathBuf,
    /// The options after these, `--name=value`.
    pub(super) options: Vec<String>,
}

impl Launch {
    /// Launches the postmaster in a session of its own, as nobody's child. Blocks for the time of two forks.
    ///
    /// # Errors
    ///
    /// Neither `setsid` nor the shell could be run, or the launched process ended before it said its pid.
    pub(super) fn spawn(&self) -> std::io::Result<Process> {
        // The shell says its pid and becomes the postmaster. Its standard input is our channel, so that the standard
        // output and error of the postmaster are the agent's.
        const BECOME: &str = r#"echo $$ >&0 && exec "$@" </dev/null"#;
        // Without setsid(1): an asynchronous command of a shell in a process group of its own is nobody's child either.
        const BACKGROUND: &str = r#""$@" </dev/null & echo $! >&0"#;

        let mut arguments: Vec<std::ffi::OsString> =
            vec![self.program.clone().into(), "-D".into(), self.data_dir.clone().into(), joined("--config-file=", &self.config_file)];
        arguments.extend(self.options.iter().map(Into::into));

        let unusable = |what: String| std::io::Error::other(what);
        let (mut ours, theirs) = UnixStream::pair()?;
        let channel = OwnedFd::from(theirs);
        let mut command = std::process::Command::new("setsid");
        command.args(["--fork", "/bin/sh", "-c", BECOME, "postgres"]);
        self.prepare(&mut command, &arguments, channel.try_clone()?);
        let launched = command.status();
        drop(command);
        // A small system may have no such program, or one that cannot fork.
        if !launched.is_ok_and(|status| status.success()) {
            let mut command = std::process::Command::new("/bin/sh");
            command.args(["-c", BACKGROUND, "postgres"]).process_group(0);
            self.prepare(&mut command, &arguments, channel.try_clone()?);
            let status = command.status()?;
            if !status.success() {
                return Err(unusable(format!("launching `{}` failed with {status}", self.program.display())));
            }
        }
        drop(channel);
        ours.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut said = Vec::new();
        let mut buffer = [0; 32];
        while !said.contains(&b'\n') {
            match ours.read(&mut buffer)? {
                0 => break,
                count => said.extend_from_slice(&buffer[..count]),
            }
        }
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        let pid: i32 = said.parse().map_err(|_| unusable(format!("no pid from the launcher but `{said}`")))?;
        tracing::info!("postmaster pid={pid}");
        Process::of(pid).ok_or_else(|| unusable(format!("process {pid} ended at once")))
    }

    fn prepare(&self, command: &mut std::process::Command, arguments: &[std::ffi::OsString], channel: OwnedFd) {
        command.args(arguments).stdin(Stdio::from(channel));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("PATRONI_") || text.starts_with("KUBERNETES_") || text == "NOTIFY_SOCKET" {
                command.env_remove(&name);
            }
        }
        if let Some(arenas) = std::env::var_os("PG_MALLOC_ARENA_MAX") {
            command.env_remove("PG_MALLOC_ARENA_MAX").env("MALLOC_ARENA_MAX", arenas);
        }
        if let Some(pid) = Process::squatter_of(&self.data_dir) {
            // Removing the file instead would race with somebody who starts a server by hand.
            tracing::info!("Telling pg_ctl that it is safe to ignore postmaster.pid for process {pid}");
            command.env("PG_GRANDPARENT_PID", pid.to_string());
        }
    }
}

fn joined(prefix: &str, path: &Path) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from(prefix);
    text.push(path);
    text
}

#[cfg(test)]
mod tests {
    use super::{PidFile, is_auxiliary};

    #[test]
    fn clients_are_told_from_postgresqls_own_processes() {
        for title in [
            "postgres: checkpointer ",
            "postgres: c1: walwriter ",
            "postgres: my: cluster: logical replication launcher ",
            "postgres: walsender replicator 127.0.0.1(4444) streaming 0/3000060",
            "postgres: c1: startup recovering 000000010000000000000003",
            "postgres: bgworker: pg_cron scheduler ",
            "postgres: io worker 1",
        ] {
            assert!(is_auxiliary(title), "{title}");
        }
        for title in [
            "postgres: alice app 127.0.0.1(55446) idle in transaction",
            "postgres: c1: writers app [local] SELECT",
            "/usr/lib/postgresql/15/bin/postgres",
        ] {
            assert!(!is_auxiliary(title), "{title}");
        }
    }

    #[test]
    fn a_pid_file_is_read_line_by_line() {
        let text = "123\n/data\n1700000000\n5432\n/tmp\nlocalhost\n  5432001  65538\nready   \n";
        let file = PidFile::parse(text).expect("it has a pid");
        assert_eq!((file.pid, file.status.as_deref()), (123, Some("ready")));
        assert_eq!(PidFile::parse("\n\n"), None);
        assert_eq!(PidFile::parse("-77\n").expect("single user").pid, -77);
    }
}
