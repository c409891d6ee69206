//! placeholder
pub mod config;
pub mod ctl;
pub mod stores;
