//! PostgreSQL is starting (rows S of section 1.8).

use super::action::{DemoteKind, Effect};
use super::candidates::failover_is_possible;
use super::cycle::{Cycle, Outcome};
use super::journal::Rule;
use super::requests;

/// A line if the cycle ends here.
pub(super) fn decide(c: &mut Cycle<'_>) -> Outcome<Option<String>> {
    // S0
    if !c.obs.server.state.is_starting() {
        c.memory.start_timeout = None;
        return Ok(None);
    }
    if c.paused() {
        use dcs_core::model::ServerState;

        c.memory.start_timeout = None;
        let running = c.obs.server.postmaster.is_running();
        c.push(Effect::SetState(if running { ServerState::Running } else { ServerState::Stopped }));
        return Ok(None);
    }
    if !c.lock_is_mine() {
        // S5
        c.info("Still starting up as a standby.");
        return Ok(None);
    }
    if !c.renew()? {
        // S1
        c.info("Lost lock while starting up. Demoting self.");
        c.arm_rewind_check();
        c.push(Effect::Demote(DemoteKind::ImmediateNoLock));
        return Ok(Some(c.noted(Rule::DemoteLockLost, "stopped PostgreSQL while starting up because leader key was lost")));
    }
    let timeout = c.memory.start_timeout.unwrap_or(c.cfg.primary_start_timeout);
    let elapsed = c.now.moment.saturating_since(c.obs.server.since);
    if elapsed >= timeout {
        let request = c.failover().map(|key| key.request.clone());
        if failover_is_possible(c, request.as_ref(), false)? {
            // S2
            c.info("Demoting self because primary startup is taking too long");
            c.arm_rewind_check();
            c.push(Effect::Demote(DemoteKind::Immediate));
            return Ok(Some(c.noted(Rule::DemoteTooSlow, "stopped PostgreSQL because of startup timeout")));
        }
        // S3
        let line = "primary start has timed out, but continuing to wait because failover is not possible";
        return Ok(Some(c.noted(Rule::DemoteNobodyElse, line)));
    }
    // S4
    if let Some(line) = requests::process(c)? {
        return Ok(Some(line));
    }
    let left = timeout.saturating_sub(elapsed).as_secs();
    Ok(Some(format!("PostgreSQL is still starting up, {left} seconds until timeout")))
}
