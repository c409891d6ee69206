//! The agent: what runs beside every PostgreSQL.

pub mod cluster_json;
pub mod config;
pub mod http_client;
pub mod peers;
pub mod rest;
