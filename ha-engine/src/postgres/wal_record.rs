//! A small WAL record, for standbys that wait for the next one.

use dcs_core::Deadline;

use super::LocalPostgres;
use super::connection::{Connection, SHORT_OPTIONS, SqlError};

/// The statement that writes the record.
///
/// From 16 on a function logs what a standby needs to accept connections. Before, a commit does: a transaction that has an
/// identifier and changes nothing writes one, never waits for synchronous standbys, and is seen by no consumer of logical
/// decoding (unlike a logical message). The WAL writer flushes either within `wal_writer_delay` (0.2 s; 0.24 s measured on
/// 15), which is when standbys get it. A CHECKPOINT would be as quick on an idle server and long on a busy one.
fn statement(major: u32) -> &'static str {
    if major >= 160_000 { "SELECT pg_catalog.pg_log_standby_snapshot()" } else { "SELECT pg_catalog.txid_current()" }
}

impl LocalPostgres {
    /// Writes the record on a connection of its own, so that no look at the server waits for it.
    pub(super) async fn write_small_record(&self, deadline: Deadline) {
        if let Err(error) = self.try_write_record(deadline).await {
            tracing::warn!("no WAL record could be written for waiting standbys: {error}");
        }
    }

    async fn try_write_record(&self, deadline: Deadline) -> Result<(), SqlError> {
        let mut connection = Connection::open(&self.target(), "Patroni", SHORT_OPTIONS, deadline).await?;
        connection.query(statement(connection.server_version), deadline).await.map(drop)
    }
}
