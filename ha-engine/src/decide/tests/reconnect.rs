//! A standby that does not stream nudges its startup process when its upstream is back.

use std::time::Duration;

use dcs_core::model::{Leader, MemberName, Revision};
use serde_json::json;

use super::super::action::Effect;
use super::super::observation::Monitor;
use super::Situation;
use crate::ports::RecoveryDiff;

/// The replica `a` of `b`; how its WAL receiver is doing and what `b` says.
fn replica(streams: bool, upstream: &str) -> Situation {
    let mut situation = Situation::replica().led_by("b");
    set(&mut situation, streams, upstream);
    situation
}

fn set(situation: &mut Situation, streams: bool, upstream: &str) {
    let Monitor::Standby(standby) = &mut situation.obs.server.monitor else { panic!("a standby") };
    standby.replication_state = streams.then(|| "streaming".to_owned());
    let b = situation.view.members.iter_mut().find(|member| member.name == "b").expect("b is a member");
    b.record.state = Some(upstream.to_owned());
}

/// One cycle; whether it nudges. What it remembers counts for the next.
fn nudges(situation: &mut Situation) -> bool {
    let decision = situation.decide();
    situation.memory = decision.memory;
    assert!(!decision.effects.iter().any(|effect| matches!(effect, Effect::Call(_) | Effect::FollowByReload(_))), "only a nudge");
    decision.effects.contains(&Effect::Nudge)
}

#[test]
fn one_nudge_follows_the_upstreams_return_and_none_comes_before_it() {
    let mut situation = replica(true, "running");
    assert!(!nudges(&mut situation), "it streams");
    for state in ["restarting", "stopping", "starting", "crashed"] {
        set(&mut situation, false, state);
        assert!(!nudges(&mut situation), "{state}: it would only fail again");
    }
    set(&mut situation, false, "running");
    assert!(nudges(&mut situation), "it is back");
    assert!(!nudges(&mut situation), "the same return, in the same moment");
    set(&mut situation, true, "running");
    situation.now = situation.now + Duration::from_secs(60);
    assert!(!nudges(&mut situation), "it streams again");
}

#[test]
fn every_return_counts_anew() {
    let mut situation = replica(false, "stopped");
    for _ in 0..3 {
        set(&mut situation, false, "stopped");
        assert!(!nudges(&mut situation));
        set(&mut situation, false, "running");
        assert!(nudges(&mut situation));
    }
}

#[test]
fn a_cascading_standby_looks_at_its_own_upstream_and_not_at_the_leader() {
    let mut situation = replica(false, "stopped").tagged("replicatefrom", json!("c"));
    assert!(!nudges(&mut situation), "c is running all the time, and the standby has just been seen for the first time");
    set(&mut situation, false, "running");
    assert!(!nudges(&mut situation), "the leader is back, which is no upstream");
    let set_c = |situation: &mut Situation, state: Option<&str>| situation.view.members[2].record.state = state.map(str::to_owned);
    set_c(&mut situation, None);
    assert!(!nudges(&mut situation));
    set_c(&mut situation, Some("running"));
    assert!(nudges(&mut situation));
}

#[test]
fn while_it_does_not_stream_the_pauses_between_nudges_grow() {
    let mut situation = replica(false, "stopped");
    nudges(&mut situation);
    set(&mut situation, false, "running");
    let begin = situation.now;
    let mut after = Vec::new();
    for _ in 0..400 {
        let decision = situation.decide();
        if decision.effects.contains(&Effect::Nudge) {
            after.push(situation.now.saturating_since(begin).as_secs());
        }
        situation.memory = decision.memory;
        let period = situation.now + Duration::from_secs(10);
        situation.now = decision.wake_at.unwrap_or(period).min(period);
    }
    assert_eq!(after, [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 2047]);
}

#[test]
fn a_standby_that_has_just_started_gets_a_moment_to_stream_by_itself() {
    let mut situation = replica(false, "running");
    let decision = situation.decide();
    assert!(!decision.effects.contains(&Effect::Nudge));
    let soon = decision.wake_at.expect("it looks again");
    assert!(soon > situation.now);
    situation.memory = decision.memory;
    situation.now = soon;
    assert!(nudges(&mut situation), "nobody has seen the upstream go, and it does not stream");
}

#[test]
fn no_nudge_where_there_is_nothing_to_reconnect_to() {
    let mut paused = replica(false, "stopped").paused();
    nudges(&mut paused);
    set(&mut paused, false, "running");
    assert!(!nudges(&mut paused), "in pause");

    let mut new_upstream = replica(false, "stopped");
    nudges(&mut new_upstream);
    new_upstream.view.leader = Some(Leader { name: MemberName::from("c"), revision: Revision::from(6_i64), handle: None });
    new_upstream.recovery_diff = RecoveryDiff::Reload;
    let decision = new_upstream.decide();
    assert!(!decision.effects.contains(&Effect::Nudge), "the reload is one");

    let mut alone = replica(false, "stopped").tagged("nostream", json!(true));
    nudges(&mut alone);
    set(&mut alone, false, "running");
    assert!(!nudges(&mut alone), "it streams from nobody");

    let mut silent = replica(false, "stopped");
    nudges(&mut silent);
    set(&mut silent, false, "running");
    silent.obs.server.monitor = Monitor::Failed;
    assert!(!nudges(&mut silent), "nobody knows whether it streams");
}
