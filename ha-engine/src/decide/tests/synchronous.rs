//! Synchronous modes within a decision: the passes of the primary, promotions, and who may win.

use dcs_core::model::{Lsn, MemberName, Revision, Role, ServerState, SyncRecord, SyncState};
use serde_json::{Value, json};

use super::super::action::{Ask, Decision, DemoteKind, Effect, Severity, Task};
use super::super::sync::sample::{SyncSample, SyncWord, Walsender};
use super::{Situation, global, member, says, standby_answer};

const PROMOTED: &str = "promoted self to leader by acquiring session lock";
const NOT_HEALTHIEST: &str = "following a different leader because i am not the healthiest node";
const POSTPONED: &str = "Postponing promotion because synchronous replication state was updated by somebody else";

fn in_mode(mut situation: Situation, mode: Value, strict: bool) -> Situation {
    situation.cfg = global(json!({"synchronous_mode": mode, "synchronous_mode_strict": strict}));
    situation
}

/// `/sync` as leader, quorum and standbys.
fn key(mut situation: Situation, leader: &str, quorum: u64, standbys: &[&str]) -> Situation {
    situation.view.sync.revision = Some(Revision::from(3_i64));
    situation.view.sync.record = SyncRecord {
        leader: Some(MemberName::from(leader)),
        standbys: standbys.iter().map(|name| MemberName::from(*name)).collect(),
        quorum,
    };
    situation
}

/// The leader `a`, with this text, and with those who stream up to a position.
fn leader(mode: Value, text: &str, streaming: &[(&str, SyncWord, u64)]) -> Situation {
    let mut situation = in_mode(Situation::primary().led_by("a"), mode, false);
    let walsender = |(name, sync, position): &(&str, SyncWord, u64)| Walsender {
        application_name: (*name).to_owned(),
        sync: *sync,
        written: Some(Lsn(*position)),
        flushed: Some(Lsn(*position)),
        replayed: Some(Lsn(*position)),
    };
    situation.obs.synchronous = Some(SyncSample {
        names: text.to_owned(),
        settled: true,
        flushed: Lsn(1000),
        walsenders: streaming.iter().map(walsender).collect(),
        ..SyncSample::default()
    });
    situation
}

/// The changes that were asked for, in order: `/sync` as `leader/quorum/standbys`, the text as it is.
fn changes(situation: &Situation) -> Vec<String> {
    let shown = |ask: &Ask| match ask {
        Ask::WriteSync(record, _) => {
            let standbys: Vec<&str> = record.standbys.iter().map(MemberName::as_str).collect();
            let leader = record.leader.as_ref().map_or("-", MemberName::as_str);
            Some(format!("{leader}/{}/{}", record.quorum, standbys.join("")))
        }
        Ask::SetSynchronousNames { text, .. } => Some(format!("'{text}'")),
        Ask::DeleteSync(_) => Some("delete".to_owned()),
        Ask::UseConfiguredNames => Some("configured".to_owned()),
        _ => None,
    };
    situation.asked.iter().filter_map(shown).collect()
}

fn decided(situation: &mut Situation) -> Decision {
    (situation.memory.sync.decides_names, situation.memory.sync.confirmed) = (true, true);
    situation.decide()
}

use SyncWord::{Async, Sync};

#[test]
fn switching_on_ends_with_a_proven_standby_in_the_key() {
    let mut situation = leader(json!(true), "", &[("b", Async, 1000), ("c", Async, 900)]);
    let decision = decided(&mut situation);
    assert_eq!(changes(&situation), ["a/0/", "'b'", "a/0/b"]);
    for line in
        ["Enabled synchronous replication", "Assigning synchronous standby status to ['b']", "Synchronous standby status assigned to ['b']"]
    {
        assert!(says(&decision, Severity::Info, line), "{line}");
    }
    assert_eq!(decision.effects.iter().filter(|effect| **effect == Effect::WriteWalRecord).count(), 1);
    assert!(decision.sync_watch.is_some());
}

