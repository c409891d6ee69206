//! Real clusters under real faults.
//!
//! Everything here treats the agent as a black box: a program, a `patroni.yml`, a REST port. That is what an operator has, and it lets the
//! same scenario run against Quorate and against Patroni.
//!
//! ```text
//!   Cluster ──► Node (agent, PostgreSQL)  ──► Sandbox (directory, processes, their end)
//!      │          │
//!      │          └── Links (proxies that can be cut)
//!      ├──► Store (etcd, or the agents themselves)
//!      └──► Checker ──► Writer, Sampler ──► History ──► two primaries? a lost row?
//! ```
//!
//! A scenario says what happens in a few lines, and ends with [`Cluster::finish`], which waits for one leader and its streaming standbys and
//! then asks the [`history::History`] whether two nodes ever accepted writes at the same time and whether an acknowledged row is missing.

pub mod agents;
pub mod checker;
pub mod cluster;
pub mod history;
pub mod node;
pub mod poll;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod sandbox;
pub mod settings;
pub mod shared_memory;
pub mod skip;
pub mod stores;
pub mod yaml;

pub use agents::Agent;
pub use cluster::{Cluster, Link};
pub use history::Loss;
pub use node::Node;
pub use stores::StoreKind;
