//! Who could take over, and how far the others are: the comparison of section 2.3 and the question "is a failover
//! possible?" of section 2.7.

use std::cmp::Ordering;

use dcs_core::model::{ClusterView, FailoverRequest, Lsn, Member, MemberName, Tags, Timeline};

use super::action::{Ask, Effect};
use super::ballot::{self, Ballot, Said};
use super::cycle::{Cycle, Outcome};
use super::failsafe;
use super::journal::{Candidate, Record, Rule};
use super::observation::{PeerAnswer, PeerStatus, PeerTarget};
use super::position::{Lineage, Position};
use super::sync::electorate::Electorate;
use crate::settings::GlobalConfig;

/// Why an answer does not count. `published` are the tags in the node's member key.
///
/// A node behind a newer timeline may say `nofailover` in its answer only to make Patroni's agents skip it (hardening rule
/// X2); for it the member key counts, so that the tag costs no vote.
pub(super) fn limitation(status: &PeerStatus, published: &Tags, lineage: &Lineage) -> Option<&'static str> {
    let behind = status.timeline.is_some_and(|timeline| lineage.is_old(timeline));
    if published.nofailover() || (status.tags.nofailover() && !behind) {
        return Some("not allowed to promote");
    }
    status.watchdog_failed.then_some("not watchdog capable")
}

/// What is said of a node that did not answer.
pub(super) const NOT_REACHABLE: &str = "not reachable";

/// The lineage that the history in the store and the timelines seen so far tell of.
pub(super) fn known_lineage(c: &Cycle<'_>) -> Lineage {
    // Hardening rule X2 is off in a standby cluster: its timelines are those of somebody else.
    if c.cfg.standby_cluster.is_some() {
        return Lineage::default();
    }
    let mut lineage = c.view.history.as_ref().map(|history| Lineage::new(&history.lines)).unwrap_or_default();
    c.memory.leader_timeline.into_iter().chain(c.memory.own_last_timeline).for_each(|timeline| lineage.note(timeline));
    lineage
}

/// The word for what is going on: `switchover` with a leader to step down, `manual failover` with only a candidate,
/// `failover` without a request.
pub(super) fn action_word(request: Option<&FailoverRequest>) -> &'static str {
    match request {
        Some(request) if request.leader.is_some() => "switchover",
        Some(request) if request.candidate.is_some() => "manual failover",
        _ => "failover",
    }
}

/// The last word of an action: `switchover` or `failover`.
pub(super) fn kind_word(request: &FailoverRequest) -> &'static str {
    if request.leader.is_some() { "switchover" } else { "failover" }
}

/// A member that can be asked.
pub(super) fn target(member: &Member) -> Option<PeerTarget> {
    let api_url = member.record.api_url.clone().filter(|url| !url.is_empty())?;
    Some(PeerTarget { name: member.name.clone(), api_url })
}

/// The timeline that the cluster should be on, by its history.
pub(super) fn cluster_timeline(view: &ClusterView) -> Option<Timeline> {
    view.history.as_ref().and_then(|history| history.cluster_timeline())
}

/// The members to compare with: those of the last view that had a leader, those in the map of failsafe mode, and those of
/// the current view; the later replace the former by name.
pub(super) fn known_members(c: &Cycle<'_>) -> Vec<Member> {
    let mut members: Vec<Member> = c.view.members.clone();
    if c.cfg.failsafe_mode {
        for member in failsafe::bare_members(&c.view) {
            if members.iter().all(|known| known.name != member.name) {
                members.push(member);
            }
        }
    }
    if let Some(remembered) = &c.memory.last_locked_view {
        for member in &remembered.members {
            if members.iter().all(|known| known.name != member.name) {
                members.push(member.clone());
            }
        }
    }
    members.retain(|member| member.name != *c.me());
    members
}

/// Whether `status` speaks for this cluster: a reused address may answer for another one.
fn is_ours(c: &Cycle<'_>, status: &PeerStatus) -> bool {
    let system_id = c.obs.server.system_id.as_ref();
    match (&status.system_id, system_id) {
        (Some(theirs), Some(ours)) => theirs == ours.as_str(),
        _ => true,
    }
}

