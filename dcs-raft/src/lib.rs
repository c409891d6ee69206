#![doc = include_str!("../README.md")]

pub mod changes;
mod client;
pub mod cluster;
pub mod command;
pub mod config;
mod driver;
pub mod embedded;
mod error;
pub mod identity;
mod lease;
mod membership;
pub mod message;
mod node;
pub mod record;
pub mod recovery;
mod remote;
pub mod replica;
pub mod state;
pub mod status;
pub mod storage;
pub mod store;
pub mod transport;

pub use config::Config;
pub use embedded::{Node, NodeHandle, StartError};
pub use remote::RemoteCluster;
pub use store::RaftStore;

/// The name of this kind of store, as in the configuration.
const STORE: &str = "raft";
