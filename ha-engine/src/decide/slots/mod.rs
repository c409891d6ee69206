//! Replication slots: which should exist on a node, what is done about those that differ, and what the leader tells about
//! its own (section 12).
//!
//! ```text
//!   members, retain_slots, permanent slots ──► desired ──┬─► plan      drop, create, advance physical ones: at once
//!                                        slots seen ─────┼─► logical   create, advance, prove, copy: beside the loop
//!                                                        └─► status    their positions, for the others
//!   permanent logical slots, cascade ──► feedback        hot_standby_feedback
//! ```
//!
//! Slots with `failover` (17 and later) are PostgreSQL's own business: they are not even seen.

mod desired;
mod feedback;
mod logical;
mod permanent;
mod plan;
mod status;

pub use self::logical::{LeaderLook, LeaderSlots, LogicalReport, LogicalSlot, LogicalWork, SlotMemory};
pub use self::plan::{SlotDrop, SlotPlan};

use dcs_core::model::Role;

use super::action::{Effect, Task};
use super::cycle::Cycle;
use super::observation::Monitor;
use super::replica;

/// Orders the status write that follows a renewal.
pub(super) fn publish_status(c: &mut Cycle<'_>) {
    let leads = match c.obs.server.monitor {
        Monitor::Primary(_) => true,
        Monitor::Standby(_) => c.role() == Role::StandbyLeader,
        Monitor::NotAsked | Monitor::Failed => false,
    };
    if !leads {
        return;
    }
    let (status, expired) = status::status(c.obs, c.cfg, &c.view, &mut c.memory, c.now.moment);
    for line in expired {
        c.info(line);
    }
    c.push(Effect::WriteStatus(status));
}

/// C4: whether `hot_standby_feedback` must be on here. What was found out last stays while the store has no configuration.
pub(super) fn enforce_feedback(c: &mut Cycle<'_>) {
    if c.view.config.is_none() {
        return;
    }
    let needed = feedback::is_needed(c.me(), &c.obs.tags, c.obs.use_slots, c.cfg, &c.view);
    if c.memory.slots.enforces_feedback != needed {
        c.memory.slots.enforces_feedback = needed;
        c.push(Effect::EnforceFeedback(needed));
    }
}

/// C23: looks after the slots of this node. The logical ones that should be copied from the leader, which takes a restart.
pub(super) fn maintain(c: &mut Cycle<'_>) -> Vec<LogicalSlot> {
    let Some(seen) = &c.obs.server.slots else {
        return Vec::new();
    };
    // A wiped store drops no slot.
    if c.view.config.is_none() {
        return Vec::new();
    }
    let wanted = desired::wanted(plan::site(c.obs), c.cfg, &c.view);
    let plan = plan::plan(c.obs, c.cfg, &c.view, seen, &wanted);
    let wishes = logical::look_after(c.obs, &c.view, &mut c.memory.slots, seen, &wanted, c.now.moment);
    for error in wanted.errors {
        c.error(error);
    }
    if !plan.is_empty() {
        c.push(Effect::MaintainSlots(plan));
    }
    c.effects.extend(wishes.effects);
    if !wishes.work.is_empty() {
        c.push(Effect::TendLogicalSlots(wishes.work));
    }
    wishes.copy
}

/// C23: copies `slots` from the leader; the line of the cycle if that is begun.
pub(super) fn copy(c: &mut Cycle<'_>, slots: Vec<LogicalSlot>) -> Option<String> {
    // A copy restarts the server, which nobody has asked for in pause. In failsafe mode every member is needed.
    if slots.is_empty() || c.task.is_some() || c.paused() || c.lock_is_mine() || c.promise.is_some() {
        return None;
    }
    let leader = c.view.leader_member().and_then(replica::upstream)?;
    let names: Vec<String> = slots.iter().map(|slot| format!("'{}'", slot.name)).collect();
    c.task = Some(Task::CopyLogicalSlots { leader, slots });
    Some(format!("Copying logical slots [{}] from the primary", names.join(", ")))
}

/// At a promotion: tells which logical slots might not be safe.
pub(super) fn warn_before_promotion(c: &mut Cycle<'_>) {
    let names: Vec<String> = c.memory.slots.unproven.keys().map(|name| format!("'{name}'")).collect();
    if !names.is_empty() {
        c.warn(format!("Logical replication slots that might be unsafe to use after promote: {{{}}}", names.join(", ")));
    }
}
