//! What must hold, in every moment of every history.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Name;
use crate::network::{Plane, Weather};
use crate::world::Inner;

/// What the simulation knows of one agent: what it may be held responsible for.
#[derive(Clone, Copy, Debug, Default)]
pub struct AgentState {
    /// Its process exists and is not stopped.
    pub runs: bool,
    /// It has held a lease, or its server was not writable, since it last came to (again).
    pub responsible: bool,
    /// Since when it runs without an interruption.
    pub since: Duration,
    /// Its engine decides: it is past its start-up, which waits for the store.
    pub decides: bool,
    /// How long it still believes to hold the lock, by its own clock.
    pub lease_left: Duration,
}

/// What a client was told.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    pub row: u64,
    pub end: u64,
    pub hash: u64,
    pub node: Name,
    pub at: Duration,
    /// Synchronous mode had been established: it must survive.
    pub protected: bool,
}

/// What is remembered, and what was found.
#[derive(Debug, Default)]
pub struct Checker {
    /// Whether commits are synchronous.
    pub synchronous: bool,
    pub agents: BTreeMap<Name, AgentState>,
    pub acknowledged: Vec<Acknowledged>,
    pub violations: Vec<String>,
    /// When the agents were last made to believe something wrong by hand (a key deleted, a pause).
    pub waived_until: Duration,
    /// Who was promoted when, to which timeline.
    pub promotions: Vec<(Duration, Name, u32)>,
    /// How far behind, in bytes, a node may be promoted.
    pub maximum_lag: u64,
    /// Whether votes are counted.
    pub quorum: bool,
    /// The protected row that lies furthest.
    pub(crate) frontier: Option<Acknowledged>,
    /// What the state of the store and the frontier were when `/sync` was last looked at.
    pub(crate) looked: (u64, u64),
    /// When somebody was last writable.
    pub(crate) last_writable: Duration,
    pub(crate) owner: Option<String>,
    /// Since when an agent that came to again has a writable server without being allowed to.
    pub(crate) irresponsible_since: BTreeMap<Name, Duration>,
}

/// The time that an agent reserves to cut clients off.
const GUARD: Duration = Duration::from_millis(1_100);
/// After this time without a change everybody knows what there is to know.
const SETTLED: Duration = Duration::from_secs(5);
/// How long an agent that has come to may take to find out that it must stop its server.
const COMES_TO: Duration = Duration::from_secs(3);

impl Inner {
    /// The invariants of every moment.
    pub fn check(&mut self) {
        let writable: Vec<Name> = self.servers.values().filter(|server| server.is_writable(self.now)).map(|server| server.name).collect();
        let owner = self.lock_owner();
        let mut found = Vec::new();
        for (name, agent) in &mut self.checker.agents {
            // With less left, whoever came to only now cannot stop its server in time.
            if agent.runs && (agent.lease_left > GUARD || !writable.contains(name)) {
                agent.responsible = true;
            }
        }
        let waived = self.now < self.checker.waived_until;
        let answers_for = |name: &Name| self.checker.agents.get(name).is_some_and(|agent| agent.runs && agent.responsible);
        let answerable: Vec<Name> = writable.iter().copied().filter(answers_for).collect();
        if answerable.len() > 1 && !waived {
            found.push(format!("SAF1: {answerable:?} are writable, all with running agents"));
        }
        // SAF2: the lock was let go, and its former owner can still write.
        if self.checker.owner != owner
            && let Some(former) = &self.checker.owner
            && let Some(name) = answerable.iter().find(|name| **name == former.as_str())
            && !waived
        {
            found.push(format!("SAF2: the lock of {name} is gone while its server is writable"));
        }
        for (name, agent) in &self.checker.agents {
            let lies = answers_for(name) && !agent.lease_left.is_zero() && writable.contains(name) && owner.as_deref() != Some(*name);
            if lies && !waived {
                found.push(format!("SAF15: {name} is writable and believes that its lease is valid, and the lock is with {owner:?}"));
            }
        }
        // An agent that came to with a writable server must have settled what it may do.
        for name in self.checker.agents.keys().copied().collect::<Vec<_>>() {
            let agent = self.checker.agents[name];
            let irresponsible = agent.runs
                && agent.decides
                && !agent.responsible
                && writable.contains(&name)
                && owner.as_deref().is_some_and(|owner| owner != name);
            if !irresponsible {
                self.checker.irresponsible_since.remove(name);
                continue;
            }
            let since = *self.checker.irresponsible_since.entry(name).or_insert(self.now);
            if self.now.saturating_sub(since) > COMES_TO + Duration::from_secs(20) && !waived {
                found.push(format!("SAF2: {name} has been running for a while and its server is writable without the lock"));
            }
        }
        self.checker.owner = owner;
        if !writable.is_empty() {
            self.checker.last_writable = self.now;
        }
        found.extend(self.unsafe_sync_key());
        for what in found {
            self.violation(what);
        }
    }

    /// A client was told that its row is safe.
    pub fn check_acknowledgement(&mut self, node: Name, row: u64, end: u64) {
        let Some(data) = self.servers.get(node).and_then(|server| server.data.as_ref()) else { return };
        let Some(hash) = data.wal.hash_at(end) else { return };
        let established = self
            .store
            .get(&crate::key("sync"))
            .and_then(|entry| serde_json::from_slice::<serde_json::Value>(&entry.value).ok())
            .is_some_and(|sync| sync.get("leader").is_some_and(|leader| leader.is_string()));
        let protected = self.checker.synchronous && established;
        let acknowledged = Acknowledged { row, end, hash, node, at: self.now, protected };
        self.checker.acknowledged.push(acknowledged);
        if protected && self.checker.frontier.is_none_or(|known| known.end < end) {
            self.checker.frontier = Some(acknowledged);
        }
    }

