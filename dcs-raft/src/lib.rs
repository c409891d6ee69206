//! An embedded, replicated store of leader lock, members and cluster state: Raft without external servers.

pub mod changes;
pub mod command;
pub mod identity;
pub mod message;
mod node;
pub mod record;
pub mod replica;
pub mod state;
pub mod status;
pub mod storage;

/// The name of this kind of store, as in the configuration.
const STORE: &str = "raft";
