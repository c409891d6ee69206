//! Which replication slots should exist on this node, and what the leader tells about them (section 12).

use std::collections::{BTreeMap, BTreeSet};

use dcs_core::Moment;
use dcs_core::keys::slot_name_from_member;
use dcs_core::model::{ClusterView, Lsn, Member, Role, Status};
use serde_json::{Map, Value};

use super::action::Effect;
use super::cycle::Cycle;
use super::memory::Memory;
use super::observation::{Monitor, Observation, SlotObservation};
use crate::settings::GlobalConfig;

/// What to do about slots. Carried out in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotPlan {
    /// Slots to drop, each with the reason as logged; active ones cannot be dropped and are tried again.
    pub drop: Vec<(String, String)>,
    /// Physical slots to create, with WAL reserved at once.
    pub create: Vec<String>,
    /// Physical slots to move forward.
    pub advance: Vec<(String, Lsn)>,
}

impl SlotPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.drop.is_empty() && self.create.is_empty() && self.advance.is_empty()
    }
}

/// A slot that should exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Desired {
    /// Whether somebody is expected to stream from it; unknown for slots of absent members.
    active: Option<bool>,
    /// How far its consumer is known to be.
    feedback: Option<Lsn>,
}

/// Whether `member` is expected to stream from `me`.
fn streams_from_me(member: &Member, me: &str, leads: bool, view: &ClusterView) -> bool {
    match member.record.tags.replicatefrom() {
        Some(name) if name == me => leads || view.leader_name() != Some(&member.name),
        Some(name) => leads && !view.members.iter().any(|known| known.name == name),
        None => leads,
    }
}

/// Physical slots for members, and for absent ones that are still kept.
fn desired(obs: &Observation, cfg: &GlobalConfig, view: &ClusterView, leads: bool) -> BTreeMap<String, Desired> {
    let mut slots = BTreeMap::new();
    if !obs.use_slots {
        return slots;
    }
    let me = obs.me.as_str();
    let nofailover = obs.tags.nofailover();
    let keep_all = !cfg.member_slots_ttl.is_zero();
    let leader_is_old = view
        .leader_member()
        .and_then(|leader| leader.record.version_parts())
        .is_some_and(|version| version.first().is_some_and(|major| *major < 4));
    for member in view.members.iter().filter(|member| member.name != me && !member.record.tags.nostream()) {
        let active = streams_from_me(member, me, leads, view);
        let cascades_from_me = member.record.tags.replicatefrom() == Some(me);
        let wanted = if keep_all { !nofailover || cascades_from_me } else { active };
        if !wanted {
            continue;
        }
        let name = slot_name_from_member(member.name.as_str());
        let told = view.status.slots.as_ref().and_then(|slots| slots.get(&name).copied());
        let own_word = (member.record.tags.replicatefrom().is_some() || leader_is_old).then_some(member.record.xlog_location).flatten();
        let wanted = Desired { active: Some(active), feedback: told.max(own_word) };
        slots.entry(name).and_modify(|known: &mut Desired| known.active = known.active.max(wanted.active)).or_insert(wanted);
    }
    if !nofailover {
        let mine = slot_name_from_member(me);
        for name in view.status.retain_slots.iter().filter(|name| **name != mine) {
            slots.entry(name.clone()).or_default();
        }
    }
    slots
}

/// Whether an `ignore_slots` entry matches: every property it gives must be equal.
fn is_ignored(slot: &SlotObservation, entries: &[Value]) -> bool {
    let kind = if slot.logical { "logical" } else { "physical" };
    let matches = |entry: &Map<String, Value>| {
        ["name", "type", "database", "plugin"].into_iter().all(|property| {
            let Some(wanted) = entry.get(property).and_then(Value::as_str) else {
                return true;
            };
            match property {
                "name" => wanted == slot.name,
                "type" => wanted == kind,
                "database" => slot.database.as_deref() == Some(wanted),
                _ => slot.plugin.as_deref() == Some(wanted),
            }
        })
    };
    entries.iter().filter_map(Value::as_object).any(matches)
}

