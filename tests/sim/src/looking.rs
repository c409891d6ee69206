//! What a simulated server shows of itself.

use std::time::Duration;

use dcs_core::model::{HistoryLine, Lsn, Timeline};
use ha_engine::decide::observation::{Monitor, PrimaryMonitor, SlotObservation, StandbyMonitor};
use ha_engine::decide::sync::sample::Walsender;
use ha_engine::ports::ShutdownPosition;

use crate::server::{Control, Data, Phase, Process};
use crate::wal::Wal;

/// Where a cleanly stopped primary ended.
pub fn shutdown_position(control: &Control) -> ShutdownPosition {
    ShutdownPosition {
        checkpoint: Lsn(control.checkpoint),
        checkpoint_end: Lsn(control.checkpoint_end),
        final_lsn: Lsn(control.checkpoint),
    }
}

/// What the monitoring query shows.
pub fn monitor(process: &Process, data: &Data, now: Duration) -> Monitor {
    let wal = &data.wal;
    match process.phase {
        _ if process.stopping.is_some_and(|stop| now >= stop.clients_gone_at) => Monitor::Failed,
        Phase::Production => Monitor::Primary(PrimaryMonitor { timeline: Timeline(wal.timeline), lsn: Lsn(wal.flushed) }),
        Phase::Recovery { .. } | Phase::Promoting { .. } => {
            let receiver = &process.receiver;
            let streams = receiver.connection.is_some();
            Monitor::Standby(StandbyMonitor {
                replayed: Lsn(wal.replayed),
                received: Lsn(if receiver.has_received { wal.end() } else { 0 }),
                received_timeline: Timeline::known(wal.timeline).filter(|_| streams),
                replication_state: streams.then(|| "streaming".to_owned()),
                ..StandbyMonitor::default()
            })
        }
        Phase::CrashRecovery { .. } => Monitor::Failed,
    }
}

/// The slots, as the server shows them.
pub fn physical_slots(data: &Data, process: &Process) -> Vec<SlotObservation> {
    let slot = |name: &String| SlotObservation {
        name: name.clone(),
        logical: false,
        database: None,
        plugin: None,
        active: process.walsenders.contains_key(name.as_str()),
        xmin: None,
        catalog_xmin: None,
        restart_lsn: Some(Lsn(data.wal.flushed)),
        confirmed_flush_lsn: None,
        lost: false,
    };
    data.slots.iter().map(slot).collect()
}

/// The lines of a history file.
pub fn history_lines(wal: &Wal) -> Vec<HistoryLine> {
    let line = |(timeline, at): &(u32, u64)| HistoryLine {
        timeline: *timeline,
        lsn: Lsn(*at),
        reason: "no recovery target specified".to_owned(),
        timestamp: None,
        new_leader: None,
    };
    wal.history.iter().map(line).collect()
}

/// The standbys of a primary, as it shows them.
pub fn walsenders(process: &Process) -> Vec<Walsender> {
    let streaming = process.walsenders.iter().filter(|(_, sender)| sender.caught_up);
    let show = |(name, sender): (&crate::Name, &crate::server::Walsender)| {
        let position = |lsn| Some(Lsn(lsn)).filter(|_| sender.reported);
        Walsender {
            application_name: (*name).to_owned(),
            sync: process.sync_word(name),
            written: position(sender.written),
            flushed: position(sender.flushed),
            replayed: position(sender.replayed),
        }
    };
    streaming.map(show).collect()
}
