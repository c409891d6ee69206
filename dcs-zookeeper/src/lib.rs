#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should"))]

mod client;
mod config;
mod connection;
mod diagnosis;
mod error;
mod exhibitor;
mod host;
mod lock;
mod session;
mod store;
mod tls;
mod tree;
mod watch;

pub use crate::config::Config;
pub use crate::store::ZooKeeper;
