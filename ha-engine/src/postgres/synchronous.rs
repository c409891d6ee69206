//! Synchronous replication as the server sees it: looking at it, and deciding whom commits wait for.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{Lsn, ServerState};
use serde_json::Value;
use tokio::time::Instant;

use super::LocalPostgres;
use super::connection::{Connection, PATIENT_OPTIONS, Row};
use super::parameters::SyncNames;
use crate::decide::sync::names::StandbyNames;
use crate::decide::sync::sample::{CommitLevel, SyncSample, SyncWord, Walsender};
use crate::ports::OperationFailed;

/// How often the server is asked whether it has read what was written.
const POLL: Duration = Duration::from_millis(10);

/// How long a server is asked before a checkpoint that takes its time is told to hurry.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long anybody cares about the end of that checkpoint.
const HURRY: Duration = Duration::from_secs(60);

/// The first version whose checkpointer shows that it rests between writes.
const SHOWS_WRITE_DELAY: u32 = 150_000;

/// Everything about standbys, in one statement, so that its parts belong together.
///
/// Processes read the configuration each by itself; what was loaded a tenth of a second ago has been read by all of them
/// that look. The checkpointer does not while it hurries through a checkpoint, and commits wait for nobody before it, and no
/// other process, has read that they shall. It has when it is seen in one of the two places where it waits and looks.
const SAMPLE: &str = "SELECT pg_catalog.current_setting('synchronous_commit'), \
    pg_catalog.current_setting('synchronous_standby_names'), \
    pg_catalog.clock_timestamp() - pg_catalog.pg_conf_load_time() >= '100 ms'::pg_catalog.interval \
    AND (pg_catalog.current_setting('synchronous_standby_names') = '' OR EXISTS (SELECT 1 \
    FROM pg_catalog.pg_stat_get_activity(NULL) AS a WHERE a.backend_type = 'checkpointer' \
    AND a.wait_event IN ('CheckpointerMain', 'CheckpointWriteDelay'))), \
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE pg_catalog.pg_current_wal_flush_lsn() END, \
    EXISTS (SELECT 1 FROM pg_catalog.pg_stat_get_activity(NULL) AS a WHERE a.wait_event = 'SyncRep'), \
    (SELECT pg_catalog.json_agg(s) FROM (SELECT a.application_name, w.sync_state, w.write_lsn, w.flush_lsn, w.replay_lsn \
    FROM pg_catalog.pg_stat_get_wal_senders() AS w, pg_catalog.pg_stat_get_activity(w.pid) AS a \
    WHERE w.state = 'streaming') AS s)";

/// The answer to [`SAMPLE`].
struct Shown {
    names: String,
    /// Whether every process of the server goes by them.
    settled: bool,
    /// The rest, from a primary.
    sample: Option<SyncSample>,
}

fn read_answer(row: &Row) -> Option<Shown> {
    let (names, loaded) = (row.text(1)?.to_owned(), row.flag(2));
    let Some(flushed) = row.value(3) else {
        return Some(Shown { names, settled: loaded, sample: None });
    };
    let walsenders = row.text(5).map(read_walsenders).unwrap_or_default();
    let settled = loaded && go_by(&names, &walsenders);
    let level = CommitLevel::of_setting(row.text(0)?);
    let sample = SyncSample { level, names: names.clone(), settled, flushed, commits_wait: row.flag(4), walsenders };
    Some(Shown { names, settled, sample: Some(sample) })
}

