//! placeholder
pub mod ctl;
