//! Which answers to relaxed reads are too old to be believed.
//!
//! A server that was leader, and with `stale` any server, may answer from a past in which our own writes have not happened
//! yet. An answer whose index is lower than one that was seen before, or than that of an own write, is asked for again,
//! consistently. Indexes do go down now and then (see [`crate::views`]); then that one question more is all that it costs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The highest index seen under each prefix.
#[derive(Debug, Default)]
pub(crate) struct Freshness(Mutex<HashMap<String, Mark>>);

/// What an answer must at least show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    index: u64,
    /// Counts own changes without an index.
    changes: u64,
    /// Those that a consistent answer has shown.
    shown: u64,
}

impl Mark {
    /// Whether a relaxed answer with this index shows everything that we know to have happened.
    pub(crate) fn is_met_by(&self, index: u64) -> bool {
        self.changes == self.shown && index >= self.index
    }
}

impl Freshness {
    fn marks(&self) -> MutexGuard<'_, HashMap<String, Mark>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an answer about `prefix` that is asked for now must show; nothing if none was seen so far, so that nothing is
    /// known about our own writes before.
    pub(crate) fn mark(&self, prefix: &str) -> Option<Mark> {
        self.marks().get(prefix).copied()
    }

    /// A key was written at `index`.
    pub(crate) fn wrote(&self, key: &str, index: u64) {
        for (_, mark) in self.marks().iter_mut().filter(|(prefix, _)| key.starts_with(prefix.as_str())) {
            mark.index = mark.index.max(index);
        }
    }

    /// We have deleted a key, or may have written it: no index tells.
    pub(crate) fn may_have_changed(&self, key: &str) {
        for (_, mark) in self.marks().iter_mut().filter(|(prefix, _)| key.starts_with(prefix.as_str())) {
            mark.changes += 1;
        }
    }

    /// A relaxed answer that was believed.
    pub(crate) fn saw(&self, prefix: &str, index: u64) {
        if let Some(mark) = self.marks().get_mut(prefix) {
            mark.index = mark.index.max(index);
        }
    }

    /// A consistent answer, asked for when the mark was `before`. It is the truth of then, even if its index is lower.
    pub(crate) fn saw_truth(&self, prefix: &str, before: Option<Mark>, index: u64) {
        let mut marks = self.marks();
        let Some(mark) = marks.get_mut(prefix) else {
            marks.insert(prefix.to_owned(), Mark { index, changes: 0, shown: 0 });
            return;
        };
        let Some(before) = before else { return };
        mark.shown = mark.shown.max(before.changes);
        mark.index = if mark.index == before.index { index } else { mark.index.max(index) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/service/demo/";

    fn seen(index: u64) -> Freshness {
        let freshness = Freshness::default();
        assert_eq!(freshness.mark(PREFIX), None);
        freshness.saw_truth(PREFIX, None, index);
        freshness
    }

    fn meets(freshness: &Freshness, index: u64) -> bool {
        freshness.mark(PREFIX).unwrap().is_met_by(index)
    }

    #[test]
    fn an_answer_from_before_our_own_write_is_not_believed() {
        let freshness = seen(10);
        freshness.wrote("/service/demo/status", 12);
        freshness.wrote("/service/demo2/status", 99);
        assert!(!meets(&freshness, 11));
        assert!(meets(&freshness, 12));
        freshness.saw(PREFIX, 20);
        assert!(!meets(&freshness, 19));
    }

    #[test]
    fn after_a_deletion_of_our_own_only_a_consistent_answer_is_believed() {
        let freshness = seen(10);
        let before = freshness.mark(PREFIX);
        freshness.may_have_changed("/service/demo/sync");
        assert!(!meets(&freshness, 1000));
        // It was asked before the deletion, and need not show it.
        freshness.saw_truth(PREFIX, before, 11);
        assert!(!meets(&freshness, 1000));
        freshness.saw_truth(PREFIX, freshness.mark(PREFIX), 12);
        assert!(meets(&freshness, 12));
    }

    #[test]
    fn an_index_that_really_went_down_is_accepted_after_one_question() {
        let freshness = seen(9000);
        assert!(!meets(&freshness, 100));
        freshness.saw_truth(PREFIX, freshness.mark(PREFIX), 100);
        assert!(meets(&freshness, 100));
        let before = freshness.mark(PREFIX);
        freshness.wrote("/service/demo/leader", 130);
        freshness.saw_truth(PREFIX, before, 110);
        assert!(!meets(&freshness, 120), "the write happened while the question was under way");
    }
}
