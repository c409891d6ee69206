//! Whether a history of operations on one key could have happened one after the other, each at some instant between its
//! beginning and its end. (The search of Wing and Gong, with Lowe's memory of what has been tried.)

use std::collections::HashSet;

/// What a client did. Values are unique in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Write(u64),
    Delete,
    /// Writes only if there is nothing.
    Create(u64),
    /// Writes only if this is there.
    Swap {
        expected: u64,
        value: u64,
    },
    Read,
}

/// What it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was done.
    Done,
    /// The condition did not hold, and nothing was done.
    Refused,
    /// What was there.
    Found(Option<u64>),
    /// It may have been done, or may still be.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) action: Action,
    pub(crate) outcome: Outcome,
    pub(crate) began: u64,
    /// Never, if the outcome is unknown.
    pub(crate) ended: u64,
}

/// The value after an action, if what the client was told fits the value before.
fn after(value: Option<u64>, operation: &Operation) -> Option<Option<u64>> {
    let (next, done) = match operation.action {
        Action::Write(new) => (Some(new), true),
        Action::Delete => (None, true),
        Action::Create(new) if value.is_none() => (Some(new), true),
        Action::Swap { expected, value: new } if value == Some(expected) => (Some(new), true),
        Action::Create(_) | Action::Swap { .. } => (value, false),
        Action::Read => {
            let fits = matches!(operation.outcome, Outcome::Unknown) || operation.outcome == Outcome::Found(value);
            return fits.then_some(value);
        }
    };
    let fits = match operation.outcome {
        Outcome::Done => done,
        Outcome::Refused => !done,
        Outcome::Unknown => true,
        Outcome::Found(_) => false,
    };
    fits.then_some(next)
}

/// Whether there is an order that explains the history. At most 128 operations.
pub(crate) fn is_linearizable(history: &[Operation]) -> bool {
    assert!(history.len() <= 128, "the search is meant for short histories");
    let wanted: u128 = history
        .iter()
        .enumerate()
        .filter(|(_, operation)| operation.outcome != Outcome::Unknown)
        .fold(0, |set, (position, _)| set | (1 << position));
    let mut tried: HashSet<(u128, Option<u64>)> = HashSet::new();
    let mut open = vec![(0_u128, None)];
    while let Some((done, value)) = open.pop() {
        if done & wanted == wanted {
            return true;
        }
        if !tried.insert((done, value)) {
            continue;
        }
        let left = || history.iter().enumerate().filter(|(position, _)| done & (1 << position) == 0);
        // Whatever comes next must have begun before the first of the others ended.
        let first_end = left().map(|(_, operation)| operation.ended).min().unwrap_or(u64::MAX);
        for (position, operation) in left().filter(|(_, operation)| operation.began <= first_end) {
            if let Some(next) = after(value, operation) {
                open.push((done | (1 << position), next));
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(action: Action, outcome: Outcome, began: u64, ended: u64) -> Operation {
        Operation { action, outcome, began, ended }
    }

    #[test]
    fn a_read_after_a_write_that_ended_must_see_it() {
        let write = operation(Action::Write(1), Outcome::Done, 0, 10);
        assert!(is_linearizable(&[write, operation(Action::Read, Outcome::Found(Some(1)), 11, 12)]));
        assert!(!is_linearizable(&[write, operation(Action::Read, Outcome::Found(None), 11, 12)]), "a stale read");
    }

    #[test]
    fn a_read_beside_a_write_may_see_it_or_not_but_not_lose_it_again() {
        let write = operation(Action::Write(1), Outcome::Done, 0, 100);
        let seen = operation(Action::Read, Outcome::Found(Some(1)), 10, 20);
        let not_seen = operation(Action::Read, Outcome::Found(None), 10, 20);
        assert!(is_linearizable(&[write, seen]));
        assert!(is_linearizable(&[write, not_seen]));
        assert!(!is_linearizable(&[write, seen, operation(Action::Read, Outcome::Found(None), 30, 40)]));
    }

    #[test]
    fn only_one_of_two_creates_can_have_been_done() {
        let one = operation(Action::Create(1), Outcome::Done, 0, 10);
        assert!(!is_linearizable(&[one, operation(Action::Create(2), Outcome::Done, 0, 10)]));
        assert!(is_linearizable(&[one, operation(Action::Create(2), Outcome::Refused, 0, 10)]));
    }

    #[test]
    fn what_is_not_known_may_have_been_done_late_or_never() {
        let lost = operation(Action::Write(1), Outcome::Unknown, 0, u64::MAX);
        assert!(is_linearizable(&[lost, operation(Action::Read, Outcome::Found(None), 5, 6)]));
        assert!(is_linearizable(&[
            lost,
            operation(Action::Read, Outcome::Found(None), 5, 6),
            operation(Action::Read, Outcome::Found(Some(1)), 7, 8)
        ]));
        assert!(!is_linearizable(&[operation(Action::Read, Outcome::Found(Some(1)), 0, 1), Operation { began: 5, ..lost }]));
    }
}