#[test]
fn a_standby_behind_the_barrier_is_awaited_and_not_listed() {
    let mut situation = key(leader(json!(true), "", &[("b", Async, 999)]), "a", 0, &[]);
    let decision = decided(&mut situation);
    assert_eq!(changes(&situation), ["'b'"]);
    // It has come so far: the next pass knows the barrier.
    situation.memory = decision.memory;
    situation.asked.clear();
    let mut sample = situation.obs.synchronous.clone().expect("sampled");
    sample.names = "b".to_owned();
    sample.flushed = Lsn(5000);
    (sample.walsenders[0].sync, sample.walsenders[0].flushed) = (Sync, Some(Lsn(1000)));
    situation.obs.synchronous = Some(sample);
    decided(&mut situation);
    assert_eq!(changes(&situation), ["a/0/b"]);
}

#[test]
fn a_lost_standby_leaves_the_key_first_and_another_enters_it_last() {
    let mut situation = key(leader(json!(true), "b", &[("c", Async, 1000)]), "a", 0, &["b"]);
    decided(&mut situation);
    assert_eq!(changes(&situation), ["a/0/", "'c'", "a/0/c"]);
}

#[test]
fn a_refused_write_ends_the_pass() {
    let mut situation = key(leader(json!(true), "b", &[("c", Async, 1000)]), "a", 0, &["b"]);
    situation.written = false;
    let decision = decided(&mut situation);
    assert_eq!(changes(&situation), ["a/0/"]);
    assert!(says(&decision, Severity::Warning, "Updating sync state failed"));
}

#[test]
fn text_that_cannot_be_set_ends_the_pass_before_anybody_is_listed() {
    let mut situation = key(leader(json!(true), "", &[("b", Async, 1000)]), "a", 0, &[]);
    situation.names_settable = false;
    decided(&mut situation);
    assert_eq!(changes(&situation), ["'b'"]);
}

#[test]
fn a_standby_that_gives_up_its_duty_is_replaced() {
    let mut situation = key(leader(json!(true), "b", &[("b", Sync, 1000), ("c", Async, 1000)]), "a", 0, &["b"]);
    let b = situation.view.members.iter_mut().find(|member| member.name == "b").expect("b is a member");
    b.record.tags.0.insert("nosync".to_owned(), json!(true));
    decided(&mut situation);
    assert_eq!(changes(&situation), ["a/0/", "'c'", "a/0/c"]);
}

#[test]
fn a_quorum_is_reached_from_nothing_from_the_named_mode_and_from_an_older_quorum() {
    let both = [("b", Async, 1000), ("c", Async, 1000)];
    let mut fresh = leader(json!("quorum"), "", &both);
    let decision = decided(&mut fresh);
    assert_eq!(changes(&fresh), ["a/0/", "'ANY 1 (b,c)'", "a/1/bc"]);
    assert!(says(&decision, Severity::Info, "Setting leader to a, quorum to 1 of 2 (b, c)"));
    assert!(says(&decision, Severity::Info, "Setting synchronous replication to 1 of 2 (b, c)"));

    let mut named = key(leader(json!("quorum"), "b", &both), "a", 0, &["b"]);
    decided(&mut named);
    assert_eq!(changes(&named), ["'ANY 1 (b)'", "a/1/bc", "'ANY 1 (b,c)'"]);

    let mut smaller = key(leader(json!("quorum"), "ANY 1 (b,c)", &[("c", SyncWord::Quorum, 1000)]), "a", 1, &["b", "c"]);
    decided(&mut smaller);
    assert_eq!(changes(&smaller), ["'ANY 1 (c)'", "a/0/c"]);
}

