#![doc = include_str!("../README.md")]

pub mod adapter;
pub mod clock;
pub mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
mod dcs;
mod deadline;
pub mod election;
mod error;
#[cfg(feature = "memory")]
pub mod fault;
pub mod keys;
mod kv;
mod lease;
#[cfg(feature = "memory")]
pub mod memory;
pub mod model;
pub mod options;
pub mod own_writes;
#[cfg(feature = "tls")]
pub mod tls;
pub mod tries;
mod watch;

#[cfg(feature = "memory")]
pub use crate::clock::TokioClock;
pub use crate::clock::{BootClock, Clock, Moment};
pub use crate::dcs::{Acquisition, Dcs, InitializeWrite, Renewal, Timing, Touched, Write};
pub use crate::deadline::{Deadline, DeadlineExpired};
pub use crate::error::{BoxError, Error, ErrorKind, Fate, chain};
pub use crate::kv::*;
pub use crate::lease::LeaderLease;
pub use crate::watch::{Interest, MemberInterest, Wake};
