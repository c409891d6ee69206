//! `switchover`: a planned change of the leader.

use super::handover::{self, Kind};
use crate::ctl::arguments::Target;
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The cluster.
    pub target: Target,
    /// The leader as the user believes it to be.
    pub leader: Option<String>,
    /// Who should take over; empty means anybody.
    pub candidate: Option<String>,
    /// When; `now` or empty means at once.
    pub scheduled: Option<String>,
    /// Whether nothing may be asked.
    pub force: bool,
}

/// Asks for what was not given, and has the leader step down.
///
/// # Errors
///
/// It is impossible, declined, or cannot be asked for. A refusal by the agent is printed and is no error.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let Options { target, leader, candidate, scheduled, force } = options;
    handover::run(context, &target, Kind::Switchover { leader, scheduled }, candidate, force).await
}