/// What to do about slots on this node now.
pub(crate) fn plan(obs: &Observation, cfg: &GlobalConfig, view: &ClusterView, seen: &[SlotObservation], leads: bool) -> SlotPlan {
    let mut plan = SlotPlan::default();
    // A wiped store drops no slot.
    if view.config.is_none() {
        return plan;
    }
    let desired = desired(obs, cfg, view, leads);
    let may_touch_xmin = !view.is_unlocked() && (view.leader_name() != Some(&obs.me) || obs.server.is_primary());
    for slot in seen {
        // Permanent slots are kept as they are.
        if cfg.slots.contains_key(&slot.name) {
            continue;
        }
        let Some(wanted) = desired.get(&slot.name).filter(|_| !slot.logical) else {
            if !cfg.pause && !is_ignored(slot, &cfg.ignore_slots) {
                let lost = if slot.lost { " with wal_status=lost" } else { "" };
                plan.drop.push((slot.name.clone(), format!("Trying to drop unknown replication slot '{}'{lost}", slot.name)));
            }
            continue;
        };
        if slot.lost {
            if !cfg.pause {
                plan.drop
                    .push((slot.name.clone(), format!("Trying to drop unknown replication slot '{}' with wal_status=lost", slot.name)));
                plan.create.push(slot.name.clone());
            }
            continue;
        }
        let expected_inactive = wanted.active == Some(false);
        if slot.has_xmin {
            if expected_inactive && may_touch_xmin {
                plan.drop.push((slot.name.clone(), format!("Dropping physical replication slot {} because of its xmin value", slot.name)));
                plan.create.push(slot.name.clone());
            }
            continue;
        }
        if wanted.active == Some(true) {
            continue;
        }
        match (slot.restart_lsn, wanted.feedback) {
            (None, _) => plan.drop.push((
                slot.name.clone(),
                format!(
                    "Dropping physical replication slot {} because it has no restart_lsn. This slot was probably not \
                     created by Patroni, but by an external agent.",
                    slot.name
                ),
            )),
            (Some(restart), Some(feedback)) if feedback > restart && !slot.active => {
                plan.advance.push((slot.name.clone(), feedback));
            }
            _ => {}
        }
    }
    let existing: BTreeSet<&str> = seen.iter().map(|slot| slot.name.as_str()).collect();
    plan.create.extend(desired.into_keys().filter(|name| !existing.contains(name.as_str())));
    plan
}

/// The status that a leader publishes: its position, the positions of members' slots, and the slots that are kept for
/// absent members.
pub(crate) fn status(obs: &Observation, cfg: &GlobalConfig, view: &ClusterView, memory: &mut Memory, now: Moment) -> (Status, Vec<String>) {
    let lsn = obs.server.monitor.lsn().unwrap_or(Lsn::ZERO);
    let mut status = Status { last_lsn: lsn, ..Status::default() };
    let mut expired = Vec::new();
    let (Some(seen), true) = (&obs.server.slots, obs.use_slots) else {
        status.slots = view.status.slots.clone();
        status.retain_slots = view.status.retain_slots.clone();
        return (status, expired);
    };
    if cfg.member_slots_ttl.is_zero() {
        return (status, expired);
    }
    let mine = slot_name_from_member(obs.me.as_str());
    let mut slots: BTreeMap<String, Lsn> =
        seen.iter().filter_map(|slot| Some((slot.name.clone(), slot.restart_lsn.or(slot.confirmed_flush_lsn)?))).collect();
    slots.insert(mine.clone(), lsn);
    let present: BTreeSet<String> = view
        .members
        .iter()
        .filter(|member| !member.record.tags.nostream())
        .map(|member| slot_name_from_member(member.name.as_str()))
        .chain([mine])
        .collect();
    // Hardening rule X18: slots that the former leader kept start their time now instead of being lost.
    for name in &view.status.retain_slots {
        memory.retain_slots_seen.entry(name.clone()).or_insert(now);
    }
    for name in slots.keys().filter(|name| present.contains(*name) && !cfg.slots.contains_key(*name)) {
        memory.retain_slots_seen.insert(name.clone(), now);
    }
    memory.retain_slots_seen.retain(|name, last_seen| {
        let age = now.saturating_since(*last_seen);
        let keep = age < cfg.member_slots_ttl;
        if !keep {
            expired.push(format!("Replication slot '{name}' for absent cluster member is expired after {} sec.", age.as_secs()));
        }
        keep
    });
    status.retain_slots = memory.retain_slots_seen.keys().filter(|name| slots.contains_key(*name)).cloned().collect();
    slots.retain(|name, _| present.contains(name) || memory.retain_slots_seen.contains_key(name));
    status.slots = Some(slots);
    (status, expired)
}

/// Orders the status write that follows a renewal.
pub(super) fn publish_status(c: &mut Cycle<'_>) {
    let leads_a_standby_cluster = c.cfg.standby_cluster.is_some() && matches!(c.obs.server.monitor, Monitor::Standby(_));
    if !matches!(c.obs.server.monitor, Monitor::Primary(_)) && !leads_a_standby_cluster {
        return;
    }
    let (status, expired) = status(c.obs, c.cfg, &c.view, &mut c.memory, c.now.moment);
    for line in expired {
        c.info(line);
    }
    c.push(Effect::WriteStatus(status));
}

/// C23: orders slot maintenance.
pub(super) fn maintain(c: &mut Cycle<'_>) {
    let Some(seen) = &c.obs.server.slots else {
        return;
    };
    let leads = c.lock_is_mine() && c.is_primary() || matches!(c.role(), Role::Primary | Role::Promoted | Role::StandbyLeader);
    let plan = plan(c.obs, c.cfg, &c.view, seen, leads);
    if !plan.is_empty() {
        c.push(Effect::MaintainSlots(plan));
    }
}
