//! Physical replication slots.

use dcs_core::Deadline;
use dcs_core::model::Lsn;

use super::connection::{CONNECT_TIMEOUT, Connection, SHORT_OPTIONS, SqlError, literal};
use super::{LocalPostgres, query};
use crate::decide::action::Severity;
use crate::decide::observation::{SlotObservation, Upstream};
use crate::decide::slots::{SlotDrop, SlotPlan};

impl LocalPostgres {
    pub(super) async fn maintain_slots(&self, plan: &SlotPlan, deadline: Deadline) -> Vec<SlotObservation> {
        let mut kept = Vec::new();
        for drop in &plan.drop {
            if !self.drop_slot(drop, deadline).await {
                kept.push(&drop.name);
            }
        }
        for name in plan.create.iter().filter(|name| !kept.contains(name)) {
            self.create_slot(name, deadline).await;
        }
        for (name, position) in &plan.advance {
            self.advance_slot(name, *position, deadline).await;
        }
        self.read_slots(deadline).await
    }

    async fn run(&self, sql: &str, deadline: Deadline) -> Result<Vec<super::connection::Row>, SqlError> {
        self.heartbeat.query(&self.target(), sql, deadline).await.map(|(rows, _)| rows)
    }

    /// One statement that skips an active slot: between looking and dropping somebody may begin to use it. Whether the slot
    /// is gone.
    async fn drop_slot(&self, drop: &SlotDrop, deadline: Deadline) -> bool {
        let name = &drop.name;
        match drop.severity {
            Severity::Warning | Severity::Error => tracing::warn!("{}", drop.reason),
            Severity::Info | Severity::Debug => tracing::info!("{}", drop.reason),
        }
        let slot = literal(name);
        let sql = format!(
            "WITH slots AS (SELECT slot_name, active FROM pg_catalog.pg_replication_slots WHERE slot_name = {slot}), \
             dropped AS (SELECT pg_catalog.pg_drop_replication_slot(slot_name), true AS dropped FROM slots WHERE NOT active) \
             SELECT active, COALESCE(dropped, false) FROM slots FULL OUTER JOIN dropped ON true"
        );
        match self.run(&sql, deadline).await.map(|rows| rows.first().map(|row| (row.flag(0), row.flag(1)))) {
            Ok(None | Some((_, true))) => {
                tracing::info!("Dropped replication slot '{name}'");
                return true;
            }
            Ok(Some((true, false))) => tracing::warn!("Unable to drop replication slot '{name}', slot is active"),
            Ok(Some((false, false))) => tracing::error!("Failed to drop replication slot '{name}'"),
            Err(error) => tracing::error!("Failed to drop replication slot '{name}': {error}"),
        }
        false
    }

    async fn create_slot(&self, name: &str, deadline: Deadline) {
        let slot = literal(name);
        let sql = format!(
            "SELECT pg_catalog.pg_create_physical_replication_slot({slot}, true) WHERE NOT EXISTS \
             (SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical' AND slot_name = {slot})"
        );
        if let Err(error) = self.run(&sql, deadline).await {
            tracing::error!("Failed to create physical replication slot '{name}': {error}");
        }
    }

    async fn advance_slot(&self, name: &str, position: Lsn, deadline: Deadline) {
        let sql = format!("SELECT pg_catalog.pg_replication_slot_advance({}, '{position}')", literal(name));
        if let Err(error) = self.run(&sql, deadline).await {
            tracing::error!("Error while advancing replication slot {name} to position '{position}': {error}");
        }
    }

    async fn read_slots(&self, deadline: Deadline) -> Vec<SlotObservation> {
        let Some(major) = self.major().await else { return Vec::new() };
        let sql = format!("SELECT pg_catalog.json_agg(s) FROM ({}) AS s", query::slots_sql(major));
        match self.run(&sql, deadline).await {
            Ok(rows) => rows.first().and_then(|row| row.text(0).and_then(query::read_slots)).unwrap_or_default(),
            Err(error) => {
                tracing::warn!("replication slots could not be read: {error}");
                Vec::new()
            }
        }
    }

    pub(super) async fn find_slot_on(&self, upstream: &Upstream, slot: &str, deadline: Deadline) -> Option<bool> {
        let settings = self.settings();
        // The catalogue of slots is readable for everybody who may log in.
        let target = self.upstream_target(upstream, settings.postgresql.authentication.rewind());
        let sql = format!("SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name = {}", literal(slot));
        let ask = async {
            let deadline = deadline.at_most(CONNECT_TIMEOUT * 2);
            let mut connection = Connection::open(&target, "Patroni", SHORT_OPTIONS, deadline).await?;
            connection.query(&sql, deadline).await
        };
        match ask.await {
            Ok(rows) => Some(!rows.is_empty()),
            Err(error) => {
                tracing::debug!("slots of {} could not be read: {error}", upstream.name);
                None
            }
        }
    }
}
