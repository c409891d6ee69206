//! The routes, through the real server.

mod config;
mod fuzz;
mod http;
mod journal;
#[cfg(feature = "raft")]
mod raft;
mod status;
mod switchover;
mod tasks;
mod tls;
