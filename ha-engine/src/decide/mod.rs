//! The judgement. Pure functions over values: no I/O, no clock, no randomness.

pub mod action;
pub mod memory;
pub mod observation;
pub mod restart;
pub mod slots;
