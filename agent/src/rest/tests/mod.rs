//! The routes, through the real server.

mod config;
mod fuzz;
mod http;
#[cfg(feature = "raft")]
mod raft;
mod status;
mod switchover;
mod tasks;
mod tls;