#[test]
fn after_quorum_mode_a_listed_standby_has_to_prove_itself() {
    let mut situation =
        key(leader(json!(true), "ANY 1 (b,c)", &[("b", SyncWord::Quorum, 999), ("c", SyncWord::Quorum, 100)]), "a", 1, &["b", "c"]);
    decided(&mut situation);
    assert_eq!(changes(&situation), ["a/0/", "'b'"], "b is behind the barrier");
}

#[test]
fn after_a_promotion_voters_have_a_moment_to_connect() {
    let mut situation = key(leader(json!("quorum"), "ANY 1 (b,c)", &[]), "a", 1, &["b", "c"]);
    let decision = decided(&mut situation);
    assert_eq!(changes(&situation), Vec::<String>::new());
    assert_eq!(decision.wake_at, Some(situation.now + situation.cfg.loop_wait));
    situation.memory = decision.memory;
    situation.now = situation.now + situation.cfg.loop_wait;
    situation.obs.cycle_started = situation.now;
    decided(&mut situation);
    assert_eq!(changes(&situation), ["a/0/", "''"]);
}

#[test]
fn strict_mode_waits_for_anybody_when_there_is_nobody() {
    let mut on = key(leader(json!(true), "b", &[]), "a", 0, &["b"]);
    on.cfg.synchronous_mode_strict = true;
    let decision = decided(&mut on);
    assert_eq!(changes(&on), ["a/0/", "'*'"]);
    assert!(says(&decision, Severity::Warning, "No standbys available!"));

    let mut quorum = key(leader(json!("quorum"), "", &[]), "a", 0, &[]);
    quorum.cfg.synchronous_mode_strict = true;
    let decision = decided(&mut quorum);
    assert_eq!(changes(&quorum), ["'ANY 1 (*)'"]);
    let line = "Replication factor 2 requested, but 0 synchronous standbys available. Commits will be delayed.";
    assert!(says(&decision, Severity::Warning, line));

    let mut relaxed = key(leader(json!("quorum"), "ANY 1 (*)", &[]), "a", 0, &[]);
    decided(&mut relaxed);
    assert_eq!(changes(&relaxed), ["''"], "alone and not strict: commits go on");
}

#[test]
fn switching_off_clears_the_key_first_and_gives_the_configured_text_back() {
    let mut situation = key(leader(json!(false), "b", &[("b", Sync, 1000)]), "a", 0, &["b"]);
    let decision = decided(&mut situation);
    assert_eq!(changes(&situation), ["delete", "configured"]);
    assert!(says(&decision, Severity::Info, "Disabled synchronous replication"));
    assert!(!decision.memory.sync.decides_names);

    let mut refused = key(leader(json!(false), "b", &[("b", Sync, 1000)]), "a", 0, &["b"]);
    refused.written = false;
    decided(&mut refused);
    assert_eq!(changes(&refused), ["delete"], "as long as somebody may go by the key");
}

#[test]
fn an_agent_that_was_restarted_keeps_what_is_in_force() {
    let mut situation = key(leader(json!(true), "b", &[("b", Sync, 10)]), "a", 0, &["b"]);
    let decision = situation.decide();
    assert_eq!(changes(&situation), ["'b'", "a/0/b"], "it takes over the decision, and confirms the key");
    assert!(decision.memory.sync.decides_names && decision.memory.sync.confirmed);
}

/// A write of unknown outcome may arrive later, over what was decided meanwhile on a view without it.
#[test]
fn after_a_write_of_unknown_outcome_the_key_is_confirmed_before_anything_is_changed() {
    let lost = || key(leader(json!(true), "b", &[("c", Async, 1000)]), "a", 0, &["b"]);
    let mut unknown = lost();
    (unknown.written, unknown.unknown) = (false, true);
    let decision = decided(&mut unknown);
    assert_eq!(changes(&unknown), ["a/0/"]);
    assert!(!decision.memory.sync.confirmed);

    // The next view does not show it.
    let mut next = lost();
    next.memory = decision.memory;
    next.decide();
    assert_eq!(changes(&next), ["a/0/b", "a/0/", "'c'", "a/0/c"]);

    let mut again = lost();
    again.memory.sync.decides_names = true;
    (again.written, again.unknown) = (false, true);
    let decision = again.decide();
    assert_eq!(changes(&again), ["a/0/b"], "nothing is built on what is not confirmed");
    assert!(says(&decision, Severity::Warning, "Updating sync state failed"));

    let mut refused = lost();
    refused.written = false;
    assert!(decided(&mut refused).memory.sync.confirmed, "a refused write never arrives");
}

