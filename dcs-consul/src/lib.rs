#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should"))]

mod api;
mod client;
mod config;
mod error;
mod freshness;
mod registered;
mod service;
mod session;
mod store;
mod turns;
mod views;
mod watch;

pub use crate::config::Config;
pub use crate::registered::open;
pub use crate::store::Consul;
