//! The routes, through the real server.

mod config;
mod http;
mod status;
mod switchover;
mod tasks;
mod tls;
