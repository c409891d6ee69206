//! Child processes: one small runner for all external programs.
//!
//! Output is kept, and goes to the log line by line if it is of interest. A cancelled program gets SIGTERM, ten seconds to end, then
//! it is stopped and killed with all its descendants. A dropped run kills at once: no program outlives the task that
//! wanted it.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dcs_core::Deadline;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::processes;
use crate::cancel::Cancel;

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// How long output is awaited after a program has ended: a daemon that it left behind may hold the pipe for ever.
const DRAIN: Duration = Duration::from_millis(500);

/// How often a program is looked at within its patience.
const LOOKS: u32 = 20;

/// And how often at most.
const SHORTEST_LOOK: Duration = Duration::from_millis(20);

/// Output beyond this is logged and not kept.
const KEEP: usize = 1 << 20;

/// A program to run.
#[derive(Clone, Debug)]
pub(super) struct Program {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    /// Whether every line of output goes to the log.
    loud: bool,
    /// How long it may neither read nor write anything.
    patience: Option<Duration>,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    /// Its exit status.
    pub(super) status: ExitStatus,
    /// What it wrote to standard output.
    pub(super) stdout: String,
    /// What it wrote to standard error.
    pub(super) stderr: String,
}

/// A program did not run to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    /// It could not be started or watched.
    #[error("cannot run `{program}`{remedy}", remedy = remedy(source))]
    Io {
        /// The program, as it was called.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It was ended because of a cancellation.
    #[error("`{0}` was cancelled")]
    Cancelled(String),
    /// It was ended because its time was over.
    #[error("`{0}` did not end in time")]
    Late(String),
    /// It was ended because it made no progress.
    #[error("`{0}` has neither read nor written anything for {1:?} and was ended")]
    Stalled(String, Duration),
}

/// What helps if a program is not there.
fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            " (there is no such program: set `postgresql.bin_dir` to the directory of PostgreSQL's programs, or install them)"
        }
        _ => "",
    }
}

impl Finished {
    /// Whether the program was successful.
    pub(super) fn success(&self) -> bool {
        self.status.success()
    }

    /// The exit code in the form of shells' and Patroni's logs: negative signal number if a signal ended it.
    pub(super) fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.status.code().unwrap_or_else(|| -self.status.signal().unwrap_or(0))
    }
}

impl Program {
    /// `program` without arguments.
    pub(super) fn new(program: impl Into<OsString>) -> Self {
        Self { program: program.into(), arguments: Vec::new(), environment: Vec::new(), loud: false, patience: None }
    }

    /// Adds an argument.
    pub(super) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    pub(super) fn args<I: IntoIterator<Item: Into<OsString>>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable; the others are the agent's.
    pub(super) fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Messages in English, for output that is parsed.
    pub(super) fn in_english(self) -> Self {
        self.env("LANG", "C").env("LC_ALL", "C")
    }

    /// The output goes to the log line by line, while the program runs. Otherwise it is only kept.
    pub(super) fn loud(mut self) -> Self {
        self.loud = true;
        self
    }

    /// The program is ended when neither it nor its descendants have read or written anything for so long. For work whose
    /// length nobody knows beforehand.
    pub(super) fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// The program's name without its directory, for log lines.
    fn name(&self) -> String {
        Path::new(&self.program).file_name().unwrap_or(&self.program).to_string_lossy().into_owned()
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    ///
    /// [`RunError`]; the program and its descendants are gone then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the program and its descendants.
    pub(super) async fn run(&self, cancel: &Cancel, deadline: Option<Deadline>) -> Result<Finished, RunError> {
        let name = self.name();
        let io = |source| RunError::Io { program: self.program.to_string_lossy().into_owned(), source };
        if cancel.is_cancelled() {
            return Err(RunError::Cancelled(name));
        }
        tracing::debug!("calling: {self}");
        let mut command = Command::new(&self.program);
        for name in processes::configuration_variables() {
            command.env_remove(name);
        }
        let mut child = command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(io)?;
        let stdout = Collector::start(child.stdout.take(), &name, self.loud);
        let stderr = Collector::start(child.stderr.take(), &name, self.loud);
        let mut guard = TreeGuard::new(&child);

        let child_id = child.id().and_then(|pid| i32::try_from(pid).ok());
        let ended = async {
            match deadline {
                None => Ok(child.wait().await),
                Some(deadline) => deadline.bound("the end of a program", child.wait()).await,
            }
        };
        let result = tokio::select! {
            ended = ended => match ended {
                Ok(status) => status.map_err(io),
                Err(_) => Err(RunError::Late(name.clone())),
            },
            () = cancel.cancelled() => Err(RunError::Cancelled(name.clone())),
            patience = stalled(child_id, self.patience) => Err(RunError::Stalled(name.clone(), patience)),
        };
        let status = match result {
            Ok(status) => status,
            Err(error) => {
                tracing::info!("Terminating {self}");
                terminate(&mut child, GRACE, self).await;
                guard.disarm();
                return Err(error);
            }
        };
        guard.disarm();
        Ok(Finished { status, stdout: stdout.finish().await, stderr: stderr.finish().await })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.to_string_lossy())?;
        for argument in &self.arguments {
            write!(f, " {}", argument.to_string_lossy())?;
        }
        Ok(())
    }
}

