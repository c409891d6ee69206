//! A cluster as the member table shows it: the same facts as the REST API's `GET /cluster`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use dcs_core::model::{ClusterView, Lsn, Member, PendingRestart, ScheduledTime};
use ha_engine::endpoint::ConnUrl;
use ha_engine::settings::{GlobalConfig, SyncMode};

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
    /// When.
    pub at: ScheduledTime,
    /// The node to step down, if named.
    pub from: Option<String>,
    /// The node to take over, if named.
    pub to: Option<String>,
}

/// What a member is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShownRole {
    /// Holds the lock.
    Leader,
    /// Holds the lock of a standby cluster.
    StandbyLeader,
    /// A synchronous standby.
    SyncStandby,
    /// A voter in quorum mode.
    QuorumStandby,
    /// Any other.
    Replica,
}

impl ShownRole {
    /// Whether it holds the lock.
    pub fn leads(self) -> bool {
        matches!(self, Self::Leader | Self::StandbyLeader)
    }

    /// The words in the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Leader => "Leader",
            Self::StandbyLeader => "Standby Leader",
            Self::SyncStandby => "Sync Standby",
            Self::QuorumStandby => "Quorum Standby",
            Self::Replica => "Replica",
        }
    }
}

/// A position in the log with the bytes that are missing to the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The position.
    pub lsn: Lsn,
    /// How far behind the leader's last known position, in bytes.
    pub lag: u64,
}

/// One member.
#[derive(Clone, Debug)]
pub struct MemberSummary {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: ShownRole,
    /// What its server does; empty if unknown.
    pub state: String,
    /// Where PostgreSQL listens, if known.
    pub address: Option<(String, u16)>,
    /// The timeline, if published.
    pub timeline: Option<u32>,
    /// The positions of a member that does not lead; nothing for the leader.
    pub positions: Option<Positions>,
    /// Parameters that wait for a restart; nothing if none is pending.
    pub pending_restart: Option<BTreeMap<String, PendingRestart>>,
    /// The restart that waits for its time, as published.
    pub scheduled_restart: Option<Map<String, Value>>,
    /// The tags, as published.
    pub tags: Map<String, Value>,
    /// The member to stream from, if it is tagged so.
    pub replicate_from: Option<String>,
}

/// What a standby says about its positions; what is unknown is absent.
#[derive(Clone, Copy, Debug, Default)]
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
        let modes = modes(view);
        let mut members: Vec<_> = view.members.iter().map(|member| summarize(view, &modes, member)).collect();
        members.sort_by(|left, right| left.name.cmp(&right.name));
        let switchover = view.failover.as_ref().and_then(|failover| {
            let request = &failover.request;
            Some(PlannedSwitchover {
                at: request.scheduled_at?,
                from: request.leader.as_ref().map(ToString::to_string),
                to: request.candidate.as_ref().map(ToString::to_string),
            })
        });
        Self { members, paused: modes.pause, switchover }
    }
}

/// The cluster-wide modes; an unusable configuration has those that can be read from it.
pub fn modes(view: &ClusterView) -> GlobalConfig {
    let document = view.config.as_ref().and_then(|config| config.data.clone()).unwrap_or_default();
    let defaults = || GlobalConfig::from_document(&Map::new()).map(|(config, _)| config);
    match GlobalConfig::from_document(&document) {
        Ok((config, _)) => config,
        Err(_) => defaults().expect("an empty document has no unusable value").with_modes_of(&document),
    }
}

fn summarize(view: &ClusterView, modes: &GlobalConfig, member: &Member) -> MemberSummary {
    let record = &member.record;
    let leads = view.leader_name() == Some(&member.name);
    let synchronous = modes.synchronous_mode != SyncMode::Off && modes.standby_cluster.is_none();
    let role = match leads {
        true if modes.standby_cluster.is_some() => ShownRole::StandbyLeader,
        true => ShownRole::Leader,
        false if synchronous && view.sync.lists(&member.name) => match modes.synchronous_mode {
            SyncMode::Quorum => ShownRole::QuorumStandby,
            _ => ShownRole::SyncStandby,
        },
        false => ShownRole::Replica,
    };
    let replicating = record.replication_state.clone().filter(|state| role != ShownRole::Leader && !state.is_empty());
    let place = |lsn: Option<Lsn>| {
        let lsn = lsn.filter(|lsn| !lsn.is_zero())?;
        Some(Place { lsn, lag: view.status.last_lsn.saturating_sub(lsn) })
    };
    let address = record.conn_url.as_deref().and_then(ConnUrl::parse).filter(|url| !url.host.is_empty());
    MemberSummary {
        name: member.name.to_string(),
        role,
        state: replicating.or_else(|| record.state.clone()).unwrap_or_default(),
        address: address.map(|url| (url.host, url.port)),
        timeline: record.timeline.map(|timeline| timeline.0),
        positions: (!leads).then(|| Positions {
            receive: place(record.receive_lsn),
            replay: place(record.replay_lsn),
            plain: place(record.xlog_location),
        }),
        pending_restart: record.pending_restart.clone(),
        scheduled_restart: record.scheduled_restart.clone(),
        tags: record.tags.0.clone(),
        replicate_from: record.tags.replicatefrom().map(str::to_owned),
    }
}