/// My position and timeline, for comparisons. On a standby the timeline is read by the replication protocol.
fn own_position(c: &Cycle<'_>) -> Outcome<(Option<Lsn>, Option<Timeline>)> {
    use super::action::Answer;
    use super::observation::Monitor;

    let lsn = c.obs.server.monitor.lsn();
    let timeline = match &c.obs.server.monitor {
        Monitor::Primary(primary) => Some(primary.timeline),
        _ => match c.need(Ask::OwnTimeline)? {
            Answer::OwnTimeline(timeline) => *timeline,
            _ => None,
        },
    };
    Ok((lsn, timeline))
}

/// Whom to compare with, and how strictly.
pub(super) struct Comparison<'m> {
    /// The members whose positions count.
    pub(super) members: &'m [Member],
    /// Whether falling behind the last known position of the leader rules me out.
    pub(super) check_lag: bool,
    /// The former leader: a higher priority of it is no reason to defer to it.
    pub(super) former_leader: Option<MemberName>,
    /// Whom `/sync` lets win; nothing: anybody.
    pub(super) electorate: Option<&'m Electorate>,
    /// Whether every other known member is asked too, only to find a primary that is still alive (hardening rule X3).
    pub(super) look_for_primaries: bool,
    /// Left out of that search: the leader of a switchover, who has stepped down.
    pub(super) except: Option<MemberName>,
}

