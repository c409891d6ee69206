//! Repeating what failed, inside one deadline.

use std::future::Future;
use std::time::Duration;

use crate::{Deadline, Error, ErrorKind, Fate};

/// The first pause between two attempts. Doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause, before jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The most that chance adds to a pause, so that clients that failed together do not come back together.
const MOST_JITTER: Duration = Duration::from_millis(800);

/// The attempts of one operation.
pub(super) struct Tries<'a> {
    store: &'static str,
    operation: &'static str,
    deadline: Deadline,
    jitter: &'a super::Jitter,
    pause: Duration,
    /// An earlier attempt may have been applied, or may still be.
    unknown: bool,
    /// An earlier attempt has failed.
    failed: bool,
    /// The handle was gone once already.
    handle_gone: bool,
}

impl<'a> Tries<'a> {
    pub(super) fn new(store: &'static str, operation: &'static str, deadline: Deadline, jitter: &'a super::Jitter) -> Self {
        Self { store, operation, deadline, jitter, pause: FIRST_PAUSE, unknown: false, failed: false, handle_gone: false }
    }

    /// Whether an earlier attempt may have been applied: then a refusal may be the echo of our own success.
    pub(super) fn may_have_been_applied(&self) -> bool {
        self.unknown
    }

    /// Whether an earlier attempt has failed, whatever it said about its fate.
    pub(super) fn have_failed(&self) -> bool {
        self.failed
    }

    /// Runs one attempt, not past the deadline.
    pub(super) async fn run<T>(&self, attempt: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match self.deadline.bound(self.operation, attempt).await {
            Ok(outcome) => outcome,
            Err(expired) => Err(self.error(ErrorKind::Unavailable, Fate::Unknown).because(expired)),
        }
    }

    /// Pauses before the next attempt, or gives up: if repeating cannot help, or no time is left for it.
    pub(super) async fn after(&mut self, error: Error) -> Result<(), Error> {
        self.failed = true;
        self.unknown |= error.fate == Fate::Unknown;
        let pause = match error.kind {
            ErrorKind::Denied | ErrorKind::Malformed | ErrorKind::Misconfigured => return Err(self.last(error)),
            ErrorKind::HandleGone if !self.handle_gone => {
                self.handle_gone = true;
                return Ok(());
            }
            ErrorKind::HandleGone | ErrorKind::Unavailable => {
                let pause = self.pause + self.jitter.upto(self.pause.min(MOST_JITTER));
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                pause
            }
        };
        if pause >= self.deadline.remaining() {
            return Err(self.last(error));
        }
        tracing::debug!(error = error.chain(), ?pause, "{} failed; trying again", self.operation);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// The error for "an attempt got no answer, and what became of it cannot be told".
    pub(super) fn undecided(&self) -> Error {
        self.error(ErrorKind::Unavailable, Fate::Unknown)
            .because("an attempt got no answer, and its effect cannot be told apart from somebody else's")
    }

    fn last(&self, mut error: Error) -> Error {
        if self.unknown {
            error.fate = Fate::Unknown;
        }
        error
    }

    fn error(&self, kind: ErrorKind, fate: Fate) -> Error {
        Error::new(self.store, self.operation, kind, fate)
    }
}
