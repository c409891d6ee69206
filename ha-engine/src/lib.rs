//! The high-availability engine: what one agent decides, when, and in which order.
//!
//! ```text
//!   Dcs.load ─┐
//!   Postgres ─┼─► Observation ──► decide (pure) ──► Decision ──► act (effects) ──► member key, snapshot
//!   commands ─┘        ▲                               │
//!                      └────── answers ◄── asks ◄──────┘
//! ```
//!
//! Every judgement is a pure function in [`decide`]; every effect is behind a port in [`ports`]; one task, the
//! [`driver`], owns the state. The real PostgreSQL port is [`postgres`].

mod cancel;
pub mod decide;
pub mod driver;
pub mod endpoint;
mod handle;
pub mod ports;
pub mod postgres;
pub mod settings;

pub use crate::cancel::{Cancel, CancelSource};
pub use crate::handle::{Command, EngineGone, EngineHandle, RestartAnswer, RestartRequest, Snapshot};