/// "Am I at least as far as everybody who could take over?" (section 2.3)
pub(super) fn is_healthiest(c: &mut Cycle<'_>, comparison: &Comparison<'_>) -> Outcome<bool> {
    // A voter is asked although it may not promote: what it says about a primary counts.
    let votes =
        |member: &Member| comparison.electorate.is_some_and(|electorate| electorate.counts_votes() && electorate.includes(&member.name));
    let counted: Vec<&Member> = comparison.members.iter().filter(|member| !member.record.tags.nofailover() || votes(member)).collect();
    let mut targets: Vec<PeerTarget> = counted.iter().filter_map(|member| target(member)).collect();
    if comparison.look_for_primaries {
        for member in known_members(c) {
            if comparison.except.as_ref() != Some(&member.name) && targets.iter().all(|known| known.name != member.name) {
                targets.extend(target(&member));
            }
        }
    }
    // Both questions go out together: the poll takes as long as its slowest answer.
    let mut asks = vec![Ask::OwnTimeline];
    if !targets.is_empty() {
        asks.push(Ask::Poll(targets.clone()));
    }
    if !c.is_primary() {
        c.need_all(&asks)?;
    }
    let (lsn, timeline) = own_position(c)?;
    // As in `known_lineage`.
    let timeline = timeline.filter(|_| c.cfg.standby_cluster.is_none());
    let Some(lsn) = lsn else {
        c.info("Can not figure out my WAL position");
        c.note(Record::new(Rule::RaceNoPosition, "this node does not take the free leader lock: it does not know its own WAL position"));
        return Ok(false);
    };

    let answers = c.poll(&targets)?;
    if failsafe::may_have_promised(c, answers, comparison.except.as_ref()) {
        c.info("not taking part in the leader race yet: this agent may have promised that before it was restarted");
        let what = "this node does not take the free leader lock yet: it may have promised that before its agent was restarted";
        c.note(Record::new(Rule::RacePromised, what));
        return Ok(false);
    }
    let usable: Vec<(&MemberName, &PeerStatus)> = answers
        .iter()
        .filter_map(|(name, answer)| match answer {
            PeerAnswer::Status(status) if is_ours(c, status) => Some((name, status)),
            PeerAnswer::Status(_) | PeerAnswer::Unreachable => None,
        })
        .collect();
    let counts = |name: &MemberName| counted.iter().find(|member| member.name == *name).copied();
    let on_timelines: Vec<Timeline> =
        usable.iter().filter(|(name, _)| counts(name).is_some()).filter_map(|(_, status)| status.timeline).collect();
    let (lineage, mine) = lineage(c, &on_timelines, timeline, lsn)?;
    // Without a timeline of my own there is nothing but the bare position to compare.
    let position_of =
        |status: &PeerStatus| Position { lsn: status.position, timeline: timeline.and(status.timeline).unwrap_or(mine.timeline) };
    let contenders: Vec<(&MemberName, &PeerStatus)> = usable
        .iter()
        .filter(|(name, status)| {
            counts(name).is_some_and(|member| limitation(status, &member.record.tags, &lineage).is_none())
                && status.in_recovery
                && !status.position.is_zero()
        })
        .copied()
        .collect();
    c.memory.misleads_by_position = contenders.iter().any(|(_, status)| lineage.is_misled(position_of(status), mine));

    c.asked = answers.iter().map(|(name, answer)| seen(name, answer, c, comparison, &counted, &lineage, mine)).collect();
    let behind = c.view.status.last_lsn.saturating_sub(lineage.worth(mine).unwrap_or(lsn));
    if comparison.check_lag && i64::try_from(behind).unwrap_or(i64::MAX) > c.cfg.maximum_lag_on_failover {
        c.info("My wal position exceeds maximum replication lag");
        let what = "this node does not take the free leader lock: it is further behind the last known position of the leader than \
                    maximum_lag_on_failover allows";
        let record = Record::new(Rule::RaceLag, what)
            .fact("last_known_leader_position", c.view.status.last_lsn)
            .fact("my_position", lsn)
            .fact("behind_bytes", behind)
            .fact("maximum_lag_on_failover", c.cfg.maximum_lag_on_failover);
        c.note(record);
        return Ok(false);
    }
    let cluster_timeline = cluster_timeline(&c.view);
    // G2, G3
    if c.cfg.check_timeline && c.cfg.standby_cluster.is_none() {
        let Some(timeline) = timeline else {
            c.info("Can not figure out my timeline");
            c.note(Record::new(Rule::RaceNoTimeline, "this node does not take the free leader lock: it does not know its own timeline"));
            return Ok(false);
        };
        if let Some(newest) = cluster_timeline.filter(|newest| timeline < *newest) {
            c.info(format!("My timeline {timeline} is behind last known cluster timeline {newest}"));
            note_old_timeline(c, timeline, newest);
            return Ok(false);
        }
    }

    let said: Vec<(&MemberName, Said)> = usable
        .into_iter()
        .filter_map(|(name, status)| {
            let counted = contenders.iter().any(|(contender, _)| *contender == name);
            let standby = || Said::Standby { position: position_of(status), priority: status.tags.failover_priority() };
            match status.in_recovery {
                false => Some((name, Said::Primary)),
                true => counted.then(|| (name, standby())),
            }
        })
        .collect();
    let ballot = Ballot {
        me: c.me(),
        mine,
        priority: c.obs.tags.failover_priority(),
        lineage: &lineage,
        former_leader: comparison.former_leader.as_ref(),
        electorate: comparison.electorate,
    };
    let ballot::Judgement { refusal, lines } = ballot::judge(&ballot, &said);
    c.effects.extend(lines.into_iter().map(|(severity, line)| Effect::Log(severity, line)));
    let Some((rule, why)) = refusal else { return Ok(true) };
    let record = Record::new(rule, format!("this node does not take the free leader lock: {why}"))
        .fact("my_position", lsn)
        .fact_if("my_timeline", timeline)
        .fact("my_priority", c.obs.tags.failover_priority())
        .fact("last_known_leader_position", c.view.status.last_lsn);
    c.note(record);
    Ok(false)
}

/// G3, Q5.
pub(super) fn note_old_timeline(c: &mut Cycle<'_>, mine: Timeline, newest: Timeline) {
    let what = "this node does not take the free leader lock: it is on an older timeline than the cluster";
    c.note(Record::new(Rule::RaceOldTimeline, what).fact("my_timeline", mine).fact("cluster_timeline", newest));
}

