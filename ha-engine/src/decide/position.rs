//! How far a node is, when nodes may be on different timelines.
//!
//! A bare LSN lies when timelines differ: what a node wrote after the point where its timeline was left counts for
//! nothing. So a position is compared by what it is worth on the newest timeline anybody knows (hardening rule X2).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use dcs_core::model::{HistoryLine, Lsn, Timeline};

/// Where a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The bare position.
    pub(crate) lsn: Lsn,
    /// The timeline it is on.
    pub(crate) timeline: Timeline,
}

/// Where timelines were left, and the newest one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lineage {
    newest: u32,
    switches: BTreeMap<u32, Lsn>,
}

impl Lineage {
    /// The lineage told by history lines.
    pub(crate) fn new(lines: &[HistoryLine]) -> Self {
        let mut lineage = Self::default();
        lineage.learn(lines);
        lineage
    }

    /// Adds history lines; known switch points stay.
    pub(crate) fn learn(&mut self, lines: &[HistoryLine]) {
        for line in lines {
            self.switches.entry(line.timeline).or_insert(line.lsn);
            self.newest = self.newest.max(line.timeline.saturating_add(1));
        }
    }

    /// Takes note of a timeline that somebody is on.
    pub(crate) fn note(&mut self, timeline: Timeline) {
        self.newest = self.newest.max(timeline.0);
    }

    /// Whether `timeline` is older than the newest one.
    pub(crate) fn is_old(&self, timeline: Timeline) -> bool {
        timeline.0 < self.newest
    }

    /// What `position` is worth on the newest timeline; nothing if a switch point on the way is unknown: then the node is
    /// behind everybody who is on the newest one.
    pub(crate) fn worth(&self, position: Position) -> Option<Lsn> {
        (position.timeline.0..self.newest)
            .map(|timeline| self.switches.get(&timeline).copied())
            .try_fold(position.lsn, |worth, switch| switch.map(|switch| worth.min(switch)))
    }

    /// Whether somebody at `theirs` on a newer timeline, who knows nothing of lineages, would take `mine` for further ahead
    /// although it is behind.
    pub(crate) fn is_misled(&self, theirs: Position, mine: Position) -> bool {
        theirs.timeline > mine.timeline && theirs.lsn < mine.lsn && self.compare(theirs, mine) == Ordering::Greater
    }

    /// Compares two positions: greater is further ahead.
    pub(crate) fn compare(&self, a: Position, b: Position) -> Ordering {
        self.worth(a).cmp(&self.worth(b)).then_with(|| a.timeline.cmp(&b.timeline)).then_with(|| a.lsn.cmp(&b.lsn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(timeline: u32, lsn: u64) -> HistoryLine {
        HistoryLine { timeline, lsn: Lsn(lsn), reason: String::new(), timestamp: None, new_leader: None }
    }

    fn at(timeline: u32, lsn: u64) -> Position {
        Position { lsn: Lsn(lsn), timeline: Timeline(timeline) }
    }

    #[test]
    fn on_one_timeline_the_lsn_decides() {
        let lineage = Lineage::new(&[]);
        assert_eq!(lineage.compare(at(1, 20), at(1, 10)), Ordering::Greater);
        assert_eq!(lineage.compare(at(1, 10), at(1, 10)), Ordering::Equal);
    }

    #[test]
    fn what_was_written_after_the_switch_counts_for_nothing() {
        let lineage = Lineage::new(&[line(1, 100)]);
        assert_eq!(lineage.compare(at(1, 500), at(2, 110)), Ordering::Less);
        assert_eq!(lineage.compare(at(1, 500), at(2, 100)), Ordering::Less, "the newer timeline breaks the tie");
        assert_eq!(lineage.compare(at(1, 90), at(2, 100)), Ordering::Less);
    }

    #[test]
    fn a_bare_position_misleads_who_is_really_ahead_on_a_newer_timeline() {
        let lineage = Lineage::new(&[line(1, 100)]);
        assert!(lineage.is_misled(at(2, 110), at(1, 500)));
        assert!(!lineage.is_misled(at(2, 600), at(1, 500)), "the bare position says the same");
        assert!(!lineage.is_misled(at(2, 90), at(1, 500)), "it has not even reached the switch");
        assert!(!lineage.is_misled(at(1, 110), at(1, 500)), "on one timeline the position does not lie");
        assert!(!lineage.is_misled(at(1, 110), at(2, 500)));
    }

    #[test]
    fn every_switch_on_the_way_counts() {
        let lineage = Lineage::new(&[line(1, 100), line(2, 50)]);
        assert_eq!(lineage.compare(at(1, 90), at(3, 60)), Ordering::Less);
    }

    #[test]
    fn a_node_whose_switch_point_is_unknown_is_behind_everybody_on_the_newest_timeline() {
        let mut lineage = Lineage::new(&[]);
        lineage.note(Timeline(3));
        assert_eq!(lineage.compare(at(2, 999), at(3, 1)), Ordering::Less);
        assert_eq!(lineage.compare(at(2, 9), at(2, 8)), Ordering::Greater, "two such nodes compare by their LSN");
    }
}
