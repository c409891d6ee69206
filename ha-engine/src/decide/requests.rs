//! Requests for a switchover or failover, as the leader sees them (rows M of section 4.3).

use super::action::Task;
use super::candidates::{action_word, capitalized, failover_is_possible, kind_word};
use super::cycle::{Cycle, Outcome};
use super::journal::{Record, Rule};
use super::schedule::{Due, due};

/// Looks at the failover key. A line if the cycle ends here because this node steps down.
pub(super) fn process(c: &mut Cycle<'_>) -> Outcome<Option<String>> {
    // M1
    let Some(request) = c.failover().map(|key| key.request.clone()) else {
        return Ok(None);
    };
    if c.paused() && !c.is_primary() {
        return Ok(None);
    }
    let action = action_word(Some(&request));
    let kind = kind_word(&request);
    // M2
    if let Some(at) = request.scheduled_at {
        if c.paused() {
            return Ok(None);
        }
        match due(at, c.now.wall, c.cfg.loop_wait) {
            Due::Waiting { seconds } => {
                c.info(format!("Awaiting {kind} at {at} (in {seconds} seconds)"));
                return Ok(None);
            }
            Due::Soon(wait) => {
                c.wake_at(c.now.moment + wait);
                return Ok(None);
            }
            Due::Stale => {
                c.warn(format!("Found a stale {kind} value, cleaning up: {at}"));
                return refuse(c, Rule::RequestStale, format!("the scheduled {kind} was to happen at {at} and is too old to be meant"));
            }
            Due::Now => c.info(format!("Manual scheduled {kind} at {at}")),
        }
    }
    // M3
    if let Some(leader) = request.leader.as_ref().filter(|leader| *leader != c.me()) {
        let line = format!("{action}: leader name does not match: {leader} != {}", c.me());
        c.warn(line.clone());
        return refuse(c, Rule::RequestWrongLeader, line);
    }
    // M4
    if request.candidate.as_ref() == Some(c.me()) {
        let line = format!("{action}: I am already the leader, no need to {kind}");
        c.warn(line.clone());
        return refuse(c, Rule::RequestAlreadyLeader, line);
    }
    // M5
    if c.paused() && request.candidate.is_none() {
        let line = format!("{} is possible only to a specific candidate in a paused state", capitalized(action));
        c.warn(line.clone());
        return refuse(c, Rule::RequestPaused, line);
    }
    // M6
    if failover_is_possible(c, Some(&request), false)? {
        c.arm_rewind_check();
        c.task = Some(Task::Demote { name: format!("{action}: demote"), request });
        return Ok(Some(c.noted(Rule::RequestAccepted, format!("{action}: demoting myself"))));
    }
    // M7
    let line = format!("{action}: no healthy members found, {kind} is not possible");
    c.warn(line.clone());
    refuse(c, Rule::RequestImpossible, line)
}

fn refuse(c: &mut Cycle<'_>, rule: Rule, why: String) -> Outcome<Option<String>> {
    let candidate = c.failover().and_then(|key| key.request.candidate.clone());
    c.note(Record::new(rule, why).fact_if("candidate", candidate));
    c.info("Cleaning up failover key");
    c.clean_failover(true)?;
    Ok(None)
}