/// What the answer of a member means to this node, in words.
fn seen(
    name: &MemberName,
    answer: &PeerAnswer,
    c: &Cycle<'_>,
    comparison: &Comparison<'_>,
    counted: &[&Member],
    lineage: &Lineage,
    mine: Position,
) -> Candidate {
    let PeerAnswer::Status(status) = answer else {
        return Candidate { member: name.clone(), reason: "did not answer".to_owned(), position: None, timeline: None };
    };
    let member = counted.iter().find(|member| member.name == *name);
    let theirs = Position { lsn: status.position, timeline: status.timeline.unwrap_or(mine.timeline) };
    let reason = if !is_ours(c, status) {
        "answers for another cluster"
    } else if !status.in_recovery {
        "is a primary and still alive"
    } else if member.is_none() {
        "is not allowed to promote"
    } else if let Some(limitation) = member.and_then(|member| limitation(status, &member.record.tags, lineage)) {
        return at(name, status, format!("is {limitation}"));
    } else if status.position.is_zero() {
        "its PostgreSQL does not tell a position"
    } else {
        match lineage.compare(theirs, mine) {
            Ordering::Greater if comparison.electorate.is_some_and(|electorate| electorate.is_led_by(name)) => {
                "is ahead, which does not count: it was the leader, and what only it has was never acknowledged"
            }
            Ordering::Greater => "is ahead of this node",
            Ordering::Equal if status.tags.failover_priority() > c.obs.tags.failover_priority() => {
                "is as far as this node and has a higher failover_priority"
            }
            Ordering::Equal => "is as far as this node",
            Ordering::Less => "is behind this node",
        }
    };
    at(name, status, reason.to_owned())
}

/// A member that told where it is.
fn at(name: &MemberName, status: &PeerStatus, reason: String) -> Candidate {
    let position = Some(status.position).filter(|position| !position.is_zero());
    Candidate { member: name.clone(), reason, position, timeline: status.timeline }
}

/// The lineage that positions are compared on, and my position. With an unknown own timeline everything counts as on one.
fn lineage(c: &Cycle<'_>, theirs: &[Timeline], timeline: Option<Timeline>, lsn: Lsn) -> Outcome<(Lineage, Position)> {
    use super::action::Answer;

    let Some(timeline) = timeline else {
        return Ok((Lineage::default(), Position { lsn, timeline: Timeline(0) }));
    };
    let mut lineage = c.view.history.as_ref().map(|history| Lineage::new(&history.lines)).unwrap_or_default();
    lineage.note(timeline);
    let differ = lineage.is_old(timeline) || theirs.iter().any(|theirs| *theirs != timeline);
    theirs.iter().for_each(|theirs| lineage.note(*theirs));
    if differ
        && timeline.0 > 1
        && let Answer::HistoryFile(Some((lines, _))) = c.need(Ask::HistoryFile(timeline))?
    {
        lineage.learn(lines);
    }
    Ok((lineage, Position { lsn, timeline }))
}

/// Who could take over if a leader stepped down, and how many of them must be able to (section 2.7).
#[derive(Clone, Debug)]
pub(crate) struct Successors {
    /// Whom to ask.
    pub(crate) targets: Vec<PeerTarget>,
    /// What a winner must have seen, where votes are counted.
    quorum: Option<i64>,
    /// The synchronous standbys, if only they may take over.
    restricted_to: Option<String>,
}

impl Successors {
    /// Those of `view` who could take over from `me`.
    pub(crate) fn of(
        view: &ClusterView,
        cfg: &GlobalConfig,
        me: &MemberName,
        request: Option<&FailoverRequest>,
        exclude_candidate: bool,
    ) -> Self {
        let named = request.and_then(|request| request.candidate.as_ref());
        // An operator may accept a loss; nobody else may.
        let accepts_loss = request.is_some_and(|request| request.leader.is_none());
        let electorate = Electorate::of(view, cfg).filter(|_| !accepts_loss);
        let targets = view
            .members
            .iter()
            .filter(|member| member.name != *me)
            .filter(|member| match named {
                Some(candidate) if exclude_candidate => member.name != *candidate,
                Some(candidate) => member.name == *candidate,
                None => true,
            })
            .filter(|member| electorate.as_ref().is_none_or(|electorate| electorate.lists(&member.name)))
            .filter(|member| !member.record.tags.nofailover())
            .filter_map(target)
            .collect();
        let insists = named.is_some() && !exclude_candidate;
        let quorum = electorate.as_ref().filter(|electorate| electorate.counts_votes() && !insists).map(Electorate::quorum);
        Self { targets, quorum, restricted_to: electorate.map(|electorate| electorate.standbys()) }
    }

    /// Whether `able` of them are enough.
    pub(crate) fn are_enough(&self, able: usize) -> bool {
        able > 0 && self.quorum.is_none_or(|quorum| i64::try_from(able).unwrap_or(i64::MAX) > quorum)
    }
}

