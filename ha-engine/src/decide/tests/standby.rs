//! Standby clusters (section 8), and who follows whom.

use dcs_core::Renewal;
use dcs_core::model::{HistoryLine, Lsn, Role, Tags, Timeline};
use serde_json::{Value, json};

use super::super::action::{Answer, Ask, Decision, DemoteKind, Effect, Task};
use super::super::memory::{Critical, RewindState};
use super::super::observation::{DataDir, Monitor, PeerAnswer, PeerStatus};
use super::{Situation, global, standby_answer};
use crate::ports::{CallbackEvent, DivergenceFacts, FollowPlan, RecoveryDiff};

const LEADING: &str = "no action. I am (a), the standby leader with the lock";
const FOLLOWING: &str = "no action. I am (a), a secondary, and following a standby leader (b)";

fn remote() -> Value {
    json!({"standby_cluster": {
        "host": "10.0.0.1,10.0.0.2", "port": 5433, "primary_slot_name": "dr-1",
        "restore_command": "fetch %f %p", "archive_cleanup_command": "clean %r", "recovery_min_apply_delay": "5min",
    }})
}

trait InStandbyCluster {
    fn standby_cluster(self) -> Self;
}

impl InStandbyCluster for Situation {
    fn standby_cluster(mut self) -> Self {
        let pause = self.cfg.pause;
        self.cfg = global(remote());
        self.cfg.pause = pause;
        for member in &mut self.view.members {
            if member.record.role.as_deref() == Some("primary") {
                member.record.role = Some("standby_leader".to_owned());
            }
        }
        self
    }
}

fn standby_leader() -> Situation {
    let mut situation = Situation::replica().led_by("a").standby_cluster();
    situation.obs.server.role = Role::StandbyLeader;
    situation
}

/// What is done, without the slots that come and go with everything.
fn deeds(decision: &Decision) -> Vec<&Effect> {
    super::deeds(decision).into_iter().filter(|effect| !matches!(effect, Effect::MaintainSlots(_))).collect()
}

fn compared(situation: &Situation) -> Option<FollowPlan> {
    situation.asked.iter().find_map(|ask| match ask {
        Ask::RecoveryDiff(plan) => Some(plan.clone()),
        _ => None,
    })
}

/// The plan that the situation's server is compared with, in short: upstream, slot, role, and how many settings it overrides.
fn followed(mut situation: Situation) -> Option<(String, Option<String>, Role, usize)> {
    situation.decide();
    let plan = compared(&situation)?;
    Some((plan.upstream.map_or_else(|| "nobody".to_owned(), |upstream| upstream.name), plan.slot, plan.role, plan.overrides.len()))
}

fn expected(upstream: &str, slot: Option<&str>, role: Role, overrides: usize) -> Option<(String, Option<String>, Role, usize)> {
    Some((upstream.to_owned(), slot.map(str::to_owned), role, overrides))
}

const REMOTE: &str = "remote_member:10.0.0.1,10.0.0.2";

#[test]
fn whom_a_member_of_a_standby_cluster_follows() {
    let leader = expected(REMOTE, Some("dr_1"), Role::StandbyLeader, 3);
    assert_eq!(followed(standby_leader()), leader);
    let cascading = expected("b", Some("a"), Role::Replica, 2);
    assert_eq!(followed(Situation::replica().led_by("b").standby_cluster()), cascading);
    let from_c = Situation::replica().led_by("b").standby_cluster().tagged("replicatefrom", json!("c"));
    assert_eq!(followed(from_c), expected("c", Some("a"), Role::Replica, 2));
    let nostream = Situation::replica().led_by("b").standby_cluster().tagged("nostream", json!(true));
    assert_eq!(followed(nostream), expected("nobody", None, Role::Replica, 2));
    // While nobody leads, everybody follows the remote member; the others may be ahead.
    let alone = Situation::replica().standby_cluster().peer("b", standby_answer(2000));
    assert_eq!(followed(alone), expected(REMOTE, Some("dr_1"), Role::Replica, 3));
    let mut without_slots = standby_leader();
    without_slots.obs.use_slots = false;
    assert_eq!(followed(without_slots), expected(REMOTE, None, Role::StandbyLeader, 3));
}

