//! Logical slots: created on the primary, copied to standbys and moved forward there (section 12.2, step 4).
//!
//! ```text
//!   missing on the primary ──► create                                             (beside the loop)
//!   missing on a standby ────► copy: read from the leader, stop, write, start     (a task)
//!   behind on a standby ─────► advance, at most to where WAL is replayed          (beside the loop)
//!   cannot be advanced ──────► copy, with growing pauses while that does not help
//!   unproven on a standby ───► look at the leader: does its physical slot keep what decoding needs?
//! ```

use std::collections::BTreeMap;

use dcs_core::Moment;
use dcs_core::model::{ClusterView, Lsn};

use super::super::action::{Effect, Severity};
use super::super::observation::{Monitor, Observation, Postmaster, SlotObservation, TransactionId, Upstream};
use super::super::repeat::Repeat;
use super::desired::{Wanted, slot_on_primary};
use super::permanent::Kind;
use super::plan::matching;

/// A logical slot as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalSlot {
    /// Its name.
    pub name: String,
    /// The database whose changes it is about.
    pub database: String,
    /// The output plugin.
    pub plugin: String,
}

/// Work on logical slots that may take longer than a cycle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogicalWork {
    /// Slots to create, on a primary.
    pub create: Vec<LogicalSlot>,
    /// Slots to move forward, on a standby.
    pub advance: Vec<(LogicalSlot, Lsn)>,
    /// What to look at on the leader.
    pub look: Option<LeaderLook>,
}

impl LogicalWork {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.advance.is_empty() && self.look.is_none()
    }
}

/// A look at the slots of the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderLook {
    /// The leader.
    pub leader: Upstream,
    /// The physical slot there that stands for this node.
    pub physical: String,
    /// The logical slots whose state there is not known yet.
    pub logical: Vec<String>,
}

/// What came of [`LogicalWork`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogicalReport {
    /// Slots that were created.
    pub created: Vec<String>,
    /// Slots that were moved forward.
    pub advanced: Vec<String>,
    /// Slots that cannot be moved forward any more: their WAL is gone, or they were invalidated.
    pub broken: Vec<String>,
    /// The slots that were found on the leader, if it answered.
    pub leader: Option<LeaderSlots>,
}

/// The slots of the leader, as far as they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderSlots {
    /// The physical slot that was asked for.
    pub physical: String,
    /// The oldest transaction whose catalog rows each one keeps, if it keeps any.
    pub catalog_xmins: BTreeMap<String, Option<TransactionId>>,
    /// Whether this node's server sends feedback.
    pub sends_feedback: bool,
}

/// What is remembered about slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotMemory {
    /// Logical slots of this standby that might not be safe to use after a promotion, each with the `catalog_xmin` that it had
    /// on the leader when the leader began to keep catalog rows for this node.
    pub unproven: BTreeMap<String, Option<TransactionId>>,
    /// The postmaster under which that was last begun.
    pub judged: Option<Postmaster>,
    /// When slots that were copied may be copied again.
    pub copies: BTreeMap<String, Repeat>,
    /// Whether `hot_standby_feedback` is forced on.
    pub enforces_feedback: bool,
}

impl SlotMemory {
    /// These slots were copied, with a restart.
    pub(crate) fn copied(&mut self, names: &[String], now: Moment) {
        for name in names {
            let rest = self.copies.get(name).copied().unwrap_or(Repeat::at(now)).done(now);
            self.copies.insert(name.clone(), rest);
        }
    }

    /// The slots are looked at as if for the first time.
    pub(crate) fn judge_anew(&mut self) {
        self.judged = None;
    }
}

/// What is wanted of logical slots now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wishes {
    /// What to log.
    pub(super) effects: Vec<Effect>,
    /// What to do beside the loop.
    pub(super) work: LogicalWork,
    /// Slots that should be copied from the leader.
    pub(super) copy: Vec<LogicalSlot>,
}

