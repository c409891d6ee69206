//! Real clusters under real faults, each with clients that write and watch; see the crate `tests`.

mod bootstrap;
mod damage;
mod disk;
mod failover;
mod partition;
mod pause;
mod reinit;
mod rejoin;
mod replication;
mod restart;
mod store;
mod switchover;