    /// An agent asks its server to become a primary.
    pub fn check_promotion_request(&mut self, node: Name) {
        let owner = self.lock_owner();
        let agent = self.checker.agents.get(node).copied().unwrap_or_default();
        // One that was stopped between the answer of the store and this moment could not know better.
        let awake = agent.runs && self.now.saturating_sub(agent.since) > COMES_TO;
        if owner.as_deref() != Some(node) && awake {
            self.violation(format!("SAF3: {node} promotes although the lock is with {owner:?}"));
        }
        if !self.checker.synchronous {
            self.check_winner(node);
        }
    }

    /// SAF5, SAF6: of those who could be promoted as well, nobody is further; and it is not too far behind.
    fn check_winner(&mut self, node: Name) {
        let Some(winner) = self.servers.get(node).and_then(|server| server.data.as_ref()).map(|data| data.wal.clone()) else { return };
        let status = self.store.get(&crate::key("status")).map(|entry| entry.value).unwrap_or_default();
        let status = serde_json::from_slice::<serde_json::Value>(&status).unwrap_or_default();
        let last = status.get("optime").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if last.saturating_sub(winner.end()) > self.checker.maximum_lag {
            self.violation(format!("SAF5: {node} is promoted at {}, and the leader was at {last}", winner.end()));
        }
        let settled = |at: Duration| self.now.saturating_sub(at) > SETTLED;
        if !settled(self.network.changed_at) || !settled(self.checker.last_writable) {
            return;
        }
        let ahead = self.servers.values().find(|other| {
            let (Some(data), Some(process)) = (&other.data, &other.process) else { return false };
            let agent = self.checker.agents.get(other.name).copied().unwrap_or_default();
            let here = agent.runs && agent.decides && settled(agent.since) && process.answers() && !other.frozen;
            let open = self.network.is_open_both_ways(Plane::Peers, node, other.name)
                && self.network.weather(Plane::Peers, node) == Weather::default()
                && self.network.weather(Plane::Peers, other.name) == Weather::default();
            let calm = settled(process.accepting_since) && process.receiver.connection.is_none();
            here && open && calm && data.wal.timeline == winner.timeline && data.wal.end() > winner.end()
        });
        if let Some(other) = ahead {
            let what = format!("SAF6: {node} is promoted at {}, and {} is reachable and has more", winner.end(), other.name);
            self.violation(what);
        }
    }

    /// SAF9: whoever may win by what `/sync` says now has every row that was acknowledged, or somebody it must ask has.
    fn unsafe_sync_key(&mut self) -> Option<String> {
        let frontier = self.checker.frontier?;
        let look = (self.store.revision(), frontier.end);
        if std::mem::replace(&mut self.checker.looked, look) == look {
            return None;
        }
        let entry = self.store.get(&crate::key("sync"))?;
        let sync = serde_json::from_slice::<serde_json::Value>(&entry.value).ok()?;
        let leader = crate::name_of(sync.get("leader")?.as_str()?)?;
        let listed = sync.get("sync_standby").and_then(serde_json::Value::as_str).unwrap_or_default();
        let voters: Vec<Name> = listed.split(',').filter_map(crate::name_of).collect();
        // Without data there is nothing to win with, and a copy of the leader has what the leader has.
        let lacks = |name: &Name| {
            let data = self.servers.get(name).and_then(|server| server.data.as_ref());
            data.is_some_and(|data| data.wal.flushed < frontier.end || data.wal.hash_at(frontier.end) != Some(frontier.hash))
        };
        let without: Vec<Name> = voters.iter().copied().filter(lacks).collect();
        let quorum = sync.get("quorum").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let allowed = if self.checker.quorum { usize::try_from(quorum).unwrap_or(usize::MAX) } else { 0 };
        let row = frontier.row;
        if lacks(&leader) {
            return Some(format!("SAF9: /sync says that {leader} may win alone, and it does not have row {row}"));
        }
        (without.len() > allowed)
            .then(|| format!("SAF9: /sync says {voters:?} with quorum {quorum}, and {without:?} do not have row {row}"))
    }

    /// A server has become a primary.
    pub fn check_promotion(&mut self, node: Name, timeline: u32) {
        self.checker.promotions.push((self.now, node, timeline));
        let lost = self.lost_on(node);
        if let Some(first) = lost.first() {
            self.violation(format!(
                "SAF7/8: {node} was promoted without {} rows that were acknowledged in synchronous mode, first row {} by {} at {:.3}",
                lost.len(),
                first.row,
                first.node,
                first.at.as_secs_f64()
            ));
        }
    }

    /// The rows that must have survived and are not in the log of `node`.
    pub fn lost_on(&self, node: Name) -> Vec<Acknowledged> {
        let Some(data) = self.servers.get(node).and_then(|server| server.data.as_ref()) else { return Vec::new() };
        let protected = self.checker.acknowledged.iter().filter(|row| row.protected);
        protected.filter(|row| data.wal.hash_at(row.end) != Some(row.hash)).copied().collect()
    }
}
