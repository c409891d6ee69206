//! `remove`: everything about a cluster is deleted from the store.

use crate::ctl::arguments::Target;
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::member_table::{self, Shown};
use crate::ctl::output::Format;

/// What has to be typed, exactly.
const AWARE: &str = "Yes I am aware";

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The cluster.
    pub target: Target,
    /// The format of the member table.
    pub format: Format,
}

/// Deletes the cluster after three answers. There is no way around them.
///
/// # Errors
///
/// An answer is wrong, or the store cannot be used.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    if context.settings.citus && options.target.group.is_none() {
        return Err(Failure::error("For Citus clusters the --group must me specified"));
    }
    let cluster = context.open(&options.target).await?;
    let view = cluster.load().await?;
    let shown = Shown { name: &cluster.name, group: cluster.group, extended: false, format: options.format };
    context.console.write(&member_table::render(&view, shown))?;

    let name = context.console.ask("Please confirm the cluster name to remove", None).await?;
    if name != cluster.name {
        return Err(Failure::error("Cluster names specified do not match"));
    }
    let question = format!("You are about to remove all information in DCS for {}, please type: \"{AWARE}\"", cluster.name);
    if context.console.ask(&question, None).await? != AWARE {
        return Err(Failure::error(format!("You did not exactly type \"{AWARE}\"")));
    }
    if let Some(leader) = view.leader_name() {
        let question = "This cluster currently is healthy. Please specify the leader name to continue";
        if context.console.ask(question, None).await? != leader.as_str() {
            return Err(Failure::error("You did not specify the current leader of the cluster"));
        }
    }
    cluster.dcs.delete_cluster(cluster.deadline()).await.map_err(|error| cluster.unusable(&error))
}
