//! Real servers of the stores, for the tests of all crates.
//!
//! ```text
//!   etcd, consul, ...   what starting a server takes, as values: a list of Plans
//!        │
//!        ├──► Servers        runs them for the tests of a store's crate
//!        │       └──► conformance   the harness of the conformance suite over any of them
//!        └──► the harness in `tests` runs the same plans in its sandboxes, as an unprivileged user
//! ```
//!
//! A plan knows no process and a runner knows no store. What Debian 12 does not have as a package is unpacked or built by
//! `scripts/install-servers` into [`directory`].

pub mod apiserver;
pub mod certificates;
pub mod conformance;
pub mod consul;
pub mod etcd;
mod find;
pub mod network;
mod plan;
mod poll;
mod report;
mod servers;
pub mod zookeeper;

pub use find::{directory, on_the_path, program};
pub use network::Network;
pub use plan::Plan;
pub use poll::eventually;
pub use report::{REPORT, report_not_run};
pub use servers::Servers;
