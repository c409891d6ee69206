//! The real PostgreSQL port.

mod connection;
mod postmaster;
mod processes;
mod runner;
mod tls;
mod walsender;