/// Waits until a program and its descendants have done nothing for as long as `patience` allows, and returns that; for ever
/// without one, and for a program that cannot be looked at.
async fn stalled(pid: Option<i32>, patience: Option<Duration>) -> Duration {
    let (Some(pid), Some(patience)) = (pid, patience) else { return std::future::pending().await };
    let look = (patience / LOOKS).max(SHORTEST_LOOK);
    let mut last = None;
    let mut unchanged_since = tokio::time::Instant::now();
    loop {
        let Ok(now) = tokio::task::spawn_blocking(move || processes::traffic(pid)).await else { return std::future::pending().await };
        if now.is_none() || now != last {
            (last, unchanged_since) = (now, tokio::time::Instant::now());
        } else if unchanged_since.elapsed() >= patience {
            return patience;
        }
        tokio::time::sleep(look).await;
    }
}

/// SIGTERM, at most `grace`, then SIGKILL with all descendants; waits for the end of the child.
async fn terminate(child: &mut Child, grace: Duration, what: &impl fmt::Display) {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    if tokio::time::timeout(grace, child.wait()).await.is_ok() {
        // What it left behind in its process group was to serve it only.
        let _ = nix::sys::signal::killpg(Pid::from_raw(pid), Signal::SIGKILL);
        return;
    }
    tracing::warn!("Killed {what} because it was still running");
    kill_now(pid);
    let _ = child.wait().await;
}

/// Kills a child, its descendants, and what is left of its process group.
fn kill_now(pid: i32) {
    processes::kill_tree(pid);
    let _ = nix::sys::signal::killpg(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Kills a whole tree when a run is dropped before its end.
struct TreeGuard(Option<i32>);

impl TreeGuard {
    fn new(child: &Child) -> Self {
        Self(child.id().and_then(|pid| i32::try_from(pid).ok()))
    }

    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for TreeGuard {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            kill_now(pid);
        }
    }
}

/// Reads one stream of a program.
struct Collector {
    kept: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl Collector {
    fn start(stream: Option<impl AsyncRead + Unpin + Send + 'static>, name: &str, loud: bool) -> Self {
        let kept = Arc::new(Mutex::new(String::new()));
        let (sink, name) = (Arc::clone(&kept), name.to_owned());
        let task = tokio::spawn(async move {
            let Some(stream) = stream else { return };
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            // Progress meters end their lines with a carriage return; reading up to line feeds only delays them.
            while matches!(reader.read_until(b'\n', &mut line).await, Ok(1..)) {
                let text = String::from_utf8_lossy(&line);
                if loud {
                    for part in text.trim_end().split('\r').filter(|part| !part.trim().is_empty()) {
                        tracing::info!("{name}: {}", part.trim_end());
                    }
                }
                let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
                if sink.len() < KEEP {
                    sink.push_str(&text);
                }
                drop(sink);
                line.clear();
            }
        });
        Self { kept, task }
    }

    /// What was read. If somebody else still holds the stream, reading goes on without us.
    async fn finish(self) -> String {
        let _ = tokio::time::timeout(DRAIN, self.task).await;
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dcs_core::Deadline;

    use super::{Program, RunError};
    use crate::cancel::{Cancel, CancelSource};
    use crate::postgres::processes::{Stat, is_alive};

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh").arg("-c").arg(script)
    }

    #[tokio::test]
    async fn output_and_exit_code_are_reported() {
        let done = shell("echo out; echo err >&2; exit 3").run(&Cancel::never(), None).await.expect("it runs");
        assert_eq!((done.code(), done.stdout.as_str(), done.stderr.as_str()), (3, "out\n", "err\n"));
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        let error = Program::new("/nonexistent/program").run(&Cancel::never(), None).await.expect_err("it is missing");
        assert!(matches!(error, RunError::Io { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_cancelled_program_is_gone_with_its_descendants() {
        let dir = tempfile::tempdir().expect("a directory");
        let pid_file = dir.path().join("pid");
        let source = CancelSource::new();
        let cancel = source.token();
        let script = format!("sleep 60 & echo $! > {}.tmp; mv {0}.tmp {0}; wait", pid_file.display());
        let run = tokio::spawn(async move { shell(&script).run(&cancel, None).await });
        let pid: i32 = loop {
            if let Ok(text) = std::fs::read_to_string(&pid_file) {
                break text.trim().parse().expect("a pid");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let sleeper = Stat::of(pid).expect("the descendant runs");
        source.cancel();
        assert!(matches!(run.await.expect("no panic"), Err(RunError::Cancelled(_))));
        let mut tries = 0;
        while is_alive(&sleeper) {
            tries += 1;
            assert!(tries < 200, "the descendant outlived its cancelled parent");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_late_program_is_ended() {
        let error =
            shell("exec sleep 60").run(&Cancel::never(), Some(Deadline::after(Duration::from_millis(50)))).await.expect_err("it is late");
        assert!(matches!(error, RunError::Late(_)), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_does_nothing_is_ended_and_one_that_works_is_not() {
        let patience = Duration::from_millis(500);
        let error = shell("exec sleep 60").patience(patience).run(&Cancel::never(), None).await.expect_err("it does nothing");
        assert!(matches!(error, RunError::Stalled(..)), "{error}");
        // A descendant that writes now and then, for longer than the patience, is work.
        let script = "(for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; echo $i; done); echo done";
        let done = shell(script).patience(patience).run(&Cancel::never(), None).await.expect("it works");
        assert!(done.success() && done.stdout.ends_with("done\n"), "{}", done.stdout);
    }

    #[tokio::test]
    async fn a_daemon_that_keeps_the_pipe_does_not_keep_us() {
        let done = shell("sleep 30 & echo started").run(&Cancel::never(), None).await.expect("it runs");
        assert_eq!(done.stdout, "started\n");
    }
}
