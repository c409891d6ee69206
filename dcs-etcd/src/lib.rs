#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should"))]

mod client;
mod config;
mod connect;
mod dns;
mod endpoint;
mod error;
mod failure;
mod history;
mod http;
mod lease;
mod members;
mod mirror;
mod servers;
#[cfg(feature = "srv")]
mod srv;
mod store;
mod tries;
pub mod v2;
mod watch;
mod watcher;
mod wire;

pub use crate::config::Config;
pub use crate::store::Etcd;
