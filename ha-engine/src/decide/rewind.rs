//! Has this node's history diverged from the leader's, and what follows from it (section 1.17 and rows W).

use dcs_core::model::{Lsn, Role};

use super::action::{Answer, Ask, Task};
use super::cycle::{Cycle, Outcome};
use super::journal::{Record, Rule};
use super::memory::RewindState;
use super::observation::Upstream;
use super::{bootstrap, replica, standby};
use crate::ports::DivergenceFacts;

/// What comparing two histories says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The local history left the leader's: it must be rewound.
    Need,
    /// The local history is a part of the leader's.
    NotNeed,
    /// Nothing can be said now.
    Inconclusive,
}

/// Compares two histories.
pub(crate) fn verdict(facts: &DivergenceFacts) -> Verdict {
    if facts.local_timeline > facts.leader_timeline {
        return Verdict::Need;
    }
    if facts.local_timeline == facts.leader_timeline {
        return Verdict::NotNeed;
    }
    // Hardening rule X14: without the leader's history nothing is known.
    let Some(history) = &facts.leader_history else {
        return Verdict::Inconclusive;
    };
    let Some(left) = history.iter().find(|line| line.timeline >= facts.local_timeline.0) else {
        return Verdict::Need;
    };
    if left.timeline != facts.local_timeline.0 {
        return Verdict::Need;
    }
    let need = if facts.local_in_recovery {
        facts.local_lsn > left.lsn
    } else {
        // A primary that stopped cleanly may end exactly where its successor began.
        facts.local_lsn >= left.lsn || facts.checkpoint_end != Some(left.lsn)
    };
    if need { Verdict::Need } else { Verdict::NotNeed }
}

/// Where the local history left the leader's: the end of what both have. Nothing if that cannot be told.
pub(crate) fn parted_at(facts: &DivergenceFacts) -> Option<Lsn> {
    let history = facts.leader_history.as_deref().unwrap_or_default();
    let left = history.iter().find(|line| line.timeline == facts.local_timeline.0)?;
    Some(left.lsn.min(facts.local_lsn))
}

/// How much WAL lies between the point where the histories parted and the last local position that is known.
pub(crate) fn thrown_away(facts: &DivergenceFacts) -> Option<u64> {
    let end = facts.checkpoint_end.unwrap_or(facts.local_lsn).max(facts.local_lsn);
    Some(end.saturating_sub(parted_at(facts)?))
}

fn with_facts(record: Record, facts: &DivergenceFacts) -> Record {
    record
        .fact("my_timeline", facts.local_timeline)
        .fact("my_position", facts.local_lsn)
        .fact("leader_timeline", facts.leader_timeline)
        .fact_if("histories_parted_at", parted_at(facts))
        .fact_if("bytes_not_in_the_leaders_history", thrown_away(facts))
}

/// The leader to compare with: not me, with an address, and by its own word a primary. In a standby cluster nobody has a
/// history of its own, and the remote member's counts.
fn comparable_leader(c: &Cycle<'_>) -> Option<Upstream> {
    if let Some(section) = &c.cfg.standby_cluster {
        return standby::remote_member(section);
    }
    let leader = c.view.leader_member().filter(|leader| leader.name != *c.me())?;
    (leader.record.role() == Some(Role::Primary)).then(|| replica::upstream(leader))?
}

/// Whom to rewind from, and whether it is known to have finished its checkpoint. A remote member is asked for that when the
/// rewind begins.
fn rewind_source(c: &Cycle<'_>) -> Option<(Upstream, bool)> {
    if let Some(section) = &c.cfg.standby_cluster {
        return standby::remote_member(section).map(|remote| (remote, false));
    }
    let leader = c.view.leader_member().filter(|leader| leader.name != *c.me())?;
    let checkpointed = leader.record.role() == Some(Role::Primary) && leader.record.checkpoint_after_promote != Some(false);
    Some((replica::upstream(leader)?, checkpointed))
}

/// Finishes an armed check, if it can be finished now.
fn settle_check(c: &mut Cycle<'_>) -> Outcome<()> {
    if c.memory.rewind != RewindState::Check || !c.obs.rewind_policy.can_act() {
        return Ok(());
    }
    let Some(leader) = comparable_leader(c) else {
        // The leader may be about to publish that it is a primary.
        c.watch_members = true;
        return Ok(());
    };
    let against = leader.name.clone();
    let Answer::Divergence(facts) = c.need(Ask::Divergence(leader))? else {
        return Ok(());
    };
    let Some(facts) = facts else { return Ok(()) };
    match verdict(facts) {
        Verdict::Need => {
            c.memory.rewind = RewindState::Need;
            let what = match thrown_away(facts) {
                Some(bytes) => {
                    format!("the history of this node has left that of {against}: {bytes} bytes of its WAL are not a part of it")
                }
                None => format!("the history of this node has left that of {against}"),
            };
            c.note(with_facts(Record::new(Rule::Diverged, what), facts));
        }
        Verdict::NotNeed => {
            c.memory.rewind = RewindState::NotNeed;
            c.note(with_facts(Record::new(Rule::SameHistory, format!("the history of this node is a part of that of {against}")), facts));
        }
        Verdict::Inconclusive => {}
    }
    Ok(())
}

