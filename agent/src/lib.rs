//! placeholder
pub mod config;
pub mod ctl;
