//! What the agent says about itself.

mod filter;
mod format;
pub mod log;
mod names;
mod record;
pub mod rolling;
mod thin;

pub use self::log::{Log, LogHandle, LogLayer, LogStuck, LogUnavailable, QueueState};
