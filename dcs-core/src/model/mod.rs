//! The cluster as the store describes it.
//!
//! Plain values: they know no socket, file, clock or random number. How they are written and read is in
//! [`crate::codec`].

mod config;
mod failover;
mod history;
mod leader;
mod lsn;
mod member;
mod names;
mod schedule;
mod status;
mod sync;
mod view;

pub use self::config::DynamicConfig;
pub use self::failover::{FailoverKey, FailoverRequest};
pub use self::history::{History, HistoryLine};
pub use self::leader::Leader;
pub use self::lsn::{Lsn, Timeline};
pub use self::member::{Member, MemberRecord, PendingRestart, Role, ServerState, Tags, UnknownName};
pub use self::names::{HandleId, MemberName, Revision, SystemId};
pub use self::schedule::ScheduledTime;
pub use self::status::Status;
pub use self::sync::{SyncRecord, SyncState};
pub use self::view::{ClusterView, Damage};
