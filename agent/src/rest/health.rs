//! The rules of the health checks, as pure functions.
//!
//! Load balancers depend on every cell of them: which path answers 200 on which node in which situation.

use std::time::Duration;

use dcs_core::Moment;
use dcs_core::model::{Lsn, Role, Tags};
use ha_engine::settings::values;
use serde_json::Value;

use super::query::Query;
use super::status::{Facts, SyncDuty};

/// What the answer depends on, beside the request.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// What is known.
    pub facts: &'a Facts,
    /// Whether this node may believe to be the leader, at the moment of answering.
    pub is_leader: bool,
    /// The tags as configured; those set at run time do not count.
    pub tags: &'a Tags,
}

/// The basic answers that the paths are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basic {
    /// The node leads.
    pub leader: bool,
    /// The node is the writable one.
    pub primary: bool,
    /// The node leads a standby cluster.
    pub standby_leader: bool,
    /// The node may serve reads.
    pub replica: bool,
}

impl Basic {
    /// The four answers for a node; `lag` is how far a replica may be behind.
    pub fn of(node: Node<'_>, lag: Option<i64>) -> Self {
        let facts = node.facts;
        let may_read = facts.role == Role::Replica
            && facts.is_running()
            && !node.tags.noloadbalance()
            && !is_lagging(facts.leader_position, facts.replayed, lag);
        if !facts.has_view && facts.paused {
            let (primary, standby_leader) = (facts.role == Role::Primary, facts.role == Role::StandbyLeader);
            return Self { leader: primary || standby_leader, primary, standby_leader, replica: may_read };
        }
        let standby_leader = facts.standby_cluster && matches!(facts.role, Role::Replica | Role::StandbyLeader);
        match (node.is_leader, facts.standby_cluster) {
            (true, true) => Self { leader: true, primary: false, standby_leader, replica: false },
            (true, false) => Self { leader: true, primary: true, standby_leader: false, replica: may_read },
            (false, _) => Self { leader: false, primary: false, standby_leader: false, replica: may_read },
        }
    }

    fn writable_or_leading(self) -> bool {
        self.primary || self.standby_leader
    }
}

/// Whether a replica is further behind than `lag`. A leader of unknown position is not ahead.
fn is_lagging(leader: Lsn, replayed: Lsn, lag: Option<i64>) -> bool {
    let Some(lag) = lag else { return false };
    !leader.is_zero() && i128::from(leader.0) > i128::from(replayed.0) + i128::from(lag)
}

/// A lag as people write it: bytes, or a number with a unit. What cannot be read is no limit.
fn lag_of(query: &Query) -> Option<i64> {
    values::int(&Value::from(query.get("lag")?), Some("B"))
}

/// Whether the answer to `path` never depends on what PostgreSQL would say, as long as there is a view.
pub fn is_about_leadership(path: &str) -> bool {
    path == "/" || ["leader", "master", "primary", "read-write"].iter().any(|word| path.contains(word))
}

/// Whether a health check succeeds: 200, or else 503.
pub fn is_healthy(path: &str, query: &Query, node: Node<'_>) -> bool {
    let path = if path == "/" { "/primary" } else { path };
    let contains = |words: &[&str]| words.iter().any(|word| path.contains(word));
    let basic = Basic::of(node, lag_of(query));
    if contains(&["standby_leader", "standby-leader"]) {
        return basic.standby_leader;
    }
    if contains(&["leader"]) {
        return basic.leader;
    }
    if contains(&["master", "primary", "read-write"]) {
        return basic.primary;
    }
    let (sync, quorum) = (node.facts.duty == Some(SyncDuty::Sync), node.facts.duty == Some(SyncDuty::Quorum));
    let good = if contains(&["replica"]) {
        basic.replica
    } else if contains(&["read-only"]) && !contains(&["sync", "quorum"]) {
        basic.writable_or_leading() || basic.replica
    } else if contains(&["health"]) {
        node.facts.is_running()
    } else if node.facts.has_view {
        match path {
            "/sync" | "/synchronous" => sync && basic.replica,
            "/quorum" => quorum && basic.replica,
            "/async" | "/asynchronous" => !sync && !quorum && basic.replica,
            "/read-only-sync" | "/read-only-synchronous" => basic.writable_or_leading() || (sync && basic.replica),
            "/read-only-quorum" => basic.writable_or_leading() || (quorum && basic.replica),
            _ => false,
        }
    } else {
        false
    };
    good && has_tags(node.tags, query)
}

/// Whether every `tag_<key>=<value>` of the query is a tag of the node.
fn has_tags(tags: &Tags, query: &Query) -> bool {
    let wanted = query.iter().filter_map(|(key, value)| Some((key.strip_prefix("tag_")?, value)));
    wanted.into_iter().all(|(key, wanted)| match tags.0.get(key) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => text == wanted,
        Some(other) => values::text(other).to_lowercase() == wanted,
    })
}

/// Whether the loop is alive: in maintenance always, otherwise if its next cycle is not overdue by more than it can be
/// while the lock holds.
pub fn is_live(paused: bool, runs_as_primary: bool, next_run: Moment, ttl: Duration, now: Moment) -> bool {
    let limit = if runs_as_primary { ttl } else { ttl * 2 };
    paused || next_run + limit > now
}

/// Whether the node is ready to serve.
///
/// # Errors
///
/// Why it is not.
pub fn readiness(query: &Query, node: Node<'_>, maximum_lag: i64) -> Result<(), String> {
    let facts = node.facts;
    if node.is_leader {
        return Ok(());
    }
    if !facts.is_running() {
        return Err("PostgreSQL is not running".to_owned());
    }
    if !facts.streaming {
        return Err("PostgreSQL does not stream".to_owned());
    }
    if !facts.has_view && facts.latest_end.is_zero() {
        return if facts.failsafe { Ok(()) } else { Err("the store is not reachable".to_owned()) };
    }
    let written = query.get("mode") == Some("write");
    let position = if written { facts.received } else { facts.replayed };
    let lag = i128::from(facts.leader_position.0) - i128::from(position.0);
    let limit = lag_of(query).unwrap_or(maximum_lag);
    if lag > i128::from(limit) {
        let what = if written { "written" } else { "replayed" };
        return Err(format!("{lag} bytes are not {what} yet, and {limit} are allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
