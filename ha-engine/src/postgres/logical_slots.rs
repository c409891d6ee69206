//! Logical slots: creating them, moving them forward on a standby, and copying them from the leader.
//!
//! Each belongs to one database, and only a connection to that can work on it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::Lsn;

use super::connection::{CONNECT_TIMEOUT, Connection, PATIENT_OPTIONS, SHORT_OPTIONS, SqlError, literal, text_array};
use super::{LocalPostgres, blocking, data_dir};
use crate::cancel::Cancel;
use crate::decide::observation::Upstream;
use crate::decide::slots::{LeaderLook, LeaderSlots, LogicalReport, LogicalSlot, LogicalWork};
use crate::ports::{OperationFailed, SlotState};

/// How long the creation of a slot may take: it waits for every transaction that runs.
const CREATE: Duration = Duration::from_secs(60);

/// Server settings for creating slots; the server gives up a little earlier than we do.
const CREATE_OPTIONS: &str = "-c statement_timeout=55000 -c search_path=pg_catalog";

/// How long moving one slot forward may take: everything that it skips is decoded.
const ADVANCE: Duration = Duration::from_secs(3600);

/// The name that these connections have.
const APPLICATION: &str = "Patroni heartbeat";

/// The WAL that a slot needs is gone.
const UNDEFINED_FILE: &str = "58P01";

/// The slot was invalidated, or never had WAL reserved.
const NOT_IN_PREREQUISITE_STATE: &str = "55000";

/// Whether a slot whose move failed like this will never move again.
fn is_broken(error: &SqlError) -> bool {
    matches!(error, SqlError::Refused { code, .. } if code == UNDEFINED_FILE || code == NOT_IN_PREREQUISITE_STATE)
}

impl LocalPostgres {
    pub(super) async fn work_on_logical_slots(&self, work: &LogicalWork, cancel: &Cancel) -> LogicalReport {
        let mut report = LogicalReport::default();
        if let Some(look) = &work.look {
            report.leader = self.look_at_leader(look).await;
        }
        let mut creations: BTreeMap<&str, Vec<&LogicalSlot>> = BTreeMap::new();
        for slot in &work.create {
            creations.entry(&slot.database).or_default().push(slot);
        }
        for (database, slots) in creations {
            if !cancel.is_cancelled() {
                self.create_in(database, &slots, &mut report).await;
            }
        }
        let mut moves: BTreeMap<&str, Vec<(&LogicalSlot, Lsn)>> = BTreeMap::new();
        for (slot, target) in &work.advance {
            moves.entry(&slot.database).or_default().push((slot, *target));
        }
        for (database, slots) in moves {
            self.advance_in(database, &slots, cancel, &mut report).await;
        }
        report
    }

    async fn open_database(&self, database: &str, options: &str) -> Result<Connection, SqlError> {
        let mut target = self.target();
        database.clone_into(&mut target.dbname);
        Connection::open(&target, APPLICATION, options, Deadline::after(CONNECT_TIMEOUT)).await
    }

    async fn create_in(&self, database: &str, slots: &[&LogicalSlot], report: &mut LogicalReport) {
        let mut connection = match self.open_database(database, CREATE_OPTIONS).await {
            Ok(connection) => connection,
            Err(error) => return tracing::error!("Failed to create logical replication slots in database {database}: {error}"),
        };
        for slot in slots {
            let (name, plugin) = (&slot.name, &slot.plugin);
            let sql = format!(
                "SELECT pg_catalog.pg_create_logical_replication_slot({quoted}, {}) WHERE NOT EXISTS \
                 (SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_type = 'logical' AND slot_name = {quoted})",
                literal(plugin),
                quoted = literal(name),
            );
            match connection.query(&sql, Deadline::after(CREATE)).await {
                Ok(rows) if rows.is_empty() => {}
                Ok(_) => {
                    tracing::info!("Created logical replication slot '{name}' plugin='{plugin}'");
                    report.created.push(name.clone());
                }
                Err(error) => {
                    tracing::error!("Failed to create logical replication slot '{name}' plugin='{plugin}': {error}");
                    if error.is_connection_problem() {
                        return;
                    }
                }
            }
        }
    }

