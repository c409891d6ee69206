//! The watchdog in the rows: E1, E2, Q11, and everywhere it is let go.

use dcs_core::model::{Role, Timeline};

use super::super::action::{Ask, DemoteKind, Effect, Severity, Task};
use super::super::memory::Critical;
use super::super::observation::{DataDir, Monitor, PrimaryMonitor, TaskKind, WatchdogObservation};
use super::{Situation, deeds, says, standby_answer};

const ARMED: WatchdogObservation = WatchdogObservation { wanted: true, running: true, usable: true };
const AT_REST: WatchdogObservation = WatchdogObservation { wanted: true, running: false, usable: true };
const UNUSABLE: WatchdogObservation = WatchdogObservation { wanted: true, running: false, usable: false };

impl Situation {
    fn watched(mut self, watchdog: WatchdogObservation) -> Self {
        self.obs.watchdog = watchdog;
        self
    }

    fn broken(mut self) -> Self {
        self.watchdog_works = false;
        self.watched(AT_REST)
    }
}

#[test]
fn e1_a_primary_whose_required_watchdog_cannot_be_armed_steps_down() {
    let mut situation = Situation::primary().led_by("a").broken();
    let decision = situation.decide();
    assert_eq!(decision.message, "Demoting self because watchdog could not be activated");
    assert!(deeds(&decision).contains(&&Effect::Demote(DemoteKind::Immediate)));
}

/// Must hold: postgresql.md 20 (P20-5).
#[test]
fn hard_case_34_e2_a_standby_whose_required_watchdog_cannot_be_armed_gives_the_lock_back() {
    for mut situation in [Situation::replica().led_by("a").broken(), Situation::replica().broken()] {
        let situation = &mut situation;
        situation.peers.extend([("b".to_owned(), standby_answer(900)), ("c".to_owned(), standby_answer(900))]);
        let decision = situation.decide();
        assert_eq!(decision.message, "Not promoting self because watchdog could not be activated");
        assert!(deeds(&decision).contains(&&Effect::ReleaseLock(None)), "{:?}", decision.effects);
        assert_eq!((decision.task, decision.memory.lease), (None, None));
    }
}

#[test]
fn the_watchdog_is_armed_before_the_promotion_and_asked_for_in_every_cycle_of_a_leader_that_has_none() {
    let mut promoting = Situation::replica().led_by("a").watched(AT_REST);
    assert_eq!(promoting.decide().task, Some(Task::Promote));
    assert!(promoting.asked.contains(&Ask::ActivateWatchdog));

    let mut leading = Situation::primary().led_by("a").watched(AT_REST);
    leading.decide();
    assert!(leading.asked.contains(&Ask::ActivateWatchdog));

    for mut situation in [
        Situation::primary().led_by("a").watched(ARMED),
        Situation::primary().led_by("a"),
        Situation::primary().led_by("a").paused().watched(AT_REST),
        // Must hold: postgresql.md 20 (P20-6).
        Situation::replica().led_by("b").watched(AT_REST),
    ] {
        situation.decide();
        assert!(!situation.asked.contains(&Ask::ActivateWatchdog), "{:?}", situation.obs.watchdog);
    }
}

/// Must hold: postgresql.md 20 (P20-5).
#[test]
fn hard_case_33_q11_a_node_whose_required_watchdog_is_unusable_does_not_race() {
    let mut situation = Situation::replica().watched(UNUSABLE);
    let decision = situation.decide();
    assert!(says(&decision, Severity::Warning, "Watchdog device is not usable"));
    assert!(!situation.asked.contains(&Ask::AcquireLock));
    assert!(!situation.asked.iter().any(|ask| matches!(ask, Ask::Poll(_))));
    // Somebody who asks for this very node gets it: E2 then judges.
    let mut named = Situation::replica().watched(UNUSABLE).requested(None, Some("a"));
    named.decide();
    assert!(named.asked.contains(&Ask::AcquireLock));
}

#[test]
fn b4_a_new_cluster_whose_required_watchdog_cannot_be_armed_is_given_up() {
    let mut situation = Situation::primary().broken();
    situation.memory.bootstrapping = true;
    situation.memory.critical = Critical::Done(true);
    let decision = situation.decide();
    assert!(says(&decision, Severity::Error, "Cancelling bootstrap because watchdog activation failed"));
    assert!(!situation.asked.contains(&Ask::TakeLock));
    assert!(decision.effects.iter().any(|effect| matches!(effect, Effect::Exit(_))));
}

fn lets_go(situation: Situation) -> bool {
    situation.watched(ARMED).decide().effects.contains(&Effect::DisableWatchdog)
}

/// Must hold: postgresql.md 20 (P20-3), its first half.
#[test]
fn c5_a_pause_lets_the_watchdog_go() {
    assert!(lets_go(Situation::primary().led_by("a").paused()));
}

#[test]
fn a_server_that_does_not_run_as_a_primary_lets_the_watchdog_go() {
    // P1, P2
    for leader in ["a", "b"] {
        let mut failed = Situation::stopped(Role::Primary).led_by(leader);
        failed.memory.recovering = true;
        assert!(lets_go(failed), "{leader}");
    }
    // R7
    assert!(lets_go(Situation::stopped(Role::Replica).led_by("a").control_state("shut down in recovery")));
    // C14
    let mut empty = Situation::stopped(Role::Primary).led_by("a");
    empty.obs.server.data_dir = DataDir::Empty;
    assert!(lets_go(empty));
    // A standby that has given the lock back, or lost it before it was promoted.
    assert!(lets_go(Situation::replica().led_by("b")));
    assert!(lets_go(Situation::replica().led_by("b").busy(TaskKind::Promote { pre_promote_pending: true })));
}

/// SAF20: never disarmed while clients may commit.
#[test]
fn a_primary_that_leads_or_still_runs_keeps_its_watchdog() {
    assert!(!lets_go(Situation::primary().led_by("a")));
    // R6: it is started as a primary again.
    assert!(!lets_go(Situation::stopped(Role::Primary).led_by("a").control_state("in production").crashed()));
    // F4: it is let go once its clients are gone, by the stop.
    assert!(!lets_go(Situation::primary().led_by("b")));
    assert!(!lets_go(Situation::replica().led_by("a")), "about to be promoted");
    let mut lost = Situation::primary().led_by("a");
    lost.store_lost = true;
    assert!(!lets_go(lost));
    let mut promoting = Situation::replica().led_by("b").busy(TaskKind::Promote { pre_promote_pending: false });
    promoting.obs.server.role = Role::Promoted;
    assert!(!lets_go(promoting));
    let mut silent = Situation::primary().led_by("a").busy(TaskKind::Demote);
    silent.obs.server.monitor = Monitor::Failed;
    assert!(!lets_go(silent));
    let mut bootstrapping = Situation::primary();
    bootstrapping.memory.bootstrapping = true;
    bootstrapping.obs.server.monitor = Monitor::Primary(PrimaryMonitor { timeline: Timeline(1), lsn: dcs_core::model::Lsn(1) });
    assert!(!lets_go(bootstrapping));
}

impl Situation {
    fn crashed(mut self) -> Self {
        self.obs.server.state = dcs_core::model::ServerState::Running;
        self
    }
}