#[test]
fn a_slot_is_used_only_where_one_is_named_and_an_archive_alone_is_enough() {
    let with = |section: Value| {
        let mut situation = standby_leader();
        situation.cfg = global(json!({"standby_cluster": section}));
        situation.decide();
        compared(&situation)
    };
    let plan = with(json!({"host": "10.0.0.1"})).expect("a plan");
    assert_eq!((plan.slot, plan.overrides.len()), (None, 0));
    let upstream = plan.upstream.expect("an upstream");
    assert_eq!((upstream.host.as_str(), upstream.port, upstream.remote), ("10.0.0.1", None, true));
    let archive = with(json!({"restore_command": "fetch %f %p"})).expect("a plan");
    assert_eq!((archive.upstream, archive.role), (None, Role::StandbyLeader));
    assert_eq!(archive.overrides, [("restore_command".to_owned(), "fetch %f %p".to_owned())]);
}

/// Hard case 90.
#[test]
fn hard_case_90_members_of_a_paused_standby_cluster_keep_their_upstream_and_its_leader_keeps_the_lock() {
    let mut alone = Situation::replica().standby_cluster().paused();
    assert_eq!(alone.line(), "no action. I am (a)");
    assert_eq!(compared(&alone), None, "what it streams from is not touched");

    let mut leader = standby_leader().paused();
    let decision = leader.decide();
    assert_eq!(decision.message, LEADING);
    assert!(leader.asked.contains(&Ask::RenewLock));
    assert!(!decision.effects.iter().any(|effect| matches!(effect, Effect::ReleaseLock(_) | Effect::SetRole(_))));
    let mut named = standby_leader().paused().requested(None, Some("a"));
    assert_eq!(named.line(), LEADING, "a standby leader does not wait to become primary");
}

#[test]
fn h4_the_holder_of_the_lock_leads_without_being_promoted() {
    let mut new = Situation::replica().led_by("a").standby_cluster();
    let decision = new.decide();
    assert_eq!(decision.message, "promoted self to a standby leader because i had the session lock");
    assert_eq!(decision.task, None);
    assert_eq!(deeds(&decision), [&Effect::SetRole(Role::StandbyLeader), &Effect::Call(CallbackEvent::RoleChange)], "F11");

    let decision = standby_leader().decide();
    assert_eq!(decision.message, LEADING);
    assert!(deeds(&decision).is_empty());
    assert!(decision.effects.iter().any(|effect| matches!(effect, Effect::WriteStatus(status) if status.last_lsn == Lsn(1000))));
}

#[test]
fn u6_who_wins_the_race_becomes_the_standby_leader() {
    let mut situation = Situation::replica().standby_cluster().peer("b", standby_answer(1000));
    situation.recovery_diff = RecoveryDiff::Reload;
    // The view that is loaded after the acquisition.
    let decision = {
        situation.view.leader = None;
        situation.decide()
    };
    assert!(situation.asked.contains(&Ask::AcquireLock));
    assert_eq!(decision.message, "promoted self to a standby leader by acquiring session lock");
    assert_eq!(decision.task, None, "nobody is promoted");
    assert!(decision.memory.lease.is_some());
}

#[test]
fn a_standby_leader_that_lost_the_lock_is_a_replica_again() {
    let mut situation = Situation::replica().standby_cluster().peer("b", standby_answer(2000));
    situation.obs.server.role = Role::StandbyLeader;
    let decision = situation.decide();
    assert_eq!(deeds(&decision), [&Effect::SetRole(Role::Replica), &Effect::Call(CallbackEvent::RoleChange)]);
}

#[test]
fn h8_a_standby_leader_whose_renewal_is_refused_goes_on_as_a_standby() {
    let mut situation = standby_leader();
    situation.renewal = Ok(Renewal::Lost);
    let decision = situation.decide();
    assert_eq!(decision.message, "not promoting because failed to update leader lock in DCS");
    assert!(deeds(&decision).is_empty());
}

#[test]
fn h9_and_h10_the_line_of_a_member_names_the_standby_leader() {
    assert_eq!(Situation::replica().led_by("b").standby_cluster().line(), FOLLOWING);
}