/// Looks at the logical slots among `seen`.
pub(super) fn look_after(
    obs: &Observation,
    view: &ClusterView,
    memory: &mut SlotMemory,
    seen: &[SlotObservation],
    wanted: &Wanted,
    now: Moment,
) -> Wishes {
    let mut wishes = Wishes::default();
    let configured = || {
        wanted.slots.iter().filter_map(|(name, desired)| match &desired.kind {
            Kind::Logical { database, plugin } => {
                Some((LogicalSlot { name: name.clone(), database: database.clone(), plugin: plugin.clone() }, desired.feedback))
            }
            Kind::Physical => None,
        })
    };
    let exists = |slot: &LogicalSlot| seen.iter().any(|found| found.name == slot.name);
    if obs.server.is_primary() {
        memory.unproven.clear();
        memory.copies.clear();
        memory.judged = Some(obs.server.postmaster);
        wishes.work.create = configured().map(|(slot, _)| slot).filter(|slot| !exists(slot)).collect();
        return wishes;
    }
    let Monitor::Standby(standby) = &obs.server.monitor else { return wishes };
    let found = matching(seen, wanted);
    prove(obs, view, memory, &found, &mut wishes);
    let report = obs.slot_report.as_ref();
    let is_broken = |name: &str| report.is_some_and(|report| report.broken.iter().any(|broken| broken == name));
    memory.copies.retain(|name, _| {
        let moves = report.is_some_and(|report| report.advanced.contains(name));
        wanted.slots.contains_key(name) && !moves
    });
    // Who has the lock is about to be promoted, and its slots stay where they are.
    if view.leader_name() == Some(&obs.me) {
        return wishes;
    }
    for (slot, feedback) in configured() {
        let Some(feedback) = feedback else { continue };
        let may_copy = memory.copies.get(&slot.name).is_none_or(|copied| copied.is_due(now));
        match found.get(slot.name.as_str()) {
            Some(here) if !is_broken(&slot.name) => {
                let target = feedback.min(standby.replayed);
                if !here.lost && here.confirmed_flush_lsn.is_some_and(|position| position < target) {
                    wishes.work.advance.push((slot, target));
                }
            }
            Some(_) if may_copy => wishes.copy.push(slot),
            None if may_copy && !exists(&slot) => wishes.copy.push(slot),
            _ => {}
        }
    }
    wishes
}

/// Whether the logical slots of this standby would be safe after a promotion: the leader keeps for it all catalog rows that
/// they need, and has kept them since before their position.
fn prove(obs: &Observation, view: &ClusterView, memory: &mut SlotMemory, found: &BTreeMap<&str, &SlotObservation>, wishes: &mut Wishes) {
    let logical = || found.values().filter(|slot| slot.logical);
    if memory.judged != Some(obs.server.postmaster) {
        // Nobody knows what happened to them while nobody looked.
        memory.judged = Some(obs.server.postmaster);
        memory.unproven = logical().map(|slot| (slot.name.clone(), None)).collect();
    } else if let Some(leader) = obs.slot_report.as_ref().and_then(|report| report.leader.as_ref()) {
        compare(memory, found, leader, wishes);
    }
    memory.unproven.retain(|name, _| found.contains_key(name.as_str()));
    let leader = view.leader_member().filter(|leader| leader.name != obs.me).and_then(super::super::replica::upstream);
    if let (Some(leader), Some(physical)) = (leader, slot_on_primary(&obs.me, &obs.tags, view))
        && !memory.unproven.is_empty()
    {
        let logical = memory.unproven.iter().filter(|(_, known)| known.is_none()).map(|(name, _)| name.clone()).collect();
        wishes.work.look = Some(LeaderLook { leader, physical, logical });
    }
}

fn compare(memory: &mut SlotMemory, found: &BTreeMap<&str, &SlotObservation>, leader: &LeaderSlots, wishes: &mut Wishes) {
    let mut say = |severity, text| wishes.effects.push(Effect::Log(severity, text));
    let Some(physical) = leader.catalog_xmins.get(&leader.physical) else {
        return say(Severity::Warning, format!("Physical slot {} does not exist on the primary", leader.physical));
    };
    let Some(kept) = *physical else {
        if !leader.sends_feedback {
            let text = "Logical slot failover requires \"hot_standby_feedback\". Please check postgresql.auto.conf";
            say(Severity::Error, text.to_owned());
        }
        return;
    };
    for (name, known) in &mut memory.unproven {
        if known.is_none() {
            *known = leader.catalog_xmins.get(name).copied().flatten();
        }
    }
    memory.unproven.retain(|name, known| {
        let here = found.get(name.as_str()).and_then(|slot| slot.catalog_xmin);
        let (Some(there), Some(here)) = (*known, here) else { return true };
        let safe = there.is_at_most(kept) && kept.is_at_most(here);
        if safe {
            say(Severity::Info, format!("Logical slot {name} is safe to be used after a failover"));
        }
        !safe
    });
}
