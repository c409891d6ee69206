//! Failsafe mode: the store is lost, and the cluster is not (section 6).
//!
//! The leader keeps a map of all members in the store. When it cannot reach the store it asks everybody in the map whether
//! it may go on; if all of them say yes it may, for another `ttl`, because each of them has promised not to race for that
//! long. Who is not in the map never races: the leader would not know whom to ask.

pub mod exclusion;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dcs_core::keys::slot_name_from_member;
use dcs_core::model::{ClusterView, Leader, Lsn, Member, MemberName, MemberRecord, Revision};
use dcs_core::{LeaderLease, Moment};
use serde_json::{Map, Value};

use self::exclusion::Promise;
use super::action::{Answer, Ask, Effect};
use super::cycle::Cycle;
use super::observation::{Observation, PeerAnswer, PeerTarget};
use super::slots;

/// What failsafe mode remembers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FailsafeMemory {
    /// The map, as last loaded or written. It counts while the store is away.
    pub map: Option<Value>,
    /// Who was in a map that may have been written, or not.
    pub unsure: Map<String, Value>,
    /// Set while this node leads without the store.
    pub extension: Option<Extension>,
}

/// What the word of all other members is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Extension {
    /// The lease, counted from before anybody was asked: every promise ends later.
    pub lease: LeaderLease,
    /// Where the others are.
    pub positions: BTreeMap<MemberName, Lsn>,
}

/// Whom to ask for their word, and what to tell them.
#[derive(Clone, Debug, PartialEq)]
pub struct Appeal {
    /// All other members. Nobody: the answer is yes.
    pub targets: Vec<PeerTarget>,
    /// The positions of the slots here.
    pub slots: Option<BTreeMap<String, Lsn>>,
}

impl FailsafeMemory {
    /// Whether this node leads without the store at `now`.
    pub fn is_active(&self, ttl: Duration, now: Moment) -> bool {
        self.extension.as_ref().is_some_and(|extension| now < extension.lease.sent_at() + ttl)
    }

    /// A write of `map` has ended: it was done, or nobody knows.
    #[must_use]
    pub fn after_write(mut self, map: Map<String, Value>, done: bool) -> Self {
        if done {
            (self.map, self.unsure) = (Some(Value::Object(map)), Map::new());
        } else {
            self.unsure.extend(map);
        }
        self
    }

    /// All other members that may race, by the map; nothing if it cannot be used by `me`.
    fn others(&self, me: &MemberName) -> Option<BTreeMap<&str, &Value>> {
        let map = usable(self.map.as_ref()).filter(|map| map.contains_key(me.as_str()))?;
        // An entry of the map that is in force wins over one that may have been written.
        let all = self.unsure.iter().chain(map).map(|(name, url)| (name.as_str(), url));
        Some(all.filter(|(name, _)| *name != me.as_str()).collect())
    }

    /// Whether `me` would have somebody to ask.
    pub fn names_others(&self, me: &MemberName) -> bool {
        self.others(me).is_some_and(|others| !others.is_empty())
    }

    fn targets(&self, me: &MemberName) -> Option<Vec<PeerTarget>> {
        let others = self.others(me)?;
        // Who cannot be asked cannot say yes.
        others.into_iter().map(|(name, url)| Some(PeerTarget { name: name.into(), api_url: url.as_str()?.to_owned() })).collect()
    }
}

/// The map, unless it is damaged.
fn usable(stored: Option<&Value>) -> Option<&Map<String, Value>> {
    stored.and_then(Value::as_object)
}

/// Q12: whether the map keeps `me` out of the race. Damaged or empty it keeps nobody out.
pub(super) fn keeps_out(view: &ClusterView, me: &MemberName) -> bool {
    usable(view.failsafe.as_ref()).is_some_and(|map| !map.is_empty() && !map.contains_key(me.as_str()))
}

/// Whether this agent may have promised not to race before it was restarted. It does not know any more; but whoever got the
/// promise and still counts on it is a primary, and in the map: if everybody in the map has answered, nobody does.
pub(super) fn may_have_promised(c: &Cycle<'_>, answers: &[(MemberName, PeerAnswer)], except: Option<&MemberName>) -> bool {
    if !c.cfg.failsafe_mode || c.now.moment >= c.obs.started_at + c.cfg.ttl {
        return false;
    }
    let has_answered = |name: &str| answers.iter().any(|(known, answer)| known == name && *answer != PeerAnswer::Unreachable);
    let others = usable(c.view.failsafe.as_ref()).into_iter().flat_map(Map::keys).filter(|name| *name != c.me().as_str());
    others.filter(|name| except.is_none_or(|except| *except != name.as_str())).any(|name| !has_answered(name))
}

/// The entries of the map as members of whom nothing but name and URL is known.
pub(super) fn bare_members(view: &ClusterView) -> impl Iterator<Item = Member> {
    usable(view.failsafe.as_ref()).into_iter().flatten().filter_map(|(name, url)| {
        let record = MemberRecord { api_url: Some(url.as_str()?.to_owned()), ..MemberRecord::default() };
        Some(Member { name: name.as_str().into(), revision: Revision::from(0_i64), handle: None, record })
    })
}

