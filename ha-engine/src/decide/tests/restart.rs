//! Restarts on schedule and on condition (section 11), and schedules in general (section 4.4).

use std::time::Duration;

use dcs_core::model::{PendingRestart, ScheduledTime};
use jiff::tz::Offset;
use serde_json::{Map, Value, json};

use super::super::action::{Severity, Task};
use super::super::journal::Rule;
use super::super::observation::{Postmaster, TaskKind};
use super::super::restart::{ScheduledRestart, refusal};
use super::{Situation, says};
use crate::handle::RestartRequest;

/// A restart planned so many seconds from now, when the postmaster of the situation was running.
fn planned(mut situation: Situation, seconds: i64, filters: Value) -> Situation {
    let at = jiff::Timestamp::from_second(situation.wall.as_second() + seconds).expect("in range");
    let filters: Map<String, Value> = filters.as_object().cloned().expect("an object");
    situation.memory.scheduled_restart =
        Some(ScheduledRestart { at: ScheduledTime::new(at, Offset::UTC), postmaster_started_at: Some(1), filters });
    situation
}

fn leader() -> Situation {
    Situation::primary().led_by("a")
}

/// Must hold: ha-engine.md 11.3, with hardening rule X15.
#[test]
fn x15_a_scheduled_restart_waits_by_a_timer_and_renews_the_lock_meanwhile() {
    let far = planned(leader(), 100, json!({})).decide();
    assert!(says(&far, Severity::Info, "Awaiting restart at 2027-01-15T08:01:40+00:00 (in 100 seconds)"));
    assert_eq!((far.wake_at, far.task), (None, None));

    let mut soon = planned(leader(), 4, json!({}));
    let decision = soon.decide();
    assert_eq!(decision.wake_at, Some(soon.now + Duration::from_secs(4)));
    assert!(decision.task.is_none() && decision.memory.scheduled_restart.is_some());
    assert!(decision.memory.lease.is_some(), "the lock was renewed in this cycle");
}

#[test]
fn a_restart_that_is_due_is_begun_once_on_a_leader_and_on_a_replica() {
    for situation in [leader(), Situation::replica().led_by("b")] {
        for late in [0, -15] {
            let fresh = Situation { view: situation.view.clone(), obs: situation.obs.clone(), ..Situation::primary() };
            let mut due = planned(fresh, late, json!({"timeout": 77}));
            due.memory.last_locked_view = Some(std::sync::Arc::new(due.view.clone()));
            let decision = due.decide();
            assert_eq!(decision.message, "restart initiated");
            assert_eq!(decision.task, Some(Task::Restart { timeout: Duration::from_secs(77) }));
            assert_eq!(decision.memory.start_timeout, Some(Duration::from_secs(77)));
            assert!(decision.memory.recovering && decision.memory.scheduled_restart.is_none());
            assert!(decision.journal.iter().any(|record| record.rule == Rule::RestartDue));
        }
    }
}

#[test]
fn a_restart_that_cannot_be_meant_any_more_is_dropped_and_says_so() {
    let stale = planned(leader(), -16, json!({})).decide();
    assert!(says(&stale, Severity::Warning, "Found a stale restart value, cleaning up:"));
    let mut other = planned(leader(), 100, json!({}));
    other.obs.server.postmaster = Postmaster::Running { pid: 43, started_at: 2 };
    let restarted = other.decide();
    assert!(says(&restarted, Severity::Info, "Cancelling scheduled restart: postgres restart has already happened at 2"));
    for decision in [stale, restarted] {
        assert!(decision.task.is_none() && decision.memory.scheduled_restart.is_none());
        assert!(decision.journal.iter().any(|record| record.rule == Rule::RestartDropped));
    }
}

#[test]
fn a_restart_whose_conditions_do_not_hold_when_it_is_due_is_dropped() {
    for filters in [json!({"role": "replica"}), json!({"restart_pending": true}), json!({"postgres_version": "15.0"})] {
        let mut situation = planned(leader(), 0, filters.clone());
        situation.obs.server_version = Some(150_018);
        let decision = situation.decide();
        assert!(decision.task.is_none() && decision.memory.scheduled_restart.is_none(), "{filters}");
        assert!(decision.journal.iter().any(|record| record.rule == Rule::RestartRefused), "{filters}");
    }
}

#[test]
fn a_restart_is_neither_run_nor_dropped_in_pause_during_a_task_or_without_a_leader() {
    let unlocked = Situation::replica().tagged("nofailover", json!(true));
    for situation in [leader().paused(), leader().busy(TaskKind::Other), unlocked] {
        for due in [0, -1000] {
            let fresh = Situation {
                view: situation.view.clone(),
                obs: situation.obs.clone(),
                cfg: situation.cfg.clone(),
                memory: situation.memory.clone(),
                ..Situation::primary()
            };
            let mut waiting = planned(fresh, due, json!({}));
            let decision = waiting.decide();
            assert!(!matches!(decision.task, Some(Task::Restart { .. })), "{}", decision.message);
            assert!(decision.memory.scheduled_restart.is_some(), "{}", decision.message);
        }
    }
}

/// Must hold: ha-engine.md 11.1.
#[test]
fn every_condition_of_a_restart_has_its_refusal() {
    let plain = Situation::primary().obs.server;
    let mut pending = plain.clone();
    pending.pending_restart.insert("max_connections".to_owned(), PendingRestart { old_value: "50".into(), new_value: "60".into() });
    let any = RestartRequest::default;
    for (request, server, refused) in [
        (any(), &plain, None),
        (RestartRequest { role: Some("primary".to_owned()), ..any() }, &plain, None),
        (RestartRequest { role: Some("replica".to_owned()), ..any() }, &plain, Some("host role mismatch")),
        (RestartRequest { postgres_version: Some(150_019), ..any() }, &plain, None),
        (RestartRequest { postgres_version: Some(150_018), ..any() }, &plain, Some("postgres version mismatch")),
        (RestartRequest { restart_pending: true, ..any() }, &plain, Some("pending restart flag is not set")),
        (RestartRequest { restart_pending: true, ..any() }, &pending, None),
    ] {
        assert_eq!(refusal(&request, server, Some(150_018)), refused, "{request:?}");
    }
}

/// Hard case 85: the leader changes before the time of a scheduled switchover.
#[test]
fn hard_case_85_a_scheduled_switchover_of_a_former_leader_is_cleared_when_it_is_due() {
    let mut situation = leader().requested(Some("b"), None);
    if let Some(key) = &mut situation.view.failover {
        key.request.scheduled_at = Some(ScheduledTime::new(situation.wall, Offset::UTC));
    }
    let decision = situation.decide();
    assert!(says(&decision, Severity::Warning, "switchover: leader name does not match: b != a"));
    assert!(says(&decision, Severity::Info, "Cleaning up failover key") && decision.task.is_none());
}
