//! What all requests share.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use dcs_core::Deadline;
use dcs_core::model::ClusterView;
use ha_engine::EngineHandle;
use ha_engine::ports::Peers;
use http::StatusCode;

use super::auth::Access;
use super::cache::Cache;
use super::reply::{Decoration, Reply};
use crate::cluster_json::Modes;
use crate::config::RestApiSettings;
use crate::stores::RaftNode;

/// What the settings say, ready for use.
#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    pub(super) access: Access,
    pub(super) decoration: Decoration,
}

impl Live {
    /// What `settings` say. Names of hosts are resolved.
    pub(super) async fn new(settings: &RestApiSettings) -> Self {
        Self { access: Access::new(settings).await, decoration: Decoration::new(settings) }
    }
}

/// What all requests share. No lock of it is held while anything waits.
pub(super) struct App {
    pub(super) handle: EngineHandle,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) cache: Cache,
    /// The node of the embedded store that this agent is.
    pub(super) raft: Option<RaftNode>,
    live: RwLock<Arc<Live>>,
}

impl App {
    pub(super) fn new(handle: EngineHandle, peers: Arc<dyn Peers>, raft: Option<RaftNode>, live: Live) -> Self {
        let cache = Cache::new(handle.clone());
        Self { handle, peers, cache, raft, live: RwLock::new(Arc::new(live)) }
    }

    pub(super) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_live(&self, live: Live) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
    }

    /// The time that one request may spend with the store.
    pub(super) fn store_deadline(&self) -> Deadline {
        Deadline::after(self.handle.snapshot().settings.global.retry_timeout)
    }

    /// The cluster as it is now.
    ///
    /// # Errors
    ///
    /// The answer to a request that cannot be served without the store.
    pub(super) async fn load(&self, deadline: Deadline) -> Result<Arc<ClusterView>, Reply> {
        match self.handle.dcs().load(deadline).await {
            Ok(view) => {
                self.wake_if_new(&view);
                Ok(Arc::new(view))
            }
            Err(error) => Err(self.store_failed(&error)),
        }
    }

    /// What a request has read, the engine's own watch does not report any more: it is told.
    pub(super) fn wake_if_new(&self, view: &ClusterView) {
        let snapshot = self.handle.snapshot();
        let known = snapshot.view.as_deref();
        let same = known.is_none_or(|known| {
            known.leader_name() == view.leader_name() && known.failover == view.failover && known.config == view.config
        });
        if !same {
            self.handle.wake();
        }
    }

    /// The view that the engine works with, or the cluster as it is now if that is too old.
    ///
    /// # Errors
    ///
    /// As for [`App::load`].
    pub(super) async fn view(&self) -> Result<Arc<ClusterView>, Reply> {
        let snapshot = self.handle.snapshot();
        match snapshot.fresh_view(self.handle.clock().now()) {
            Some(view) => Ok(Arc::clone(view)),
            None => self.load(self.store_deadline()).await,
        }
    }

    /// The modes that `view` says, or that were known last.
    pub(super) fn modes(&self, view: &ClusterView) -> Modes {
        Modes::of_view(view, Modes::from(&self.handle.snapshot().settings.global))
    }

    /// The answer to a request that failed because of the store.
    pub(super) fn store_failed(&self, error: &dcs_core::Error) -> Reply {
        tracing::warn!("A REST API request failed: {}", error.chain());
        Reply::error_page(StatusCode::SERVICE_UNAVAILABLE, format!("{error}, see the log of the agent"))
    }

    /// The answer to a request that comes too late.
    pub(super) fn engine_gone(&self) -> Reply {
        Reply::error_page(StatusCode::SERVICE_UNAVAILABLE, ha_engine::EngineGone.to_string())
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("me", &self.handle.me).finish_non_exhaustive()
    }
}
