//! The REST API: health checks for load balancers, the state of node and cluster, and requests of operators.
//!
//! ```text
//!   socket ─► TLS ─► HTTP ─► routes ─┬─► health checks   ◄── cache ◄── Snapshot, LocalState, StatusReport
//!                                    ├─► cluster, history, config  ◄── the engine's view, or a fresh load
//!                                    └─► access control ─► requests ──► store, engine
//! ```
//!
//! It answers as Patroni does: same paths, codes, texts and JSON. Nothing here waits for the engine's loop, and the loop
//! waits for nothing here.

mod app;
pub mod auth;
pub mod body;
pub mod cache;
mod connection;
pub mod dto;
pub mod health;
pub mod metrics;
pub mod query;
#[cfg(feature = "raft")]
mod raft_metrics;
pub mod reply;
mod routes;
mod server;
mod socket;
pub mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;

pub use self::server::{RestError, RestServer, serve};
