//! The monitoring query: everything that one look at the server needs, in one statement.

use dcs_core::model::{Lsn, Timeline};
use serde_json::Value;

use super::connection::Row;
use crate::decide::observation::{Monitor, PrimaryMonitor, STREAMING, SlotObservation, StandbyMonitor};

/// Columns of [`positions`], in order.
mod column {
    pub(super) const TIMELINE: usize = 0;
    pub(super) const FLUSHED: usize = 1;
    pub(super) const REPLAYED: usize = 2;
    pub(super) const RECEIVED: usize = 3;
    pub(super) const PAUSED: usize = 4;
    pub(super) const RECEIVED_TIMELINE: usize = 5;
    pub(super) const WRITTEN: usize = 6;
    pub(super) const RECEIVER_STATE: usize = 7;
    pub(super) const RESTORE_COMMAND: usize = 8;
    /// The first column after the positions.
    pub(super) const NEXT: usize = 9;
}

/// Where the server is: the columns that every look begins with. `r` is the WAL receiver.
fn positions(major: u32) -> String {
    // The written position, which is ahead of the flushed one, came with 13.
    let written = if major >= 130_000 { "r.written_lsn" } else { "NULL" };
    format!(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL \
         ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END, \
         CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE pg_catalog.pg_current_wal_flush_lsn() END, \
         pg_catalog.pg_last_wal_replay_lsn(), pg_catalog.pg_last_wal_receive_lsn(), \
         pg_catalog.pg_is_in_recovery() AND pg_catalog.pg_is_wal_replay_paused(), \
         CASE WHEN r.latest_end_lsn IS NULL THEN NULL ELSE r.received_tli END, \
         {written}, r.status, pg_catalog.current_setting('restore_command')"
    )
}

/// All slots that may be managed: not temporary ones, nor those that 17 itself copies to standbys.
pub(super) fn slots_sql(major: u32) -> String {
    let wal_status = if major >= 130_000 { "wal_status" } else { "NULL AS wal_status" };
    let failover = if major >= 170_000 { " AND NOT failover" } else { "" };
    format!(
        "SELECT slot_name, slot_type, database, plugin, active, xmin, catalog_xmin, restart_lsn, \
         confirmed_flush_lsn, {wal_status} FROM pg_catalog.pg_replication_slots WHERE NOT temporary{failover}"
    )
}

/// The statement for one cycle.
pub(super) fn monitor_sql(major: u32, standby_leader: bool, with_slots: bool) -> String {
    let control = if standby_leader { "(SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())" } else { "NULL" };
    let slots = if with_slots { format!("(SELECT pg_catalog.json_agg(s) FROM ({}) AS s)", slots_sql(major)) } else { "NULL".to_owned() };
    format!("{}, {control}, {slots} FROM pg_catalog.pg_stat_get_wal_receiver() AS r", positions(major))
}

/// Reads the answer to [`monitor_sql`]. Slots are nothing if they were not asked for.
pub(super) fn read_monitor(row: &Row, with_slots: bool) -> (Monitor, Option<Vec<SlotObservation>>) {
    let mut monitor = read_positions(row);
    if let Monitor::Standby(standby) = &mut monitor {
        standby.control_timeline = row.value(column::NEXT).and_then(Timeline::known);
    }
    let slots = with_slots.then(|| row.text(column::NEXT + 1).map_or_else(|| Some(Vec::new()), read_slots)).flatten();
    (monitor, slots)
}

fn read_positions(row: &Row) -> Monitor {
    let lsn = |column| row.value::<Lsn>(column);
    let timeline = row.text(column::TIMELINE).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    if let Some(timeline) = timeline.and_then(Timeline::known) {
        return Monitor::Primary(PrimaryMonitor { timeline, lsn: lsn(column::FLUSHED).unwrap_or_default() });
    }
    let replication_state = if row.text(column::RECEIVER_STATE) == Some(STREAMING) {
        Some(STREAMING.to_owned())
    } else {
        row.text(column::RESTORE_COMMAND).filter(|command| !command.is_empty()).map(|_| "in archive recovery".to_owned())
    };
    Monitor::Standby(StandbyMonitor {
        replayed: lsn(column::REPLAYED).unwrap_or_default(),
        received: lsn(column::RECEIVED).max(lsn(column::WRITTEN)).unwrap_or_default(),
        replay_paused: row.flag(column::PAUSED),
        received_timeline: row.value(column::RECEIVED_TIMELINE).and_then(Timeline::known),
        control_timeline: None,
        replication_state,
    })
}