#[test]
fn text_that_could_not_be_given_back_is_given_back_by_the_next_pass_and_before_a_promotion() {
    let mut situation = key(leader(json!(false), "b", &[("b", Sync, 1000)]), "a", 0, &[]);
    situation.view.sync = SyncState::default();
    situation.names_settable = false;
    let decision = decided(&mut situation);
    assert_eq!(changes(&situation), ["configured"]);
    assert!(decision.memory.sync.decides_names);
    situation.memory = decision.memory;
    situation.names_settable = true;
    assert!(!situation.decide().memory.sync.decides_names);

    let mut standby = Situation::replica();
    standby.memory.sync.decides_names = true;
    standby.names_settable = false;
    let decision = standby.decide();
    assert_eq!((decision.message.as_str(), decision.task), (POSTPONED, None), "E6");
    assert!(decision.wake_at.is_some_and(|at| at < standby.now + standby.cfg.loop_wait));
}

#[test]
fn a_pass_ends_with_its_period_and_the_next_one_goes_on() {
    let overdue = |mut situation: Situation| {
        situation.now = situation.obs.cycle_started + situation.cfg.loop_wait;
        decided(&mut situation);
        changes(&situation)
    };
    let standby_lost = key(leader(json!(true), "b", &[("c", Async, 1000)]), "a", 0, &["b"]);
    assert_eq!(overdue(standby_lost), Vec::<String>::new(), "the lock comes first");
    let named = key(leader(json!(true), "", &[("b", Async, 1000)]), "a", 0, &[]);
    assert_eq!(overdue(named), Vec::<String>::new());
    let mut promotion = key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["a"]);
    promotion.now = promotion.obs.cycle_started + promotion.cfg.loop_wait;
    assert_eq!(promotion.line(), PROMOTED, "what a promotion waits for is no pass");
}

/// Hardening rule X21.
#[test]
fn x21_a_verdict_is_worth_what_the_key_was() {
    let elected = || key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["a"]);
    let changed = |mut situation: Situation| {
        let mut view = situation.view.clone();
        view.sync.revision = Some(Revision::from(4_i64));
        view.sync.record.standbys.clear();
        situation.reloaded = Some(view);
        situation
    };
    let mut outdated = changed(elected());
    let decision = outdated.decide();
    assert_eq!((decision.message.as_str(), decision.task), (POSTPONED, None));
    assert!(decision.effects.contains(&Effect::ReleaseLock(None)) && decision.memory.lease.is_none());
    assert_eq!((decision.wake_at, changes(&outdated)), (Some(outdated.now), Vec::<String>::new()));

    let mut appointed = changed(elected()).requested(None, Some("a"));
    assert_eq!(appointed.line(), PROMOTED, "an operator has said so");
    let mut off = changed(elected());
    off.cfg = global(json!({}));
    assert_eq!(off.line(), PROMOTED, "the key means nothing then");
}

