//! The report behind REST answers. However many ask, the server is asked once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::ServerState;

use super::{LocalPostgres, locked, query};
use crate::ports::{ServerStatus, StatusReport};

/// The last report, and the turn of whoever makes the next one.
#[derive(Debug, Default)]
pub(super) struct Cache {
    last: Mutex<Option<Arc<StatusReport>>>,
    turn: tokio::sync::Mutex<()>,
}

impl LocalPostgres {
    fn fresh_report(&self, max_age: Duration) -> Option<Arc<StatusReport>> {
        let now = self.clock.now();
        locked(&self.reports.last).clone().filter(|report| now.saturating_since(report.read_at) <= max_age)
    }

    pub(super) async fn shared_report(&self, max_age: Duration, deadline: Deadline) -> Arc<StatusReport> {
        if let Some(report) = self.fresh_report(max_age) {
            return report;
        }
        let turn = deadline.bound("another asker", self.reports.turn.lock()).await;
        // Whoever had the turn before may have asked for us too.
        if let Some(report) = self.fresh_report(max_age) {
            return report;
        }
        // Read before asking: an answer is as old as its question.
        let read_at = self.clock.now();
        let server = if turn.is_ok() { self.ask_status(deadline).await } else { None };
        let report = Arc::new(StatusReport { read_at, server });
        *locked(&self.reports.last) = Some(Arc::clone(&report));
        report
    }

    async fn ask_status(&self, deadline: Deadline) -> Option<ServerStatus> {
        if !matches!(self.server_state(), ServerState::Running | ServerState::Restarting | ServerState::Starting) {
            return None;
        }
        let sql = query::status_sql(self.major().await?);
        let (rows, server_version) = match self.restapi.query(&self.target(), &sql, deadline).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!("the status of PostgreSQL could not be read: {error}");
                return None;
            }
        };
        let status = query::read_status(rows.first()?)?;
        let (postmaster_start_time, postmaster_start_epoch) = status.started;
        Some(ServerStatus {
            postmaster_start_time,
            postmaster_start_epoch,
            server_version,
            monitor: status.monitor,
            replayed_timestamp: status.replayed,
            latest_end_lsn: status.latest_end,
            replication: status.replication,
        })
    }
}
