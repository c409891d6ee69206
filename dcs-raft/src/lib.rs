//! An embedded, replicated store of leader lock, members and cluster state: Raft without external servers.

pub mod changes;
pub mod cluster;
pub mod command;
mod error;
pub mod identity;
mod lease;
pub mod message;
pub mod state;
pub mod status;
pub mod storage;
pub mod store;

/// The name of this kind of store, as in the configuration.
const STORE: &str = "raft";
