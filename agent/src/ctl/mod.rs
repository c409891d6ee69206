//! `quoratectl`: looking at clusters and operating them.
//!
//! ```text
//!   arguments ──► commands/* ──► Dcs (what the store says)      no lease, no watch, no key of its own
//!                     │   └────► agents (REST)
//!                     └── prompt, output (tables, JSON, YAML)
//! ```
//!
//! What was typed is converted once into [`arguments::Invocation`]; a command gets a [`context::Context`], which holds
//! everything it may touch: the output, the answers of the user, the stores, the agents and the clock. Texts, prompts
//! and exit statuses are those of Patroni's tool, because scripts read them.

pub mod agents;
pub mod arguments;
pub mod commands;
pub mod context;
pub mod diff;
pub mod editor;
pub mod failure;
mod log;
pub mod member_table;
pub mod members;
pub mod output;
pub mod prompt;
pub mod python;
#[cfg(feature = "raft")]
pub mod raft_nodes;
mod rest_client;
pub mod settings;
mod stores;
pub mod summary;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod time;
mod tool;
pub mod topology;

pub use self::tool::{execute, main};
