#![doc = include_str!("../README.md")]

mod access;
mod cache;
mod client;
mod config;
mod connect;
mod error;
mod freshness;
mod known;
mod lock;
mod object;
mod paths;
mod pods;
mod store;
mod subsets;
mod values;
mod view;
mod waiting;
mod watch;

pub use crate::config::Config;
pub use crate::store::{Kubernetes, Who};
