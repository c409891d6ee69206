//! The keys under the watched prefix, kept current by the watch, so that a relaxed read need not ask.
//!
//! ```text
//!   a read at revision R ──► all entries, as of R
//!   the watch, after R   ──► one entry after the other
//!   a gap in the watch, a write that was refused ──► forgotten until the next read
//! ```
//!
//! What it shows is always a state that the store had: a read as a whole, or all events up to one revision. A write of our
//! own is not put in by hand; until the watch has brought it, the mirror shows nothing at all, and the store is asked.

use std::collections::BTreeMap;

use dcs_core::{Change, Cursor, Entry, Snapshot};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    entries: BTreeMap<String, Entry>,
    /// Where the read was that `entries` began with; nothing if they are not complete.
    read_at: Option<Cursor>,
    /// The newest change that we know of by other ways than the watch.
    known: Cursor,
}

impl Mirror {
    /// Everything was read while the watch had seen what happened up to `seen`. An older reading is left aside.
    pub(crate) fn replace(&mut self, snapshot: &Snapshot, seen: Cursor) {
        if snapshot.cursor >= seen.max(self.read_at.unwrap_or_default()) {
            self.entries = snapshot.entries.iter().map(|entry| (entry.key.clone(), entry.clone())).collect();
            self.read_at = Some(snapshot.cursor);
        }
    }

    /// The watch has seen `change` at `at`. What a key that is not ours to read holds is in no snapshot either.
    pub(crate) fn apply(&mut self, at: Cursor, change: &Change) {
        if self.read_at.is_none_or(|read_at| at <= read_at) {
            return;
        }
        match &change.entry {
            Some(entry) => drop(self.entries.insert(change.key.clone(), entry.clone())),
            None => drop(self.entries.remove(&change.key)),
        }
    }

    /// The watch did not see everything that happened up to `at`.
    pub(crate) fn missed(&mut self, at: Cursor) {
        if self.read_at.is_some_and(|read_at| read_at < at) {
            self.forget();
        }
    }

    /// Something shows that the entries are not what the store has.
    pub(crate) fn forget(&mut self) {
        self.entries.clear();
        self.read_at = None;
    }

    /// Something changed at `at`: whoever reads from now on must be shown that.
    pub(crate) fn must_show(&mut self, at: Cursor) {
        self.known = self.known.max(at);
    }

    /// Everything, now that the watch has seen what happened up to `seen`; nothing if that is incomplete, or less than we
    /// know.
    pub(crate) fn snapshot(&self, seen: Cursor) -> Option<Snapshot> {
        let cursor = self.read_at?.max(seen);
        (cursor >= self.known).then(|| Snapshot { entries: self.entries.values().cloned().collect(), cursor })
    }
}

#[cfg(test)]
mod tests {
    use dcs_core::ChangeKind;
    use dcs_core::model::Revision;
    use proptest::prelude::*;

    use super::*;

    fn entry(key: &str, revision: u64) -> Entry {
        Entry { key: key.to_owned(), value: Vec::new(), revision: Revision::from(revision), handle: None }
    }

    fn change(key: &str, entry: Option<Entry>) -> Change {
        Change { key: key.to_owned(), kind: ChangeKind::Changed, revision: None, entry }
    }

    fn read(entries: &[(&str, u64)], at: u64) -> Snapshot {
        Snapshot { entries: entries.iter().map(|(key, revision)| entry(key, *revision)).collect(), cursor: Cursor(at) }
    }

    fn shown(mirror: &Mirror, seen: u64) -> Option<Vec<String>> {
        let snapshot = mirror.snapshot(Cursor(seen))?;
        Some(snapshot.entries.iter().map(|entry| format!("{}{}", entry.key, entry.revision)).collect())
    }