/// Hardening rule X21.
#[test]
fn x21_a_refused_or_unknown_write_before_the_promotion_gives_the_lock_back() {
    for unknown in [false, true] {
        for held in [false, true] {
            let mut situation = key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["a"]);
            if held {
                situation = situation.led_by("a");
            }
            (situation.written, situation.unknown) = (false, unknown);
            let decision = situation.decide();
            assert_eq!((decision.message.as_str(), decision.task), (POSTPONED, None), "E6");
            assert!(decision.effects.contains(&Effect::ReleaseLock(None)), "unknown: {unknown}, held: {held}");
        }
    }
    let mut appointed = key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["c"]).requested(None, Some("a"));
    appointed.written = false;
    let decision = appointed.decide();
    assert_eq!(decision.message, POSTPONED);
    assert!(!decision.effects.contains(&Effect::ReleaseLock(None)), "an operator has said so");
    // It is tried again by the next cycle, which has no request any more.
    let mut next = key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["c"]).led_by("a");
    (next.memory, next.written) = (decision.memory, false);
    assert!(!next.decide().effects.contains(&Effect::ReleaseLock(None)));
}

/// Hardening rule X21: only the history told so far, and it is written last.
#[test]
fn x21_a_primary_does_not_take_a_free_lock_that_the_key_gives_to_another() {
    let primary = |leader: &str| key(in_mode(Situation::primary(), json!(true), false), leader, 0, &["a"]);
    let decision = primary("b").decide();
    assert_eq!(decision.message, "demoting self because i am not the healthiest node");
    assert!(decision.effects.contains(&Effect::Demote(DemoteKind::ImmediateNoLock)));
    assert!(says(&decision, Severity::Warning, "by the /sync key b was to be promoted after me"));
    assert_eq!(primary("A").line(), "acquired session lock as a leader");
    assert_eq!(in_mode(Situation::primary(), json!("quorum"), false).line(), "acquired session lock as a leader", "never in use");
    assert_eq!(primary("b").paused().line(), "acquired session lock as a leader", "an operator is at work");

    // It was so when the race began.
    let mut late = primary("a");
    let mut view = late.view.clone();
    view.sync.revision = Some(Revision::from(4_i64));
    view.sync.record.leader = Some(MemberName::from("b"));
    late.reloaded = Some(view);
    let decision = late.decide();
    assert!(decision.effects.contains(&Effect::Demote(DemoteKind::Immediate)), "{}", decision.message);
}

/// The crashed primary's agent was started anew: nobody has decided yet whom commits wait for, and `/sync` lists `b`.
#[test]
fn r6_a_crashed_primary_is_started_as_one_only_by_an_agent_that_knows_whom_commits_wait_for() {
    let crashed = || {
        let mut situation = key(in_mode(Situation::stopped(Role::Primary), json!(true), false), "a", 0, &["b"]).led_by("a");
        situation.obs.server.state = ServerState::Running;
        situation.obs.rewind_policy.can_rewind = false;
        situation.control_state("in production")
    };
    let mut knows = crashed();
    knows.memory.sync.decides_names = true;
    assert_eq!(knows.line(), "starting primary after failure");
    assert_eq!(crashed().line(), "starting as readonly because i had the session lock");
    let mut off = crashed();
    off.cfg = global(json!({}));
    assert_eq!(off.line(), "starting primary after failure");
}

#[test]
fn without_an_answer_of_the_server_nothing_is_changed() {
    let mut situation = key(leader(json!(true), "b", &[]), "a", 0, &["b"]);
    situation.obs.synchronous = None;
    decided(&mut situation);
    assert_eq!(changes(&situation), Vec::<String>::new());
}

#[test]
fn a_promotion_prepares_both_places_and_waits_if_it_cannot() {
    let mut on = key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["a"]);
    let decision = on.decide();
    assert_eq!((decision.message.as_str(), decision.task.clone()), (PROMOTED, Some(Task::Promote)));
    assert_eq!(changes(&on), ["a/0/", "''"]);

    let mut quorum = key(in_mode(Situation::replica(), json!("quorum"), false), "b", 1, &["a", "c"]).peer("c", standby_answer(1000));
    assert_eq!(quorum.line(), PROMOTED);
    assert_eq!(changes(&quorum), ["a/1/bc", "'ANY 1 (b,c)'"]);

    let mut refused = key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["a"]);
    refused.written = false;
    let decision = refused.decide();
    assert_eq!((decision.message.as_str(), decision.task), (POSTPONED, None), "E6");
    assert_eq!(changes(&refused), ["a/0/"]);

    let mut again = key(in_mode(Situation::replica(), json!("quorum"), false), "a", 1, &["b", "c"]);
    assert_eq!(again.line(), PROMOTED);
    assert_eq!(changes(&again), ["a/1/bc", "'ANY 1 (b,c)'"], "the key is written although it says so already");

    let mut unsettable = key(in_mode(Situation::replica(), json!("quorum"), false), "b", 1, &["a", "c"]).peer("c", standby_answer(1000));
    unsettable.names_settable = false;
    let decision = unsettable.decide();
    assert_eq!((decision.message.as_str(), decision.task), (POSTPONED, None));
}

