//! The contract of a distributed configuration store.
//!
//! The agents of one PostgreSQL cluster agree through a store: one of them holds the *leader lock*, each publishes a
//! *member key*, and a handful of permanent keys carry configuration, history and requests. [`Dcs`] is that contract in
//! the words of the domain. Most stores are key-value stores with a liveness handle; they implement the narrow
//! [`KeyValueStore`] and become a [`Dcs`] through the one [`adapter`].
//!
//! ```text
//!   engine ──► Dcs ◄── adapter ──► KeyValueStore ◄── etcd, Consul, ZooKeeper, Raft, memory
//!                └──── Kubernetes (has another shape)
//! ```
//!
//! Below `/<namespace>/<scope>/` stand `initialize`, `config`, `leader`, `members/<name>`, `failover`, `sync`,
//! `history`, `status` and `failsafe`. `leader` and the member keys live only as long as their owner's handle.
//! Everything here is byte-compatible with Patroni 4.1; unknown fields are kept, damaged values are reported and
//! harmless.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should"))]

pub mod adapter;
pub mod clock;
pub mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
mod dcs;
mod deadline;
mod error;
#[cfg(feature = "memory")]
pub mod fault;
pub mod keys;
mod kv;
mod lease;
#[cfg(feature = "memory")]
pub mod memory;
pub mod model;
#[cfg(feature = "tls")]
pub mod tls;
mod watch;

#[cfg(feature = "memory")]
pub use crate::clock::TokioClock;
pub use crate::clock::{BootClock, Clock, Moment};
pub use crate::dcs::{Acquisition, Dcs, InitializeWrite, Renewal, Timing, Touched, Write};
pub use crate::deadline::{Deadline, DeadlineExpired};
pub use crate::error::{BoxError, Error, ErrorKind, Fate};
pub use crate::kv::*;
pub use crate::lease::LeaderLease;
pub use crate::watch::{Interest, MemberInterest, Wake};