/// Whether every WAL sender has read `text`: it takes part if and only if it is named there. One that has not reported yet
/// shows nothing.
fn go_by(text: &str, walsenders: &[Walsender]) -> bool {
    let names = StandbyNames::parse(text).unwrap_or_default();
    let named = |sender: &Walsender| names.everybody || names.names.contains(&sender.application_name);
    walsenders.iter().filter(|sender| sender.flushed.is_some()).all(|sender| named(sender) == (sender.sync != SyncWord::Async))
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
        self.show_synchronous_replication(deadline).await?.sample
    }

    async fn show_synchronous_replication(&self, deadline: Deadline) -> Option<Shown> {
        match self.heartbeat.query(&self.target(), SAMPLE, deadline).await {
            Ok((rows, _)) => rows.first().and_then(read_answer),
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
        self.make_sure_of_parameters()
            .await
            .map_err(|error| OperationFailed(format!("the parameters of the server that was found could not be read: {error}")))?;
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

    /// Waits until every process of the server goes by `wanted`.
    async fn wait_for_names(&self, wanted: &str, deadline: Deadline) -> Result<Option<SyncSample>, OperationFailed> {
        let begin = Instant::now();
        let mut last = None;
        let mut hurried = self.book().running_version.is_none_or(|version| version >= SHOWS_WRITE_DELAY);
        while !deadline.has_passed() {
            match self.show_synchronous_replication(deadline).await {
                Some(shown) if shown.settled && shown.names == wanted => return Ok(shown.sample),
                Some(shown) => last = Some(shown.names),
                None => {}
            }
            if !hurried && begin.elapsed() >= PATIENCE {
                hurried = true;
                self.hurry_checkpoint();
            }
            tokio::time::sleep(POLL).await;
        }
        Err(OperationFailed(match last {
            Some(shown) if shown != wanted => format!("the server still has '{shown}'"),
            Some(_) => "not every process of the server is known to have read it".to_owned(),
            None => "the server does not answer".to_owned(),
        }))
    }

    /// Before PostgreSQL 15 a checkpoint that takes its time, minutes as a rule, shows nothing of what its process has read. It
    /// ends soon when another one is asked for.
    fn hurry_checkpoint(&self) {
        let target = self.target();
        // Detached on purpose: the server ends it, in its own time.
        drop(tokio::spawn(async move {
            let limit = Deadline::after(HURRY);
            let checkpoint = async { Connection::open(&target, "Patroni", PATIENT_OPTIONS, limit).await?.query("CHECKPOINT", limit).await };
            if let Err(error) = checkpoint.await {
                tracing::debug!("a checkpoint could not be hurried: {error}");
            }
        }));
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
    use super::{go_by, read_walsenders};
    use crate::decide::sync::sample::{SyncWord, Walsender};

    #[test]
    fn walsenders_are_read_and_damaged_ones_left_out() {
        let json = r#"[{"application_name":"b","sync_state":"quorum","write_lsn":"0/3000060","flush_lsn":"0/3000000","replay_lsn":null},
            {"sync_state":"sync"}]"#;
        let senders = read_walsenders(json);
        assert_eq!(senders.len(), 1);
        assert_eq!((senders[0].application_name.as_str(), senders[0].sync), ("b", SyncWord::Quorum));
        assert_eq!((senders[0].flushed.map(|lsn| lsn.0), senders[0].replayed), (Some(0x0300_0000), None));
    }

    #[test]
    fn every_wal_sender_shows_whether_it_has_read_the_text() {
        use SyncWord::{Async, Potential, Quorum, Sync};
        for (what, text, senders, expected) in [
            ("nobody streams", "b", &[][..], true),
            ("it is named and takes part", "b", &[("B", Sync), ("c", Async)], true),
            ("in waiting is taking part", "1 (b,c)", &[("b", Sync), ("c", Potential)], true),
            ("one has not read that it is named", "ANY 1 (b,c)", &[("b", Quorum), ("c", Async)], false),
            ("one has not read that it is not", "c", &[("b", Sync), ("c", Sync)], false),
            ("everybody is named", "*", &[("b", Sync), ("x", Async)], false),
            ("nobody is named any more", "", &[("b", Sync)], false),
        ] {
            let sender = |(name, sync): &(&str, SyncWord)| Walsender {
                application_name: (*name).to_owned(),
                sync: *sync,
                written: None,
                flushed: Some(dcs_core::model::Lsn(1)),
                replayed: None,
            };
            let mut senders: Vec<Walsender> = senders.iter().map(sender).collect();
            assert_eq!(go_by(text, &senders), expected, "{what}");
            senders.iter_mut().for_each(|sender| sender.flushed = None);
            assert!(go_by(text, &senders), "{what}, and nobody has reported yet");
        }
    }
}
