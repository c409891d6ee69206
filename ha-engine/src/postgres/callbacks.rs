//! Operators' commands for events.
//!
//! One runs at a time: a new event kills what still runs for an older one. `on_reload` has a place of its own, so that a
//! reload never cuts off the handling of a role change.

use std::fmt;
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::processes;
use crate::ports::CallbackEvent;
use crate::settings::CommandLine;

impl CallbackEvent {
    /// The name of the event, as configured and as passed to the command.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "on_start",
            Self::Stop => "on_stop",
            Self::Restart => "on_restart",
            Self::Reload => "on_reload",
            Self::RoleChange => "on_role_change",
        }
    }
}

/// A command with everything it is called with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    program: String,
    arguments: Vec<String>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program)?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {argument}"))
    }
}

/// Runs operators' commands beside everything else.
#[derive(Debug, Default)]
pub(super) struct Callbacks {
    events: OnceLock<Runner>,
    reloads: OnceLock<Runner>,
}

impl Callbacks {
    /// Calls `command` for `event`; returns at once. Needs a runtime.
    pub(super) fn call(&self, command: &CommandLine, event: CallbackEvent, role: &str, scope: &str) {
        let mut arguments = command.arguments.clone();
        arguments.extend([event.as_str(), role, scope].map(str::to_owned));
        let call = Call { program: command.program.clone(), arguments };
        tracing::debug!("calling: {call}");
        if event == CallbackEvent::Reload {
            self.reloads.get_or_init(|| Runner::start(Some(Signal::SIGTERM))).replace(call);
        } else {
            self.events.get_or_init(|| Runner::start(None)).replace(call);
        }
    }
}

/// Runs one command at a time; the newest wins.
#[derive(Debug)]
struct Runner(watch::Sender<Option<Call>>);

impl Runner {
    /// Starts the task. `first` is sent to a command that is in the way before it is killed.
    fn start(first: Option<Signal>) -> Self {
        let (sender, mut receiver) = watch::channel(None::<Call>);
        tokio::spawn(async move {
            // Ends with its owner; a command that runs then is left to itself.
            while receiver.changed().await.is_ok() {
                let Some(call) = receiver.borrow_and_update().clone() else { continue };
                let mut child = match spawn(&call) {
                    Ok(child) => child,
                    Err(error) => {
                        tracing::error!("Failed to execute {call}: {error}");
                        continue;
                    }
                };
                let replaced = tokio::select! {
                    _ = child.wait() => false,
                    changed = receiver.changed() => {
                        receiver.mark_changed();
                        changed.is_ok()
                    }
                };
                if replaced {
                    end(&mut child, first, &call).await;
                }
            }
        });
        Self(sender)
    }

    fn replace(&self, call: Call) {
        self.0.send_replace(Some(call));
    }
}

fn spawn(call: &Call) -> std::io::Result<Child> {
    let mut command = Command::new(&call.program);
    for name in processes::configuration_variables() {
        command.env_remove(name);
    }
    command.args(&call.arguments).process_group(0).kill_on_drop(false).spawn()
}

/// Ends a command with all its descendants and waits for it.
async fn end(child: &mut Child, first: Option<Signal>, call: &Call) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        if let Some(signal) = first {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        let _ = tokio::task::spawn_blocking(move || processes::kill_tree(pid)).await;
        tracing::warn!("Killed {call} because it was still running");
    }
    let _ = child.wait().await;
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::Callbacks;
    use crate::ports::CallbackEvent;
    use crate::settings::CommandLine;

    fn script(dir: &Path, text: &str) -> CommandLine {
        let path = dir.join("callback.sh");
        std::fs::write(&path, text).expect("a script");
        CommandLine { program: "/bin/sh".to_owned(), arguments: vec![path.display().to_string()] }
    }

    async fn lines(path: &Path, count: usize) -> Vec<String> {
        for _ in 0..1000 {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if text.lines().count() >= count {
                return text.lines().map(str::to_owned).collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} has {:?}", path.display(), std::fs::read_to_string(path));
    }

    #[tokio::test]
    async fn a_new_event_ends_the_command_of_an_older_one_but_a_reload_does_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let command =
            script(dir.path(), &format!("echo begin $* >> {0}\n[ $1 = on_start ] && sleep 600\necho end $* >> {0}\n", log.display()));
        let callbacks = Callbacks::default();
        callbacks.call(&command, CallbackEvent::Start, "primary", "batman");
        assert_eq!(lines(&log, 1).await, ["begin on_start primary batman"]);
        callbacks.call(&command, CallbackEvent::Reload, "primary", "batman");
        lines(&log, 3).await;
        callbacks.call(&command, CallbackEvent::RoleChange, "replica", "batman");
        let all = lines(&log, 5).await;
        assert_eq!(
            all[1..],
            [
                "begin on_reload primary batman",
                "end on_reload primary batman",
                "begin on_role_change replica batman",
                "end on_role_change replica batman"
            ]
        );
    }
}