/// What a candidate must have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bar {
    /// The least position; if absent, the allowed lag behind the leader's last known position counts.
    pub(crate) at_least: Option<Lsn>,
    /// The leader's last known position.
    pub(crate) last_lsn: Lsn,
    /// The allowed lag in bytes.
    pub(crate) maximum_lag: i64,
    /// The timeline that a candidate must have reached, if that is checked.
    pub(crate) timeline: Option<Timeline>,
    /// What positions on older timelines are worth; empty: bare positions count.
    pub(crate) lineage: Lineage,
}

/// Why `answer` of `name` does not make it a successor; nothing if it does.
pub(crate) fn disqualification(name: &MemberName, answer: &PeerAnswer, bar: &Bar) -> Option<String> {
    let PeerAnswer::Status(status) = answer else {
        return Some(format!("Member {name} is {NOT_REACHABLE}"));
    };
    // Who is asked here says in its member key that it may promote.
    if let Some(limitation) = limitation(status, &Tags::default(), &bar.lineage) {
        return Some(format!("Member {name} is {limitation}"));
    }
    let worth = match status.timeline {
        Some(timeline) => bar.lineage.worth(Position { lsn: status.position, timeline }).unwrap_or(Lsn::ZERO),
        None => status.position,
    };
    let position = if status.in_recovery { worth } else { Lsn::ZERO };
    match bar.at_least {
        Some(least) if position < least => {
            return Some(format!("Member {name} exceeds maximum replication lag"));
        }
        None if i64::try_from(bar.last_lsn.saturating_sub(position)).unwrap_or(i64::MAX) > bar.maximum_lag => {
            return Some(format!("Member {name} exceeds maximum replication lag"));
        }
        _ => {}
    }
    let newest = bar.timeline?;
    match status.timeline {
        Some(timeline) if timeline >= newest => None,
        behind => {
            Some(format!("Timeline {} of member {name} is behind the cluster timeline {newest}", behind.map_or(0, |timeline| timeline.0)))
        }
    }
}

/// "Could anybody take over if I stepped down?" (section 2.7)
pub(super) fn failover_is_possible(c: &mut Cycle<'_>, request: Option<&FailoverRequest>, exclude_candidate: bool) -> Outcome<bool> {
    let successors = Successors::of(&c.view, c.cfg, c.me(), request, exclude_candidate);
    if successors.targets.is_empty() {
        let action = action_word(request);
        let named = request.and_then(|request| request.candidate.as_ref()).filter(|_| !exclude_candidate);
        c.warn(match (named, &successors.restricted_to) {
            (Some(candidate), Some(standbys)) => {
                format!("{} candidate={candidate} does not match with sync_standbys={standbys}", capitalized(action))
            }
            _ => format!("{action}: candidates list is empty"),
        });
        return Ok(false);
    }
    let answers = c.poll(&successors.targets)?;
    let bar = bar(c, None);
    let mut able = 0;
    c.asked.clear();
    for (name, answer) in answers {
        let unable = disqualification(name, answer, &bar);
        let reason = unable.clone().unwrap_or_else(|| "is able to take over".to_owned());
        c.asked.push(match answer {
            PeerAnswer::Status(status) => at(name, status, reason),
            PeerAnswer::Unreachable => Candidate { member: name.clone(), reason, position: None, timeline: None },
        });
        match unable {
            Some(reason) => c.info(reason),
            None => able += 1,
        }
    }
    if let Some(quorum) = successors.quorum.filter(|_| able > 0 && !successors.are_enough(able)) {
        c.info(format!("Quorum requirement {quorum} can not be reached"));
    }
    Ok(successors.are_enough(able))
}

/// An action at the beginning of a sentence.
pub(super) fn capitalized(action: &str) -> String {
    let mut word = action.to_owned();
    if let Some(first) = word.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    word
}

/// The bar for successors in the current view.
pub(super) fn bar(c: &Cycle<'_>, at_least: Option<Lsn>) -> Bar {
    // As leader my own position is newer than what I last published.
    let own = c.obs.server.monitor.lsn().filter(|_| c.is_primary()).unwrap_or(Lsn::ZERO);
    Bar {
        at_least,
        last_lsn: c.view.status.last_lsn.max(own),
        maximum_lag: c.cfg.maximum_lag_on_failover,
        timeline: cluster_timeline(&c.view).filter(|_| c.cfg.check_timeline && c.cfg.standby_cluster.is_none()),
        lineage: known_lineage(c),
    }
}
