//! The routes, through the real server.

mod config;
mod fuzz;
mod http;
mod status;
mod switchover;
mod tasks;
mod tls;
