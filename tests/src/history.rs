//! What happened, as clients saw it, and what follows from that.
//!
//! Nothing here trusts an agent. A node was primary at some moment between sending a write to it and its acknowledgement; a row is safe when a
//! client was told so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// A write that a node accepted.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Who.
    pub node: String,
    /// On which timeline.
    pub timeline: u32,
    /// When it was sent, which is before it was accepted.
    pub sent: Instant,
    /// When the client learned of it, which is after.
    pub acknowledged: Instant,
}

/// A numbered row that the client was told is safe.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its number; numbers grow with time and are never used twice.
    pub number: i64,
    /// The write that made it.
    pub write: Accepted,
}

/// One look at a node's `/primary`.
#[derive(Clone, Debug)]
struct Health {
    node: String,
    is_primary: bool,
    sent: Instant,
    answered: Instant,
}

/// How many acknowledged rows a scenario may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// None: nothing died, or what died came back.
    None,
    /// With asynchronous replication, the last rows that a primary acknowledged before it was torn away: a run without gaps at the end of its
    /// timeline, and no longer than this.
    UnreplicatedTail(Duration),
}

impl Loss {
    /// What a sudden death may cost on a machine where replication takes milliseconds.
    pub const SUDDEN_DEATH: Self = Self::UnreplicatedTail(Duration::from_secs(2));
}

/// Everything that clients saw.
#[derive(Debug)]
pub struct History {
    began: Instant,
    records: Mutex<Records>,
}

#[derive(Debug, Default)]
struct Records {
    rows: Vec<Row>,
    probes: Vec<Accepted>,
    health: Vec<Health>,
}

impl Default for History {
    fn default() -> Self {
        Self { began: Instant::now(), records: Mutex::default() }
    }
}

impl History {
    /// Records an acknowledged row.
    pub fn row(&self, number: i64, write: Accepted) {
        self.lock().rows.push(Row { number, write });
    }

    /// Records a write that was sent to one node only to see whether it accepts any.
    pub fn probe(&self, write: Accepted) {
        self.lock().probes.push(write);
    }

    /// Records an answer to `GET /primary`; no answer counts as no.
    pub fn health(&self, node: &str, is_primary: bool, sent: Instant) {
        let health = Health { node: node.to_owned(), is_primary, sent, answered: Instant::now() };
        self.lock().health.push(health);
    }