/// Hard case 91.
#[test]
fn hard_case_91_a_primary_with_the_lock_is_demoted_when_the_cluster_becomes_a_standby_cluster() {
    let mut situation = Situation::primary().led_by("a").standby_cluster();
    let decision = situation.decide();
    assert_eq!(decision.message, "cannot be a real primary in standby cluster");
    let Some(Task::DemoteCluster { remote, leads: true }) = &decision.task else { panic!("{:?}", decision.task) };
    assert_eq!((remote.role, remote.slot.as_deref()), (Role::StandbyLeader, Some("dr_1")));
    assert_eq!(decision.task.as_ref().map(Task::name).as_deref(), Some("demoting to a standby cluster"));
    assert!(decision.memory.lease.is_some(), "the lock is kept until the server has stopped");
    assert_eq!(decision.memory.rewind, RewindState::Check);
    assert!(!decision.effects.iter().any(|effect| matches!(effect, Effect::Demote(_) | Effect::ReleaseLock(_))));

    let mut without_lock = Situation::primary().led_by("b").standby_cluster();
    let decision = without_lock.decide();
    assert_eq!(decision.message, "cannot be a real primary in a standby cluster");
    assert!(matches!(decision.task, Some(Task::DemoteCluster { leads: false, .. })));

    let mut promoting = Situation::replica().led_by("a").standby_cluster();
    promoting.obs.server.role = Role::Promoted;
    assert!(matches!(promoting.decide().task, Some(Task::DemoteCluster { .. })), "a promotion that was requested counts");

    let paused = Situation::primary().led_by("a").standby_cluster().paused().decide();
    assert_eq!((paused.message.as_str(), paused.task), ("continue to run as primary without lock", None), "F1");
}

/// Hard case 91.
#[test]
fn hard_case_91_the_standby_leader_is_promoted_when_the_cluster_stands_alone() {
    let mut situation = standby_leader();
    situation.cfg = global(json!({}));
    let decision = situation.decide();
    assert_eq!(decision.message, "promoted self to leader because I had the session lock");
    assert_eq!(decision.task, Some(Task::Promote));
}

/// Hard case 92.
#[test]
fn hard_case_92_synchronous_mode_has_no_effect_in_a_standby_cluster() {
    let mut document = remote();
    document["synchronous_mode"] = json!(true);
    let mut situation = Situation::replica().peer("b", standby_answer(900));
    situation.cfg = global(document.clone());
    // Only `c` was synchronous when the cluster was a normal one.
    situation.view.sync.record.leader = Some("b".into());
    situation.view.sync.record.standbys = vec!["c".into()];
    situation.decide();
    assert!(situation.asked.contains(&Ask::AcquireLock), "nobody is kept out of the race");

    let mut leader = standby_leader().requested(Some("a"), Some("b")).peer("b", standby_answer(1000));
    leader.cfg = global(document);
    leader.view.sync.record.leader = Some("a".into());
    leader.view.sync.record.standbys = vec!["c".into()];
    assert_eq!(leader.line(), "switchover: demoting myself");
}

#[test]
fn the_race_compares_bare_positions_whatever_the_timelines() {
    let ahead_on_old = |tl, position| match standby_answer(position) {
        PeerAnswer::Status(status) => PeerAnswer::Status(PeerStatus { timeline: Some(Timeline(tl)), ..status }),
        PeerAnswer::Unreachable => PeerAnswer::Unreachable,
    };
    let races = |mut situation: Situation| {
        situation.decide();
        situation.asked.contains(&Ask::AcquireLock)
    };
    let situation = || {
        // What was left over from the time before it was a standby cluster.
        let mut situation = Situation::replica().standby_cluster().history(&[(4, 10)]);
        situation.cfg.check_timeline = true;
        situation
    };
    assert!(races(situation().peer("b", ahead_on_old(9, 900))), "G2, G3: timelines do not matter");
    assert!(!races(situation().peer("b", ahead_on_old(1, 1001))), "who is ahead wins");
    let mut normal = situation().peer("b", ahead_on_old(1, 900));
    normal.cfg.standby_cluster = None;
    assert!(!races(normal), "they do in a normal cluster");
}

#[test]
fn f8_without_the_leaders_member_key_nothing_changes() {
    let mut situation = Situation::replica().led_by("b").standby_cluster();
    situation.view.members.retain(|member| member.name != "b");
    assert_eq!(situation.line(), "continue following the old known standby leader");
    assert_eq!(compared(&situation), None);
}

