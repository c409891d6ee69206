//! What a store must offer so that the trials can run against it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::keys::ClusterPath;
use crate::{BoxError, Clock, Dcs, Deadline, Entry, Expect, KeyValueStore, Timing};

/// Something that not every harness can do, or that not every store promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// Reading and writing keys behind the members' backs: [`Stage::outside`].
    Outside,
    /// Ending a liveness handle by hand: [`Outside::revoke`].
    Revoke,
    /// Three servers that can be killed, restarted, frozen and thawed one by one.
    ThreeServers,
    /// Freezing and thawing all servers.
    StopAll,
    /// Killing all servers and starting them again with their data.
    RestartAll,
    /// A client whose connection can be delayed, cut and robbed of its answers: [`Stage::connect_through_link`].
    Link,
    /// Counting what was sent to the servers: [`Stage::requests`].
    RequestCount,
    /// [`Profile::expires_members`].
    ExpiringMembers,
    /// All bound keys of a member hang on one handle: not [`Profile::liveness_per_key`].
    OneHandle,
    /// [`Profile::revisions_are_unique`].
    UniqueRevisions,
    /// [`Profile::watches_everything`].
    WatchOfEverything,
}

impl Need {
    /// Whether the trial does something to servers, so that it needs some of its own.
    pub fn disturbs_others(self) -> bool {
        matches!(self, Self::ThreeServers | Self::StopAll | Self::RestartAll | Self::RequestCount)
    }

    /// Why a store of this profile has no use for a trial that needs it, so that the trial is listed as ignored and never as
    /// passed.
    pub(super) fn missing_in(self, profile: &Profile) -> Option<&'static str> {
        match self {
            Self::ExpiringMembers if !profile.expires_members => Some("members do not expire in this store"),
            Self::OneHandle if profile.liveness_per_key => Some("each key lives by itself in this store"),
            Self::UniqueRevisions if !profile.revisions_are_unique => Some("keys share objects, and revisions, in this store"),
            Self::WatchOfEverything if !profile.watches_everything => Some("only the lock is watched in this store"),
            _ => None,
        }
    }
}

/// The harness does not offer this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOffered(pub Need);

impl fmt::Display for NotOffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this harness does not offer {:?}", self.0)
    }
}

impl std::error::Error for NotOffered {}

/// What is different from store to store and may be, as trials must know it.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// How much later than its ttl an abandoned key may still be there.
    pub expiry_granularity: Duration,
    /// The largest configuration that must be taken, in bytes.
    pub largest_config: usize,
    /// A configuration that is too large, in bytes, if there is a limit.
    pub too_large: Option<usize>,
    /// A renewal brings a deleted leader key back. (Kubernetes: it does not.)
    pub recreates_lock: bool,
    /// A member key vanishes after its owner. (Kubernetes: it does not.)
    pub expires_members: bool,
    /// A changed configuration, failover request or member ends a wait.
    pub watches_everything: bool,
    /// Two keys never have a revision in common.
    pub revisions_are_unique: bool,
    /// Each bound key lives by itself: [`Capabilities::liveness_per_key`](crate::Capabilities::liveness_per_key).
    pub liveness_per_key: bool,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            expiry_granularity: Duration::from_secs(2),
            largest_config: 1024 * 1024,
            too_large: None,
            recreates_lock: true,
            expires_members: true,
            watches_everything: true,
            revisions_are_unique: true,
            liveness_per_key: false,
        }
    }
}

/// One member to connect as.
#[derive(Clone, Debug)]
pub struct Who {
    /// The cluster.
    pub scope: String,
    /// The member.
    pub name: String,
    /// Its timings.
    pub timing: Timing,
}

/// A store under trial.
#[async_trait]
pub trait Harness: Send + Sync {
    /// Its name, e.g. `etcd3`.
    fn store_name(&self) -> &'static str;

    /// The timings that trials use. The shorter the ttl, the faster the suite; the store's own minimum is the limit, and
    /// a busy machine must still renew in time.
    fn timing(&self) -> Timing;

    /// How it differs from others.
    fn profile(&self) -> Profile;

    /// Why `need` cannot be had here, in a few words; nothing if it can.
    fn lacks(&self, need: Need) -> Option<String>;

    /// What a trial runs on.
    ///
    /// # Errors
    ///
    /// The runtime cannot be made.
    fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    }

    /// Servers for one trial. They may be shared between trials unless one of the needs
    /// [disturbs others](Need::disturbs_others). Dropping the stage stops servers that were its own.
    ///
    /// # Errors
    ///
    /// The servers cannot be had.
    async fn stage(&self, needs: &[Need]) -> Result<Arc<dyn Stage>, BoxError>;
}

/// Servers for one trial, and what can be done to them. What is not overridden is not offered.
#[async_trait]
pub trait Stage: Send + Sync {
    /// The clock on which the members' leases are counted.
    fn clock(&self) -> Arc<dyn Clock>;

    /// A new client. Two with the same name are two processes of one member.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    async fn connect(&self, who: &Who) -> Result<Arc<dyn Dcs>, BoxError>;

    /// A hand in the cluster `scope` that is none of its members.
    ///
    /// # Errors
    ///
    /// [`NotOffered`], or it cannot be had.
    async fn outside(&self, _scope: &str) -> Result<Arc<dyn Outside>, BoxError> {
        Err(NotOffered(Need::Outside).into())
    }

