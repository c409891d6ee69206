//! placeholder
pub mod config;
pub mod stores;
pub mod telemetry;
