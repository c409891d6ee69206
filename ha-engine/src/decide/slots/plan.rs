//! What to do at once about the slots of a node (section 12.2, steps 2 and 3).

use std::collections::{BTreeMap, BTreeSet};

use dcs_core::model::{ClusterView, Lsn, Role};

use super::super::action::Severity;
use super::super::observation::{Monitor, Observation, SlotObservation};
use super::desired::{Desired, Site, Wanted};
use super::permanent::{Kind, is_ignored};
use crate::settings::GlobalConfig;

/// A slot to drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotDrop {
    /// Its name.
    pub name: String,
    /// How loudly the reason is told.
    pub severity: Severity,
    /// Why.
    pub reason: String,
}

/// What to do about slots at once. Carried out in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotPlan {
    /// Slots to drop; active ones cannot be dropped and are tried again.
    pub drop: Vec<SlotDrop>,
    /// Physical slots to create, with WAL reserved at once; not those that could not be dropped before.
    pub create: Vec<String>,
    /// Physical slots to move forward.
    pub advance: Vec<(String, Lsn)>,
}

impl SlotPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.drop.is_empty() && self.create.is_empty() && self.advance.is_empty()
    }

    fn drop(&mut self, slot: &SlotObservation, severity: Severity, reason: String) {
        self.drop.push(SlotDrop { name: slot.name.clone(), severity, reason });
    }
}

/// This node.
pub(super) fn site(obs: &Observation) -> Site<'_> {
    // A standby that has the lock and is not being promoted yet feeds nobody but its own cascade.
    let leads = obs.server.is_primary() || matches!(obs.server.role, Role::Promoted | Role::StandbyLeader);
    Site { me: &obs.me, tags: &obs.tags, use_slots: obs.use_slots, leads }
}

/// What to do about the physical slots among `seen`, and about slots that should not be there at all.
pub(super) fn plan(obs: &Observation, cfg: &GlobalConfig, view: &ClusterView, seen: &[SlotObservation], wanted: &Wanted) -> SlotPlan {
    let mut plan = SlotPlan::default();
    // Between a failover and the promotion a slot with xmin may be the one that its owner comes back to.
    let may_touch_xmin = !view.is_unlocked() && (view.leader_name() != Some(&obs.me) || obs.server.is_primary());
    let reached = match &obs.server.monitor {
        Monitor::Primary(primary) => primary.lsn,
        Monitor::Standby(standby) => standby.replayed,
        Monitor::NotAsked | Monitor::Failed => Lsn::ZERO,
    };
    for slot in seen {
        let may_drop = !cfg.pause && !is_ignored(slot, &cfg.ignore_slots);
        match wanted.slots.get(&slot.name) {
            None if may_drop => {
                plan.drop(slot, Severity::Info, format!("Trying to drop unknown replication slot '{}'", slot.name));
            }
            None => {}
            Some(desired) if slot.lost => {
                if may_drop {
                    plan.drop(slot, Severity::Info, format!("Trying to drop replication slot '{}' with wal_status=lost", slot.name));
                    plan.create_physical(&slot.name, desired);
                }
            }
            Some(desired) if !desired.is(slot) => {
                let (from, to) = (shown(slot), desired.kind.shown());
                let reason = format!("Trying to drop replication slot '{}' because value is changing from {from} to {to}", slot.name);
                plan.drop(slot, Severity::Info, reason);
                plan.create_physical(&slot.name, desired);
            }
            Some(desired) if desired.kind == Kind::Physical => plan.keep_physical(slot, desired, may_touch_xmin, reached),
            Some(_) => {}
        }
    }
    let existing: BTreeSet<&str> = seen.iter().map(|slot| slot.name.as_str()).collect();
    for (name, desired) in wanted.slots.iter().filter(|(name, _)| !existing.contains(name.as_str())) {
        plan.create_physical(name, desired);
    }
    plan
}

/// The kind of `slot`, as log lines show it.
fn shown(slot: &SlotObservation) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    match slot.logical {
        true => Kind::Logical { database: text(&slot.database), plugin: text(&slot.plugin) }.shown(),
        false => Kind::Physical.shown(),
    }
}

impl SlotPlan {
    fn create_physical(&mut self, name: &str, desired: &Desired) {
        if desired.kind == Kind::Physical {
            self.create.push(name.to_owned());
        }
    }

    fn keep_physical(&mut self, slot: &SlotObservation, desired: &Desired, may_touch_xmin: bool, reached: Lsn) {
        let name = &slot.name;
        if let Some(xmin) = slot.xmin {
            // Nobody would ever move it: vacuum would be held back for good.
            if desired.active == Some(false) && may_touch_xmin {
                self.drop(slot, Severity::Warning, format!("Dropping physical replication slot {name} because of its xmin value {xmin}"));
                self.create.push(name.clone());
            }
            return;
        }
        if desired.active == Some(true) {
            return;
        }
        let Some(restart) = slot.restart_lsn else {
            let reason = format!(
                "Dropping physical replication slot {name} because it has no restart_lsn. This slot was probably not created by Patroni, \
                 but by an external agent."
            );
            return self.drop(slot, Severity::Warning, reason);
        };
        // Nobody can go where WAL has not been yet.
        let target = desired.feedback.map(|feedback| feedback.min(reached));
        if let Some(target) = target.filter(|target| *target > restart && !slot.active) {
            self.advance.push((name.clone(), target));
        }
    }
}

/// The slots among `seen` that are what is wanted, by name.
pub(super) fn matching<'s>(seen: &'s [SlotObservation], wanted: &Wanted) -> BTreeMap<&'s str, &'s SlotObservation> {
    seen.iter()
        .filter(|slot| wanted.slots.get(&slot.name).is_some_and(|desired| desired.is(slot)))
        .map(|slot| (slot.name.as_str(), slot))
        .collect()
}