    /// A new client whose connection goes through a link of its own.
    ///
    /// # Errors
    ///
    /// [`NotOffered`], or it cannot be had.
    async fn connect_through_link(&self, _who: &Who) -> Result<(Arc<dyn Dcs>, Arc<dyn Link>), BoxError> {
        Err(NotOffered(Need::Link).into())
    }

    /// How many servers there are.
    fn servers(&self) -> usize {
        1
    }

    /// The server that most recently connected clients use, as an index.
    ///
    /// # Errors
    ///
    /// [`NotOffered`], or it cannot be told.
    async fn server_in_use(&self) -> Result<usize, BoxError> {
        Err(NotOffered(Need::ThreeServers).into())
    }

    /// Kills a server as if its machine were gone.
    ///
    /// # Errors
    ///
    /// [`NotOffered`], or it failed.
    async fn kill(&self, _server: usize) -> Result<(), BoxError> {
        Err(NotOffered(Need::RestartAll).into())
    }

    /// Starts a killed server again with its data. Returns once it was started, not once it serves.
    ///
    /// # Errors
    ///
    /// [`NotOffered`], or it failed.
    async fn restart(&self, _server: usize) -> Result<(), BoxError> {
        Err(NotOffered(Need::RestartAll).into())
    }

    /// Stops a server without ending it, as SIGSTOP does: connections stay open and silent.
    ///
    /// # Errors
    ///
    /// [`NotOffered`], or it failed.
    async fn freeze(&self, _server: usize) -> Result<(), BoxError> {
        Err(NotOffered(Need::StopAll).into())
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    ///
    /// [`NotOffered`], or it failed.
    async fn thaw(&self, _server: usize) -> Result<(), BoxError> {
        Err(NotOffered(Need::StopAll).into())
    }

    /// How many requests have been sent to the servers so far, watches not counted.
    fn requests(&self) -> Option<u64> {
        None
    }
}

/// A hand in the store that is none of the members. Keys are relative to the cluster's prefix.
#[async_trait]
pub trait Outside: Send + Sync {
    /// Writes a permanent key, whatever is there.
    ///
    /// # Errors
    ///
    /// It was not written.
    async fn put(&self, key: &str, value: &[u8]) -> Result<(), BoxError>;

    /// Reads a key as it is now.
    ///
    /// # Errors
    ///
    /// It could not be read.
    async fn get(&self, key: &str) -> Result<Option<Entry>, BoxError>;

    /// Deletes a key, whatever is there.
    ///
    /// # Errors
    ///
    /// It was not deleted.
    async fn delete(&self, key: &str) -> Result<(), BoxError>;

    /// Ends the liveness handle that `entry` is bound to.
    ///
    /// # Errors
    ///
    /// [`NotOffered`], or it failed.
    async fn revoke(&self, _entry: &Entry) -> Result<(), BoxError> {
        Err(NotOffered(Need::Revoke).into())
    }
}

/// Something between one client and its servers. Everything is in force until it is changed.
#[async_trait]
pub trait Link: Send + Sync {
    /// How long one attempt at one server may take, so that a trial knows what "slow" means.
    fn attempt(&self) -> Duration;

    /// Delays every answer by `delay`; zero ends it.
    async fn delay_answers(&self, delay: Duration);

    /// Lets requests through and keeps answers back for good; `false` ends it, with the connection broken.
    async fn lose_answers(&self, lose: bool);

    /// Cuts the connection: nothing goes through, and nobody is told.
    async fn cut(&self);

    /// Ends everything.
    async fn heal(&self);
}

/// [`Outside`] for a key-value store, through a client of its own.
pub struct KeyValueOutside<F> {
    /// The client. It never has a handle.
    pub store: Arc<dyn KeyValueStore>,
    /// The cluster.
    pub path: ClusterPath,
    /// Ends a liveness handle; returns whether it could.
    pub revoke: F,
}

/// How long the hand outside may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[async_trait]
impl<F> Outside for KeyValueOutside<F>
where
    F: AsyncRevoke,
{
    async fn put(&self, key: &str, value: &[u8]) -> Result<(), BoxError> {
        let key = format!("{}{key}", self.path.prefix());
        self.store.put(&key, value, Expect::Any, Deadline::after(PATIENCE)).await?;
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, BoxError> {
        let key = format!("{}{key}", self.path.prefix());
        Ok(self.store.get(&key, Deadline::after(PATIENCE)).await?)
    }

    async fn delete(&self, key: &str) -> Result<(), BoxError> {
        let key = format!("{}{key}", self.path.prefix());
        self.store.delete(&key, Expect::Any, Deadline::after(PATIENCE)).await?;
        Ok(())
    }

    async fn revoke(&self, entry: &Entry) -> Result<(), BoxError> {
        self.revoke.revoke(entry).await
    }
}

/// How a store ends a liveness handle by hand.
#[async_trait]
pub trait AsyncRevoke: Send + Sync {
    /// Ends the handle that `entry` is bound to.
    ///
    /// # Errors
    ///
    /// It failed.
    async fn revoke(&self, entry: &Entry) -> Result<(), BoxError>;
}

/// For a store that cannot.
#[async_trait]
impl AsyncRevoke for () {
    async fn revoke(&self, _: &Entry) -> Result<(), BoxError> {
        Err(NotOffered(Need::Revoke).into())
    }
}
