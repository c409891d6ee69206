//! A cluster as the member table shows it. The facts are those of the REST API's `GET /cluster`, read from the same
//! rendering, so that the table and the API never disagree.

use serde_json::{Map, Value};

use dcs_core::model::ClusterView;
use ha_engine::settings::GlobalConfig;

use crate::cluster_json::{Modes, cluster_json};

use super::python;

/// What is to be shown of one cluster, or of one group of a Citus cluster.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The members, sorted by name.
    pub members: Vec<MemberSummary>,
    /// Whether it is in maintenance mode.
    pub paused: bool,
    /// A switchover that waits for its time.
    pub switchover: Option<PlannedSwitchover>,
}

/// A switchover that waits for its time.
#[derive(Clone, Debug)]
pub struct PlannedSwitchover {
    /// When, ISO 8601.
    pub at: String,
    /// The node to step down, if named.
    pub from: Option<String>,
    /// The node to take over, if named.
    pub to: Option<String>,
}

/// A position in the log with the bytes that are missing to the leader's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The position as PostgreSQL writes it.
    pub lsn: String,
    /// How far behind the leader's last known position, in bytes.
    pub lag: u64,
}

/// One member.
#[derive(Clone, Debug)]
pub struct MemberSummary {
    /// Its name.
    pub name: String,
    /// What it is: `leader`, `standby_leader`, `sync_standby`, `quorum_standby` or `replica`.
    pub role: String,
    /// What its server does; empty if unknown.
    pub state: String,
    /// Where PostgreSQL listens, if known.
    pub address: Option<(String, u64)>,
    /// The timeline; null if it is not published.
    pub timeline: Value,
    /// The positions of a member that does not lead; nothing for the leader.
    pub positions: Option<Positions>,
    /// Whether a parameter waits for a restart.
    pub pending_restart: bool,
    /// The parameters that wait.
    pub changes: Vec<Change>,
    /// The restart that waits for its time, as published.
    pub scheduled_restart: Map<String, Value>,
    /// The tags, as published.
    pub tags: Map<String, Value>,
}

/// A parameter that waits for a restart.
#[derive(Clone, Debug)]
pub struct Change {
    /// The parameter.
    pub name: String,
    /// The value in force.
    pub old: String,
    /// The configured value.
    pub new: String,
}

/// What a standby says about its positions; what is unknown is absent.
#[derive(Clone, Debug, Default)]
pub struct Positions {
    /// Received.
    pub receive: Option<Place>,
    /// Replayed.
    pub replay: Option<Place>,
    /// The only one that members of old versions publish.
    pub plain: Option<Place>,
}

impl Summary {
    /// Reads the view.
    pub fn of(view: &ClusterView) -> Self {
        let cluster = cluster_json(view, Modes::of_view(view, Modes::default()));
        let members = cluster.get("members").and_then(Value::as_array);
        let switchover = cluster.get("scheduled_switchover").and_then(Value::as_object);
        Self {
            members: members.into_iter().flatten().filter_map(Value::as_object).map(MemberSummary::read).collect(),
            paused: cluster.contains_key("pause"),
            switchover: switchover.map(|planned| PlannedSwitchover {
                at: text(planned, "at").unwrap_or_default(),
                from: text(planned, "from"),
                to: text(planned, "to"),
            }),
        }
    }
}

impl MemberSummary {
    /// Whether it holds the lock.
    pub fn leads(&self) -> bool {
        matches!(self.role.as_str(), "leader" | "standby_leader")
    }

    /// The member to stream from, if it is tagged so.
    pub fn replicate_from(&self) -> Option<&str> {
        self.tags.get("replicatefrom").and_then(Value::as_str)
    }

    fn read(member: &Map<String, Value>) -> Self {
        let object = |key: &str| member.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        let change = |(name, change): (&String, &Value)| {
            let value = |key: &str| change.get(key).map(python::text).unwrap_or_default();
            Change { name: name.clone(), old: value("old_value"), new: value("new_value") }
        };
        let place = |prefix: &str| {
            let lag = member.get(&format!("{prefix}lag")).and_then(Value::as_u64)?;
            Some(Place { lsn: text(member, &format!("{prefix}lsn"))?, lag })
        };
        let positions = || Positions { receive: place("receive_"), replay: place("replay_"), plain: place("") };
        Self {
            name: text(member, "name").unwrap_or_default(),
            role: text(member, "role").unwrap_or_default(),
            state: text(member, "state").unwrap_or_default(),
            address: text(member, "host").zip(member.get("port").and_then(Value::as_u64)),
            timeline: member.get("timeline").cloned().unwrap_or_default(),
            positions: member.contains_key("lsn").then(positions),
            pending_restart: member.get("pending_restart").and_then(Value::as_bool).unwrap_or(false),
            changes: object("pending_restart_reason").iter().map(change).collect(),
            scheduled_restart: object("scheduled_restart"),
            tags: object("tags"),
        }
    }
}

fn text(object: &Map<String, Value>, key: &str) -> Option<String> {
    object.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// The cluster-wide settings; from an unusable configuration, those that can be read.
pub fn modes(view: &ClusterView) -> GlobalConfig {
    let document = view.config.as_ref().and_then(|config| config.data.clone()).unwrap_or_default();
    let read = |document: &Map<String, Value>| GlobalConfig::from_document(document).map(|(config, _)| config);
    read(&document).unwrap_or_else(|_| read(&Map::new()).expect("an empty document has no unusable value").with_modes_of(&document))
}