/// Rows W: a line if the cycle ends here because the node is rewound, recovered first, or rebuilt.
pub(super) fn rewind_or_reinitialize(c: &mut Cycle<'_>) -> Outcome<Option<String>> {
    settle_check(c)?;
    // W0
    if c.memory.rewind != RewindState::Need {
        return Ok(None);
    }
    let Some((source, checkpointed)) = rewind_source(c) else {
        return Ok(None);
    };
    if c.obs.rewind_policy.can_rewind {
        // W1
        if !c.obs.server.postmaster.is_running()
            && c.memory.crash_recovery_started.is_none()
            && cluster_state(c)?.as_deref() == Some("in archive recovery")
        {
            return Ok(Some(single_user_recovery(c)));
        }
        // W2
        if !checkpointed && !source.remote {
            let line = format!("Waiting for checkpoint on {} before rewind", source.name);
            c.watch_members = true;
            return Ok(Some(c.noted(Rule::RewindWaits, line)));
        }
        let line = c.start(Task::Rewind { source, checkpointed });
        return Ok(Some(c.noted(Rule::Rewind, line)));
    }
    // W3
    if c.obs.rewind_policy.rebuild_diverged && c.cfg.standby_cluster.is_none() {
        let task = Task::Reinitialize {
            name: "reinitializing due to diverged timelines".to_owned(),
            source: bootstrap::clone_source(c),
            follow: replica::plan(c),
        };
        let line = c.start(task);
        return Ok(Some(c.noted(Rule::Rebuild, line)));
    }
    // W4
    let what = "this node has diverged and stays out: a rewind is not possible, and no setting allows to build the node anew";
    c.note(Record::new(Rule::RewindForbidden, what));
    Ok(None)
}

/// `Database cluster state` of the control file.
pub(super) fn cluster_state(c: &Cycle<'_>) -> Outcome<Option<String>> {
    match c.need(Ask::ControlData)? {
        Answer::ControlData(Some(data)) => Ok(Some(data.cluster_state.clone())),
        _ => Ok(None),
    }
}

/// Starts crash recovery in single-user mode.
pub(super) fn single_user_recovery(c: &mut Cycle<'_>) -> String {
    c.memory.crash_recovery_started = Some(c.now.moment);
    let line = c.start(Task::CrashRecovery);
    c.noted(Rule::CrashRecovery, line)
}

#[cfg(test)]
mod tests {
    use dcs_core::model::{HistoryLine, Lsn, Timeline};

    use super::*;

    fn facts(local: u32, lsn: u64, in_recovery: bool, leader: u32) -> DivergenceFacts {
        let line = |timeline, lsn| HistoryLine { timeline, lsn: Lsn(lsn), reason: String::new(), timestamp: None, new_leader: None };
        DivergenceFacts {
            local_timeline: Timeline(local),
            local_lsn: Lsn(lsn),
            local_in_recovery: in_recovery,
            checkpoint_end: None,
            leader_timeline: Timeline(leader),
            leader_history: Some(vec![line(1, 100), line(2, 200)]),
        }
    }

    #[test]
    fn a_node_on_a_newer_timeline_than_the_leader_has_diverged() {
        assert_eq!(verdict(&facts(4, 1, true, 3)), Verdict::Need);
    }

    #[test]
    fn the_same_timeline_needs_nothing() {
        assert_eq!(verdict(&facts(3, 999, true, 3)), Verdict::NotNeed);
    }

    #[test]
    fn a_standby_has_diverged_when_it_replayed_past_the_switch() {
        assert_eq!(verdict(&facts(2, 201, true, 3)), Verdict::Need);
        assert_eq!(verdict(&facts(2, 200, true, 3)), Verdict::NotNeed);
    }

    #[test]
    fn a_former_primary_is_fine_only_if_its_last_record_ends_at_the_switch() {
        assert_eq!(verdict(&facts(2, 200, false, 3)), Verdict::Need);
        assert_eq!(verdict(&facts(2, 150, false, 3)), Verdict::Need, "the end could not be read");
        let clean = DivergenceFacts { checkpoint_end: Some(Lsn(200)), ..facts(2, 150, false, 3) };
        assert_eq!(verdict(&clean), Verdict::NotNeed);
    }

    #[test]
    fn a_timeline_that_the_leader_never_had_has_diverged() {
        let mut unknown = facts(1, 50, true, 3);
        unknown.leader_history =
            Some(vec![HistoryLine { timeline: 2, lsn: Lsn(200), reason: String::new(), timestamp: None, new_leader: None }]);
        assert_eq!(verdict(&unknown), Verdict::Need);
    }

    #[test]
    fn without_the_leaders_history_nothing_is_known() {
        let unreadable = DivergenceFacts { leader_history: None, ..facts(2, 150, true, 3) };
        assert_eq!(verdict(&unreadable), Verdict::Inconclusive);
    }
}