#[test]
fn q13_only_who_is_listed_races() {
    let mut listed = key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["a"]);
    assert_eq!(listed.line(), PROMOTED);
    let mut outsider = key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["c"]);
    let decision = outsider.decide();
    assert_eq!(decision.message, NOT_HEALTHIEST);
    assert!(says(&decision, Severity::Info, "not listed in the /sync key"));
    let mut not_in_use = in_mode(Situation::replica(), json!(true), false);
    assert_eq!(not_in_use.line(), PROMOTED, "the key has never been written: as without synchronous mode");
}

#[test]
fn q14_who_is_not_listed_does_not_matter_unless_it_is_a_primary() {
    let listed = || key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["a"]);
    assert_eq!(listed().peer("c", standby_answer(9999)).line(), PROMOTED);
    let mut alive = listed().peer("c", standby_answer(1));
    if let Some(super::PeerAnswer::Status(status)) = alive.peers.get_mut("c") {
        status.in_recovery = false;
    }
    assert_eq!(alive.line(), NOT_HEALTHIEST, "hardening rule X3");
}

#[test]
fn g5_only_the_former_leader_may_be_ahead() {
    let mut leader_ahead = key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["a"]).peer("b", standby_answer(2000));
    let decision = leader_ahead.decide();
    assert_eq!(decision.message, PROMOTED);
    assert!(says(&decision, Severity::Info, "Ignoring the former leader being ahead of us"));
    let mut standby_ahead = key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["a", "c"]).peer("c", standby_answer(1001));
    assert_eq!(standby_ahead.line(), NOT_HEALTHIEST);
}

#[test]
fn g9_a_quorum_needs_its_votes() {
    let voter = |quorum| key(in_mode(Situation::replica(), json!("quorum"), false), "b", quorum, &["a", "c"]);
    let mut elected = voter(1).peer("c", standby_answer(900));
    let decision = elected.decide();
    assert_eq!(decision.message, PROMOTED);
    assert!(says(&decision, Severity::Info, "Got quorum vote from c"));
    assert_eq!(voter(1).line(), NOT_HEALTHIEST, "nobody answers");
    assert_eq!(voter(1).peer("b", standby_answer(2000)).line(), NOT_HEALTHIEST, "a leader ahead of me gives no vote");
    assert_eq!(voter(0).line(), PROMOTED, "everybody has everything");
    let mut again = key(in_mode(Situation::replica(), json!("quorum"), false), "a", 1, &["b", "c"]);
    assert_eq!(again.line(), PROMOTED, "the leader itself has everything");
}

#[test]
fn a_node_that_is_no_voter_needs_one_vote_more() {
    let outsider = |quorum| key(in_mode(Situation::replica(), json!("quorum"), false), "b", quorum, &["c"]);
    assert_eq!(outsider(0).line(), NOT_HEALTHIEST);
    let mut elected = outsider(0).peer("c", standby_answer(1000));
    assert_eq!(elected.line(), PROMOTED);
    assert_eq!(changes(&elected), ["a/0/bc", "'ANY 2 (b,c)'"]);
}

