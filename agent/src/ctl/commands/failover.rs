//! `failover`: a named member takes over, whether there is a leader or not.

use super::handover::{self, Kind};
use crate::ctl::arguments::Target;
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The cluster.
    pub target: Target,
    /// Who should take over.
    pub candidate: Option<String>,
    /// Whether nothing may be asked.
    pub force: bool,
}

/// Asks for what was not given, and has the candidate take over.
///
/// # Errors
///
/// As for [`super::switchover::run`].
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    handover::run(context, &options.target, Kind::Failover, options.candidate, options.force).await
}
