//! `raft`: the nodes of the embedded store, looked at and operated.

mod change;
mod status;

use std::time::Duration;

use dcs_raft::transport::Address;

use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::raft_nodes::RaftNodes;

pub use self::status::Shown;

/// What was asked for.
#[derive(Clone, Debug)]
pub enum Options {
    /// How the nodes are.
    Status {
        /// Whose view is shown; that of the leader by default.
        node: Option<Address>,
        /// How it is shown.
        shown: Shown,
    },
    /// A node joins.
    Add {
        /// Where it is reached.
        address: Address,
        /// How long it may take.
        limit: Duration,
    },
    /// A node is removed.
    Remove {
        /// Where it was reached.
        address: Address,
        /// Whether nothing may be asked.
        force: bool,
    },
    /// A node takes the place of another one.
    Replace {
        /// The node that goes.
        old: Address,
        /// The node that comes.
        new: Address,
        /// How long the new one may take.
        limit: Duration,
        /// Whether nothing may be asked.
        force: bool,
    },
    /// The leader hands over.
    Transfer {
        /// To whom; to whoever is furthest if nobody is named.
        to: Option<Address>,
    },
}

/// Does what is asked for.
///
/// # Errors
///
/// The configuration names no nodes, none of them answers, the cluster refuses, or it takes too long.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let config = context.raft.as_ref().map_err(|problem| Failure::error(problem.clone()))?;
    let nodes = RaftNodes::new(config);
    match options {
        Options::Status { node, shown } => status::run(context, &nodes, node, shown).await,
        Options::Add { address, limit } => change::add(context, &nodes, &address, limit).await,
        Options::Remove { address, force } => change::remove(context, &nodes, &address, force).await,
        Options::Replace { old, new, limit, force } => change::replace(context, &nodes, &old, &new, limit, force).await,
        Options::Transfer { to } => change::transfer(context, &nodes, to.as_ref()).await,
    }
}
