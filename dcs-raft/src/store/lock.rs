//! The leader lock: one transaction that looks, writes and refreshes the handle, all at once.
//!
//! | step | if | then | otherwise |
//! | --- | --- | --- | --- |
//! | [`Step::Confirm`] | the key is ours and bound to our handle | refresh | refresh, and say what is there |
//! | [`Step::Rebind`] | it has this revision, and our handle is alive | refresh, write | the same |
//! | [`Step::Create`] | it does not exist, and our handle is alive | refresh, write | the same |
//! | [`Step::Take`] | our handle is alive | refresh, write | the same |

use dcs_core::model::Revision;
use dcs_core::{Deadline, Entry, Error, ErrorKind, Fate, Grip, LockAttempt, LockRenewal};

use super::{RaftStore, entry, nonsense, number, put};
use crate::STORE;
use crate::command::{Condition, Done, Operation, Transaction};
use crate::error::handle_gone;
use crate::lease::{Held, handle_id};

const RENEW: &str = "renew the leader lock";

/// More steps than any history of the key asks for, unless it changes all the time.
const MOST_STEPS: usize = 6;

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Prove that the key is ours and bound to our handle. Leaves it as it is.
    Confirm,
    /// Bind the key to our handle, if it still has this revision.
    Rebind(u64),
    /// Create the key, if nobody has it.
    Create,
    /// Write the key, whatever is there.
    Take,
}

/// What came of it.
enum Outcome {
    /// The key is ours and bound to our handle.
    Ours(Grip),
    /// It was left alone.
    Left {
        /// What is there.
        found: Option<Entry>,
        /// Our handle is gone.
        handle_gone: bool,
    },
}

impl Step {
    const fn operation(self) -> &'static str {
        match self {
            Self::Confirm | Self::Rebind(_) => RENEW,
            Self::Create => "acquire the leader lock",
            Self::Take => "take the leader lock",
        }
    }

    fn transaction(self, key: &str, owner: &str, held: Held) -> Transaction {
        let (handle, named) = (held.id, || key.to_owned());
        let condition = match self {
            Self::Confirm => Some(Condition::Value { key: named(), value: owner.into() }),
            Self::Rebind(revision) => Some(Condition::Revision { key: named(), revision }),
            Self::Create => Some(Condition::Absent { key: named() }),
            Self::Take => None,
        };
        let of_handle = match self {
            // Then it is alive as well.
            Self::Confirm => Condition::BoundTo { key: named(), handle },
            Self::Rebind(_) | Self::Create | Self::Take => Condition::Alive { handle },
        };
        let refresh = Operation::Refresh { handle };
        let write = (self != Self::Confirm).then(|| put(key, owner.as_bytes(), Some(handle)));
        Transaction {
            conditions: condition.into_iter().chain([of_handle]).collect(),
            then: [refresh.clone()].into_iter().chain(write).collect(),
            otherwise: vec![refresh, Operation::Get { key: named() }],
        }
    }
}

impl RaftStore {
    /// Writes the lock as `step` says, once more with a new handle if ours turns out to be gone.
    pub(super) async fn attempt_to_lock(&self, step: Step, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        let _writing = self.own_writes.begin(key);
        for _ in 0..2 {
            let held = self.handle_for_lock(deadline).await?;
            match self.step(step, key, owner, held, deadline).await? {
                Outcome::Ours(grip) => return Ok(LockAttempt::Won(grip)),
                Outcome::Left { found: Some(entry), .. } if step == Step::Create => return Ok(LockAttempt::Held(Some(entry))),
                Outcome::Left { handle_gone: true, .. } => {}
                Outcome::Left { handle_gone: false, .. } => return Err(nonsense(step.operation())),
            }
        }
        Err(handle_gone(step.operation()))
    }

    pub(super) async fn renew(&self, key: &str, owner: &str, seen: &Entry, deadline: Deadline) -> Result<LockRenewal, Error> {
        let _writing = self.own_writes.begin(key);
        let seen_revision = number(&seen.revision);
        let mut held = self.handle_for_lock(deadline).await?;
        let mut step = match seen_revision {
            Some(revision) if seen.value == owner.as_bytes() && seen.handle != Some(handle_id(held.id)) => Step::Rebind(revision),
            _ => Step::Confirm,
        };
        for _ in 0..MOST_STEPS {
            let (found, handle_gone) = match self.step(step, key, owner, held, deadline).await? {
                Outcome::Ours(grip) => return Ok(LockRenewal::Kept(grip)),
                Outcome::Left { found, handle_gone } => (found, handle_gone),
            };
            step = match found {
                None => Step::Create,
                Some(entry) if entry.value != owner.as_bytes() => return Ok(LockRenewal::Lost),
                Some(entry) if entry.handle == Some(handle_id(held.id)) => Step::Confirm,
                Some(entry) => match seen_revision.filter(|_| entry.revision == seen.revision) {
                    Some(revision) => Step::Rebind(revision),
                    None => return Ok(LockRenewal::Moved(entry)),
                },
            };
            if handle_gone {
                held = self.handle_for_lock(deadline).await?;
            }
        }
        // Each step was answered, and none of them wrote.
        let error = Error::new(STORE, RENEW, ErrorKind::Unavailable, Fate::NotApplied);
        Err(error.because("the lock or our handle changed between any two looks"))
    }

    async fn step(&self, step: Step, key: &str, owner: &str, held: Held, deadline: Deadline) -> Result<Outcome, Error> {
        let sent_at = self.keeper.now();
        let reply = self.propose(step.operation(), step.transaction(key, owner, held), deadline).await?;
        match (reply.held, &reply.done[..]) {
            (true, [Done::Handle(_), written @ ..]) if matches!(written, [] | [Done::Written]) => {
                let lease = self.keeper.proved(held, sent_at).lease;
                let written = (!written.is_empty()).then(|| Revision::from(reply.index));
                Ok(Outcome::Ours(Grip { lease, written }))
            }
            (false, [refreshed @ (Done::Handle(_) | Done::HandleGone), Done::Found(found)]) => {
                let handle_gone = *refreshed == Done::HandleGone;
                if handle_gone {
                    self.keeper.forget(held.id);
                } else {
                    self.keeper.proved(held, sent_at);
                }
                Ok(Outcome::Left { found: found.clone().map(entry), handle_gone })
            }
            _ => Err(nonsense(step.operation())),
        }
    }
}
