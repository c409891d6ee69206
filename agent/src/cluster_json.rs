//! The cluster as `GET /cluster` answers it and as the control tool lists it: one rendering for both.

use dcs_core::codec::member_object;
use dcs_core::model::{ClusterView, Lsn, Member};
use ha_engine::endpoint::ConnUrl;
use ha_engine::settings::{GlobalConfig, SyncMode};
use serde_json::{Map, Value, json};

/// What the dynamic configuration says about roles and maintenance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// Maintenance mode.
    pub pause: bool,
    /// Whether and how commits wait for standbys.
    pub synchronous_mode: SyncMode,
    /// Whether this is a standby cluster.
    pub standby_cluster: bool,
}

impl From<&GlobalConfig> for Modes {
    fn from(config: &GlobalConfig) -> Self {
        Self { pause: config.pause, synchronous_mode: config.synchronous_mode, standby_cluster: config.standby_cluster.is_some() }
    }
}

impl Modes {
    /// What a dynamic configuration says, even one whose timings cannot be used.
    pub fn of_document(document: &Map<String, Value>) -> Self {
        let parse = |document: &Map<String, Value>| GlobalConfig::from_document(document).ok().map(|(config, _)| config);
        let config = parse(document).or_else(|| Some(parse(&Map::new())?.with_modes_of(document)));
        config.as_ref().map_or_else(Self::default, Self::from)
    }

    /// What the configuration in `view` says; `last_known` if it has none that can be read.
    pub fn of_view(view: &ClusterView, last_known: Self) -> Self {
        let document = view.config.as_ref().and_then(|config| config.data.as_ref());
        document.map_or(last_known, Self::of_document)
    }
}

/// The cluster as JSON: `members`, and `pause` and `scheduled_switchover` if there is something to say. The scope is
/// added by whoever knows it.
pub fn cluster_json(view: &ClusterView, modes: Modes) -> Map<String, Value> {
    let mut members: Vec<&Member> = view.members.iter().collect();
    members.sort_by(|one, other| one.name.cmp(&other.name));
    let members = members.into_iter().map(|member| Value::Object(member_json(view, modes, member))).collect();
    let mut cluster = Map::from_iter([("members".to_owned(), Value::Array(members))]);
    if modes.pause {
        cluster.insert("pause".to_owned(), true.into());
    }
    if let Some(switchover) = scheduled_switchover(view) {
        cluster.insert("scheduled_switchover".to_owned(), Value::Object(switchover));
    }
    cluster
}

/// One member as JSON.
pub fn member_json(view: &ClusterView, modes: Modes, member: &Member) -> Map<String, Value> {
    let record = &member.record;
    let leads = view.leader_name() == Some(&member.name);
    let role = role(view, modes, member);
    let replication = record.replication_state.as_deref().filter(|state| role != "leader" && !state.is_empty());
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("name", member.name.as_str().into());
    put("role", role.into());
    put("state", replication.or(record.state.as_deref()).unwrap_or("").into());
    put("api_url", record.api_url.clone().into());
    if let Some(url) = record.conn_url.as_deref().and_then(ConnUrl::parse).filter(|url| !url.host.is_empty()) {
        put("host", url.host.to_lowercase().into());
        put("port", url.port.into());
    }
    let published = member_object(record);
    for key in ["timeline", "pending_restart", "pending_restart_reason", "scheduled_restart", "tags"] {
        match published.get(key) {
            // An agent that tells no reasons publishes none.
            Some(Value::Object(reasons)) if key == "pending_restart_reason" && reasons.is_empty() => {}
            Some(value) => drop(put(key, value.clone())),
            None => {}
        }
    }
    if !leads {
        for (prefix, position) in [("receive_", record.receive_lsn), ("replay_", record.replay_lsn), ("", record.xlog_location)] {
            let (lsn, lag) = position_json(position, view.status.last_lsn);
            put(&format!("{prefix}lsn"), lsn);
            put(&format!("{prefix}lag"), lag);
        }
    }
    object
}

/// What a member is, as lists show it.
pub fn role(view: &ClusterView, modes: Modes, member: &Member) -> &'static str {
    if view.leader_name() == Some(&member.name) {
        return if modes.standby_cluster { "standby_leader" } else { "leader" };
    }
    match modes.synchronous_mode {
        SyncMode::On if view.sync.lists(&member.name) => "sync_standby",
        SyncMode::Quorum if view.sync.lists(&member.name) => "quorum_standby",
        SyncMode::Off | SyncMode::On | SyncMode::Quorum => "replica",
    }
}

/// A position and how far it is behind the cluster's.
fn position_json(position: Option<Lsn>, cluster: Lsn) -> (Value, Value) {
    match position.filter(|position| !position.is_zero()) {
        Some(position) => (position.to_string().into(), cluster.saturating_sub(position).into()),
        None => ("unknown".into(), "unknown".into()),
    }
}

