//! The agent: what runs beside every PostgreSQL.
//!
//! [`Agent::start`] brings one up from a configuration, in this process; the binary `quorate` is a thin wrapper around it,
//! and so is every embedding (`examples/embedded.rs`). `quoratectl` is the control tool.

pub mod cluster_json;
pub mod config;
pub mod ctl;
pub mod http_client;
pub mod peers;
#[cfg(feature = "raft")]
pub mod raft_controller;
#[cfg(feature = "raft")]
pub mod raft_json;
#[cfg(feature = "raft")]
pub mod raft_recover;
#[cfg(feature = "raft")]
#[cfg(test)]
mod raft_testing;
pub mod rest;
pub mod service_manager;
pub mod stores;
pub mod supervise;
pub mod telemetry;

pub use ha_engine::driver::Ended;
pub use ha_engine::{Command, EngineHandle};

pub use crate::config::{Environment, LocalConfig};
pub use crate::supervise::{Agent, StartError};

// What the guide says is compiled, and run where it needs no server.
#[cfg(doctest)]
#[doc = include_str!("../../docs/embedding.md")]
mod embedding_guide {}
