//! The whole engine in virtual time.
//!
//! ```text
//!   Host a ─ the real engine in a runtime of its own ─┐ ports: store, PostgreSQL, peers, clock
//!   Host b ─ …                                        ├──► World: network, store, servers, clients ──► Checker
//!   Host c ─ …                                        ┘        ▲
//!                                     faults of one seed ──────┘
//! ```
//!
//! Agents and world take turns of ten milliseconds; what one agent sends reaches nobody before the next turn. So the order in
//! which they run within a turn makes no difference, and one seed is one history.

#![expect(missing_docs, reason = "the fields of simulated things are named after what PostgreSQL and the specification call them")]

pub mod building;
pub mod checker;
pub mod faults;
pub mod host;
pub mod local;
pub mod looking;
pub mod network;
pub mod peers;
pub mod port;
pub mod replication;
pub mod run;
pub mod scenario;
pub mod server;
pub mod shrink;
pub mod store;
pub mod trace;
pub mod wal;
pub mod world;

pub use crate::faults::{Fault, What, Whom};
pub use crate::run::{Outcome, run};
pub use crate::scenario::{MODES, Mode, Scenario};
pub use crate::shrink::shrink;

/// The name of a machine.
pub type Name = &'static str;

/// All machines there can be.
pub const NODES: [Name; 5] = ["a", "b", "c", "d", "e"];

/// Where the store is.
pub const STORE: Name = "store";

/// The cluster's name.
pub(crate) const SCOPE: &str = "demo";

/// The node that is called `text`.
pub(crate) fn name_of(text: &str) -> Option<Name> {
    NODES.into_iter().find(|name| *name == text)
}

/// A key of the cluster in the store.
pub(crate) fn key(name: &str) -> String {
    format!("/service/{SCOPE}/{name}")
}