    #[test]
    fn nothing_is_shown_before_everything_was_read() {
        let mut mirror = Mirror::default();
        mirror.apply(Cursor(3), &change("a", Some(entry("a", 3))));
        assert_eq!(shown(&mirror, 3), None);
        mirror.replace(&read(&[("a", 3)], 4), Cursor(3));
        assert_eq!(shown(&mirror, 3), Some(vec!["a3".to_owned()]));
    }

    #[test]
    fn a_reading_from_before_what_the_watch_has_seen_is_left_aside() {
        let mut mirror = Mirror::default();
        mirror.replace(&read(&[("a", 3)], 4), Cursor(5));
        assert_eq!(shown(&mirror, 5), None);
        mirror.replace(&read(&[("a", 5)], 6), Cursor(5));
        mirror.replace(&read(&[("a", 3)], 4), Cursor(2));
        assert_eq!(shown(&mirror, 6), Some(vec!["a5".to_owned()]));
    }

    #[test]
    fn what_the_watch_missed_makes_it_forget_unless_it_was_read_since() {
        let mut mirror = Mirror::default();
        mirror.replace(&read(&[("a", 3)], 10), Cursor(5));
        mirror.missed(Cursor(10));
        assert!(shown(&mirror, 10).is_some());
        mirror.missed(Cursor(11));
        assert_eq!(shown(&mirror, 11), None);
    }

    #[test]
    fn a_write_of_our_own_is_shown_or_nothing_is() {
        let mut mirror = Mirror::default();
        mirror.replace(&read(&[("a", 3)], 4), Cursor(0));
        mirror.must_show(Cursor(5));
        assert_eq!(shown(&mirror, 4), None);
        mirror.apply(Cursor(5), &change("a", Some(entry("a", 5))));
        assert_eq!(shown(&mirror, 5), Some(vec!["a5".to_owned()]));
    }

    proptest! {
        /// However reads and events follow each other, what is shown is what the store had at that position.
        #[test]
        fn what_is_shown_is_a_state_that_the_store_had(
            writes in prop::collection::vec((0_u8..4, any::<bool>()), 1..40),
            steps in prop::collection::vec((0_u8..4, 0_usize..40), 1..60),
        ) {
            // The state of the store at each revision, and the event that led there.
            let mut states = vec![BTreeMap::new()];
            let mut events = vec![None];
            for (number, (key, deleted)) in writes.iter().enumerate() {
                let (key, revision) = (key.to_string(), number as u64 + 1);
                let mut state = states[number].clone();
                let now = (!deleted).then(|| entry(&key, revision));
                match now.clone() {
                    Some(entry) => drop(state.insert(key.clone(), entry)),
                    None => drop(state.remove(&key)),
                }
                states.push(state);
                events.push(Some((key, now)));
            }
            let newest = writes.len();
            let (mut mirror, mut seen) = (Mirror::default(), 0_usize);
            for (step, number) in steps {
                match step {
                    // A server that is perhaps behind is read.
                    0 => {
                        let at = number.min(newest);
                        let snapshot = Snapshot { entries: states[at].values().cloned().collect(), cursor: Cursor(at as u64) };
                        mirror.replace(&snapshot, Cursor(seen as u64));
                    }
                    // The watch begins anew, with a gap.
                    1 if number % 4 == 0 => {
                        seen = (seen + number % 3).min(newest);
                        mirror.missed(Cursor(seen as u64));
                    }
                    _ if seen < newest => {
                        seen += 1;
                        if let Some((key, now)) = &events[seen] {
                            mirror.apply(Cursor(seen as u64), &change(key, now.clone()));
                        }
                    }
                    _ => mirror.must_show(Cursor(number.min(newest) as u64)),
                }
                if let Some(snapshot) = mirror.snapshot(Cursor(seen as u64)) {
                    let expected: Vec<Entry> = states[snapshot.cursor.0 as usize].values().cloned().collect();
                    prop_assert_eq!(snapshot.entries, expected);
                    prop_assert!(snapshot.cursor >= mirror.known);
                }
            }
        }
    }
}
