//! `reload`: agents read their configuration files again.

use http::Method;

use super::Unanswered;
use crate::ctl::arguments::{Role, Target};
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::members::{self, Action, Wanted};
use crate::ctl::{summary, time};

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The cluster.
    pub target: Target,
    /// The members; all if there are none.
    pub members: Vec<String>,
    /// Only members of this role.
    pub role: Role,
    /// Whether nothing may be asked.
    pub force: bool,
}

/// Asks each member to reload.
///
/// # Errors
///
/// Nobody is meant, the prompt is declined, or somebody does not answer. Refusals are printed and are no errors.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let cluster = context.open(&options.target).await?;
    let view = cluster.load().await?;
    let Options { members: names, role, force, .. } = &options;
    let wanted = Wanted { names, role: *role, force: *force, action: Action::Reload };
    let chosen = members::select(context, &cluster, &view, wanted).await?;
    members::confirm(context, &chosen, options.force, Action::Reload).await?;

    let loop_wait = time::plain_seconds(summary::modes(&view).loop_wait);
    let mut unanswered = Unanswered::default();
    for member in chosen {
        let name = member.name.as_str();
        let line = match context.call(&member, Method::POST, Some("reload"), None).await {
            Err(reason) => {
                unanswered.tell(context, "reload", name, &reason)?;
                continue;
            }
            Ok(answer) => match answer.status {
                200 => format!("No changes to apply on member {name}"),
                202 => {
                    format!("Reload request received for member {name} and will be processed within {loop_wait} seconds")
                }
                code => format!("Failed: reload for member {name}, status code={code}, ({})", answer.text),
            },
        };
        context.console.line(line)?;
    }
    unanswered.outcome()
}
