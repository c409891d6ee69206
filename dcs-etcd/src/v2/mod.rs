//! The API of etcd version 2: the `etcd:` section.
//!
//! etcd 3.4 and 3.5 serve it with `--enable-v2` only, and 3.6 not at all. What is written through it cannot be seen through
//! version 3, so all members of a cluster have to use the same section. It is here for clusters that have it, and so that
//! they can move.
//!
//! | contract | request on `/v2/keys/<key>` |
//! | --- | --- |
//! | revision of a key | its modifiedIndex |
//! | handle | none: every bound key has a ttl of its own, and only writing it renews that |
//! | [`Entry::handle`](dcs_core::Entry::handle) | the createdIndex of a key that has a ttl: one life of it |
//! | cursor | the store's index (`X-Etcd-Index`) |
//! | read a prefix | GET, recursive; with `quorum=true` for a linearizable read, or if the server turns out to be behind |
//! | conditional write | PUT or DELETE with `prevIndex`, or PUT with `prevExist=false` |
//! | write a bound key | PUT with `ttl` |
//! | acquire the lock | PUT with `ttl` and `prevExist=false`; 105 is "held" |
//! | renew the lock | PUT with `ttl` and `prevValue=<me>`; 101 is "lost", 100 is acquiring it |
//! | release the lock | DELETE with `prevIndex` |
//! | wait for changes | one long poll on the lock in the background (`wait=true&waitIndex=...`) |
//!
//! The ttl of a key ends at a time of day, which the server that took the request counted from its own wall clock, and is
//! carried out by the leader of etcd by its own. Their clocks have to agree to well within
//! `ttl - loop_wait - 2 * retry_timeout`: a leader of etcd whose clock is ahead by *d* ends every lock *d* too early.

mod answer;
mod connection;
mod error;
mod store;
mod watch;

use dcs_core::options::OptionError;
use serde_json::{Map, Value};

pub use self::store::EtcdV2;

/// The store's name in the configuration, in errors and in logs.
const STORE: &str = "etcd";

/// Where the servers are and how to be let in: the `etcd:` section, with the same options as the `etcd3:` section.
#[derive(Clone, Debug)]
pub struct Config(crate::Config);

impl Config {
    /// Reads the section. Unknown options are left to whoever reads the file; nothing is looked up or opened.
    ///
    /// # Errors
    ///
    /// An option has a wrong form, or no server is named.
    ///
    /// # Example
    ///
    /// ```
    /// let section = serde_json::json!({"hosts": "10.0.0.1:2379,10.0.0.2:2379", "username": "quorate", "password": "secret"});
    /// let config = dcs_etcd::v2::Config::from_section(section.as_object().unwrap())?;
    /// assert!(!format!("{config:?}").contains("secret"));
    /// # Ok::<(), dcs_core::options::OptionError>(())
    /// ```
    pub fn from_section(section: &Map<String, Value>) -> Result<Self, OptionError> {
        crate::Config::from_section_named(STORE, section).map(Self)
    }
}
