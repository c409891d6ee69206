//! `demote-cluster` and `promote-cluster`: whether a cluster follows another one.

use std::time::Duration;

use http::Method;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use dcs_core::model::{ClusterView, MemberName, MemberRecord, Role};

use crate::ctl::arguments::Target;
use crate::ctl::context::{Cluster, Context};
use crate::ctl::failure::Failure;
use crate::ctl::members;
use crate::ctl::python;

/// How often the store is asked how far it is.
const POLL: Duration = Duration::from_secs(1);
/// The published state of a server that accepts connections.
const RUNNING: &str = "running";

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster.
    pub target: Target,
    /// What it becomes.
    pub change: Change,
    /// Whether nothing may be asked.
    pub force: bool,
}

/// What a cluster becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A standby cluster of this remote one.
    Demote(Remote),
    /// A cluster of its own.
    Promote,
}

/// Where the other cluster is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// Its host, or several with commas.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// The command that fetches its WAL from an archive.
    pub restore_command: Option<String>,
    /// The slot on it.
    pub primary_slot_name: Option<String>,
}

impl Remote {
    /// The section for the dynamic configuration; nothing if it would not name anybody.
    fn section(&self) -> Option<Value> {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty()).map(Value::from);
        let given = [
            ("host", text(&self.host)),
            ("port", self.port.map(Value::from)),
            ("restore_command", text(&self.restore_command)),
            ("primary_slot_name", text(&self.primary_slot_name)),
        ];
        let section: Map<String, Value> = given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        section.keys().any(|key| key != "primary_slot_name").then_some(Value::Object(section))
    }
}

impl Change {
    /// `demot` or `promot`: what the words of the messages begin with.
    fn stem(&self) -> &'static str {
        if matches!(self, Self::Demote(_)) { "demot" } else { "promot" }
    }

    /// What the leader becomes.
    fn role(&self) -> Role {
        if matches!(self, Self::Demote(_)) { Role::StandbyLeader } else { Role::Primary }
    }
}

/// Changes the configuration through the leader, and waits until the leader is what it should be, however long that takes.
///
/// # Errors
///
/// Nothing says where the other cluster is, nobody leads, the cluster is that already, the prompt is declined, or the leader's
/// agent does not take the change.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let Options { target, change, force } = options;
    let section = match &change {
        Change::Demote(remote) => {
            remote.section().ok_or_else(|| Failure::error("At least --host, --port or --restore-command should be specified"))?
        }
        Change::Promote => Value::Null,
    };
    let cluster = context.open(&target).await?;
    let view = cluster.load().await?;
    let stem = change.stem();
    let Some(leader) = members::leader(&view) else {
        return Err(Failure::error(format!("Cluster has no leader, {stem}ion is not possible")));
    };
    if leader.record.role.as_deref() == Some(change.role().as_str()) {
        return Err(Failure::error("Cluster is already in the required state"));
    }
    context.console.line("Current cluster topology")?;
    context.show_members(&cluster, &view)?;
    let name = &cluster.name;
    if !force && !context.console.confirm(&format!("Are you sure you want to {stem}e {name} cluster?")).await? {
        return Err(Failure::error(format!("Aborted cluster {stem}ion")));
    }
    let failed = |reason: String| Failure::error(format!("Failed to {stem}e {name} cluster: {reason}"));
    match context.call(&leader, Method::PATCH, Some("config"), Some(&json!({ "standby_cluster": section }))).await {
        Ok(answer) if answer.status == 200 => {}
        Ok(answer) => return Err(failed(format!("/config PATCH status code={}, ({})", answer.status, answer.text))),
        Err(reason) => return Err(failed(reason.to_string())),
    }
    wait(context, &cluster, &change, &leader.name).await
}

/// Tells how far it is, until it is done.
async fn wait(context: &mut Context, cluster: &Cluster, change: &Change, former: &MemberName) -> Result<(), Failure> {
    loop {
        let view = cluster.load().await?;
        let now = context.time.seconds();
        if is_done(&view, change, former) {
            context.console.line(format!("{now} cluster is successfully {}ed", change.stem()))?;
            return context.show_members(cluster, &view);
        }
        context.console.line(format!("{now} {}", progress(&view, change, former)))?;
        sleep(POLL).await;
    }
}

fn record<'v>(view: &'v ClusterView, name: &MemberName) -> Option<&'v MemberRecord> {
    view.member(name).map(|member| &member.record)
}

fn is_done(view: &ClusterView, change: &Change, former: &MemberName) -> bool {
    let runs = |record: Option<&MemberRecord>| record.and_then(|record| record.state.as_deref()) == Some(RUNNING);
    let leader = view.leader_name().and_then(|name| record(view, name));
    let is_what_it_should_be = leader.and_then(|leader| leader.role.as_deref()) == Some(change.role().as_str()) && runs(leader);
    is_what_it_should_be && (*change == Change::Promote || runs(record(view, former)))
}

fn progress(view: &ClusterView, change: &Change, former: &MemberName) -> String {
    let leader = view.leader_name().and_then(|name| record(view, name));
    let shown = |text: Option<&String>| text.map_or("None", String::as_str).to_owned();
    let mut line = format!(
        "cluster is unlocked: {}, leader role: {}, leader state: {}",
        if view.is_unlocked() { "True" } else { "False" },
        shown(leader.and_then(|leader| leader.role.as_ref())),
        shown(leader.and_then(|leader| leader.state.as_ref())),
    );
    let moved = view.leader_name().is_some_and(|name| name != former);
    let state = record(view, former).and_then(|record| record.state.as_deref()).filter(|state| !state.is_empty());
    if let Some(state) = state.filter(|_| moved && *change != Change::Promote) {
        line.push_str(&format!(", previous leader state: {}", python::quoted(state)));
    }
    line
}
