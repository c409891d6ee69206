//! `flush`: what is scheduled is forgotten.

use http::Method;

use dcs_core::model::{ClusterView, FailoverKey, FailoverRequest};

use super::Unanswered;
use crate::ctl::arguments::{Role, Target};
use crate::ctl::context::{Cluster, Context};
use crate::ctl::failure::Failure;
use crate::ctl::members::{self, Action, Wanted};

/// What is forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum What {
    /// Restarts of members.
    #[default]
    Restart,
    /// The switchover of the cluster.
    Switchover,
}

impl What {
    /// Reads the word on the command line.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "restart" => Some(Self::Restart),
            "switchover" => Some(Self::Switchover),
            _ => None,
        }
    }
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The cluster.
    pub target: Target,
    /// The members; all if there are none.
    pub members: Vec<String>,
    /// What is forgotten.
    pub what: What,
    /// Only members of this role.
    pub role: Role,
    /// Whether nothing may be asked.
    pub force: bool,
}

/// Asks members to forget what they have scheduled.
///
/// # Errors
///
/// Nobody is meant, the prompt is declined, or somebody does not answer. Refusals are printed and are no errors.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let cluster = context.open(&options.target).await?;
    let view = cluster.load().await?;
    match options.what {
        What::Restart => restarts(context, &cluster, &view, &options).await,
        What::Switchover => switchover(context, &cluster, &view).await,
    }
}

async fn restarts(context: &mut Context, cluster: &Cluster, view: &ClusterView, options: &Options) -> Result<(), Failure> {
    const ACTION: &str = "flush scheduled restart";
    let wanted = Wanted { names: &options.members, role: options.role, force: options.force, action: Action::Flush };
    let chosen = members::select(context, cluster, view, wanted).await?;
    members::confirm(context, &chosen, options.force, Action::Flush).await?;

    let mut unanswered = Unanswered::default();
    for member in chosen {
        let name = member.name.as_str();
        let line = if member.record.scheduled_restart.is_none() {
            format!("No scheduled restart for member {name}")
        } else {
            match context.call(&member, Method::DELETE, Some("restart"), None).await {
                Ok(answer) if answer.status < 400 => format!("Success: {ACTION} for member {name}"),
                Ok(answer) => {
                    format!("Failed: {ACTION} for member {name}, status code={}, ({})", answer.status, answer.text)
                }
                Err(reason) => {
                    unanswered.tell(context, ACTION, name, &reason)?;
                    continue;
                }
            }
        };
        context.console.line(line)?;
    }
    unanswered.outcome()
}

async fn switchover(context: &mut Context, cluster: &Cluster, view: &ClusterView) -> Result<(), Failure> {
    let scheduled = view.failover.as_ref().filter(|failover| failover.request.scheduled_at.is_some());
    let Some(FailoverKey { revision, .. }) = scheduled else {
        return context.console.line("No pending scheduled switchover");
    };
    for member in members::leader_first(view) {
        match context.call(&member, Method::DELETE, Some("switchover"), None).await {
            Ok(answer) if answer.status == 200 => return context.console.line(format!("Success: {}", answer.text)),
            Ok(answer) if answer.status == 404 => return context.console.line(format!("Failed: {}", answer.text)),
            Ok(answer) => {
                context.console.line(format!("Failed: member={}, status_code={}, ({})", member.name, answer.status, answer.text))?
            }
            Err(reason) => {
                tracing::warn!("{reason}");
                tracing::warn!("Member {} is not accessible", member.name);
            }
        }
    }
    tracing::warn!("Failing over to DCS");
    let now = context.time.event();
    context.console.line(format!("{now} Could not find any accessible member of cluster {}", cluster.name))?;
    let nothing = FailoverRequest::default();
    let written = cluster.dcs.set_failover(&nothing, Some(revision), cluster.deadline()).await;
    match written.map_err(|error| cluster.unusable(&error))? {
        dcs_core::Write::Applied(_) => Ok(()),
        dcs_core::Write::Refused => Err(Failure::error("The scheduled switchover was changed in the meantime")),
    }
}
