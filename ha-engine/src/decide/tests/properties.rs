//! Whatever the situation: what must never be decided.

use dcs_core::model::{MemberName, Role, ServerState};
use dcs_core::{Acquisition, Renewal};
use proptest::prelude::*;
use serde_json::json;

use super::super::action::{Ask, DemoteKind, Effect, Task};
use super::super::journal::{Outcome, Rule};
use super::super::memory::{Critical, RewindState};
use super::super::observation::{DataDir, Monitor, PeerAnswer, PeerStatus, Postmaster, StoreFailed, TaskKind};
use super::{Situation, lease, standby_answer};

/// What happens to be the case, as small numbers.
#[derive(Clone, Debug)]
pub(super) struct Dice {
    server: u8,
    role: u8,
    state: u8,
    leader: u8,
    request: (u8, u8),
    renewal: u8,
    acquisition: u8,
    peers: (u8, u8),
    task: u8,
    rewind: u8,
    critical: u8,
    flags: [bool; 10],
}

pub(super) fn dice() -> impl Strategy<Value = Dice> {
    let first = (0..4u8, 0..6u8, 0..15u8, 0..4u8, (0..4u8, 0..4u8), 0..3u8);
    let second = (0..3u8, (0..5u8, 0..5u8), 0..7u8, 0..7u8, 0..4u8, any::<[bool; 10]>());
    (first, second).prop_map(|((server, role, state, leader, request, renewal), (acquisition, peers, task, rewind, critical, flags))| {
        Dice { server, role, state, leader, request, renewal, acquisition, peers, task, rewind, critical, flags }
    })
}

fn name(number: u8) -> Option<&'static str> {
    ["a", "b", "c"].get(usize::from(number)).copied()
}

fn peer(number: u8) -> PeerAnswer {
    match number {
        0 => PeerAnswer::Unreachable,
        1 => standby_answer(900),
        2 => standby_answer(1000),
        3 => standby_answer(1100),
        _ => match standby_answer(0) {
            PeerAnswer::Status(status) => PeerAnswer::Status(PeerStatus { in_recovery: false, ..status }),
            PeerAnswer::Unreachable => PeerAnswer::Unreachable,
        },
    }
}