#[test]
fn votes_count_until_a_leader_has_rewritten_the_key_of_quorum_mode() {
    let mut situation = key(in_mode(Situation::replica(), json!(true), false), "b", 1, &["a", "c"]);
    assert_eq!(situation.line(), NOT_HEALTHIEST, "c may have commits that this node does not have");
}

#[test]
fn x8_a_damaged_key_keeps_everybody_from_racing_but_whom_an_operator_names() {
    let damaged = || {
        let mut situation = in_mode(Situation::replica(), json!(true), false);
        situation.view.sync.revision = Some(Revision::from(3_i64));
        situation.view.sync.damaged = true;
        situation
    };
    let decision = damaged().decide();
    assert_eq!(decision.message, NOT_HEALTHIEST);
    assert!(says(&decision, Severity::Warning, "/sync key is damaged"));
    assert_eq!(damaged().requested(None, Some("a")).line(), PROMOTED);
    let mut holder = damaged().led_by("a");
    assert_eq!(holder.line(), "promoted self to leader because I had the session lock");
    let mut off = damaged();
    off.cfg = global(json!({}));
    assert_eq!(off.line(), PROMOTED, "the key means nothing then");
}

#[test]
fn q9_and_k4_a_switchover_is_for_listed_nodes() {
    let outsider = |leader: Option<&str>, candidate: Option<&str>| {
        key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["c"]).requested(leader, candidate)
    };
    assert_eq!(outsider(Some("b"), None).line(), NOT_HEALTHIEST, "Q9");
    assert_eq!(outsider(Some("b"), Some("a")).line(), NOT_HEALTHIEST, "Q9 for the candidate too");
    assert_eq!(outsider(None, Some("a")).line(), PROMOTED, "an operator accepts a loss");
    assert_eq!(outsider(None, Some("c")).line(), NOT_HEALTHIEST, "K4");
    let mut listed = key(in_mode(Situation::replica(), json!(true), false), "b", 0, &["a"]).requested(Some("b"), None);
    listed.peers.insert("c".to_owned(), standby_answer(9999));
    assert_eq!(listed.line(), PROMOTED, "K10: c is not listed");
}

#[test]
fn m7_a_leader_steps_down_only_if_a_listed_node_can_follow() {
    let leading = |standbys: &[&str], quorum, mode: Value| {
        let mut situation = key(leader(mode, "", &[]), "a", quorum, standbys).requested(Some("a"), None);
        situation.peers.insert("c".to_owned(), standby_answer(1000));
        situation
    };
    assert_eq!(leading(&["c"], 0, json!(true)).line(), "switchover: demoting myself");
    let decision = leading(&["b"], 0, json!(true)).decide();
    assert!(says(&decision, Severity::Warning, "no healthy members found"), "only c is healthy, and it is not listed");

    let mut with_candidate = leading(&["b"], 0, json!(true)).requested(Some("a"), Some("c"));
    let line = "Switchover candidate=c does not match with sync_standbys=b";
    assert!(says(&with_candidate.decide(), Severity::Warning, line));
    assert_eq!(leading(&["b"], 0, json!(true)).requested(None, Some("c")).line(), "manual failover: demoting myself");

    let decision = leading(&["b", "c"], 1, json!("quorum")).decide();
    assert!(says(&decision, Severity::Info, "Quorum requirement 1 can not be reached"));
    let mut both = leading(&["b", "c"], 1, json!("quorum"));
    both.peers.insert("b".to_owned(), standby_answer(1000));
    assert_eq!(both.line(), "switchover: demoting myself");
    assert_eq!(leading(&["b", "c"], 1, json!("quorum")).requested(Some("a"), Some("c")).line(), "switchover: demoting myself");
}

#[test]
fn a_stranger_with_the_name_of_the_leader_is_never_chosen() {
    let mut situation = key(leader(json!(true), "", &[("a", Async, 1000)]), "a", 0, &[]);
    situation.view.members = vec![member("a")];
    decided(&mut situation);
    assert_eq!(changes(&situation), Vec::<String>::new());
}
