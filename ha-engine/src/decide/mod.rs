//! The judgement. Pure functions over values: no I/O, no clock, no randomness.
//!
//! [`decide`] is one HA decision. Its rules stand in one file each, named after what they are about; rows are named as in
//! the specification (`C10`, `U5`, …), so that a test, a log line and a rule find each other.
//!
//! ```text
//!   view lost ───────────────► store_lost (D)
//!   a task runs ─────────────► busy (A)
//!   starting ────────────────► starting (S)
//!   bootstrap in progress ───► bootstrap (B)
//!   an attempt to judge ─────► recovery (P)
//!   no data ─────────────────► bootstrap (N)
//!   not running ─────────────► recovery (R), rewind (W)
//!   nobody leads ────────────► unlocked (U), race (Q, K), candidates (G)
//!   I lead ──────────────────► leader (H, E), requests (M), sync, history
//!   somebody else leads ─────► replica (F), rewind (W), reconnect
//!   a standby cluster ───────► standby (H4, H9, U6, F3), then rows F
//!   then, if all is calm ────► slots, consistency
//!   whoever leads is armed ──► watchdog
//!
//!   (failsafe has a word in what is the view, who may race, and what a primary does without the store)
//! ```

pub mod action;
mod ballot;
mod bootstrap;
mod busy;
mod candidates;
mod consistency;
mod cycle;
pub mod failsafe;
mod history;
pub mod journal;
mod leader;
pub(crate) mod lease_guard;
pub mod member;
pub mod memory;
pub mod observation;
mod position;
mod race;
mod reconnect;
mod recovery;
mod repeat;
mod replica;
mod requests;
pub mod restart;
mod rewind;
mod schedule;
pub mod slots;
mod standby;
mod starting;
mod store_lost;
pub mod sync;
#[cfg(test)]
mod tests;
mod unlocked;
pub mod watchdog;

use dcs_core::InitializeWrite;
use dcs_core::model::Role;

pub(crate) use self::bootstrap::reinitialize_source;
pub(crate) use self::candidates::{Bar, Successors, disqualification};
pub use self::cycle::Now;
pub(crate) use self::replica::{Follower, plan_nobody, upstream};
pub(crate) use self::rewind::{Verdict, parted_at, thrown_away, verdict};

use self::action::{Answer, Answers, Ask, Decision, Effect, ExitReason, Step, Task};
use self::cycle::{Cycle, Interrupt, Outcome};
use self::journal::{Record, Rule};
use self::memory::{Memory, RewindState};
use self::observation::{DataDir, Monitor, Observation, TaskKind};
use self::sync::SyncMemory;
use crate::ports::CallbackEvent;
use crate::settings::GlobalConfig;

/// One HA decision: what to do now, or what must be known first.
///
/// Called with the same arguments and more answers until it is [`Step::Done`]. Deterministic: the same arguments give the
/// same step.
pub fn decide(obs: &Observation, cfg: &GlobalConfig, memory: &Memory, now: Now, answers: &Answers) -> Step {
    let Ok(view) = &obs.view else {
        return without_store(obs, cfg, memory, now, answers);
    };
    let mut c = Cycle::new(obs, cfg, memory, now, answers, view.clone());
    match run(&mut c) {
        Ok(message) => {
            // C24
            if c.memory.lease.is_some_and(|lease| lease.is_valid(now.moment)) {
                c.memory.failsafe.extension = None;
            }
            // C4, and not before what is urgent: files are written for it.
            slots::enforce_feedback(&mut c);
            watchdog::let_go_without_duty(&mut c);
            if !c.effects.iter().any(|effect| matches!(effect, Effect::Exit(_))) {
                c.push(Effect::TouchMember);
            }
            journal::complete(&mut c, &message);
            Step::Done(Box::new(Decision {
                memory: c.memory,
                effects: c.effects,
                task: c.task,
                message,
                wake_at: c.wake_at,
                watch_members: c.watch_members,
                sync_watch: c.sync_watch,
                journal: c.journal,
            }))
        }
        Err(Interrupt::Ask(asks)) => Step::Ask(asks),
        Err(Interrupt::StoreFailed) => without_store(obs, cfg, memory, now, answers),
    }
}

fn without_store(obs: &Observation, cfg: &GlobalConfig, memory: &Memory, now: Now, answers: &Answers) -> Step {
    // The last view that is known of: for what goes on without the store.
    let view = memory.last_locked_view.clone().unwrap_or_default();
    let mut c = Cycle::new(obs, cfg, memory, now, answers, view);
    let message = match store_lost::decide(&mut c) {
        Ok(message) => message,
        Err(asks) => return Step::Ask(asks),
    };
    let Cycle { memory, effects, journal, .. } = c;
    Step::Done(Box::new(Decision { memory, effects, task: None, message, wake_at: None, watch_members: false, sync_watch: None, journal }))
}

