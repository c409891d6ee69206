//! What the operator configured, and how it becomes settings.
//!
//! ```text
//!   files, directory ─┐
//!   PATRONI_* ────────┴─► LocalConfig ─┬─► typed views: REST API, control tool, log, store
//!                                      │
//!   dynamic document (store, cache) ───┴─► AgentSettings ─► EffectiveSettings, for the engine
//! ```
//!
//! Every key and value remembers where it was written, so that whatever is wrong can be said with file, line, column
//! and a remedy. Nothing here changes the process environment.

mod address;
mod bootstrap;
mod cache;
mod cluster_wide;
mod commands;
mod ctl;
mod env;
mod error;
mod local;
mod log;
mod merge;
mod node;
mod postgresql;
mod reload;
mod rest_api;
mod sample;
mod schema;
mod section;
mod source;
mod store;
mod tags;
mod tree;
mod validate;
mod watchdog;
pub mod yaml;

pub use self::address::{NotAnAddress, split_host_port, url};
pub use self::commands::{generate_sample_config, validate_config};
pub use self::ctl::CtlSettings;
pub use self::env::{CONFIGURATION, Environment, PREFIX};
pub use self::error::{ConfigError, KeyError, KeyPlace};
pub use self::local::LocalConfig;
pub use self::log::{DEFAULT_FORMAT, LogField, LogFile, LogFormat, LogLevel, LogSettings, control_tool_level};
pub use self::reload::AgentSettings;
pub use self::rest_api::{BasicAuth, RestApiSettings, RestListen, RestTls, ServerTokens, VerifyClient};
pub use self::source::Origin;
pub use self::store::{STORES, StoreSettings};
pub use self::tree::{Content, Entry, Mapping, Node, Place, Places, Source, deep_equal};
pub use self::validate::{ValidateOptions, printed, validate};
