//! Telling others: the member key in the store, the snapshot for the REST API.

use std::sync::Arc;

use dcs_core::model::Tags;

use super::Engine;
use crate::decide::member::{self, Publication};
use crate::decide::observation::{Monitor, ServerObservation};
use crate::decide::sync::duty;
use crate::handle::Snapshot;

impl Engine {
    /// Publishes the member key. A failure is logged; the next cycle tries again. Whether it was published.
    pub(super) async fn touch_member(&mut self) -> bool {
        let Some(server) = self.current_server() else {
            return false;
        };
        let local = self.postgres.local();
        let now = self.clock.now();
        let record = member::record(
            &server,
            &self.memory,
            &Publication {
                api_url: &self.settings.api_url,
                conn_url: &local.conn_url,
                proxy_url: local.proxy_url.as_deref(),
                tags: &self.tags_in_force(),
                task: self.job.as_ref().map(|job| job.describe().kind),
                leads: self.memory.lease.is_some_and(|lease| lease.is_valid(now)),
                paused: self.is_paused(),
            },
        );
        if let Err(error) = self.dcs.touch_member(&record, self.short_write()).await {
            tracing::warn!("could not publish the member key: {}", error.chain());
            return false;
        }
        true
    }

    /// The configured tags, and what this node's leave from synchronous duty adds to them.
    fn tags_in_force(&self) -> Tags {
        if self.off_duty { duty::off_duty(&self.settings.tags) } else { self.settings.tags.clone() }
    }

    /// The last observation with what has changed locally since.
    fn current_server(&self) -> Option<ServerObservation> {
        let local = self.postgres.local();
        let mut server = self.server.as_deref()?.clone();
        server.state = local.state;
        server.role = local.role;
        server.since = local.since;
        server.pending_restart = local.pending_restart;
        Some(server)
    }

    /// What `GET /patroni` says. While this node's position misleads, Patroni's agents must skip it; the member key does not
    /// say so, because for agents that compare timelines nothing is wrong with it.
    fn tags_to_tell(&self) -> Tags {
        let mut tags = self.tags_in_force();
        if self.memory.misleads_by_position {
            tags.0.insert("nofailover".to_owned(), true.into());
        }
        tags
    }

    /// Publishes the snapshot.
    pub(super) fn publish(&self) {
        let server = self.current_server().map(Arc::new);
        let timeline = server.as_ref().and_then(|server| match &server.monitor {
            Monitor::Primary(primary) => Some(primary.timeline),
            Monitor::Standby(standby) => {
                standby.received_timeline.or(standby.control_timeline).or(self.memory.cached_own_timeline.map(|(_, own)| own))
            }
            Monitor::NotAsked | Monitor::Failed => None,
        });
        self.snapshot.send_replace(Arc::new(Snapshot {
            view: self.view.clone(),
            view_loaded_at: self.view_loaded_at,
            dcs_last_seen: self.dcs_last_seen,
            settings: Arc::clone(&self.settings),
            lease: self.memory.lease,
            failsafe: self.memory.failsafe.clone(),
            last_wal_lsn: self.memory.last_wal_lsn,
            tags: self.tags_to_tell(),
            server,
            task: self.job.as_ref().map(|job| job.name().to_owned()),
            scheduled_restart: self.memory.scheduled_restart.clone(),
            next_run: self.next_run,
            message: self.last_message.clone(),
            timeline,
            watchdog_failed: self.watchdog_failed,
            journal: self.journal.clone(),
        }));
    }

    /// Hardening rule X17: a state or role that changes inside a task is published at once.
    pub(super) async fn publish_change(&mut self) {
        self.guard_lease();
        self.publish();
        self.touch_member().await;
    }
}
