//! What one operation has tried so far: when to pause, when to give up, and what to say then.

use std::fmt;
use std::time::Duration;

use dcs_core::{BoxError, Error, ErrorKind, Fate};

use crate::connect::Target;
use crate::failure::text_of;

/// The first pause; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// So that agents which lost the same server do not come back together.
const JITTER: Duration = Duration::from_millis(800);

/// Another token is asked for this often.
const TOKENS: u32 = 1;

/// Failed attempts of one operation.
#[derive(Debug)]
pub(crate) struct Tries {
    store: &'static str,
    operation: &'static str,
    fate: Fate,
    /// Who failed and why; the last cause of each.
    causes: Vec<(String, String)>,
    /// Since the last pause.
    in_round: usize,
    pause: Duration,
    tokens: u32,
}

/// Why each server was of no use.
#[derive(Debug)]
struct Causes(Vec<(String, String)>);

impl fmt::Display for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (server, cause)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            if server.is_empty() || cause.contains(server.as_str()) {
                write!(f, "{separator}{cause}")?;
            } else {
                write!(f, "{separator}{server}: {cause}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Causes {}

impl Tries {
    pub(crate) fn new(store: &'static str, operation: &'static str) -> Self {
        Self { store, operation, fate: Fate::NotApplied, causes: Vec::new(), in_round: 0, pause: FIRST_PAUSE, tokens: 0 }
    }

    /// An attempt failed.
    pub(crate) fn note(&mut self, target: Option<&Target>, fate: Fate, cause: &BoxError) {
        if fate == Fate::Unknown {
            self.fate = Fate::Unknown;
        }
        self.in_round += 1;
        let server = target.map(Target::to_string).unwrap_or_default();
        let cause = text_of(&**cause);
        match self.causes.iter_mut().find(|(known, _)| *known == server) {
            Some((_, last)) => *last = cause,
            None => self.causes.push((server, cause)),
        }
    }

    /// The pause before the next attempt on the same server.
    pub(crate) fn pause(&mut self) -> Duration {
        self.in_round = 0;
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause + JITTER.mul_f64(fastrand::f64()).min(pause * 4)
    }

    /// The pause that is due once all of `servers` have failed.
    pub(crate) fn pause_after_round(&mut self, servers: usize) -> Option<Duration> {
        (self.in_round >= servers.max(1)).then(|| self.pause())
    }

    /// Whether a new token was asked for often enough.
    pub(crate) fn tokens_used_up(&mut self) -> bool {
        self.tokens += 1;
        self.tokens > TOKENS
    }

    /// The store could not be used in time.
    pub(crate) fn into_error(self) -> Error {
        let Self { store, operation, fate, causes, .. } = self;
        let error = Error::new(store, operation, ErrorKind::Unavailable, fate);
        if causes.is_empty() { error.because("the deadline had passed before") } else { error.because(Causes(causes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_tried_one_after_another_before_a_pause() {
        let mut tries = Tries::new("etcd3", "load");
        let refused: BoxError = "refused".into();
        tries.note(None, Fate::NotApplied, &refused);
        assert_eq!(tries.pause_after_round(2), None);
        tries.note(None, Fate::NotApplied, &refused);
        let pause = tries.pause_after_round(2).unwrap();
        assert!(pause >= FIRST_PAUSE && pause <= FIRST_PAUSE * 5, "{pause:?}");
        for _ in 0..10 {
            assert!(tries.pause() <= LONGEST_PAUSE + JITTER);
        }
    }

    #[test]
    fn one_lost_answer_makes_the_fate_unknown() {
        let mut tries = Tries::new("etcd3", "load");
        let cause: BoxError = "lost".into();
        tries.note(None, Fate::Unknown, &cause);
        tries.note(None, Fate::NotApplied, &cause);
        assert_eq!(tries.into_error().fate, Fate::Unknown);
        assert_eq!(Tries::new("etcd3", "load").into_error().fate, Fate::NotApplied);
    }
}
