//! `reinit`: replicas build their data directory anew.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use dcs_core::model::{Member, ServerState};

use super::Unanswered;
use crate::ctl::agents::Unreachable;
use crate::ctl::arguments::{Role, Target};
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::members::{self, Action, Wanted};

/// How often it is asked whether a member is done.
const POLL: Duration = Duration::from_secs(2);
/// How the refusal ends that `force` gets over.
const IN_PROGRESS: &str = " already in progress";

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The cluster.
    pub target: Target,
    /// The members. Nobody is chosen just because nobody was named.
    pub members: Vec<String>,
    /// Whether nothing may be asked, and a running action is cancelled.
    pub force: bool,
    /// Whether the copy is taken from the leader.
    pub from_leader: bool,
    /// Whether to wait until it is done.
    pub wait: bool,
}

/// Asks each member to start over, and waits if that was asked for.
///
/// # Errors
///
/// Nobody is meant, the prompt is declined, or somebody does not answer. Refusals are printed and are no errors.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let cluster = context.open(&options.target).await?;
    let view = cluster.load().await?;
    let wanted = Wanted { names: &options.members, role: Role::Replica, force: options.force, action: Action::Reinitialize };
    let chosen = members::select(context, &cluster, &view, wanted).await?;
    members::confirm(context, &chosen, options.force, Action::Reinitialize).await?;

    let mut unanswered = Unanswered::default();
    let mut started = Vec::new();
    for member in chosen {
        match start(context, &member, &options).await? {
            Start::Accepted => started.push(member),
            Start::Refused => {}
            Start::NoAnswer(reason) => unanswered.tell(context, "reinitialize", member.name.as_str(), &reason)?,
        }
    }
    if options.wait {
        wait(context, started).await?;
    }
    unanswered.outcome()
}

/// What became of one request.
enum Start {
    Accepted,
    Refused,
    NoAnswer(Unreachable),
}

async fn start(context: &mut Context, member: &Member, options: &Options) -> Result<Start, Failure> {
    let mut force = options.force;
    loop {
        let body = json!({ "force": force, "from_leader": options.from_leader });
        let answer = match context.call(member, Method::POST, Some("reinitialize"), Some(&body)).await {
            Ok(answer) => answer,
            Err(reason) => return Ok(Start::NoAnswer(reason)),
        };
        let name = &member.name;
        if answer.status < 400 {
            context.console.line(format!("Success: reinitialize for member {name}"))?;
            return Ok(Start::Accepted);
        }
        let refusal = format!("Failed: reinitialize for member {name}, status code={}, ({})", answer.status, answer.text);
        context.console.line(refusal)?;
        if options.force || !answer.text.ends_with(IN_PROGRESS) {
            return Ok(Start::Refused);
        }
        if !context.console.confirm("Do you want to cancel it and reinitialize anyway?").await? {
            return Ok(Start::Refused);
        }
        force = true;
    }
}

async fn wait(context: &mut Context, mut members: Vec<Member>) -> Result<(), Failure> {
    let mut told = 0;
    while !members.is_empty() {
        if members.len() != told {
            told = members.len();
            let names = members::names(&members);
            context.console.line(format!("Waiting for reinitialize to complete on: {names}"))?;
        }
        tokio::time::sleep(POLL).await;
        let mut still_busy = Vec::new();
        for member in members {
            if is_busy(context, &member).await {
                still_busy.push(member);
            } else {
                context.console.line(format!("Reinitialize is completed on: {}", member.name))?;
            }
        }
        members = still_busy;
    }
    Ok(())
}

/// Whether the member still copies. One that does not answer, or not with a state, may: it is asked again.
async fn is_busy(context: &Context, member: &Member) -> bool {
    let Ok(answer) = context.call(member, Method::GET, Some("patroni"), None).await else { return true };
    let status: Value = serde_json::from_str(&answer.text).unwrap_or_default();
    match status.get("state").and_then(Value::as_str) {
        Some(state) => state == ServerState::CreatingReplica.as_str(),
        None => true,
    }
}
