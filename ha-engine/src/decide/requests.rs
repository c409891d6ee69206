//! Requests for a switchover or failover, as the leader sees them (rows M of section 4.3).

use super::action::Task;
use super::candidates::{action_word, capitalized, failover_is_possible, kind_word};
use super::cycle::{Cycle, Outcome};
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
                c.info("Cleaning up failover key");
                c.clean_failover(true)?;
                return Ok(None);
            }
            Due::Now => c.info(format!("Manual scheduled {kind} at {at}")),
        }
    }
    // M3
    if let Some(leader) = request.leader.as_ref().filter(|leader| *leader != c.me()) {
        c.warn(format!("{action}: leader name does not match: {leader} != {}", c.me()));
        return refuse(c);
    }
    // M4
    if request.candidate.as_ref() == Some(c.me()) {
        c.warn(format!("{action}: I am already the leader, no need to {kind}"));
        return refuse(c);
    }
    // M5
    if c.paused() && request.candidate.is_none() {
        c.warn(format!("{} is possible only to a specific candidate in a paused state", capitalized(action)));
        return refuse(c);
    }
    // M6
    if failover_is_possible(c, Some(&request), false)? {
        c.arm_rewind_check();
        c.task = Some(Task::Demote { name: format!("{action}: demote"), request });
        return Ok(Some(format!("{action}: demoting myself")));
    }
    // M7
    c.warn(format!("{action}: no healthy members found, {kind} is not possible"));
    refuse(c)
}

fn refuse(c: &mut Cycle<'_>) -> Outcome<Option<String>> {
    c.info("Cleaning up failover key");
    c.clean_failover(true)?;
    Ok(None)
}
