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

use dcs_core::Moment;
use dcs_core::model::{ClusterView, Role};

use super::action::{Effect, Severity, Task};
use super::cycle::Cycle;
use super::memory::Memory;
use super::observation::{Monitor, Observation};
use super::replica;
use crate::settings::GlobalConfig;

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

/// What the slots of this node need: effects, and the logical slots to copy from the leader, which takes a restart.
pub(super) fn upkeep(
    obs: &Observation,
    cfg: &GlobalConfig,
    view: &ClusterView,
    memory: &mut Memory,
    now: Moment,
) -> (Vec<Effect>, Vec<LogicalSlot>) {
    let Some(seen) = &obs.server.slots else {
        return (Vec::new(), Vec::new());
    };
    // A wiped store drops no slot.
    if view.config.is_none() {
        return (Vec::new(), Vec::new());
    }
    let wanted = desired::wanted(plan::site(obs), cfg, view);
    let mut effects: Vec<Effect> = wanted.errors.iter().map(|error| Effect::Log(Severity::Error, error.clone())).collect();
    let plan = plan::plan(obs, cfg, view, seen, &wanted);
    if !plan.is_empty() {
        effects.push(Effect::MaintainSlots(plan));
    }
    let wishes = logical::look_after(obs, view, &mut memory.slots, seen, &wanted, now);
    effects.extend(wishes.effects);
    if !wishes.work.is_empty() {
        effects.push(Effect::TendLogicalSlots(wishes.work));
    }
    (effects, wishes.copy)
}

/// C23: looks after the slots of this node. The line of the cycle, if slots are copied now.
pub(super) fn maintain(c: &mut Cycle<'_>) -> Option<String> {
    let (effects, copy) = upkeep(c.obs, c.cfg, &c.view, &mut c.memory, c.now.moment);
    c.effects.extend(effects);
    let idle = c.task.is_none() && c.obs.task.is_none();
    // A copy restarts the server, which nobody has asked for in pause.
    if copy.is_empty() || !idle || c.paused() || c.lock_is_mine() {
        return None;
    }
    let leader = c.view.leader_member().and_then(replica::upstream)?;
    let names: Vec<String> = copy.iter().map(|slot| format!("'{}'", slot.name)).collect();
    c.task = Some(Task::CopyLogicalSlots { leader, slots: copy });
    Some(format!("Copying logical slots [{}] from the primary", names.join(", ")))
}

/// At a promotion: tells which logical slots might not be safe.
pub(super) fn warn_before_promotion(c: &mut Cycle<'_>) {
    let names: Vec<String> = c.memory.slots.unproven.keys().map(|name| format!("'{name}'")).collect();
    if !names.is_empty() {
        c.warn(format!("Logical replication slots that might be unsafe to use after promote: {{{}}}", names.join(", ")));
    }
}