fn diverged() -> Option<DivergenceFacts> {
    Some(DivergenceFacts {
        local_timeline: Timeline(1),
        local_lsn: Lsn(1000),
        local_in_recovery: true,
        checkpoint_end: None,
        leader_timeline: Timeline(2),
        leader_history: Some(vec![HistoryLine { timeline: 1, lsn: Lsn(900), reason: String::new(), timestamp: None, new_leader: None }]),
    })
}

#[test]
fn every_member_is_compared_with_the_remote_member_and_rewound_from_it() {
    for mut situation in [standby_leader(), Situation::replica().led_by("b").standby_cluster()] {
        situation.memory.rewind = RewindState::Check;
        situation.divergence = diverged();
        let decision = situation.decide();
        assert_eq!(decision.message, format!("running pg_rewind from {REMOTE}"));
        let Some(Task::Rewind { source, checkpointed: false }) = decision.task else { panic!("{:?}", decision.task) };
        assert!(source.remote, "it is asked for a checkpoint when the rewind begins");
    }
}

#[test]
fn w3_nothing_is_rebuilt_because_of_diverged_timelines() {
    let mut situation = standby_leader();
    situation.obs.rewind_policy.can_rewind = false;
    situation.obs.rewind_policy.rebuild_diverged = true;
    situation.memory.rewind = RewindState::Check;
    situation.divergence = diverged();
    let decision = situation.decide();
    assert_eq!((decision.message.as_str(), decision.task), (LEADING, None));
}

#[test]
fn f5_a_newer_history_file_is_a_reason_to_compare() {
    let ask = Ask::HistoryFile(Timeline(2));
    let file = Answer::HistoryFile(Some((Vec::new(), "then".to_owned())));
    for (file, compares) in [(file, true), (Answer::HistoryFile(None), false)] {
        let mut situation = Situation::replica().led_by("b").standby_cluster();
        situation.files = vec![(ask.clone(), file)];
        situation.decide();
        assert_eq!(situation.asked.iter().any(|ask| matches!(ask, Ask::Divergence(_))), compares);
    }
    let mut normal = Situation::replica().led_by("b");
    normal.decide();
    assert!(!normal.asked.contains(&ask), "only a standby cluster has somebody else's timelines");
}

#[test]
fn r13_to_r15_a_stopped_standby_is_started_as_what_it_is() {
    let stopped = || Situation::stopped(Role::Replica).control_state("shut down in recovery");
    let follow = |mut situation: Situation| {
        let decision = situation.decide();
        let Some(Task::Follow { plan, .. }) = decision.task else { panic!("{:?}", decision.task) };
        (decision.message, plan.upstream.map(|upstream| upstream.name), plan.role)
    };
    let line = |line: &str, upstream: &str, role| (line.to_owned(), Some(upstream.to_owned()), role);
    assert_eq!(
        follow(stopped().led_by("a").standby_cluster()),
        line("starting as a standby leader because i had the session lock", REMOTE, Role::StandbyLeader)
    );
    assert_eq!(
        follow(stopped().standby_cluster()),
        line("trying to follow a remote member because standby cluster is unhealthy", REMOTE, Role::Replica)
    );
    assert_eq!(follow(stopped().led_by("b").standby_cluster()), line("starting as a secondary", "b", Role::Replica));
}

#[test]
fn p1_a_standby_leader_that_cannot_be_started_gives_the_lock_back() {
    let mut situation = Situation::stopped(Role::StandbyLeader).led_by("a").standby_cluster();
    situation.memory.recovering = true;
    let decision = situation.decide();
    assert_eq!(decision.message, "removed leader key after trying and failing to start postgres");
    assert!(deeds(&decision).contains(&&Effect::SetRole(Role::Demoted)));
    assert!(deeds(&decision).contains(&&Effect::ReleaseLock(None)));
}

fn empty() -> Situation {
    let mut situation = Situation::stopped(Role::Uninitialized).standby_cluster();
    situation.obs.server.data_dir = DataDir::Empty;
    situation.obs.server.system_id = None;
    situation.view.initialize = None;
    situation.view.members.clear();
    situation
}

