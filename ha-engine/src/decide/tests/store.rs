//! Rows D: the store is lost.

use dcs_core::model::Role;

use super::super::action::{DemoteKind, Effect};
use super::super::observation::TaskKind;
use super::{Situation, deeds};

fn lost(mut situation: Situation) -> Situation {
    situation.store_lost = true;
    situation
}

#[test]
fn d4_a_primary_stops_before_its_lock_can_expire() {
    let decision = lost(Situation::primary()).decide();
    assert_eq!(decision.message, "demoted self because DCS is not accessible and I was a leader");
    assert!(deeds(&decision).contains(&&Effect::Demote(DemoteKind::Offline)));
    assert!(!decision.effects.contains(&Effect::TouchMember), "the member key cannot be written anyway");
}

#[test]
fn d2_a_standby_goes_on() {
    let decision = lost(Situation::replica()).decide();
    assert_eq!(decision.message, "DCS is not accessible");
    assert!(deeds(&decision).is_empty());
}

#[test]
fn d1_in_pause_nothing_happens() {
    assert!(deeds(&lost(Situation::primary().paused()).decide()).is_empty());
    assert!(deeds(&lost(Situation::stopped(Role::Primary)).decide()).is_empty());
}

#[test]
fn x10_a_promotion_under_way_counts_as_a_primary() {
    let mut situation = lost(Situation::replica());
    situation.obs.server.role = Role::Promoted;
    assert!(deeds(&situation.decide()).contains(&&Effect::Demote(DemoteKind::Offline)));
}

#[test]
fn x9_a_running_task_is_cancelled_first() {
    let decision = lost(Situation::primary().busy(TaskKind::Restart)).decide();
    assert_eq!(deeds(&decision), [&Effect::CancelTask, &Effect::Demote(DemoteKind::Offline)]);
    let decision = lost(Situation::primary().busy(TaskKind::Demote)).decide();
    assert!(deeds(&decision).is_empty(), "one stop is enough");
}

#[test]
fn a_bootstrap_goes_on_without_the_store() {
    let mut situation = lost(Situation::primary());
    situation.memory.bootstrapping = true;
    assert!(deeds(&situation.decide()).is_empty(), "there is no lock yet that could be lost");
}
