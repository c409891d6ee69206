//! Whole commands over a store in memory.

mod changing;
mod cluster_role;
mod configuring;
mod looking;
mod members;
#[cfg(feature = "raft")]
mod raft;
mod why;
