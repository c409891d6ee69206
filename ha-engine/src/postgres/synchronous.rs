//! Synchronous replication as the server sees it: looking at it, and deciding whom commits wait for.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{Lsn, Role, ServerState};
use serde_json::Value;

use super::LocalPostgres;
use super::connection::Row;
use super::parameters::SyncNames;
use crate::decide::sync::sample::{CommitLevel, SyncSample, SyncWord, Walsender};
use crate::ports::OperationFailed;

/// How often the server is asked whether it has read what was written.
const POLL: Duration = Duration::from_millis(10);

/// Everything about standbys, in one statement, so that its parts belong together. Processes read the configuration each by
/// itself; what was loaded a tenth of a second ago has been read by all of them.
const SAMPLE: &str = "SELECT pg_catalog.current_setting('synchronous_commit'), \
    pg_catalog.current_setting('synchronous_standby_names'), \
    pg_catalog.clock_timestamp() - pg_catalog.pg_conf_load_time() >= '100 ms'::pg_catalog.interval, \
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE pg_catalog.pg_current_wal_flush_lsn() END, \
    EXISTS (SELECT 1 FROM pg_catalog.pg_stat_get_activity(NULL) AS a WHERE a.wait_event = 'SyncRep'), \
    (SELECT pg_catalog.json_agg(s) FROM (SELECT a.application_name, w.sync_state, w.write_lsn, w.flush_lsn, w.replay_lsn \
    FROM pg_catalog.pg_stat_get_wal_senders() AS w, pg_catalog.pg_stat_get_activity(w.pid) AS a \
    WHERE w.state = 'streaming') AS s)";

/// Reads the answer to [`SAMPLE`]; nothing from a server in recovery.
fn read_sample(row: &Row) -> Option<SyncSample> {
    Some(SyncSample {
        level: CommitLevel::of_setting(row.text(0)?),
        names: row.text(1)?.to_owned(),
        settled: row.flag(2),
        flushed: row.value(3)?,
        commits_wait: row.flag(4),
        walsenders: row.text(5).map(read_walsenders).unwrap_or_default(),
    })
}

/// WAL senders in JSON form. What cannot be read is left out: it will not be counted on.
fn read_walsenders(json: &str) -> Vec<Walsender> {
    let Ok(Value::Array(senders)) = serde_json::from_str(json) else { return Vec::new() };
    senders
        .iter()
        .filter_map(|sender| {
            let text = |key: &str| sender.get(key).and_then(Value::as_str);
            let lsn = |key: &str| text(key).and_then(|lsn| lsn.parse::<Lsn>().ok());
            Some(Walsender {
                application_name: text("application_name")?.to_owned(),
                sync: SyncWord::of_column(text("sync_state").unwrap_or_default()),
                written: lsn("write_lsn"),
                flushed: lsn("flush_lsn"),
                replayed: lsn("replay_lsn"),
            })
        })
        .collect()
}

impl LocalPostgres {
    pub(super) async fn sample_synchronous_replication(&self, deadline: Deadline) -> Option<SyncSample> {
        match self.heartbeat.query(&self.target(), SAMPLE, deadline).await {
            Ok((rows, _)) => rows.first().and_then(read_sample),
            Err(error) => {
                tracing::debug!("synchronous replication could not be looked at: {error}");
                None
            }
        }
    }

    pub(super) async fn decide_synchronous_names(
        &self,
        text: Option<&str>,
        deadline: Deadline,
    ) -> Result<Option<SyncSample>, OperationFailed> {
        let settings = self.settings();
        let wanted = {
            let names = text.map_or(SyncNames::Configured, |text| SyncNames::Decided(text.to_owned()));
            let mut book = self.book();
            book.synchronous_names = text.map(str::to_owned);
            names.apply(&mut book.parameters, &settings.postgresql);
            book.parameters.get(SyncNames::PARAMETER).unwrap_or_default().to_owned()
        };
        if self.server_state() != ServerState::Running {
            // The next start writes it.
            return Err(OperationFailed("PostgreSQL is not running".to_owned()));
        }
        if self.current_names(deadline).await.as_deref() != Some(wanted.as_str()) {
            self.write_postgresql_conf(None)
                .await
                .map_err(|error| OperationFailed(format!("postgresql.conf could not be written: {error}")))?;
            if !self.reload_server(true).await {
                return Err(OperationFailed("the server could not be told to read its configuration".to_owned()));
            }
        }
        self.wait_for_names(&wanted, deadline).await
    }

    /// Waits until the server shows `wanted`; a primary until every process of it has had the time to read it.
    async fn wait_for_names(&self, wanted: &str, deadline: Deadline) -> Result<Option<SyncSample>, OperationFailed> {
        let primary = self.role() == Role::Primary;
        let mut shown = None;
        while !deadline.has_passed() {
            if primary {
                let sample = self.sample_synchronous_replication(deadline).await;
                shown = sample.as_ref().map(|sample| sample.names.clone());
                if let Some(sample) = sample.filter(|sample| sample.settled && sample.names == wanted) {
                    return Ok(Some(sample));
                }
            } else {
                shown = self.current_names(deadline).await;
                if shown.as_deref() == Some(wanted) {
                    return Ok(None);
                }
            }
            tokio::time::sleep(POLL).await;
        }
        Err(OperationFailed(match shown {
            Some(shown) if shown != wanted => format!("the server still has '{shown}'"),
            Some(_) => "the server has just read it".to_owned(),
            None => "the server does not answer".to_owned(),
        }))
    }

    async fn current_names(&self, deadline: Deadline) -> Option<String> {
        let sql = "SELECT pg_catalog.current_setting('synchronous_standby_names')";
        let (rows, _) = self.heartbeat.query(&self.target(), sql, deadline).await.ok()?;
        rows.first()?.text(0).map(str::to_owned)
    }

    /// A standby acknowledges nothing. What it had decided as a primary would only be in the way of a promotion by hand.
    pub(super) fn forget_synchronous_names(&self) {
        let settings = self.settings();
        self.book().synchronous_names = None;
        let names = SyncNames::of_standby(&settings);
        names.apply(&mut self.book().parameters, &settings.postgresql);
    }
}

#[cfg(test)]
mod tests {
    use super::read_walsenders;
    use crate::decide::sync::sample::SyncWord;

    #[test]
    fn walsenders_are_read_and_damaged_ones_left_out() {
        let json = r#"[{"application_name":"b","sync_state":"quorum","write_lsn":"0/3000060","flush_lsn":"0/3000000","replay_lsn":null},
            {"sync_state":"sync"}]"#;
        let senders = read_walsenders(json);
        assert_eq!(senders.len(), 1);
        assert_eq!((senders[0].application_name.as_str(), senders[0].sync), ("b", SyncWord::Quorum));
        assert_eq!((senders[0].flushed.map(|lsn| lsn.0), senders[0].replayed), (Some(0x0300_0000), None));
    }
}
