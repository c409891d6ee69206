//! The metrics that Patroni has, by name, type and help text, for dashboards that exist.

use std::fmt::{self, Display, Write as _};

use dcs_core::model::{Lsn, MemberName, Role, ServerState};
use ha_engine::decide::observation::Monitor;
use ha_engine::ports::ServerStatus;

use super::cache::Status;
use super::dto::COMPATIBLE_VERSION;
use super::status::{Facts, SyncDuty, received, standby};

/// What Patroni calls the states, in the order of their numbers.
const STATE_NAMES: [&str; 15] = [
    "initdb",
    "initdb_failed",
    "custom_bootstrap",
    "custom_bootstrap_failed",
    "creating_replica",
    "running",
    "starting",
    "bootstrap_starting",
    "start_failed",
    "restarting",
    "restart_failed",
    "stopping",
    "stopped",
    "stop_failed",
    "crashed",
];

/// The metrics page.
pub fn metrics_text(node: &Status, me: &MemberName) -> String {
    let mut page = Page::new(&node.snapshot.settings.scope, me.as_str());
    about_server(&mut page, node.server(), &node.facts);
    about_wal(&mut page, node.server());
    about_cluster(&mut page, node);
    page.text
}

fn about_server(page: &mut Page, server: Option<&ServerStatus>, facts: &Facts) {
    let version: String = COMPATIBLE_VERSION.split('.').map(|part| format!("{part:0>2}")).collect();
    page.gauge("version", "Patroni semver without periods.", version);
    page.gauge("postgres_running", "Value is 1 if Postgres is running, 0 otherwise.", u8::from(facts.is_running()));
    page.gauge(
        "postmaster_start_time",
        "Epoch seconds since Postgres started.",
        Seconds(server.map(|server| server.postmaster_start_epoch)),
    );
    let role = |role| u8::from(facts.role == role);
    page.gauge("primary", "Value is 1 if this node is the leader, 0 otherwise.", role(Role::Primary));
    let location = match server.map(|server| &server.monitor) {
        Some(Monitor::Primary(primary)) => primary.lsn,
        _ => Lsn::ZERO,
    };
    page.counter("xlog_location", "Current location of the Postgres transaction log, 0 if this node is not the leader.", location.0);
    page.gauge("standby_leader", "Value is 1 if this node is the standby_leader, 0 otherwise.", role(Role::StandbyLeader));
    page.gauge("replica", "Value is 1 if this node is a replica, 0 otherwise.", role(Role::Replica));
    let duty = |duty| u8::from(server.is_some() && facts.duty == Some(duty));
    page.gauge("sync_standby", "Value is 1 if this node is a sync standby, 0 otherwise.", duty(SyncDuty::Sync));
    page.gauge("quorum_standby", "Value is 1 if this node is a quorum standby, 0 otherwise.", duty(SyncDuty::Quorum));
}

fn about_wal(page: &mut Page, server: Option<&ServerStatus>) {
    let monitor = server.and_then(standby);
    page.counter(
        "xlog_received_location",
        "Current location of the received Postgres transaction log, 0 if this node is not a replica.",
        monitor.map_or(0, |standby| received(standby).0),
    );
    page.counter(
        "xlog_replayed_location",
        "Current location of the replayed Postgres transaction log, 0 if this node is not a replica.",
        monitor.map_or(0, |standby| standby.replayed.0),
    );
    let replayed = monitor.and(server).and_then(|server| server.replayed_timestamp.as_ref());
    page.gauge(
        "xlog_replayed_timestamp",
        "Current timestamp of the replayed Postgres transaction log, 0 if null.",
        Seconds(replayed.map(|(_, epoch)| *epoch)),
    );
    let paused = monitor.is_some_and(|standby| standby.replay_paused);
    page.gauge("xlog_paused", "Value is 1 if the Postgres xlog is paused, 0 otherwise.", u8::from(paused));
    if server.is_some() {
        let state = monitor.and_then(|standby| standby.replication_state.as_deref());
        page.gauge("postgres_streaming", "Value is 1 if Postgres is streaming, 0 otherwise.", u8::from(state == Some("streaming")));
        page.gauge(
            "postgres_in_archive_recovery",
            "Value is 1 if Postgres is replicating from archive, 0 otherwise.",
            u8::from(state == Some("in archive recovery")),
        );
    }
}

fn about_cluster(page: &mut Page, node: &Status) {
    let Status { snapshot, local, facts, .. } = node;
    let server = node.server();
    page.gauge(
        "postgres_server_version",
        "Version of Postgres (if running), 0 otherwise.",
        server.map_or(0, |server| server.server_version),
    );
    page.gauge("cluster_unlocked", "Value is 1 if the cluster is unlocked, 0 if locked.", u8::from(facts.unlocked));
    page.gauge("failsafe_mode_is_active", "Value is 1 if failsafe mode is active, 0 if inactive.", u8::from(facts.failsafe));
    let timeline = server.and(node.timeline);
    page.gauge("postgres_timeline", "Postgres timeline of this node (if running), 0 otherwise.", timeline.map_or(0, |timeline| timeline.0));
    page.gauge("dcs_last_seen", "Epoch timestamp when DCS was last contacted successfully by Patroni.", snapshot.dcs_last_seen);
    page.gauge("pending_restart", "Value is 1 if the node needs a restart, 0 otherwise.", u8::from(!local.pending_restart.is_empty()));
    page.gauge("is_paused", "Value is 1 if auto failover is disabled, 0 otherwise.", u8::from(facts.paused));
    let names: Vec<String> = ServerState::ALL.iter().zip(STATE_NAMES).map(|(state, name)| format!("{}={name}", state.number())).collect();
    page.metric(
        "gauge",
        "postgres_state",
        &format!("Numeric representation of Postgres state.\n# Values: {}", names.join(", ")),
        facts.state.map_or(-1, |state| i16::from(state.number())),
    );
}

/// Seconds since the epoch with their fraction; 0 if there are none.
struct Seconds(Option<f64>);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // The shortest text that reads back as the same number, with a fraction, as Python prints it.
            Some(seconds) => write!(f, "{seconds:?}"),
            None => f.write_str("0"),
        }
    }
}

/// A page in the exposition format. Every sample bears scope and name of the member.
pub(super) struct Page {
    labels: String,
    pub(super) text: String,
}

impl Page {
    pub(super) fn new(scope: &str, name: &str) -> Self {
        Self { labels: format!("scope=\"{}\",name=\"{}\"", escaped(scope), escaped(name)), text: String::new() }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric("gauge", name, help, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric("counter", name, help, value);
    }

    fn metric(&mut self, kind: &str, name: &str, help: &str, value: impl Display) {
        let name = format!("patroni_{name}");
        self.head(kind, &name, help);
        self.sample(&name, "", value);
    }

    /// What a metric is; its samples follow.
    pub(super) fn head(&mut self, kind: &str, name: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A value of the metric; `more` labels begin with a comma.
    pub(super) fn sample(&mut self, name: &str, more: &str, value: impl Display) {
        let labels = &self.labels;
        let _ = writeln!(self.text, "{name}{{{labels}{more}}} {value}");
    }
}

/// A label value as the exposition format wants it.
pub(super) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