    /// The rows acknowledged so far.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        self.lock().rows.clone()
    }

    /// How many rows were acknowledged so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().rows.len()
    }

    /// The longest time without an acknowledged row that ended after `since`.
    #[must_use]
    pub fn longest_gap_since(&self, since: Instant) -> Duration {
        let records = self.lock();
        let acknowledged = records.rows.iter().map(|row| row.write.acknowledged);
        let mut before = None;
        let mut longest = Duration::ZERO;
        for now in acknowledged {
            if let Some(before) = before
                && now > since
            {
                longest = longest.max(now - before);
            }
            before = Some(now);
        }
        longest
    }

    /// Fails if two nodes were primary at the same time.
    ///
    /// Three things would show it: a timeline that two nodes wrote; a write on an older timeline that was sent after another node had already
    /// acknowledged one on a newer; two nodes whose `/primary` was 200 over times that overlap.
    ///
    /// # Errors
    ///
    /// With the two events that cannot both be.
    pub fn assert_never_two_primaries(&self) -> Result<()> {
        let records = self.lock();
        let mut writes: Vec<&Accepted> = records.rows.iter().map(|row| &row.write).chain(&records.probes).collect();
        self.one_writer_per_timeline(&writes)?;
        writes.sort_by_key(|write| write.acknowledged);
        self.no_older_timeline_after_a_newer(&writes)?;
        self.one_primary_by_health(&records.health)
    }

    /// Fails if two nodes said at the same time that their lease was valid, or wrote the same timeline. What is left of
    /// [`History::assert_never_two_primaries`] while an agent is stopped or dead and its PostgreSQL goes on without a lease.
    ///
    /// # Errors
    ///
    /// If they did.
    pub fn assert_never_two_leases(&self) -> Result<()> {
        let records = self.lock();
        let writes: Vec<&Accepted> = records.rows.iter().map(|row| &row.write).chain(&records.probes).collect();
        self.one_writer_per_timeline(&writes)?;
        self.one_primary_by_health(&records.health)
    }

    /// The numbers of the rows that were acknowledged on a later timeline than `timeline`.
    pub fn acknowledged_after(&self, timeline: u32) -> BTreeSet<i64> {
        self.lock().rows.iter().filter(|row| row.write.timeline > timeline).map(|row| row.number).collect()
    }

    fn one_writer_per_timeline(&self, writes: &[&Accepted]) -> Result<()> {
        let mut owners: BTreeMap<u32, &Accepted> = BTreeMap::new();
        for write in writes {
            let owner = owners.entry(write.timeline).or_insert(write);
            if owner.node != write.node {
                bail!("two nodes wrote the same timeline: {}, and {}", self.tell(owner), self.tell(write));
            }
        }
        Ok(())
    }

    /// `writes` are in the order of their acknowledgement.
    fn no_older_timeline_after_a_newer(&self, writes: &[&Accepted]) -> Result<()> {
        // For each write, the newest timeline acknowledged before it was sent: both orders are walked once.
        let mut by_sending = writes.to_vec();
        by_sending.sort_by_key(|write| write.sent);
        let mut earlier = writes.iter().peekable();
        let mut newest: Option<&Accepted> = None;
        for write in by_sending {
            while let Some(done) = earlier.next_if(|done| done.acknowledged < write.sent) {
                if newest.is_none_or(|newest| done.timeline > newest.timeline) {
                    newest = Some(done);
                }
            }
            if let Some(newest) = newest
                && newest.timeline > write.timeline
            {
                bail!("a deposed primary accepted a write: {}, but before that {}", self.tell(write), self.tell(newest));
            }
        }
        Ok(())
    }

    fn one_primary_by_health(&self, samples: &[Health]) -> Result<()> {
        let mut reigns: Vec<Reign<'_>> = Vec::new();
        let mut current: BTreeMap<&str, Reign<'_>> = BTreeMap::new();
        for sample in samples {
            if sample.is_primary {
                current.entry(&sample.node).and_modify(|reign| reign.until = sample.sent).or_insert(Reign {
                    node: &sample.node,
                    from: sample.answered,
                    until: sample.sent,
                });
            } else if let Some(reign) = current.remove(sample.node.as_str()) {
                reigns.push(reign);
            }
        }
        reigns.extend(current.into_values());
        // A reign of one sample has its beginning after its end, and overlaps with nothing: it proves one moment only.
        for (index, one) in reigns.iter().enumerate() {
            for other in &reigns[index + 1..] {
                if one.node != other.node && one.from.max(other.from) < one.until.min(other.until) {
                    bail!("`/primary` was 200 on two nodes at the same time: {}, and {}", self.tell_reign(one), self.tell_reign(other));
                }
            }
        }
        Ok(())
    }

    /// Fails if an acknowledged row is not among those that are `present`, unless `loss` allows for it.
    ///
    /// # Errors
    ///
    /// With the first row that is missing and may not be.
    pub fn assert_no_acknowledged_row_missing(&self, present: &BTreeSet<i64>, loss: Loss) -> Result<()> {
        let records = self.lock();
        // The last row of each timeline that is still there, and the last that was acknowledged.
        let mut kept: BTreeMap<u32, i64> = BTreeMap::new();
        let mut ends: BTreeMap<u32, Instant> = BTreeMap::new();
        for row in &records.rows {
            ends.insert(row.write.timeline, row.write.acknowledged);
            if present.contains(&row.number) {
                kept.insert(row.write.timeline, row.number);
            }
        }
        for row in records.rows.iter().filter(|row| !present.contains(&row.number)) {
            let timeline = row.write.timeline;
            let forgiven = match loss {
                Loss::None => false,
                Loss::UnreplicatedTail(longest) => {
                    let is_tail = kept.get(&timeline).is_none_or(|last| *last < row.number);
                    is_tail && ends.get(&timeline).is_some_and(|end| *end - row.write.acknowledged <= longest)
                }
            };
            if !forgiven {
                let missing = records.rows.iter().filter(|row| !present.contains(&row.number)).count();
                bail!(
                    "{missing} of {} acknowledged rows are missing; the first that may not be is number {}: {}",
                    records.rows.len(),
                    row.number,
                    self.tell(&row.write)
                );
            }
        }
        Ok(())
    }

    fn tell(&self, write: &Accepted) -> String {
        format!("{} wrote on timeline {} {}", write.node, write.timeline, self.between(write.sent, write.acknowledged))
    }

    fn tell_reign(&self, reign: &Reign<'_>) -> String {
        format!("{} {}", reign.node, self.between(reign.from, reign.until))
    }

    fn between(&self, from: Instant, until: Instant) -> String {
        format!("between {:.3} s and {:.3} s", (from - self.began).as_secs_f64(), (until - self.began).as_secs_f64())
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time over which every sample of a node said that it is primary.
#[derive(Clone, Copy)]
struct Reign<'a> {
    node: &'a str,
    from: Instant,
    until: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(history: &History, node: &str, timeline: u32, sent: u64, acknowledged: u64) -> Accepted {
        Accepted {
            node: node.to_owned(),
            timeline,
            sent: history.began + Duration::from_millis(sent),
            acknowledged: history.began + Duration::from_millis(acknowledged),
        }
    }

    #[test]
    fn a_handover_is_not_two_primaries() {
        let history = History::default();
        history.row(1, write(&history, "a", 1, 0, 10));
        history.row(2, write(&history, "a", 1, 20, 500));
        history.row(3, write(&history, "b", 2, 400, 450));
        history.assert_never_two_primaries().expect("a's last write was sent before b's was acknowledged");
    }

    #[test]
    fn a_write_on_the_old_timeline_after_one_on_the_new_is_found() {
        let history = History::default();
        history.row(1, write(&history, "b", 2, 0, 10));
        history.probe(write(&history, "a", 1, 20, 30));
        let error = history.assert_never_two_primaries().expect_err("a was deposed");
        assert!(error.to_string().starts_with("a deposed primary accepted a write: a wrote on timeline 1"), "{error}");
    }

    #[test]
    fn two_writers_of_one_timeline_are_found() {
        let history = History::default();
        history.row(1, write(&history, "a", 2, 0, 10));
        history.probe(write(&history, "b", 2, 20, 30));
        assert!(history.assert_never_two_primaries().is_err());
    }

    #[test]
    fn two_nodes_that_answer_as_primary_over_the_same_time_are_found() {
        let history = History::default();
        let at = |millis| history.began + Duration::from_millis(millis);
        let sample =
            |node: &str, is_primary, sent, answered| Health { node: node.into(), is_primary, sent: at(sent), answered: at(answered) };
        history.lock().health =
            vec![sample("a", true, 0, 1), sample("b", true, 10, 11), sample("a", true, 20, 21), sample("b", true, 30, 31)];
        assert!(history.assert_never_two_primaries().is_err());
        history.lock().health = vec![
            sample("a", true, 0, 1),
            sample("a", true, 20, 21),
            sample("b", true, 22, 31),
            sample("a", false, 30, 31),
            sample("b", true, 40, 41),
        ];
        history.assert_never_two_primaries().expect("one after the other");
    }

    #[test]
    fn only_the_end_of_a_timeline_may_be_lost_and_only_if_the_scenario_says_so() {
        let history = History::default();
        history.row(1, write(&history, "a", 1, 0, 10));
        history.row(2, write(&history, "a", 1, 20, 30));
        history.row(3, write(&history, "a", 1, 40, 50));
        history.row(4, write(&history, "b", 2, 900, 910));
        let loss = Loss::UnreplicatedTail(Duration::from_millis(100));
        let present = |numbers: &[i64]| numbers.iter().copied().collect::<BTreeSet<_>>();

        history.assert_no_acknowledged_row_missing(&present(&[1, 2, 3, 4]), Loss::None).expect("nothing is missing");
        assert!(history.assert_no_acknowledged_row_missing(&present(&[1, 2, 4]), Loss::None).is_err());
        history.assert_no_acknowledged_row_missing(&present(&[1, 4]), loss).expect("the tail of timeline 1");
        assert!(history.assert_no_acknowledged_row_missing(&present(&[1, 3, 4]), loss).is_err(), "a hole");
        let short = Loss::UnreplicatedTail(Duration::from_millis(10));
        assert!(history.assert_no_acknowledged_row_missing(&present(&[1, 4]), short).is_err(), "20 ms are too long");
    }
}
