//! Repeating what failed, inside one deadline.

use std::fmt;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::{Deadline, Error, ErrorKind, Fate};

/// The first pause between two attempts. Doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause, before jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The most that chance adds to a pause, so that clients that failed together do not come back together.
const MOST_JITTER: Duration = Duration::from_millis(800);

/// Chance, for the pauses between attempts.
#[derive(Default)]
pub struct Jitter(Mutex<fastrand::Rng>);

impl Jitter {
    /// Repeatable chance, for tests and simulations.
    pub fn with_seed(seed: u64) -> Self {
        Self(Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    /// A span of at most `most`.
    pub fn upto(&self, most: Duration) -> Duration {
        most.mul_f64(self.0.lock().unwrap_or_else(PoisonError::into_inner).f64())
    }
}

impl fmt::Debug for Jitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jitter").finish_non_exhaustive()
    }
}

/// The attempts of one operation.
#[derive(Debug)]
pub struct Tries<'a> {
    store: &'static str,
    operation: &'static str,
    deadline: Deadline,
    jitter: &'a Jitter,
    pause: Duration,
    /// An earlier attempt may have been applied, or may still be.
    unknown: bool,
    /// An earlier attempt has failed.
    failed: bool,
    /// The handle was gone once already.
    handle_gone: bool,
}

impl<'a> Tries<'a> {
    /// The attempts of `operation` in `store`, none of which begins after `deadline`.
    pub fn new(store: &'static str, operation: &'static str, deadline: Deadline, jitter: &'a Jitter) -> Self {
        Self { store, operation, deadline, jitter, pause: FIRST_PAUSE, unknown: false, failed: false, handle_gone: false }
    }

    /// Whether an earlier attempt may have been applied: then a refusal may be the echo of our own success.
    pub fn may_have_been_applied(&self) -> bool {
        self.unknown
    }

    /// Whether an earlier attempt has failed, whatever it said about its fate.
    pub(crate) fn have_failed(&self) -> bool {
        self.failed
    }

    /// Runs one attempt, not past the deadline.
    ///
    /// # Errors
    ///
    /// Those of the attempt, and that it did not end in time: what became of it is unknown then.
    pub async fn run<T>(&self, attempt: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match self.deadline.bound(self.operation, attempt).await {
            Ok(outcome) => outcome,
            Err(expired) => Err(self.error(ErrorKind::Unavailable, Fate::Unknown).because(expired)),
        }
    }

    /// Pauses before the next attempt, or gives up: if repeating cannot help, or no time is left for it.
    ///
    /// # Errors
    ///
    /// The given one; if an earlier attempt may have been applied, it says so.
    pub async fn after(&mut self, error: Error) -> Result<(), Error> {
        self.failed = true;
        self.unknown |= error.fate == Fate::Unknown;
        let pause = match error.kind {
            ErrorKind::Denied | ErrorKind::Malformed | ErrorKind::Misconfigured => return Err(self.last(error)),
            ErrorKind::HandleGone if !self.handle_gone => {
                self.handle_gone = true;
                return Ok(());
            }
            ErrorKind::HandleGone | ErrorKind::Unavailable => self.next_pause(),
        };
        self.sleep(error, pause).await
    }

    /// The same for an error that repeating may help with whatever its kind, after the pause that the server asked for, or the
    /// usual one.
    ///
    /// # Errors
    ///
    /// No time is left for another attempt.
    pub async fn again(&mut self, error: Error, pause: Option<Duration>) -> Result<(), Error> {
        self.unknown |= error.fate == Fate::Unknown;
        let pause = pause.unwrap_or_else(|| self.next_pause());
        self.sleep(error, pause).await
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause + self.jitter.upto(self.pause.min(MOST_JITTER));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        pause
    }

    async fn sleep(&self, error: Error, pause: Duration) -> Result<(), Error> {
        if pause >= self.deadline.remaining() {
            return Err(self.last(error));
        }
        tracing::debug!(error = error.chain(), ?pause, "{} failed; trying again", self.operation);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// The error for "an attempt got no answer, and what became of it cannot be told".
    pub fn undecided(&self) -> Error {
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