    async fn advance_in(&self, database: &str, slots: &[(&LogicalSlot, Lsn)], cancel: &Cancel, report: &mut LogicalReport) {
        if cancel.is_cancelled() {
            return;
        }
        let mut connection = match self.open_database(database, PATIENT_OPTIONS).await {
            Ok(connection) => connection,
            Err(error) => return tracing::error!("Failed to advance replication slots in database {database}: {error}"),
        };
        for (slot, target) in slots {
            if cancel.is_cancelled() {
                return;
            }
            let sql = format!("SELECT pg_catalog.pg_replication_slot_advance({}, '{target}')", literal(&slot.name));
            match connection.query(&sql, Deadline::after(ADVANCE)).await {
                Ok(_) => report.advanced.push(slot.name.clone()),
                Err(error) => {
                    tracing::error!("Failed to advance logical replication slot '{}': {error}", slot.name);
                    if is_broken(&error) {
                        report.broken.push(slot.name.clone());
                    }
                    if error.is_connection_problem() {
                        return;
                    }
                }
            }
        }
    }

    async fn look_at_leader(&self, look: &LeaderLook) -> Option<LeaderSlots> {
        let names = look.logical.iter().chain([&look.physical]);
        let sql = format!(
            "SELECT slot_name, catalog_xmin FROM pg_catalog.pg_get_replication_slots() \
             WHERE NOT pg_catalog.pg_is_in_recovery() AND slot_name = ANY({})",
            text_array(names)
        );
        let rows = match self.ask_leader_for_slots(&look.leader, &sql, Deadline::after(CONNECT_TIMEOUT * 2)).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!("Failed to check {} physical slot on the primary: {error}", look.physical);
                return None;
            }
        };
        let catalog_xmins = rows.iter().filter_map(|row| Some((row.text(0)?.to_owned(), row.value(1)))).collect();
        let sql = "SELECT pg_catalog.current_setting('hot_standby_feedback')::pg_catalog.bool";
        let sends_feedback = match self.heartbeat.query(&self.target(), sql, Deadline::after(CONNECT_TIMEOUT)).await {
            Ok((rows, _)) => rows.first().is_some_and(|row| row.flag(0)),
            Err(error) => {
                tracing::error!("Failed to check the hot_standby_feedback setting: {error}");
                return None;
            }
        };
        Some(LeaderSlots { physical: look.physical.clone(), catalog_xmins, sends_feedback })
    }

    /// As the user for rewinding, who may read files of the leader.
    async fn ask_leader_for_slots(
        &self,
        leader: &Upstream,
        sql: &str,
        deadline: Deadline,
    ) -> Result<Vec<super::connection::Row>, SqlError> {
        let settings = self.settings();
        let target = self.upstream_target(leader, settings.postgresql.authentication.rewind());
        Connection::open(&target, "Patroni", SHORT_OPTIONS, deadline).await?.query(sql, deadline).await
    }

    pub(super) async fn read_slots_of(
        &self,
        leader: &Upstream,
        slots: &[LogicalSlot],
        deadline: Deadline,
    ) -> Result<Vec<SlotState>, OperationFailed> {
        let failover = if self.major().await.is_some_and(|major| major >= 170_000) { " AND NOT s.failover" } else { "" };
        // One without restart_lsn has lost its WAL: a copy of it would be of no use.
        let sql = format!(
            "SELECT s.slot_name, d.datname, s.plugin, pg_catalog.encode(\
             pg_catalog.pg_read_binary_file('pg_replslot/' || s.slot_name || '/state'), 'hex') \
             FROM pg_catalog.pg_get_replication_slots() AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.datoid \
             WHERE NOT pg_catalog.pg_is_in_recovery() AND s.restart_lsn IS NOT NULL{failover} AND s.slot_name = ANY({})",
            text_array(slots.iter().map(|slot| &slot.name))
        );
        let rows = self.ask_leader_for_slots(leader, &sql, deadline).await.map_err(|error| OperationFailed(error.to_string()))?;
        let mut states = Vec::new();
        for row in &rows {
            let text = |column| row.text(column).unwrap_or_default();
            let Some(slot) = slots.iter().find(|slot| slot.name == text(0)) else { continue };
            if (slot.database.as_str(), slot.plugin.as_str()) != (text(1), text(2)) {
                tracing::warn!(
                    "Will not copy the logical slot \"{}\" due to the configuration mismatch: configuration=database {}, plugin {}; slot \
                     on the primary=database {}, plugin {}",
                    slot.name,
                    slot.database,
                    slot.plugin,
                    text(1),
                    text(2)
                );
                continue;
            }
            match from_hex(text(3)) {
                Some(content) if !content.is_empty() => states.push(SlotState { name: slot.name.clone(), content }),
                _ => tracing::error!("the state of logical slot {} on {} cannot be read", slot.name, leader.name),
            }
        }
        Ok(states)
    }

    pub(super) async fn write_slot_states(&self, slots: Vec<SlotState>) -> Result<(), OperationFailed> {
        let data_dir = self.data_dir();
        let written = blocking(move || {
            let directory = data_dir.join("pg_replslot");
            for slot in &slots {
                write_slot(&data_dir, &directory, slot)?;
            }
            File::open(&directory)?.sync_all()
        });
        written.await.map_err(|error| OperationFailed(error.to_string()))
    }

    pub(super) async fn force_feedback(&self, on: bool) -> Result<(), OperationFailed> {
        self.book().feedback_enforced = on;
        if self.postmaster().await.is_none() {
            // The next start writes it.
            return Ok(());
        }
        let written = self.write_postgresql_conf(None).await;
        written.map_err(|error| OperationFailed(format!("postgresql.conf could not be written: {error}")))?;
        if !self.reload_server(true).await {
            return Err(OperationFailed("the server could not be told to read its configuration".to_owned()));
        }
        Ok(())
    }
}