#[test]
fn n1_the_first_node_copies_the_remote_member() {
    let mut situation = empty();
    let decision = situation.decide();
    assert_eq!(decision.message, "trying to bootstrap a new standby leader");
    let Some(Task::BootstrapStandbyLeader { source, follow }) = &decision.task else { panic!("{:?}", decision.task) };
    assert_eq!(source.node.as_ref().map(|node| node.name.as_str()), Some(REMOTE));
    assert_eq!(follow.role, Role::StandbyLeader);
    assert!(decision.memory.bootstrapping && decision.memory.critical == Critical::Pending);

    situation.view.initialize = Some(String::new());
    assert_eq!(situation.line(), "waiting for standby_leader to bootstrap", "N6");
    situation.view.initialize = Some("7000000000000000001".to_owned());
    situation.obs.has_leaderless_method = true;
    let decision = situation.decide();
    assert_eq!(decision.message, "trying to bootstrap (without leader)", "N5");
    assert!(matches!(decision.task, Some(Task::Clone { source, .. }) if source.node.as_ref().is_some_and(|node| node.remote)));
}

#[test]
fn b4_the_copy_takes_the_lock_and_announces_the_cluster() {
    let mut situation = standby_leader();
    situation.view = dcs_core::model::ClusterView { initialize: Some(String::new()), ..Default::default() };
    situation.memory.bootstrapping = true;
    situation.memory.critical = Critical::Done(true);
    let decision = situation.decide();
    assert_eq!(decision.message, "initialized a new cluster");
    assert!(situation.asked.contains(&Ask::TakeLock));
    assert!(deeds(&decision).iter().any(|effect| matches!(effect, Effect::WriteInitialize(..))));
    assert!(deeds(&decision).contains(&&Effect::WriteConfig));
    assert!(!deeds(&decision).contains(&&Effect::CheckpointAfterPromotion), "a standby writes no checkpoint of its own");
    assert!(!decision.memory.bootstrapping);

    situation.memory.critical = Critical::Done(false);
    assert_eq!(situation.line(), "Failed to bootstrap cluster");
}

#[test]
fn slots_of_cascading_members_are_on_the_standby_leader() {
    let decision = standby_leader().decide();
    let plan = decision.effects.iter().find_map(|effect| match effect {
        Effect::MaintainSlots(plan) => Some(plan.clone()),
        _ => None,
    });
    assert_eq!(plan.expect("a plan").create, ["b", "c"]);
}

#[test]
fn d2_a_standby_leader_goes_on_without_the_store() {
    let mut situation = standby_leader();
    situation.store_lost = true;
    let decision = situation.decide();
    assert_eq!(decision.message, "DCS is not accessible");
    assert!(deeds(&decision).is_empty());
}

/// Section 9: whoever names whom, each walk ends.
#[test]
fn members_that_replicate_from_each_other_are_decided_about_like_others() {
    for (role, leader) in [(Role::Replica, "c"), (Role::Primary, "a")] {
        let mut situation = if role == Role::Primary { Situation::primary() } else { Situation::replica() };
        situation = situation.led_by(leader).tagged("replicatefrom", json!("b"));
        for (member, from) in [("a", "b"), ("b", "a")] {
            let tags = Tags(json!({"replicatefrom": from}).as_object().cloned().unwrap_or_default().into_iter().collect());
            for known in situation.view.members.iter_mut().filter(|known| known.name == member) {
                known.record.tags = tags.clone();
            }
        }
        situation.cfg = global(json!({"synchronous_mode": true, "slots": {"s": {"type": "logical", "database": "x", "plugin": "y"}}}));
        let decision = situation.decide();
        assert!(decision.message.starts_with("no action."), "{}", decision.message);
    }
}

#[test]
fn a_primary_in_a_standby_cluster_never_keeps_running_unless_paused() {
    for leader in ["a", "b"] {
        let decision = Situation::primary().led_by(leader).standby_cluster().decide();
        let stops = decision.effects.iter().any(|effect| matches!(effect, Effect::Demote(DemoteKind::ImmediateNoLock)));
        assert!(stops || matches!(decision.task, Some(Task::DemoteCluster { .. })), "{}", decision.message);
    }
    let mut unknown = standby_leader();
    unknown.obs.server.monitor = Monitor::Failed;
    assert_eq!(unknown.line(), LEADING);
}
