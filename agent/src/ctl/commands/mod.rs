//! One file for each command. Each has its `Options`, and a `run` that does it.

pub mod cluster_role;
pub mod dsn;
pub mod edit_config;
pub mod failover;
pub mod flush;
mod handover;
pub mod history;
pub mod list;
pub mod pause;
#[cfg(feature = "raft")]
pub mod raft;
pub mod reinit;
pub mod reload;
pub mod remove;
pub mod restart;
pub mod show_config;
pub mod switchover;
pub mod version;
pub mod why;

use super::agents::Unreachable;
use super::context::Context;
use super::failure::Failure;

/// Tells about members that did not answer, and remembers that there were any. The others are done all the same.
#[derive(Debug, Default)]
struct Unanswered(bool);

impl Unanswered {
    fn tell(&mut self, context: &mut Context, action: &str, member: &str, reason: &Unreachable) -> Result<(), Failure> {
        self.0 = true;
        context.console.line(format!("Failed: {action} for member {member}, {reason}"))
    }

    fn outcome(self) -> Result<(), Failure> {
        if self.0 { Err(Failure::Told) } else { Ok(()) }
    }
}
