//! How a command of the tool ends when it does not succeed.

use std::io;

/// Why the tool stops. [`Failure::exit_status`] and [`Failure::report`] are part of the interface.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something is wrong with the request, the cluster or the store; also a declined prompt.
    #[error("{0}")]
    Error(String),
    /// The command line has no meaning. The usage line and the hint stand before the message.
    #[error("{message}")]
    Usage {
        /// `Usage: …`, possibly of several lines.
        usage: String,
        /// The command to call with `--help`.
        command: String,
        /// What is wrong.
        message: String,
    },
    /// End of input or an interrupt.
    #[error("Aborted!")]
    Aborted,
    /// What went wrong was told while it happened, member by member.
    #[error("some members could not be reached")]
    Told,
    /// Nobody reads the output any more, or it cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(#[source] io::Error),
}

impl Failure {
    /// An error with this message.
    pub fn error(message: impl Into<String>) -> Self {
        Self::Error(message.into())
    }

    /// The exit status of the tool.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            _ => 1,
        }
    }

    /// What goes to standard error; nothing if nothing should.
    pub fn report(&self) -> Option<String> {
        match self {
            Self::Error(message) => Some(format!("Error: {message}\n")),
            Self::Usage { usage, command, message } => Some(format!("{usage}\nTry '{command} --help' for help.\n\nError: {message}\n")),
            Self::Aborted => Some("Aborted!\n".to_owned()),
            Self::Told => None,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => None,
            Self::Output(_) => Some(format!("Error: {self}\n")),
        }
    }
}

/// Failing to write is the only input or output that ends a command as such; everything else gets its own message.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
