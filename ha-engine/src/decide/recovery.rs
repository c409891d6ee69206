//! PostgreSQL does not run (rows R of section 1.10), and what became of an attempt to make it run (rows P of 1.9).

use std::time::Duration;

use dcs_core::model::{Role, ServerState};

use super::action::{Answer, Ask, DemoteKind, Effect, Reload, Task};
use super::candidates::failover_is_possible;
use super::cycle::{Cycle, Outcome};
use super::journal::{Record, Rule};
use super::memory::RewindState;
use super::observation::DataDir;
use super::{replica, rewind, watchdog};
use crate::ports::CallbackEvent;

/// Rows P: a line if the cycle ends here.
pub(super) fn judge_attempt(c: &mut Cycle<'_>) -> Outcome<Option<String>> {
    c.memory.recovering = false;
    let running = c.obs.server.postmaster.is_running();
    if !c.memory.rewind.is_open() && !running {
        watchdog::let_go(c);
        if c.lock_is_mine() {
            // P1
            if matches!(c.role(), Role::Primary | Role::StandbyLeader) {
                c.set_role(Role::Demoted);
                c.push(Effect::Call(CallbackEvent::RoleChange));
            }
            c.release_lock();
            return Ok(Some(c.noted(Rule::ReleaseStartFailed, "removed leader key after trying and failing to start postgres")));
        }
        // P2
        return Ok(Some(c.noted(Rule::StartFailed, "failed to start postgres")));
    }
    // P3
    if running {
        c.memory.crash_recovery_started = None;
        if c.memory.rewind == RewindState::Success {
            c.memory.rewind = RewindState::Initial;
        }
    }
    Ok(None)
}

/// Rows R.
pub(super) fn decide(c: &mut Cycle<'_>) -> Outcome {
    c.warn("Postgresql is not running.");
    let mine = c.lock_is_mine();
    if c.paused() {
        // R1
        if mine {
            c.push(Effect::SetState(ServerState::Stopped));
            c.release_lock();
            return Ok(c.noted(Rule::ReleaseNotPrimary, "removed leader lock because postgres is not running"));
        }
        // R2
        let rewinding = c.memory.rewind == RewindState::Success || (c.memory.rewind == RewindState::Need && c.obs.rewind_policy.can_act());
        if c.memory.rewind == RewindState::Failed || !rewinding {
            c.push(Effect::SetState(ServerState::Stopped));
            return Ok("postgres is not running".to_owned());
        }
    }
    // R3
    let crashed = matches!(c.obs.server.state, ServerState::Running | ServerState::Starting | ServerState::Crashed);
    if crashed {
        c.push(Effect::SetState(ServerState::Crashed));
    }
    // R4, R5. Hardening rule X11: with nobody to fail over to, a primary that should fail over at once is started instead.
    let mut limit: Option<Option<Duration>> = None;
    if mine && c.renew()? {
        limit = Some(Some(c.cfg.primary_start_timeout));
        if c.cfg.primary_start_timeout.is_zero() {
            if failover_is_possible(c, None, false)? {
                c.info("Primary crashed. Failing over.");
                c.arm_rewind_check();
                c.push(Effect::Demote(DemoteKind::Immediate));
                return Ok(c.noted(Rule::DemoteCrashed, "stopped PostgreSQL to fail over after a crash"));
            }
            limit = Some(None);
        }
    }
    let Answer::ControlData(control) = c.need(Ask::ControlData)? else {
        return Ok("pg_controldata could not be read".to_owned());
    };
    if let Some(control) = control {
        let lines: String = control.lines.iter().map(|(label, value)| format!("\n  {label}: {value}")).collect();
        c.info(format!("pg_controldata:{lines}"));
    }
    let state = control.as_ref().map(|control| control.cluster_state.as_str()).unwrap_or_default();
    let (recovery_file, backup_label) = match c.obs.server.data_dir {
        DataDir::Present { recovery_file, backup_label } => (recovery_file, backup_label),
        _ => (false, false),
    };
    // R6
    if let Some(timeout) = limit
        && matches!(state, "in production" | "in crash recovery" | "shutting down" | "shut down")
        && crashed
        && c.role() == Role::Primary
        && !recovery_file
    {
        c.memory.recovering = true;
        c.memory.start_timeout = timeout;
        let line = c.start(Task::StartPrimaryAfterFailure { timeout });
        c.note(Record::new(Rule::StartPrimary, line.clone()).fact("control_state", state));
        return Ok(line);
    }
    // R7
    watchdog::let_go(c);
    // R8, R9
    if matches!(state, "in production" | "shutting down" | "in crash recovery") {
        if backup_label && c.obs.server.major_version.is_some_and(|version| version >= 150_000) {
            c.info(
                "Skipping single-user crash recovery because backup_label exists; PostgreSQL will handle it during \
                 normal startup",
            );
        } else if c.memory.crash_recovery_started.is_none() && (c.view.is_unlocked() || c.obs.rewind_policy.can_rewind) {
            return Ok(rewind::single_user_recovery(c));
        }
    }
    // R10
    c.reload(Reload::BeforeStarting)?;
    c.memory.recovering = true;
    // R11
    let standby_cluster = c.cfg.standby_cluster.is_some();
    if c.lock_is_mine() && !standby_cluster {
        c.memory.rewind = RewindState::Initial;
        c.task = Some(Task::Follow { name: "restarting after failure", plan: replica::plan_nobody() });
        c.note(Record::new(Rule::StartReadOnly, "starting as readonly because i had the session lock").fact("control_state", state));
        return Ok("starting as readonly because i had the session lock".to_owned());
    }
    // What a failed rewind has left is not started as if nothing had happened: it may be neither the one history nor the other.
    if c.memory.rewind == RewindState::Failed {
        c.memory.recovering = false;
        let line = "not starting PostgreSQL because pg_rewind has failed: this node must be reinitialized";
        return Ok(c.noted(Rule::RewindFailed, line));
    }
    // R12
    if !c.memory.rewind.is_executed() {
        c.arm_rewind_check();
    }
    if let Some(line) = rewind::rewind_or_reinitialize(c)? {
        c.memory.recovering = false;
        return Ok(line);
    }
    // R13 to R15
    c.task = Some(Task::Follow { name: "restarting after failure", plan: replica::plan(c) });
    let line = match standby_cluster {
        true if c.lock_is_mine() => "starting as a standby leader because i had the session lock",
        true if c.view.is_unlocked() => "trying to follow a remote member because standby cluster is unhealthy",
        _ => "starting as a secondary",
    };
    c.note(Record::new(Rule::StartStandby, line).fact("control_state", state));
    Ok(line.to_owned())
}