pub(super) fn situation(dice: &Dice) -> Situation {
    let roles = [Role::Primary, Role::Replica, Role::Demoted, Role::Promoted, Role::Uninitialized, Role::StandbyLeader];
    let role = roles[usize::from(dice.role)];
    let mut situation = match dice.server {
        0 => Situation::primary(),
        1 => Situation::replica(),
        2 => Situation::stopped(role),
        _ => {
            let mut failed = Situation::replica();
            failed.obs.server.monitor = Monitor::Failed;
            failed
        }
    };
    situation.obs.server.role = role;
    situation.obs.server.state = ServerState::ALL[usize::from(dice.state)];
    if let Some(leader) = name(dice.leader) {
        situation = situation.led_by(leader);
    }
    if dice.request != (3, 3) {
        situation = situation.requested(name(dice.request.0), name(dice.request.1));
    }
    situation.renewal = match dice.renewal {
        0 => Ok(Renewal::Renewed(lease())),
        1 => Ok(Renewal::Lost),
        _ => Err(StoreFailed),
    };
    situation.acquisition = match dice.acquisition {
        0 => Ok(Acquisition::Won(lease())),
        1 => Ok(Acquisition::Lost(Some(MemberName::from("b")))),
        _ => Err(StoreFailed),
    };
    situation = situation.peer("b", peer(dice.peers.0)).peer("c", peer(dice.peers.1)).control_state("in production");
    let task = match dice.task {
        0 => Some(TaskKind::Promote { pre_promote_pending: true }),
        1 => Some(TaskKind::Restart),
        2 => Some(TaskKind::Demote),
        3 => Some(TaskKind::Other),
        _ => None,
    };
    if let Some(kind) = task {
        situation = situation.busy(kind);
    }
    situation.memory.rewind = [
        RewindState::Initial,
        RewindState::Checkpoint,
        RewindState::Check,
        RewindState::Need,
        RewindState::NotNeed,
        RewindState::Success,
        RewindState::Failed,
    ][usize::from(dice.rewind)];
    situation.memory.critical =
        [Critical::Idle, Critical::Pending, Critical::Done(true), Critical::Done(false)][usize::from(dice.critical)];
    let [nofailover, paused, lost, empty, recovering, bootstrapping, managed, initialized, written, rebuild] = dice.flags;
    if nofailover {
        situation = situation.tagged("nofailover", json!(true));
    }
    if paused {
        situation = situation.paused();
    }
    if empty {
        situation.obs.server.data_dir = DataDir::Empty;
        situation.obs.server.postmaster = Postmaster::None;
        situation.obs.server.monitor = Monitor::NotAsked;
    }
    situation.store_lost = lost;
    situation.memory.recovering = recovering;
    situation.memory.bootstrapping = bootstrapping;
    situation.memory.managed = managed;
    situation.written = written;
    situation.obs.rewind_policy.rebuild_diverged = rebuild;
    situation.obs.rewind_policy.can_rewind = !rebuild;
    if !initialized {
        situation.view.initialize = None;
    }
    situation
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn a_promotion_is_decided_only_with_a_fresh_proof_of_the_lock(dice in dice()) {
        let mut situation = situation(&dice);
        let decision = situation.decide();
        if decision.task == Some(Task::Promote) {
            prop_assert!(decision.memory.lease.is_some());
            let proven = situation.asked.contains(&Ask::AcquireLock) || situation.asked.contains(&Ask::RenewLock);
            prop_assert!(proven, "asked {:?}", situation.asked);
            prop_assert!(!situation.store_lost);
            let nofailover = situation.obs.tags.nofailover();
            prop_assert!(!nofailover || situation.view.leader_name().is_some(), "a nofailover node takes no lock");
        }
    }

    #[test]
    fn a_primary_without_the_lock_stops_unless_paused(dice in dice()) {
        let mut situation = situation(&dice);
        situation.obs.task = None;
        situation.memory.bootstrapping = false;
        let running_primary = situation.obs.server.is_primary()
            && situation.obs.server.postmaster.is_running()
            && matches!(situation.obs.server.data_dir, DataDir::Present { .. })
            && !situation.obs.server.state.is_starting();
        let elsewhere = situation.view.leader_name().is_some_and(|leader| leader != "a");
        let decision = situation.decide();
        if running_primary && elsewhere && !situation.cfg.pause {
            let stops = decision.effects.iter().any(|effect| {
                matches!(effect, Effect::Demote(DemoteKind::ImmediateNoLock | DemoteKind::Offline))
            });
            prop_assert!(stops, "{}", decision.message);
        }
    }

    #[test]
    fn data_is_removed_only_where_a_setting_or_a_request_says_so(dice in dice()) {
        let mut situation = situation(&dice);
        let decision = situation.decide();
        let removed = decision.effects.contains(&Effect::RemoveDataDirectory);
        prop_assert!(!removed);
        if let Some(Task::Reinitialize { .. }) = decision.task {
            prop_assert!(situation.obs.rewind_policy.rebuild_diverged);
        }
        if let Some(Task::Clone { .. }) = decision.task {
            prop_assert_eq!(situation.obs.server.data_dir, DataDir::Empty);
        }
    }

    #[test]
    fn the_lock_is_let_go_only_by_a_node_that_cannot_be_writing(dice in dice()) {
        let mut situation = situation(&dice);
        let decision = situation.decide();
        if let Some(released) = decision.effects.iter().position(|effect| matches!(effect, Effect::ReleaseLock(_))) {
            let writing = situation.obs.server.is_primary()
                && matches!(situation.obs.server.monitor, Monitor::Primary(_))
                && !situation.cfg.pause;
            let stopped_before = decision.effects.iter().take(released).any(|effect| {
                matches!(effect, Effect::StopImmediately | Effect::Demote(_))
            });
            prop_assert!(!writing || stopped_before || decision.memory.released_lock_at.is_some(), "{}", decision.message);
        }
    }

    /// SAF19.
    #[test]
    fn nobody_is_promoted_in_a_standby_cluster(dice in dice()) {
        let mut situation = situation(&dice);
        situation.cfg.standby_cluster = super::global(json!({"standby_cluster": {"host": "elsewhere"}})).standby_cluster;
        let decision = situation.decide();
        prop_assert!(!matches!(decision.task, Some(Task::Promote | Task::Bootstrap)), "{}", decision.message);
        let follows_as_leader = match &decision.task {
            Some(Task::Follow { plan, .. } | Task::Clone { follow: plan, .. }) => plan.role == Role::StandbyLeader,
            _ => false,
        };
        let mine = situation.view.leader_name().is_some_and(|leader| leader == "a");
        prop_assert!(!follows_as_leader || mine, "{}", decision.message);
    }

    #[test]
    fn a_lost_store_never_promotes_and_never_touches_a_standby(dice in dice()) {
        let mut situation = situation(&dice);
        situation.store_lost = true;
        let decision = situation.decide();
        prop_assert_eq!(&decision.task, &None);
        if !situation.obs.server.is_or_becomes_primary() {
            prop_assert!(!decision.effects.iter().any(|effect| matches!(effect, Effect::Demote(_))));
        }
    }

    #[test]
    fn nothing_is_changed_without_a_record_of_its_rule(dice in dice()) {
        let mut situation = situation(&dice);
        let decision = situation.decide();
        let took_lock = situation.asked.contains(&Ask::AcquireLock) || situation.asked.contains(&Ask::TakeLock);
        let rules: Vec<Rule> = decision.journal.iter().map(|record| record.rule).collect();
        let took_lock = took_lock && situation.acquisition.is_ok();
        let changes = decision.task.is_some() || took_lock || decision.effects.iter().any(|effect| {
            matches!(effect, Effect::Demote(_) | Effect::ReleaseLock(_) | Effect::Exit(_) | Effect::WriteInitialize(..)
                | Effect::WriteConfig | Effect::WriteHistory(_) | Effect::FollowByReload(_) | Effect::StopImmediately)
        });
        if changes {
            prop_assert!(rules.iter().any(|rule| rule.outcome() != Outcome::Noticed), "{}: {rules:?}", decision.message);
        }
        prop_assert!(!rules.contains(&Rule::Task), "{} has no rule of its own", decision.message);
    }

    #[test]
    fn who_could_take_a_free_lock_and_does_not_says_why(dice in dice()) {
        let mut situation = situation(&dice);
        situation.store_lost = false;
        situation.obs.task = None;
        situation.memory.bootstrapping = false;
        situation.memory.recovering = false;
        situation.view.leader = None;
        let runs = situation.obs.server.postmaster.is_running()
            && matches!(situation.obs.server.data_dir, DataDir::Present { .. });
        let decision = situation.decide();
        let ended = decision.effects.iter().any(|effect| matches!(effect, Effect::Exit(_)));
        if runs && !ended {
            // A store that fails in the middle takes the place of the race.
            let told = decision.journal.iter().any(|record| {
                record.rule.name().starts_with("race.") || matches!(record.rule, Rule::StoreLost | Rule::DemoteStoreLost)
            });
            prop_assert!(told, "{}: {:?}", decision.message, decision.journal);
        }
    }
}