/// Rows C, in order.
fn run(c: &mut Cycle<'_>) -> Outcome {
    remember_view(c);
    // C5, C6
    if c.paused() {
        watchdog::let_go(c);
        c.memory.was_paused = true;
    } else if c.memory.was_paused {
        c.memory.was_paused = false;
        c.memory.rewind = RewindState::Initial;
        c.memory.slots.judge_anew();
    }
    // C7
    if c.view.member(c.me()).is_none() {
        c.push(Effect::TouchMember);
    }
    // C8, C9
    if c.lock_is_mine() {
        bootstrap::repair_store(c);
    }
    // C10
    if let Some(task) = c.obs.task.clone() {
        if c.memory.bootstrapping && c.memory.critical != memory::Critical::Pending {
            return bootstrap::in_progress(c);
        }
        let line = busy::decide(c, &task)?;
        if matches!(task.kind, TaskKind::Promote { .. }) && is_calm(c) {
            // Whoever follows the new primary finds its slot there.
            slots::maintain(c);
        }
        return Ok(line);
    }
    // C11
    if let Some(line) = starting::decide(c)? {
        return Ok(line);
    }
    // C12
    if c.memory.bootstrapping {
        return bootstrap::in_progress(c);
    }
    // C13
    if c.memory.recovering
        && let Some(line) = recovery::judge_attempt(c)?
    {
        return Ok(line);
    }
    // C14
    if !matches!(c.obs.server.data_dir, DataDir::Present { .. }) {
        return bootstrap::without_data(c);
    }
    if let Some(line) = check_identity(c)? {
        return Ok(line);
    }
    // C20
    if !c.obs.server.postmaster.is_running() {
        let line = recovery::decide(c)?;
        c.memory.managed = true;
        return Ok(line);
    }
    // C21, C22
    let line = if c.view.is_unlocked() {
        unlocked::decide(c)?
    } else {
        let line = if c.lock_is_mine() { leader::keep(c)? } else { replica::follow_leader(c)? };
        restart::scheduled(c)?.unwrap_or(line)
    };
    Ok(look_after(c)?.unwrap_or(line))
}

/// C2: what a loaded view changes in memory.
fn remember_view(c: &mut Cycle<'_>) {
    note_change_of_leader(c);
    if !c.view.is_unlocked() || c.memory.last_locked_view.is_none() {
        c.memory.last_locked_view = Some(c.view.clone());
    }
    c.stand_back();
    if !c.view.is_unlocked() {
        c.memory.misleads_by_position = false;
    }
    if !c.lock_is_mine() {
        c.memory.lease = None;
        // The verdict of a script that ran for a lock that is gone says nothing about the next one.
        if c.memory.critical == memory::Critical::Done(false) && !c.memory.bootstrapping {
            c.memory.critical = memory::Critical::Idle;
        }
    }
    if !c.obs.server.is_primary() {
        // What was proven was about the primary that this server was.
        c.memory.sync = SyncMemory { decides_names: c.memory.sync.decides_names, ..SyncMemory::default() };
    }
    c.memory.leader_timeline = c.view.leader_member().and_then(|leader| leader.record.timeline);
}

/// What has become of the leader lock since the last view that had a leader.
fn note_change_of_leader(c: &mut Cycle<'_>) {
    let former = c.memory.last_locked_view.as_ref().and_then(|view| view.leader_name().cloned());
    match (c.view.leader_name().cloned(), former) {
        (None, Some(former)) => {
            let request = c.failover().map(|key| candidates::action_word(Some(&key.request)));
            let why = match request {
                Some(action) => format!("a {action} was requested"),
                None => "it gave the lock back or did not renew it in time".to_owned(),
            };
            let known = c.memory.last_locked_view.as_ref().and_then(|view| view.leader_member());
            let published = c.view.member(&former).or(known).map(|member| member.record.clone());
            let record = Record::new(Rule::LockFree, format!("the leader lock is free; {former} held it before: {why}"))
                .fact("former_leader", &former)
                .fact_if("its_state", published.as_ref().and_then(|record| record.state.clone()))
                .fact_if("its_role", published.as_ref().and_then(|record| record.role.clone()))
                .fact("last_known_leader_position", c.view.status.last_lsn);
            c.note(record);
        }
        (Some(leader), former) if former.as_ref() != Some(&leader) => {
            let what = match former {
                Some(former) => format!("{leader} holds the leader lock now; {former} held it before"),
                None => format!("{leader} holds the leader lock"),
            };
            c.note(Record::new(Rule::LockHeld, what));
        }
        _ => {}
    }
}

