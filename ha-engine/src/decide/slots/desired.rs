//! Which replication slots should exist on a node (section 12.1).

use std::collections::{BTreeMap, BTreeSet};

use dcs_core::keys::slot_name_from_member;
use dcs_core::model::{ClusterView, Lsn, Member, MemberName, Tags};

use super::super::observation::SlotObservation;
use super::permanent::{Kind, is_valid_name, permanent};
use crate::settings::GlobalConfig;

/// A node, as far as its slots depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site<'a> {
    /// Its name.
    pub(super) me: &'a MemberName,
    /// Its tags.
    pub(super) tags: &'a Tags,
    /// Whether replication slots are used at all.
    pub(super) use_slots: bool,
    /// Whether others stream from it because it leads.
    pub(super) leads: bool,
}

/// A slot that should exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Desired {
    /// What it is.
    pub(super) kind: Kind,
    /// Whether somebody is expected to use it; unknown for slots of absent members.
    pub(super) active: Option<bool>,
    /// How far its consumer is known to be.
    pub(super) feedback: Option<Lsn>,
}

impl Desired {
    /// Whether `slot` is of this kind.
    pub(super) fn is(&self, slot: &SlotObservation) -> bool {
        match &self.kind {
            Kind::Physical => !slot.logical,
            Kind::Logical { database, plugin } => {
                slot.logical && slot.database.as_ref() == Some(database) && slot.plugin.as_ref() == Some(plugin)
            }
        }
    }
}

/// What should exist, and what is wrong with what is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// By name.
    pub(super) slots: BTreeMap<String, Desired>,
    /// What to tell the operator.
    pub(super) errors: Vec<String>,
}

/// The slots that should exist on `site`.
pub(super) fn wanted(site: Site<'_>, cfg: &GlobalConfig, view: &ClusterView) -> Wanted {
    let mut wanted = Wanted::default();
    if !site.use_slots {
        return wanted;
    }
    add_members(&mut wanted, site, cfg, view);
    // Neither the slots of absent members nor permanent ones: a node that never leads has nothing to hand over.
    if !site.tags.nofailover() {
        add_retained(&mut wanted, site, view);
        add_permanent(&mut wanted, site, cfg, view);
    }
    wanted
}

/// Whether `member` is expected to stream from `site`.
fn streams_from(site: Site<'_>, member: &Member, view: &ClusterView) -> bool {
    let me = site.me.as_str();
    match member.record.tags.replicatefrom() {
        Some(name) if name == me => site.leads || view.leader_name() != Some(&member.name),
        Some(name) => site.leads && !view.members.iter().any(|known| known.name == name),
        None => site.leads,
    }
}

fn add_members(wanted: &mut Wanted, site: Site<'_>, cfg: &GlobalConfig, view: &ClusterView) {
    let keep_all = !cfg.member_slots_ttl.is_zero();
    // Its agent tells nothing of the slots of members.
    let leader_is_old = view
        .leader_member()
        .and_then(|leader| leader.record.version_parts())
        .is_some_and(|version| version.first().is_some_and(|major| *major < 4));
    let mut owners: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for member in view.members.iter().filter(|member| member.name != *site.me && !member.record.tags.nostream()) {
        let active = streams_from(site, member, view);
        let upstream = member.record.tags.replicatefrom();
        let here = if keep_all { !site.tags.nofailover() || upstream == Some(site.me.as_str()) } else { active };
        if !here {
            continue;
        }
        let name = slot_name_from_member(member.name.as_str());
        owners.entry(name.clone()).or_default().push(member.name.as_str());
        // The slot on the leader does not move when its consumer streams from somebody else.
        let own_word = member.record.xlog_location.filter(|_| upstream.is_some() || leader_is_old);
        let desired = Desired { kind: Kind::Physical, active: Some(active), feedback: told(view, &name).max(own_word) };
        wanted
            .slots
            .entry(name)
            .and_modify(|known| {
                // What one of them has not read yet is needed.
                (known.active, known.feedback) = (known.active.max(desired.active), known.feedback.min(desired.feedback));
            })
            .or_insert(desired);
    }
    let conflicts: Vec<String> = owners
        .iter()
        .filter(|(_, members)| members.len() > 1)
        .map(|(slot, members)| format!("{} map to {slot}", members.join(", ")))
        .collect();
    if !conflicts.is_empty() {
        wanted.errors.push(format!("Following cluster members share a replication slot name: {}", conflicts.join("; ")));
    }
}

/// What the leader has told about the slot `name`.
fn told(view: &ClusterView, name: &str) -> Option<Lsn> {
    view.status.slots.as_ref()?.get(name).copied()
}

fn add_retained(wanted: &mut Wanted, site: Site<'_>, view: &ClusterView) {
    let mine = slot_name_from_member(site.me.as_str());
    for name in view.status.retain_slots.iter().filter(|name| **name != mine && is_valid_name(name)) {
        wanted.slots.entry(name.clone()).or_insert(Desired { kind: Kind::Physical, active: None, feedback: None });
    }
}

fn add_permanent(wanted: &mut Wanted, site: Site<'_>, cfg: &GlobalConfig, view: &ClusterView) {
    let mine = slot_name_from_member(site.me.as_str());
    let cascading: BTreeMap<String, Option<Lsn>> = view
        .members
        .iter()
        .filter(|member| member.record.tags.replicatefrom().is_some())
        .map(|member| (slot_name_from_member(member.name.as_str()), member.record.xlog_location))
        .collect();
    // A standby that gives no feedback to the primary cannot keep the catalog rows that decoding needs.
    let may_decode = site.leads || slot_on_primary(site.me, site.tags, view).is_some();
    let configured = permanent(cfg);
    wanted.errors.extend(configured.errors);
    for (name, kind) in configured.slots {
        match kind {
            Kind::Physical => {
                if name == mine {
                    continue;
                }
                let cascade = cascading.get(&name);
                let active = Some(site.leads && cascade.is_none());
                let feedback = told(view, &name).max(cascade.copied().flatten());
                wanted.slots.entry(name).or_insert(Desired { kind, active, feedback });
            }
            Kind::Logical { .. } if !may_decode => {}
            Kind::Logical { .. } if wanted.slots.contains_key(&name) => wanted.errors.push(format!(
                "Permanent logical replication slot {{'{name}': {}}} is conflicting with physical replication slot for cluster member",
                kind.shown()
            )),
            Kind::Logical { .. } => {
                let feedback = told(view, &name);
                wanted.slots.insert(name, Desired { kind, active: None, feedback });
            }
        }
    }
}

/// The slot on the primary that stands for `me`: its own, or that of the member through which it gets its WAL. None if one
/// on the way does not stream, or if they stream in a circle.
pub(super) fn slot_on_primary(me: &MemberName, tags: &Tags, view: &ClusterView) -> Option<String> {
    let (mut name, mut tags) = (me, tags);
    let mut seen = BTreeSet::new();
    while seen.insert(name) {
        if tags.nostream() {
            return None;
        }
        let upstream = tags.replicatefrom().filter(|upstream| name != upstream);
        match upstream.and_then(|upstream| view.members.iter().find(|member| member.name == upstream)) {
            Some(member) => (name, tags) = (&member.name, &member.record.tags),
            None => return Some(slot_name_from_member(name.as_str())),
        }
    }
    None
}
