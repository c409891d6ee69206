//! The JSON of `GET /patroni` and of the health checks.
//!
//! Other agents read it in the leader race, tools and dashboards read it all the time: fields are absent rather than
//! null or false, except `timeline`.

use dcs_core::model::{MemberName, Role, ServerState};
use ha_engine::decide::observation::Monitor;
use ha_engine::ports::ServerStatus;
use serde_json::{Map, Value, json};

use super::cache::Status;
use super::status::{SyncDuty, received};

/// The version of Patroni that this agent is compatible with. Members and tools compare it.
pub const COMPATIBLE_VERSION: &str = "4.1.4";

/// The status of this node.
pub fn status_json(node: &Status, me: &MemberName) -> Map<String, Value> {
    let Status { snapshot, local, facts, .. } = node;
    let mut status = Fields(Map::new());
    status.put("state", facts.state.map_or("unknown", ServerState::as_str));
    let server = node.server();
    if let Some(server) = server {
        status.put("postmaster_start_time", server.postmaster_start_time.as_str());
    }
    status.put("role", facts.role.as_str());
    if let Some(server) = server {
        put_server(&mut status, server, node);
    }
    status.flag("pause", facts.paused);
    status.flag("cluster_unlocked", facts.unlocked);
    status.flag("failsafe_mode_is_active", facts.failsafe);
    status.put("dcs_last_seen", snapshot.dcs_last_seen);
    if !snapshot.tags.0.is_empty() {
        status.put("tags", snapshot.tags.0.clone());
    }
    if let Some(system_id) = snapshot.server.as_ref().and_then(|server| server.system_id.as_ref()) {
        status.put("database_system_identifier", system_id.as_str());
    }
    status.flag("watchdog_failed", snapshot.watchdog_failed);
    if !local.pending_restart.is_empty() {
        status.flag("pending_restart", true);
        let reasons = local
            .pending_restart
            .iter()
            .map(|(parameter, change)| (parameter.clone(), json!({"old_value": change.old_value, "new_value": change.new_value})));
        status.put("pending_restart_reason", reasons.collect::<Map<_, _>>());
    }
    status.put("patroni", json!({"version": COMPATIBLE_VERSION, "scope": snapshot.settings.scope, "name": me.as_str()}));
    status.put("quorate", json!({"version": env!("CARGO_PKG_VERSION")}));
    if let Some(restart) = &snapshot.scheduled_restart {
        let mut scheduled = restart.filters.clone();
        scheduled.insert("schedule".to_owned(), restart.at.to_string().into());
        status.put("scheduled_restart", scheduled);
    }
    status.0
}

/// What is only known if the server answered.
fn put_server(status: &mut Fields, server: &ServerStatus, node: &Status) {
    let facts = &node.facts;
    status.put("server_version", server.server_version);
    let (xlog, replication_state) = match &server.monitor {
        Monitor::Primary(primary) => (json!({"location": primary.lsn}), None),
        Monitor::Standby(standby) => {
            let replayed_timestamp = server.replayed_timestamp.as_ref().map(|(text, _)| text);
            let xlog = json!({
                "received_location": received(standby),
                "replayed_location": standby.replayed,
                "replayed_timestamp": replayed_timestamp,
                "paused": standby.replay_paused,
            });
            (xlog, standby.replication_state.as_deref())
        }
        Monitor::NotAsked | Monitor::Failed => return,
    };
    status.put("xlog", xlog);
    if facts.role == Role::Replica {
        status.flag("sync_standby", facts.duty == Some(SyncDuty::Sync));
        status.flag("quorum_standby", facts.duty == Some(SyncDuty::Quorum));
    }
    status.put("timeline", json!(node.timeline));
    if let Some(state) = replication_state {
        status.put("replication_state", state);
    }
    if !server.replication.is_empty() {
        status.put("replication", server.replication.clone());
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// A flag is there if it is set.
    fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.put(key, true);
        }
    }
}