/// C15 to C19: whose data this is. A line if the cycle ends here.
fn check_identity(c: &mut Cycle<'_>) -> Outcome<Option<String>> {
    // C15
    let Some(own) = c.obs.server.system_id.clone() else {
        let line = "data dir for the cluster is not empty, but system ID is invalid; consider doing reinitialize";
        return Ok(Some(c.noted(Rule::UnreadableIdentity, line)));
    };
    match c.view.system_id() {
        Some(stored) if stored != own && c.paused() => {
            // C16
            c.warn(format!(
                "system ID has changed while in paused mode. Patroni will exit when resuming unless system ID is reset: \
                 {stored} != {own}"
            ));
            if c.lock_is_mine() {
                c.release_lock();
                return Ok(Some(c.noted(Rule::ReleaseForeign, "released leader key voluntarily due to the system ID mismatch")));
            }
            Ok(None)
        }
        Some(stored) if stored != own => {
            // C17
            let message = format!("system ID mismatch, node {} belongs to a different cluster: {stored} != {own}", c.me());
            c.push(Effect::Exit(ExitReason { message: message.clone(), leave_postgres: true }));
            Ok(Some(c.noted(Rule::ForeignData, message)))
        }
        None if c.view.is_unlocked() && !c.paused() && !c.memory.managed => {
            if c.obs.server.postmaster.is_running() && matches!(c.obs.server.monitor, Monitor::Standby(_)) {
                // C18
                c.error("No initialize key in DCS and PostgreSQL is running as replica, aborting start");
                let message = "Please first start Patroni on the node running as primary".to_owned();
                c.push(Effect::Exit(ExitReason { message: message.clone(), leave_postgres: true }));
                return Ok(Some(c.noted(Rule::UnknownCluster, message)));
            }
            // C19
            let how = match c.view.initialize {
                None => InitializeWrite::CreateOnly,
                Some(_) => InitializeWrite::Overwrite,
            };
            c.push(Effect::WriteInitialize(how, own));
            c.note(Record::new(Rule::StoreRepaired, "this node is taken over: its system identifier is written to the store"));
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Whether the server runs, goes on running, and has nothing else to do than to be promoted.
fn is_calm(c: &Cycle<'_>) -> bool {
    let demoting = c.effects.iter().any(|effect| matches!(effect, Effect::Demote(_) | Effect::StopImmediately | Effect::CancelTask));
    matches!(c.task, None | Some(Task::Promote)) && !c.obs.server.state.is_starting() && !demoting
}

/// C23: what is looked after once the main decision is made and all is calm. The line of the cycle, if that is the news.
fn look_after(c: &mut Cycle<'_>) -> Outcome<Option<String>> {
    if !is_calm(c) {
        return Ok(None);
    }
    if !c.memory.managed {
        // A server that was found running: nobody has called `on_start` for it yet.
        c.memory.managed = true;
        c.push(Effect::Call(CallbackEvent::Start));
        if matches!(c.obs.server.monitor, Monitor::Standby(_)) && c.task.is_none() {
            c.arm_rewind_check();
        }
    }
    note_own_timeline(c)?;
    c.memory.last_wal_lsn = c.obs.server.monitor.lsn().or(c.memory.last_wal_lsn);
    let copying = slots::maintain(c);
    consistency::help_waiting_members(c);
    Ok(copying)
}

/// The timeline of a standby: what its WAL receiver says, otherwise what it says itself, asked once per timeline of the
/// leader.
fn note_own_timeline(c: &mut Cycle<'_>) -> Outcome<()> {
    let Monitor::Standby(standby) = &c.obs.server.monitor else {
        return Ok(());
    };
    let promoting = matches!(c.role(), Role::Promoted) || c.task.is_some();
    if let Some(timeline) = standby.received_timeline {
        c.memory.own_last_timeline = Some(timeline);
        c.memory.cached_own_timeline = Some((c.memory.leader_timeline, timeline));
        return Ok(());
    }
    if promoting {
        return Ok(());
    }
    let leader_timeline = c.memory.leader_timeline;
    let known = c.memory.cached_own_timeline.filter(|(leader, _)| *leader == leader_timeline);
    if known.is_none()
        && let Answer::OwnTimeline(Some(timeline)) = c.need(Ask::OwnTimeline)?
    {
        c.memory.cached_own_timeline = Some((leader_timeline, *timeline));
        c.memory.own_last_timeline = Some(*timeline);
    }
    Ok(())
}