/// Puts one slot in its place. The server removes what is left of an interrupted attempt when it starts.
fn write_slot(data_dir: &Path, directory: &Path, slot: &SlotState) -> io::Result<()> {
    let (place, temporary) = (directory.join(&slot.name), directory.join(format!("{}.tmp", slot.name)));
    remove_if_there(&temporary)?;
    let mode = if data_dir::is_group_readable(data_dir) { 0o750 } else { 0o700 };
    DirBuilder::new().mode(mode).create(&temporary)?;
    let mut file = OpenOptions::new().write(true).create_new(true).open(temporary.join("state"))?;
    file.set_permissions(fs::Permissions::from_mode(data_dir::file_mode(data_dir).mode()))?;
    file.write_all(&slot.content)?;
    file.sync_all()?;
    File::open(&temporary)?.sync_all()?;
    remove_if_there(&place)?;
    fs::rename(&temporary, &place)?;
    File::open(&place)?.sync_all()
}

fn remove_if_there(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Bytes in hexadecimal form.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok())).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).filter_map(|pair| Some(pair.first()? << 4 | pair.last()?)).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn hexadecimal_bytes_are_read_and_anything_else_refused() {
        assert_eq!(from_hex("00ffA1"), Some(vec![0, 255, 0xa1]));
        assert_eq!(from_hex(""), Some(Vec::new()));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("zz"), None);
    }

    #[test]
    fn a_slot_replaces_the_former_one_and_what_an_interrupted_copy_has_left() {
        let data = tempfile::tempdir().expect("a directory");
        let directory = data.path().join("pg_replslot");
        for left in ["ls", "ls.tmp"] {
            fs::create_dir_all(directory.join(left)).expect("a directory");
            fs::write(directory.join(left).join("state"), "old").expect("a file");
            fs::write(directory.join(left).join("xid-1.snap"), "old").expect("a file");
        }
        let slot = SlotState { name: "ls".to_owned(), content: vec![1, 2, 3] };
        write_slot(data.path(), &directory, &slot).expect("written");
        let found: Vec<_> = fs::read_dir(&directory).expect("readable").map(|entry| entry.expect("an entry").file_name()).collect();
        assert_eq!(found, ["ls"]);
        let state = directory.join("ls").join("state");
        assert_eq!(fs::read(&state).expect("readable"), [1, 2, 3]);
        assert_eq!(fs::read_dir(directory.join("ls")).expect("readable").count(), 1, "nothing of the former slot is left");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&directory.join("ls")) & 0o007, mode(&state) & 0o007), (0, 0), "others may not look");
    }
}