/// Slots in the JSON form of [`slots_sql`]; nothing if it is none. A single one that cannot be read is left out.
pub(super) fn read_slots(json: &str) -> Option<Vec<SlotObservation>> {
    let Ok(Value::Array(slots)) = serde_json::from_str(json) else { return None };
    let slots = slots
        .iter()
        .filter_map(|slot| {
            let text = |key: &str| slot.get(key).and_then(Value::as_str).map(str::to_owned);
            let flag = |key: &str| slot.get(key).and_then(Value::as_bool).unwrap_or(false);
            let lsn = |key: &str| text(key).and_then(|lsn| lsn.parse().ok());
            let transaction = |key: &str| text(key).and_then(|number| number.parse().ok());
            Some(SlotObservation {
                name: text("slot_name")?,
                logical: text("slot_type")? == "logical",
                database: text("database"),
                plugin: text("plugin"),
                active: flag("active"),
                xmin: transaction("xmin"),
                catalog_xmin: transaction("catalog_xmin"),
                restart_lsn: lsn("restart_lsn"),
                confirmed_flush_lsn: lsn("confirmed_flush_lsn"),
                lost: text("wal_status").is_some_and(|status| status == "lost"),
            })
        })
        .collect();
    Some(slots)
}

/// The statement behind REST answers: positions, times, and who streams from here.
pub(super) fn status_sql(major: u32) -> String {
    let time =
        |expression: &str| format!("pg_catalog.to_char({expression}, 'YYYY-MM-DD HH24:MI:SS.USTZH:TZM'), EXTRACT(EPOCH FROM {expression})");
    format!(
        "{positions}, {started}, {replayed}, r.latest_end_lsn, \
         (SELECT pg_catalog.json_agg(s) FROM (SELECT \
         (SELECT rolname FROM pg_catalog.pg_authid WHERE oid = a.usesysid) AS usename, a.application_name, \
         a.client_addr, w.state, w.sync_state, w.sync_priority \
         FROM pg_catalog.pg_stat_get_wal_senders() AS w, pg_catalog.pg_stat_get_activity(w.pid) AS a) AS s) \
         FROM pg_catalog.pg_stat_get_wal_receiver() AS r",
        positions = positions(major),
        started = time("pg_catalog.pg_postmaster_start_time()"),
        replayed = time("pg_catalog.pg_last_xact_replay_timestamp()"),
    )
}

/// The answer to [`status_sql`], without what the connection knows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Status {
    /// Positions.
    pub(super) monitor: Monitor,
    /// When the postmaster started, as text and as seconds since the epoch.
    pub(super) started: (String, f64),
    /// Timestamp of the last replayed transaction.
    pub(super) replayed: Option<(String, f64)>,
    /// Latest end that the WAL receiver was told of.
    pub(super) latest_end: Option<Lsn>,
    /// Who streams from here.
    pub(super) replication: Vec<Value>,
}

/// Reads the answer to [`status_sql`]; nothing if there is no start time, which every server has.
pub(super) fn read_status(row: &Row) -> Option<Status> {
    let time = |column: usize| {
        let text = row.text(column)?.replace(".000000", "");
        Some((text, row.value(column + 1)?))
    };
    let replication = row.text(column::NEXT + 5).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    Some(Status {
        monitor: read_positions(row),
        started: time(column::NEXT)?,
        replayed: time(column::NEXT + 2),
        latest_end: row.value(column::NEXT + 4),
        replication,
    })
}

#[cfg(test)]
mod tests {
    use super::{monitor_sql, read_slots};
    use crate::decide::observation::TransactionId;

    #[test]
    fn slots_are_read_and_damaged_ones_left_out() {
        let json = r#"[{"slot_name":"a","slot_type":"physical","database":null,"plugin":null,"active":true,
            "xmin":null,"catalog_xmin":"744","restart_lsn":"0/3000060","confirmed_flush_lsn":null,"wal_status":"reserved"},
            {"slot_type":"physical"}]"#;
        let slots = read_slots(json).expect("an array");
        assert_eq!(slots.len(), 1);
        assert_eq!((slots[0].xmin, slots[0].catalog_xmin), (None, Some(TransactionId(744))));
        assert_eq!((slots[0].name.as_str(), slots[0].active, slots[0].lost), ("a", true, false));
        assert_eq!(slots[0].restart_lsn, Some("0/3000060".parse().expect("an LSN")));
    }

    #[test]
    fn the_statement_asks_older_servers_only_for_what_they_have() {
        let old = monitor_sql(120_000, false, true);
        assert!(!old.contains("written_lsn") && old.contains("NULL AS wal_status") && !old.contains("failover"));
        assert!(monitor_sql(170_000, true, true).contains("AND NOT failover"));
    }
}
