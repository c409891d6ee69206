#![doc = include_str!("../README.md")]

mod cancel;
pub mod decide;
pub mod driver;
pub mod endpoint;
mod handle;
pub mod journal;
pub mod ports;
pub mod postgres;
pub mod settings;
pub mod watchdog;

pub use crate::cancel::{Cancel, CancelSource};
pub use crate::handle::{Command, EngineGone, EngineHandle, NoWord, RestartAnswer, RestartRequest, Snapshot};
