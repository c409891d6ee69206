//! placeholder
pub mod config;
pub mod stores;
