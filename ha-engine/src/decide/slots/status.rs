//! What the leader tells about its slots, and which slots of absent members are kept (section 12.3).

use std::collections::{BTreeMap, BTreeSet};

use dcs_core::Moment;
use dcs_core::keys::slot_name_from_member;
use dcs_core::model::{ClusterView, Lsn, Status};

use super::super::memory::Memory;
use super::super::observation::Observation;
use super::desired::wanted;
use super::permanent::{Kind, permanent};
use super::plan::{matching, site};
use crate::settings::GlobalConfig;

/// The status that a leader publishes, and what to log: its position, the positions of the slots that it manages, and the
/// slots that are kept for absent members.
pub(super) fn status(obs: &Observation, cfg: &GlobalConfig, view: &ClusterView, memory: &mut Memory, now: Moment) -> (Status, Vec<String>) {
    let lsn = obs.server.monitor.lsn().unwrap_or(Lsn::ZERO);
    let mut status = Status { last_lsn: lsn, ..Status::default() };
    let Some(seen) = &obs.server.slots else {
        // What cannot be seen now is what it was.
        status.slots = view.status.slots.clone();
        status.retain_slots = view.status.retain_slots.clone();
        return (status, Vec::new());
    };
    let wanted = wanted(site(obs), cfg, view);
    let mine = slot_name_from_member(obs.me.as_str());
    let mut slots: BTreeMap<String, Lsn> = matching(seen, &wanted)
        .into_iter()
        .filter_map(|(name, slot)| {
            let position = if slot.logical { slot.confirmed_flush_lsn } else { slot.restart_lsn };
            Some((name.to_owned(), position?))
        })
        .collect();
    slots.insert(mine.clone(), lsn);
    let permanent = permanent(cfg).slots;
    let members = || view.members.iter().filter(|member| !member.record.tags.nostream());
    let mut present: BTreeSet<String> = members().map(|member| slot_name_from_member(member.name.as_str())).collect();
    if !obs.tags.nostream() {
        present.insert(mine);
    }
    if cfg.member_slots_ttl.is_zero() {
        slots.retain(|name, _| match permanent.get(name) {
            Some(Kind::Physical) => true,
            Some(Kind::Logical { .. }) => !present.contains(name),
            None => false,
        });
    }
    // Hardening rule X18: slots that the former leader kept start their time now instead of being lost.
    for name in &view.status.retain_slots {
        memory.retain_slots_seen.entry(name.clone()).or_insert(now);
    }
    for name in slots.keys().filter(|name| present.contains(*name) && permanent.get(*name) != Some(&Kind::Physical)) {
        memory.retain_slots_seen.insert(name.clone(), now);
    }
    let mut expired = Vec::new();
    memory.retain_slots_seen.retain(|name, last_seen| {
        let keep = now.saturating_since(*last_seen) < cfg.member_slots_ttl;
        if !keep {
            let limit = cfg.member_slots_ttl.as_secs();
            expired.push(format!("Replication slot '{name}' for absent cluster member is expired after {limit} sec."));
            slots.remove(name);
        }
        keep
    });
    status.retain_slots = memory.retain_slots_seen.keys().cloned().collect();
    status.slots = (!slots.is_empty()).then_some(slots);
    (status, expired)
}
