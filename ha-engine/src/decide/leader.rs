//! The lock is mine (rows H1 to H8 and E). H4, the leader of a standby cluster, is in [`standby`].

use dcs_core::model::Role;

use super::action::{Effect, Task};
use super::cycle::{Cycle, Outcome};
use super::journal::Rule;
use super::memory::{Critical, RewindState};
use super::{action::DemoteKind, history, requests, slots, standby, sync, watchdog};

/// The view says that I am the leader.
pub(super) fn keep(c: &mut Cycle<'_>) -> Outcome {
    let primary = c.is_primary();
    let standby_cluster = c.cfg.standby_cluster.is_some();
    if c.paused() && !primary && !standby_cluster {
        let candidate_is_me = c.failover().and_then(|key| key.request.candidate.as_ref()).is_some_and(|candidate| candidate == c.me());
        if candidate_is_me {
            // H1
            return Ok("waiting to become primary after promote...".to_owned());
        }
        // H2
        c.release_lock();
        return Ok(c.noted(Rule::ReleaseNotPrimary, "removed leader lock because postgres is not running as primary"));
    }
    if c.renew()? {
        // H3
        slots::publish_status(c);
        if let Some(line) = requests::process(c)? {
            return Ok(line);
        }
        if standby_cluster {
            return standby::lead(c);
        }
        let line = format!("no action. I am ({}), the leader with the lock", c.me());
        // H5
        let line = enforce_primary(c, &line, "promoted self to leader because I had the session lock")?;
        if primary {
            check_checkpoint_after_promotion(c);
        }
        return Ok(line);
    }
    c.error("failed to update leader lock");
    // Hardening rule X10: a promotion that was requested counts as done.
    if !c.obs.server.is_or_becomes_primary() {
        // H8
        return Ok(c.noted(Rule::PromoteWithoutLock, "not promoting because failed to update leader lock in DCS"));
    }
    if c.paused() {
        // H6
        return Ok(c.noted(Rule::DemotePaused, "continue to run as primary after failing to update leader lock in DCS"));
    }
    // H7
    c.arm_rewind_check();
    c.push(Effect::Demote(DemoteKind::ImmediateNoLock));
    Ok(c.noted(Rule::DemoteLockLost, "demoted self because failed to update leader lock in DCS"))
}

/// Rows E: the leader must be a primary.
pub(super) fn enforce_primary(c: &mut Cycle<'_>, as_primary: &str, promoting: &str) -> Outcome {
    if !c.paused() && !watchdog::is_armed(c)? {
        if c.is_primary() {
            // E1
            c.arm_rewind_check();
            c.push(Effect::Demote(DemoteKind::Immediate));
            return Ok("Demoting self because watchdog could not be activated".to_owned());
        }
        // E2
        c.release_lock();
        return Ok("Not promoting self because watchdog could not be activated".to_owned());
    }
    if !c.paused() && c.memory.critical == Critical::Done(false) {
        // E3
        c.warn("Releasing the leader key voluntarily because the pre-promote script failed");
        c.memory.released_lock_at = Some(c.now.moment);
        c.memory.critical = Critical::Idle;
        c.release_lock();
        return Ok(c.noted(Rule::PrePromoteFailed, "Promotion cancelled because the pre-promote script failed"));
    }
    if c.is_primary() {
        // E4
        c.set_role(Role::Primary);
        sync::maintain(c)?;
        history::maintain(c)?;
        return Ok(as_primary.to_owned());
    }
    if matches!(c.role(), Role::Primary | Role::Promoted) {
        // E5: the promotion was accepted and the monitoring query does not show it yet.
        return Ok(as_primary.to_owned());
    }
    // E6: a stale synchronous state would describe somebody else's promises.
    if !sync::prepare_promotion(c)? {
        let line = "Postponing promotion because synchronous replication state was updated by somebody else";
        return Ok(c.noted(Rule::PromotePostponed, line));
    }
    // E7
    c.memory.failsafe.extension = None;
    slots::warn_before_promotion(c);
    c.memory.own_last_timeline = None;
    c.memory.critical = Critical::Pending;
    c.task = Some(Task::Promote);
    Ok(c.noted(Rule::Promote, promoting))
}

/// Others may rewind from here only when the control file shows the promoted timeline (section 1.17).
fn check_checkpoint_after_promotion(c: &mut Cycle<'_>) {
    if c.memory.rewind != RewindState::Checkpoint && c.task.is_none() {
        c.push(Effect::CheckpointAfterPromotion);
    }
}
