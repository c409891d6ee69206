//! What a decision says about itself: which rule, what it looked at, what came of it. So that an operator can ask
//! afterwards why a failover happened, and why nobody took over.
//!
//! Rules leave their record with [`Cycle::note`](super::cycle::Cycle::note). What a cycle changes without saying why is
//! recorded all the same, by [`complete`]: nothing is ever changed without a trace.

mod rule;

use dcs_core::model::{Lsn, MemberName, Timeline};

pub use self::rule::{Outcome, Rule};
use super::action::Effect;
use super::cycle::Cycle;
use super::observation::Monitor;

/// More candidates than a person reads; the record tells how many there were.
const MOST_CANDIDATES: usize = 64;
/// The longest text that is kept of anything. Names and error messages come from outside.
const LONGEST_TEXT: usize = 400;

/// What a rule looked at or decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The rule.
    pub rule: Rule,
    /// What came of it, in a sentence. The same words as long as the same is the case: numbers that move are facts.
    pub what: String,
    /// What the rule looked at, by name.
    pub facts: Vec<Fact>,
    /// The members that were asked, sorted by name.
    pub candidates: Vec<Candidate>,
}

/// Something that a rule looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

/// What a member that was asked is worth to the one that asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The member.
    pub member: MemberName,
    /// Why it counts, or why it does not. The same words as long as the same is the case.
    pub reason: String,
    /// Where it is, if it said so.
    pub position: Option<Lsn>,
    /// Its timeline, if it said so.
    pub timeline: Option<Timeline>,
}

impl Record {
    /// A record without facts.
    pub fn new(rule: Rule, what: impl Into<String>) -> Self {
        Self { rule, what: what.into(), facts: Vec::new(), candidates: Vec::new() }
    }

    /// The same with one more fact.
    #[must_use]
    pub fn fact(mut self, name: &'static str, value: impl ToString) -> Self {
        self.facts.push(Fact { name, value: value.to_string() });
        self
    }

    /// The same with one more fact, if it is known.
    #[must_use]
    pub fn fact_if(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.fact(name, value),
            None => self,
        }
    }

    /// The same with the members that were asked.
    #[must_use]
    pub fn with_candidates(mut self, mut candidates: Vec<Candidate>) -> Self {
        candidates.sort_by(|one, other| one.member.cmp(&other.member));
        self.candidates = candidates;
        self
    }

    /// Whether it says the same as `other`; positions and other facts may have moved.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let reasons = |record: &Self| -> Vec<(MemberName, String)> {
            record.candidates.iter().map(|candidate| (candidate.member.clone(), candidate.reason.clone())).collect()
        };
        self.rule == other.rule && self.what == other.what && reasons(self) == reasons(other)
    }

    /// The same, cut to what is worth keeping.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let all = self.candidates.len();
        if all > MOST_CANDIDATES {
            self.candidates.truncate(MOST_CANDIDATES);
            self = self.fact("candidates", all);
        }
        let facts = self.facts.iter_mut().map(|fact| &mut fact.value);
        let reasons = self.candidates.iter_mut().map(|candidate| &mut candidate.reason);
        facts.chain(reasons).chain([&mut self.what]).for_each(cut);
        self
    }
}

fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(LONGEST_TEXT) {
        text.truncate(end);
        text.push('…');
    }
}

/// A last look at a decision: what it changes and no rule has accounted for.
pub(super) fn complete(c: &mut Cycle<'_>, line: &str) {
    let unaccounted = !c.journal.iter().any(|record| record.rule.outcome() == Outcome::Changed);
    if unaccounted {
        if let Some(task) = &c.task {
            let record = Record::new(Rule::Task, line).fact("task", task.name());
            c.note(record);
        } else if let Some(deed) = c.effects.iter().find_map(deed) {
            let record = Record::new(Rule::Effect, line).fact("done", deed);
            c.note(record);
        }
    }
}

