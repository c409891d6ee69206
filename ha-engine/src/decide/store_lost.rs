//! The store cannot be used (rows D of section 1.6).

use super::action::{Ask, DemoteKind, Effect};
use super::cycle::Cycle;
use super::failsafe;
use super::journal::{Record, Rule};
use super::observation::TaskKind;

/// What to do without the store. A primary stops, whether it holds the lock or not: it must be down before the lock can
/// expire. In failsafe mode it goes on if everybody else agrees. The only question is to those; the line of the cycle otherwise.
pub(super) fn decide(c: &mut Cycle<'_>) -> Result<String, Vec<Ask>> {
    if c.cfg.failsafe_mode {
        // C1
        c.memory.last_wal_lsn = c.obs.server.monitor.lsn().or(c.memory.last_wal_lsn);
    }
    // D1. A new cluster has no lock yet that could be lost.
    if c.paused() || c.memory.bootstrapping || !c.obs.server.postmaster.is_running() {
        return Ok(lost(c));
    }
    // D2. With hardening rule X10 a promotion under way counts as a primary.
    if !c.obs.server.is_or_becomes_primary() {
        failsafe::maintain_slots(c);
        return Ok(lost(c));
    }
    // D3
    if failsafe::may_go_on(c)? {
        failsafe::maintain_slots(c);
        let line = "continue to run as a leader because failsafe mode is enabled and all members are accessible";
        return Ok(c.noted(Rule::FailsafeGoesOn, line));
    }
    // D4
    c.memory.failsafe.extension = None;
    c.info("demoting self because DCS is not accessible and I was a leader");
    c.arm_rewind_check();
    match &c.obs.task {
        // A demotion that is under way already goes on; doubling it would help nobody.
        Some(task) if task.kind == TaskKind::Demote => {}
        // Hardening rule X9: the task must not start the server again behind our back.
        Some(_) => {
            c.push(Effect::CancelTask);
            c.push(Effect::Demote(DemoteKind::Offline));
        }
        None => c.push(Effect::Demote(DemoteKind::Offline)),
    }
    Ok(c.noted(Rule::DemoteStoreLost, "demoted self because DCS is not accessible and I was a leader"))
}

/// Nothing is changed here because of it.
fn lost(c: &mut Cycle<'_>) -> String {
    c.note(Record::new(Rule::StoreLost, "the store cannot be reached: nothing is changed here, and nobody can be elected from here"));
    "DCS is not accessible".to_owned()
}
