//! Whole commands over a store in memory.

mod changing;
mod configuring;
mod looking;
mod members;
#[cfg(feature = "raft")]
mod raft;
mod why;
