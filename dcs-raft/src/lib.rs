//! An embedded, replicated store of leader lock, members and cluster state: Raft without external servers.

pub mod command;
pub mod identity;
pub mod message;
pub mod status;
pub mod storage;
pub mod transport;