fn scheduled_switchover(view: &ClusterView) -> Option<Map<String, Value>> {
    let request = &view.failover.as_ref()?.request;
    let mut object = Map::from_iter([("at".to_owned(), request.scheduled_at?.to_string().into())]);
    for (key, name) in [("from", &request.leader), ("to", &request.candidate)] {
        if let Some(name) = name {
            object.insert(key.to_owned(), json!(name.as_str()));
        }
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use dcs_core::codec::{decode_member, parse_schedule};
    use dcs_core::model::{FailoverKey, FailoverRequest, Leader, MemberName, Revision, Status, SyncRecord, SyncState};

    use super::*;

    fn member(name: &str, value: &Value) -> Member {
        Member {
            name: name.into(),
            revision: Revision::from(1_u64),
            handle: None,
            record: decode_member(value.to_string().as_bytes()).value,
        }
    }

    /// Three members: a leader, one that streams, and one that is only half there.
    fn view() -> ClusterView {
        let a = json!({
            "conn_url": "postgres://10.0.0.1:5433/postgres", "api_url": "http://10.0.0.1:8008/patroni",
            "state": "running", "role": "primary", "version": "4.1.4", "timeline": 2, "xlog_location": 67_171_424,
            "pending_restart": true,
            "pending_restart_reason": {"max_connections": {"old_value": "100", "new_value": "200"}},
            "scheduled_restart": {"schedule": "2030-01-01T00:00:00+00:00", "postmaster_start_time": null},
        });
        let b = json!({
            "conn_url": "postgres://[fd00::B]:5432/postgres", "api_url": "http://10.0.0.2:8008/patroni",
            "state": "running", "role": "replica", "timeline": 2, "replication_state": "streaming",
            "xlog_location": 67_171_424, "receive_lsn": 67_171_424, "replay_lsn": 67_171_400,
            "tags": {"nofailover": true},
        });
        ClusterView {
            leader: Some(Leader { name: "a".into(), revision: Revision::from(1_u64), handle: None }),
            status: Status { last_lsn: Lsn(67_171_424), ..Status::default() },
            members: vec![member("c", &json!({})), member("b", &b), member("a", &a)],
            ..ClusterView::default()
        }
    }

    fn with_sync(mut view: ClusterView) -> ClusterView {
        let record = SyncRecord { leader: Some("a".into()), standbys: vec!["B".into()], quorum: 0 };
        view.sync = SyncState { record, ..SyncState::default() };
        view
    }

    fn roles(view: &ClusterView, modes: Modes) -> Vec<&'static str> {
        view.members.iter().rev().map(|member| role(view, modes, member)).collect()
    }

    #[test]
    fn a_cluster_with_a_leader_a_standby_and_a_half_known_member() {
        insta::assert_json_snapshot!(cluster_json(&view(), Modes::default()));
    }

    #[test]
    fn without_a_leader_everybody_has_positions() {
        let view = ClusterView { leader: None, ..view() };
        let cluster = cluster_json(&view, Modes::default());
        let members = cluster["members"].as_array().unwrap();
        let told: Vec<_> = members.iter().map(|member| (&member["role"], &member["lsn"], &member["lag"])).collect();
        let (replica, at, unknown) = (&json!("replica"), &json!("0/400F460"), &json!("unknown"));
        assert_eq!(told, [(replica, at, &json!(0)), (replica, at, &json!(0)), (replica, unknown, unknown)]);
    }

    #[test]
    fn a_standby_ahead_of_the_published_position_does_not_lag() {
        assert_eq!(position_json(Some(Lsn(100)), Lsn(50)), (json!("0/64"), json!(0)));
        assert_eq!(position_json(Some(Lsn(0x1_0000_0010)), Lsn(0x1_0000_0020)), (json!("1/10"), json!(16)));
        assert_eq!(position_json(Some(Lsn::ZERO), Lsn(50)), (json!("unknown"), json!("unknown")));
    }

    #[test]
    fn roles_follow_the_modes() {
        let view = with_sync(view());
        let modes = |synchronous_mode, standby_cluster| Modes { pause: false, synchronous_mode, standby_cluster };
        assert_eq!(roles(&view, modes(SyncMode::Off, false)), ["leader", "replica", "replica"]);
        assert_eq!(roles(&view, modes(SyncMode::On, false)), ["leader", "sync_standby", "replica"]);
        assert_eq!(roles(&view, modes(SyncMode::Quorum, false)), ["leader", "quorum_standby", "replica"]);
        assert_eq!(roles(&view, modes(SyncMode::Off, true)), ["standby_leader", "replica", "replica"]);
    }

    #[test]
    fn a_standby_leader_shows_how_it_replicates_and_a_leader_does_not() {
        let mut view = view();
        view.leader = Some(Leader { name: "b".into(), revision: Revision::from(1_u64), handle: None });
        let b = view.member(&MemberName::from("b")).unwrap();
        assert_eq!(member_json(&view, Modes::default(), b)["state"], "running");
        let modes = Modes { standby_cluster: true, ..Modes::default() };
        assert_eq!(member_json(&view, modes, b)["state"], "streaming");
    }

    #[test]
    fn pause_and_a_scheduled_switchover_are_told() {
        let request = FailoverRequest {
            leader: Some("a".into()),
            candidate: Some("b".into()),
            scheduled_at: Some(parse_schedule("2030-01-01T10:00+02:00").unwrap()),
        };
        let key = |request| Some(FailoverKey { revision: Revision::from(1_u64), request });
        let view = ClusterView { failover: key(request.clone()), ..ClusterView::default() };
        let modes = Modes { pause: true, ..Modes::default() };
        assert_eq!(
            Value::Object(cluster_json(&view, modes)),
            json!({
                "members": [],
                "pause": true,
                "scheduled_switchover": {"at": "2030-01-01T10:00:00+02:00", "from": "a", "to": "b"},
            })
        );
        let now = key(FailoverRequest { scheduled_at: None, ..request });
        let view = ClusterView { failover: now, ..ClusterView::default() };
        assert_eq!(Value::Object(cluster_json(&view, Modes::default())), json!({"members": []}));
    }

    #[test]
    fn modes_are_read_even_if_the_timings_cannot_be_used() {
        let document = json!({"ttl": "soon", "pause": true, "synchronous_mode": "quorum"});
        let modes = Modes::of_document(document.as_object().unwrap());
        assert_eq!(modes, Modes { pause: true, synchronous_mode: SyncMode::Quorum, standby_cluster: false });
        let last_known = Modes { pause: true, ..Modes::default() };
        assert_eq!(Modes::of_view(&ClusterView::default(), last_known), last_known);
    }
}
