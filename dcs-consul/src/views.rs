//! What answers about a prefix have shown, so that two of them can be compared.
//!
//! A [`Cursor`] names one such view. It is a number of our own and not Consul's index, because that goes down: when Consul
//! forgets deletions (after 15 minutes), and when it is restored from a backup. So whether something changed is found out by
//! comparing what is there, and the index only says where a long poll goes on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dcs_core::model::{HandleId, Revision};
use dcs_core::{Change, ChangeKind, Cursor};

use crate::api::Listing;

/// How many views are remembered. A cursor that is older gets "something changed".
const REMEMBERED: usize = 8;

/// By key, what changes with every write.
type Content = BTreeMap<String, (Revision, Option<HandleId>)>;

/// The latest views, of all prefixes.
#[derive(Debug, Default)]
pub(crate) struct Views(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    /// Oldest first.
    views: VecDeque<View>,
}

#[derive(Clone, Debug)]
struct View {
    cursor: Cursor,
    prefix: String,
    /// Where a long poll for changes of this view goes on.
    index: u64,
    content: Arc<Content>,
}

/// What there is to say to somebody who knows one view.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// Nothing has changed as far as is known; a poll for a change goes on at this index.
    Nothing(u64),
    /// These keys differ in the newest view.
    Changed(Vec<Change>, Cursor),
    /// That view is not remembered.
    Unknown(Cursor),
}

impl Views {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in an answer. The same content as before is the same view.
    pub(crate) fn record(&self, prefix: &str, listing: &Listing) -> Cursor {
        let content: Content =
            listing.entries.iter().map(|entry| (entry.key.clone(), (entry.revision.clone(), entry.handle.clone()))).collect();
        let mut inner = self.inner();
        if let Some(newest) = inner.views.iter_mut().rev().find(|view| view.prefix == prefix)
            && *newest.content == content
        {
            newest.index = listing.index;
            return newest.cursor;
        }
        inner.last += 1;
        let cursor = Cursor(inner.last);
        inner.views.push_back(View { cursor, prefix: prefix.to_owned(), index: listing.index, content: Arc::new(content) });
        if inner.views.len() > REMEMBERED {
            inner.views.pop_front();
        }
        cursor
    }

    /// What has changed since the view `known`.
    pub(crate) fn since(&self, prefix: &str, known: Cursor) -> Since {
        let (before, newest) = {
            let inner = self.inner();
            let mut of_prefix = inner.views.iter().filter(|view| view.prefix == prefix);
            let before = of_prefix.clone().find(|view| view.cursor == known).cloned();
            (before, of_prefix.next_back().cloned())
        };
        match (before, newest) {
            (Some(before), Some(newest)) if before.cursor == newest.cursor => Since::Nothing(newest.index),
            (Some(before), Some(newest)) => Since::Changed(differences(&before.content, &newest.content), newest.cursor),
            (_, newest) => Since::Unknown(newest.map_or(known, |view| view.cursor)),
        }
    }
}

/// Deleted keys first, whose time is not known; then the others in the order of their last change.
fn differences(before: &Content, after: &Content) -> Vec<Change> {
    let deleted = before.keys().filter(|key| !after.contains_key(*key)).map(|key| Change {
        key: key.clone(),
        kind: ChangeKind::Deleted,
        revision: None,
        entry: None,
    });
    let mut written: Vec<Change> = after
        .iter()
        .filter(|(key, now)| before.get(*key) != Some(*now))
        .map(|(key, (revision, _))| {
            let kind = if before.contains_key(key) { ChangeKind::Changed } else { ChangeKind::Created };
            Change { key: key.clone(), kind, revision: Some(revision.clone()), entry: None }
        })
        .collect();
    written.sort_by_key(|change| change.revision.as_ref().and_then(|revision| revision.as_str().parse::<u64>().ok()));
    deleted.chain(written).collect()
}

#[cfg(test)]
mod tests {
    use dcs_core::Entry;

    use super::*;

    const PREFIX: &str = "/service/demo/";

    fn listing(index: u64, keys: &[(&str, u64)]) -> Listing {
        let entry = |(key, revision): &(&str, u64)| Entry {
            key: format!("{PREFIX}{key}"),
            value: Vec::new(),
            revision: Revision::from(*revision),
            handle: None,
        };
        Listing { entries: keys.iter().map(entry).collect(), index, leaderless: false }
    }

    #[test]
    fn the_same_content_is_the_same_view_whatever_the_index() {
        let views = Views::default();
        let first = views.record(PREFIX, &listing(10, &[("a", 3)]));
        assert_eq!(views.record(PREFIX, &listing(25, &[("a", 3)])), first);
        assert_eq!(views.since(PREFIX, first), Since::Nothing(25));
        // Consul has forgotten a deletion.
        assert_eq!(views.record(PREFIX, &listing(3, &[("a", 3)])), first);
        assert_eq!(views.since(PREFIX, first), Since::Nothing(3));
    }

    #[test]
    fn changes_are_named_in_their_order() {
        let views = Views::default();
        let first = views.record(PREFIX, &listing(10, &[("a", 3), ("b", 4), ("c", 5)]));
        let second = views.record(PREFIX, &listing(20, &[("b", 20), ("c", 5), ("d", 19)]));
        let Since::Changed(changes, cursor) = views.since(PREFIX, first) else { panic!("it changed") };
        let told: Vec<_> = changes.iter().map(|change| (change.key.as_str(), change.kind)).collect();
        assert_eq!(
            told,
            [("/service/demo/a", ChangeKind::Deleted), ("/service/demo/d", ChangeKind::Created), ("/service/demo/b", ChangeKind::Changed)]
        );
        assert_eq!(cursor, second);
        assert_eq!(views.since(PREFIX, second), Since::Nothing(20));
    }

    #[test]
    fn a_restored_consul_with_lower_indexes_hides_no_change() {
        let views = Views::default();
        let first = views.record(PREFIX, &listing(9000, &[("leader", 8999)]));
        let second = views.record(PREFIX, &listing(120, &[("leader", 100)]));
        assert!(second > first);
        assert!(matches!(views.since(PREFIX, first), Since::Changed(changes, _) if changes.len() == 1));
        assert_eq!(views.since(PREFIX, second), Since::Nothing(120));
    }

    #[test]
    fn what_is_not_remembered_may_have_changed() {
        let views = Views::default();
        let first = views.record(PREFIX, &listing(1, &[]));
        let other = views.record("/service/other/", &listing(1, &[]));
        assert_eq!(views.since(PREFIX, first), Since::Nothing(1));
        assert_eq!(views.since(PREFIX, other), Since::Unknown(first));
        for index in 2..20 {
            views.record(PREFIX, &listing(index, &[("a", index)]));
        }
        assert!(matches!(views.since(PREFIX, first), Since::Unknown(_)));
    }
}
