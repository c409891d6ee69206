//! A long task is running (rows A of section 1.7).

use dcs_core::model::Role;

use super::action::{DemoteKind, Effect};
use super::candidates::failover_is_possible;
use super::cycle::{Cycle, Outcome};
use super::journal::Rule;
use super::observation::{RunningTask, TaskKind};

pub(super) fn decide(c: &mut Cycle<'_>, task: &RunningTask) -> Outcome {
    let name = &task.name;
    if c.lock_is_mine() && c.renew()? {
        // A1
        if task.kind == TaskKind::CrashRecovery
            && c.now.moment.saturating_since(task.since) >= c.cfg.primary_start_timeout
            && failover_is_possible(c, None, false)?
        {
            c.info("Demoting self because crash recovery is taking too long");
            c.arm_rewind_check();
            c.push(Effect::CancelTask);
            c.push(Effect::Demote(DemoteKind::Immediate));
            return Ok(c.noted(Rule::DemoteTooSlow, "terminated crash recovery because of startup timeout"));
        }
        // A2
        return Ok(format!("updated leader lock during {name}"));
    }
    if !c.memory.bootstrapping && !c.paused() {
        // A3
        let primary = matches!(c.obs.server.role, Role::Primary | Role::Promoted);
        if !primary && (task.kind == TaskKind::Promote { pre_promote_pending: true }) {
            c.push(Effect::CancelTask);
            return Ok(c.noted(Rule::PromoteCancelled, "lost leader before promote"));
        }
        // A4, with hardening rule X10: a promotion that was requested counts as done.
        if primary && task.kind == TaskKind::Demote {
            // The stop that is under way may be waiting for a checkpoint or a hook; the lock is lost now.
            c.info(format!("Demoting primary during {name}"));
            c.push(Effect::StopImmediately);
            return Ok(c.noted(Rule::DemoteLockLost, format!("lost leader lock during {name}")));
        }
        if primary {
            c.info(format!("Demoting primary during {name}"));
            c.arm_rewind_check();
            // Clients are cut off first: a task may take its time to end, and cannot bring the server up after this stop.
            c.push(Effect::Demote(DemoteKind::ImmediateNoLock));
            c.push(Effect::CancelTask);
            return Ok(c.noted(Rule::DemoteLockLost, format!("lost leader lock during {name}")));
        }
    }
    // A5
    if c.view.is_unlocked() {
        c.info("not healthy enough for leader race");
    }
    Ok(format!("{name} in progress"))
}