/// The same record with what every one of them tells: how things stand at this point of the decision.
pub(super) fn with_surroundings(c: &Cycle<'_>, record: Record) -> Record {
    let monitor = &c.obs.server.monitor;
    let timeline = match monitor {
        Monitor::Primary(primary) => Some(primary.timeline),
        Monitor::Standby(standby) => standby.received_timeline.or(c.memory.own_last_timeline),
        Monitor::NotAsked | Monitor::Failed => None,
    };
    let told = |name: &str| record.facts.iter().any(|fact| fact.name == name);
    let (position, timeline) = (monitor.lsn().filter(|_| !told("my_position")), timeline.filter(|_| !told("my_timeline")));
    record
        .fact("lock", c.view.leader_name().map_or("free", MemberName::as_str))
        .fact("my_role", c.role())
        .fact_if("my_position", position)
        .fact_if("my_timeline", timeline)
        .fact_if("paused", c.paused().then_some("yes"))
}

/// What an effect changes, in words; nothing if it is a part of every day.
fn deed(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Demote(kind) => format!("PostgreSQL is stopped and becomes a standby ({})", kind.as_str()),
        Effect::StopImmediately => "PostgreSQL is stopped".to_owned(),
        Effect::CancelTask => "the running task is cancelled".to_owned(),
        Effect::ReleaseLock(_) => "the leader lock is released".to_owned(),
        Effect::WriteInitialize(_, system_id) => format!("the initialize key is written: {system_id}"),
        Effect::CancelInitialize => "the initialize key is removed".to_owned(),
        Effect::WriteConfig => "the config key is written".to_owned(),
        Effect::WriteHistory(_) => "the history key is written".to_owned(),
        Effect::ResumeReplay => "WAL replay is resumed".to_owned(),
        Effect::FollowByReload(plan) => match &plan.upstream {
            Some(upstream) => format!("PostgreSQL follows {}", upstream.name),
            None => "PostgreSQL follows nobody".to_owned(),
        },
        Effect::MoveDataDirectoryAside => "the data directory is moved aside".to_owned(),
        Effect::RemoveDataDirectory => "the data directory is removed".to_owned(),
        Effect::Exit(_) => "the agent ends".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, reason: &str, position: u64) -> Candidate {
        Candidate { member: name.into(), reason: reason.to_owned(), position: Some(Lsn(position)), timeline: None }
    }

    #[test]
    fn positions_may_move_but_reasons_may_not() {
        let record = |position, reason| {
            Record::new(Rule::RaceBehind, "b is ahead")
                .fact("my_position", position)
                .with_candidates(vec![candidate("b", reason, position)])
        };
        assert!(record(1, "ahead").says_the_same_as(&record(2, "ahead")));
        assert!(!record(1, "ahead").says_the_same_as(&record(1, "did not answer")));
    }

    #[test]
    fn candidates_are_told_in_the_same_order_however_they_answered() {
        let (b, c) = (candidate("b", "x", 1), candidate("c", "y", 1));
        let one = Record::new(Rule::RaceWon, "won").with_candidates(vec![b.clone(), c.clone()]);
        assert!(one.says_the_same_as(&Record::new(Rule::RaceWon, "won").with_candidates(vec![c, b])));
    }

    #[test]
    fn what_comes_from_outside_does_not_make_a_record_large() {
        let many = (0..1000).map(|number| candidate(&format!("n{number}"), &"ä".repeat(10_000), 1)).collect();
        let record = Record::new(Rule::RaceWon, "x".repeat(10_000)).fact("error", "y".repeat(10_000)).with_candidates(many).bounded();
        assert_eq!(record.candidates.len(), MOST_CANDIDATES);
        let longest = record.candidates.iter().map(|candidate| candidate.reason.chars().count()).max();
        assert_eq!(longest, Some(LONGEST_TEXT + 1));
        assert!(record.what.len() < 1000 && record.facts.iter().all(|fact| fact.value.len() < 1000));
        assert!(record.facts.contains(&Fact { name: "candidates", value: "1000".to_owned() }));
    }
}
