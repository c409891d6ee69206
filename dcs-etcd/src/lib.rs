#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should"))]

mod client;
mod config;
mod connect;
mod endpoint;
mod error;
mod history;
mod lease;
mod members;
mod store;
mod tries;
mod watch;

pub use crate::config::Config;
pub use crate::store::Etcd;
