//! Copying logical slots from the leader. PostgreSQL reads slots only when it starts, so this takes a restart: one for all
//! that are missing.

use std::time::Duration;

use dcs_core::Deadline;

use super::Tools;
use crate::decide::observation::Upstream;
use crate::decide::slots::LogicalSlot;
use crate::ports::{StopHook, StopMode, StopOutcome, StopRequest};

/// Bound of reading the slots of the leader.
const READ: Duration = Duration::from_secs(10);

impl Tools {
    /// Copies `slots`; the names of those for which the server was restarted. Nothing is stopped before the leader has told
    /// what there is to copy.
    pub(super) async fn copy_logical_slots(&self, leader: &Upstream, slots: &[LogicalSlot]) -> Vec<String> {
        let states = match self.postgres.read_logical_slots(leader, slots, Deadline::after(READ)).await {
            Ok(states) => states,
            Err(error) => {
                tracing::error!("Failed to copy logical slots from the {} via postgresql connection: {error}", leader.name);
                return Vec::new();
            }
        };
        if states.is_empty() || self.cancel.is_cancelled() {
            return Vec::new();
        }
        // Commits must not wait for a standby that restarts.
        self.leave_sync_duty().await;
        if self.cancel.is_cancelled() {
            return Vec::new();
        }
        let role = self.postgres.local().role;
        let request =
            StopRequest { mode: StopMode::Fast, checkpoint_first: true, hook: StopHook::Run, timeout: None, part_of_restart: false };
        if self.postgres.stop(request, None).await == StopOutcome::Failed {
            tracing::error!("PostgreSQL could not be stopped; no logical slots are copied");
            return Vec::new();
        }
        let names = states.iter().map(|state| state.name.clone()).collect();
        if let Err(error) = self.postgres.write_logical_slots(states).await {
            tracing::error!("logical slots could not be written: {error}");
        }
        if !self.cancel.is_cancelled() {
            self.postgres.start(role, None, &self.cancel).await;
        }
        names
    }
}
