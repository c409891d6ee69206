//! Nobody holds the lock (rows U of section 1.11).

use std::time::Duration;

use dcs_core::model::FailoverRequest;

use super::action::{Ask, Effect, Reload};
use super::cycle::{Cycle, Outcome};
use super::journal::{Record, Rule};
use super::{leader, race, replica, standby};

/// How long a node that is not electable waits for somebody else to take the lock.
const WAIT_FOR_LOCK: Duration = Duration::from_secs(2);
/// How soon a node that was not the one looks again: what kept it out (a primary that was just stopping, a candidate that
/// just died) may be over, and nothing in the store would tell.
const RACE_AGAIN: Duration = Duration::from_secs(1);

pub(super) fn decide(c: &mut Cycle<'_>) -> Outcome {
    if race::should_i_lead(c)? {
        if !c.acquire(race::ACQUIRE)? {
            c.info("Could not take out TTL lock");
            let promised = c.journal.iter().any(|record| record.rule == Rule::RacePromised);
            if !promised {
                c.note(Record::new(Rule::RaceLost, "somebody else was faster to take the free leader lock"));
            }
            // U4
            return replica::follow(
                c,
                "demoted self after trying and failing to obtain lock",
                "following new leader after trying and failing to obtain lock",
                true,
            );
        }
        return acquired(c);
    }
    if !c.paused() {
        c.wake_at(c.now.moment + RACE_AGAIN);
    }
    let nofailover = c.obs.tags.nofailover();
    let names_a_candidate = c.failover().is_some_and(|key| key.request.candidate.is_some());
    if names_a_candidate || (nofailover && !c.paused()) {
        // U1
        c.arm_rewind_check();
        c.need(Ask::WaitForLock(WAIT_FOR_LOCK))?;
    }
    if nofailover {
        // U2
        replica::follow(
            c,
            "demoting self because I am not allowed to become primary",
            "following a different leader because I am not allowed to promote",
            true,
        )
    } else {
        // U3
        replica::follow(
            c,
            "demoting self because i am not the healthiest node",
            "following a different leader because i am not the healthiest node",
            true,
        )
    }
}

/// U5 to U7: the lock is mine now.
fn acquired(c: &mut Cycle<'_>) -> Outcome {
    if let Some(key) = c.view.failover.clone() {
        let request = &key.request;
        if c.paused() && request.leader.is_some() && request.candidate.is_some() {
            c.info("Updating failover key after acquiring leader lock...");
            let remaining = FailoverRequest { leader: None, ..request.clone() };
            c.written(Ask::WriteFailover(remaining, Some(key.revision.clone())))?;
        } else if !request.is_empty() {
            c.info("Cleaning up failover key after acquiring leader lock...");
            c.clean_failover(false)?;
        }
    }
    let what = if c.is_primary() { "this primary took the free leader lock" } else { "this node took the free leader lock to be promoted" };
    c.note(Record::new(Rule::RaceWon, what));
    c.reload(Reload::AfterAcquisition)?;
    if c.cfg.standby_cluster.is_some() {
        return standby::begin_to_lead(c);
    }
    let line = leader::enforce_primary(c, "acquired session lock as a leader", "promoted self to leader by acquiring session lock")?;
    // Everybody should see the new state at once.
    c.push(Effect::TouchMember);
    Ok(line)
}