/// Orders the write of the map that follows a renewal.
pub(super) fn publish(c: &mut Cycle<'_>) {
    if !c.cfg.failsafe_mode || c.effects.iter().any(|effect| matches!(effect, Effect::WriteFailsafe(_))) {
        return;
    }
    let published = c.view.members.iter().filter_map(|member| Some((member.name.to_string(), member.record.api_url.clone()?)));
    let mut map: Map<String, Value> = published.filter(|(_, url)| !url.is_empty()).map(|(name, url)| (name, Value::String(url))).collect();
    map.entry(c.me().to_string()).or_insert_with(|| c.obs.api_url.clone().into());
    c.push(Effect::WriteFailsafe(map));
}

/// C2: whoever was promised that this node does not race is the leader of a view without one, and of a view in which the
/// lock has come to this node although it no longer wants it.
pub(super) fn complete(view: &Arc<ClusterView>, obs: &Observation, promise: Option<&Promise>) -> Arc<ClusterView> {
    match promise {
        Some(promise) if view.is_unlocked() || view.leader_name() == Some(&obs.me) => Arc::new(led_by(view, promise)),
        _ => Arc::clone(view),
    }
}

/// `view` with the leader that was promised, and what it told.
fn led_by(view: &ClusterView, promise: &Promise) -> ClusterView {
    let call = &promise.to;
    let mut view = view.clone();
    view.leader = Some(Leader { name: call.name.clone(), revision: Revision::from(0_i64), handle: None });
    let (conn_url, api_url) = (Some(call.conn_url.clone()), Some(call.api_url.clone()));
    match view.members.iter_mut().find(|member| member.name == call.name) {
        Some(member) => (member.record.conn_url, member.record.api_url) = (conn_url, api_url),
        None => {
            let record = MemberRecord { conn_url, api_url, ..MemberRecord::default() };
            view.members.push(Member { name: call.name.clone(), revision: Revision::from(0_i64), handle: None, record });
            view.members.sort_by(|one, other| one.name.cmp(&other.name));
        }
    }
    if let Some(slots) = &call.slots {
        for member in view.members.iter_mut().filter(|member| member.record.tags.replicatefrom().is_some()) {
            let told = slots.get(&slot_name_from_member(member.name.as_str())).copied();
            member.record.xlog_location = told.or(member.record.xlog_location);
        }
        view.status.slots = Some(slots.clone());
    }
    view
}

/// `view` with the positions that the others gave along with their word.
fn with_positions(view: &ClusterView, positions: &BTreeMap<MemberName, Lsn>) -> ClusterView {
    let mut view = view.clone();
    let slots = view.status.slots.get_or_insert_default();
    for (name, lsn) in positions {
        slots.insert(slot_name_from_member(name.as_str()), *lsn);
        if let Some(member) = view.members.iter_mut().find(|member| member.name == *name) {
            member.record.xlog_location = Some(*lsn);
        }
    }
    view
}

/// D2, D3: slots move on with what is known without the store. Nothing without the mode.
pub(super) fn maintain_slots(c: &mut Cycle<'_>) {
    if !c.cfg.failsafe_mode || c.obs.task.is_some() || c.obs.server.state.is_starting() {
        return;
    }
    let view = match (&c.memory.failsafe.extension, &c.promise) {
        (Some(extension), _) => with_positions(&c.view, &extension.positions),
        (None, Some(promise)) => led_by(&c.view, promise),
        (None, None) => ClusterView::clone(&c.view),
    };
    c.view = Arc::new(view);
    slots::maintain(c);
}

/// D3: whether all others agree that this primary goes on without the store. Its lease is then as good as renewed.
pub(super) fn may_go_on(c: &mut Cycle<'_>) -> Result<bool, Vec<Ask>> {
    if !c.cfg.failsafe_mode {
        return Ok(false);
    }
    let Some(targets) = c.memory.failsafe.targets(c.me()) else {
        c.warn("failsafe mode cannot be used: the last known /failsafe key is damaged, or does not have this node in it");
        return Ok(false);
    };
    let ask = Ask::Word(Appeal { targets, slots: own_slots(c.obs) });
    let extension = match c.answer(&ask) {
        None => return Err(vec![ask]),
        Some(Answer::Word(Some(extension))) => extension,
        Some(_) => return Ok(false),
    };
    let lease = extension.lease;
    c.memory.lease = Some(c.memory.lease.map_or(lease, |known| known.latest(lease)));
    c.memory.failsafe.extension = Some(extension.clone());
    Ok(true)
}

/// Where the slots here are, and this server under its own name.
fn own_slots(obs: &Observation) -> Option<BTreeMap<String, Lsn>> {
    let seen = obs.server.slots.as_ref()?;
    let mut slots: BTreeMap<String, Lsn> = seen
        .iter()
        .filter_map(|slot| Some((slot.name.clone(), if slot.logical { slot.confirmed_flush_lsn } else { slot.restart_lsn }?)))
        .collect();
    slots.insert(slot_name_from_member(obs.me.as_str()), obs.server.monitor.lsn()?);
    Some(slots)
}
