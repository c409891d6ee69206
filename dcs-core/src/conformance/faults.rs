//! Servers that die, freeze and come back, and connections that lose things (items 56 to 67).

use std::future::Future;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::Scene;
use super::scene::{Actor, eventually};
use crate::model::{Leader, Revision};
use crate::{Acquisition, Deadline, Error, ErrorKind, Fate, Write};

/// A scheduling delay.
const SLACK: Duration = Duration::from_secs(1);

/// Two members, the first of which leads.
async fn led(scene: &Scene) -> (Actor, Actor) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    a.touch(&a.record()).await;
    (a, b)
}

/// Everything that decides about the lock still works, for the leader and for somebody else.
async fn goes_on(a: &Actor, b: &Actor) {
    for _ in 0..2 {
        assert!(a.leads_a_cycle().await.is_some(), "the lock was lost");
        assert!(!b.acquires().await);
        assert_eq!(b.view().await.leader_name(), Some(&a.name));
    }
}

pub(super) async fn a56_a_server_that_is_not_in_use_may_stop(scene: Scene) {
    let (a, b) = led(&scene).await;
    let in_use = scene.stage.server_in_use().await.expect("the harness knows");
    let other = (in_use + 1) % scene.stage.servers();
    scene.stage.kill(other).await.expect("a server can be killed");
    goes_on(&a, &b).await;
}

pub(super) async fn a57_the_server_in_use_may_die(scene: Scene) {
    let (a, b) = led(&scene).await;
    let in_use = scene.stage.server_in_use().await.expect("the harness knows");
    scene.stage.kill(in_use).await.expect("a server can be killed");
    goes_on(&a, &b).await;
    assert!(a.releases().await);
    b.wins().await;
}

pub(super) async fn a58_the_server_in_use_may_freeze(scene: Scene) {
    let (a, b) = led(&scene).await;
    let in_use = scene.stage.server_in_use().await.expect("the harness knows");
    scene.stage.freeze(in_use).await.expect("a server can be frozen");
    goes_on(&a, &b).await;
    assert!(a.releases().await);
    b.wins().await;
    scene.stage.thaw(in_use).await.expect("a server can be thawed");
}

async fn freeze_all(scene: &Scene) {
    for server in 0..scene.stage.servers() {
        scene.stage.freeze(server).await.expect("a server can be frozen");
    }
}

async fn thaw_all(scene: &Scene) {
    for server in 0..scene.stage.servers() {
        scene.stage.thaw(server).await.expect("a server can be thawed");
    }
}

/// The operation must fail, say why in the right words, and take no longer than it may.
async fn fails_in_time<T: std::fmt::Debug>(member: &Actor, what: &str, operation: impl Future<Output = Result<T, Error>>) -> Error {
    let begun = Instant::now();
    let outcome = operation.await;
    let took = begun.elapsed();
    assert!(took <= member.timing.retry_timeout + SLACK, "{what} took {took:?}");
    let error = outcome.expect_err(what);
    assert_eq!(error.kind, ErrorKind::Unavailable, "{what}: {}", error.chain());
    error
}

/// A load fails as well, each in its time. A store whose watch has just told everything may go by that for about a cycle.
async fn a_load_fails_in_time(member: &Actor) {
    let begun = Instant::now();
    loop {
        let load = member.dcs.load(member.soon());
        let outcome = tokio::time::timeout(member.timing.retry_timeout + SLACK, load).await.expect("a load ends in time");
        match outcome {
            Ok(_) => assert!(begun.elapsed() <= member.timing.loop_wait * 2 + SLACK, "loads go on as if nothing had happened"),
            Err(error) => return assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Nothing that the member can do works, and none of it hangs.
async fn everything_fails_in_time(a: &Actor, seen: &Leader) {
    a_load_fails_in_time(a).await;
    fails_in_time(a, "renew", a.dcs.renew_leader(seen, a.soon())).await;
    fails_in_time(a, "acquire", a.dcs.attempt_to_acquire_leader(a.soon())).await;
    fails_in_time(a, "release", a.dcs.release_leader(None, a.soon())).await;
    fails_in_time(a, "write config", a.dcs.set_config(&Map::new(), None, a.soon())).await;
    fails_in_time(a, "clear sync", a.dcs.delete_sync(None, a.soon())).await;
}

pub(super) async fn a59_nothing_answers_and_everything_ends_in_time(scene: Scene) {
    let (a, b) = led(&scene).await;
    let seen = a.leader().await.expect("a leads");
    freeze_all(&scene).await;
    everything_fails_in_time(&a, &seen).await;
    thaw_all(&scene).await;
    recovers(&a).await;
    recovers(&b).await;
}

/// The same client works again.
async fn recovers(member: &Actor) {
    recovers_within(member, member.timing.retry_timeout * 3).await;
}

async fn recovers_within(member: &Actor, patience: Duration) {
    eventually("recovery", patience, || async {
        member.dcs.load(Deadline::after(member.timing.retry_timeout)).await.map_err(|error| error.chain())
    })
    .await;
}

pub(super) async fn a60_a_short_freeze_is_outwaited(scene: Scene) {
    let (a, _) = led(&scene).await;
    let seen = a.leader().await.expect("a leads");
    let freeze = async || {
        freeze_all(&scene).await;
        tokio::time::sleep(a.timing.retry_timeout / 3).await;
        thaw_all(&scene).await;
    };
    tokio::join!(freeze(), async { drop(a.view().await) });
    let (_, lease) = tokio::join!(freeze(), a.renews(&seen));
    assert!(lease.is_some());
    assert!(a.releases().await);
    tokio::join!(freeze(), a.wins());
}

pub(super) async fn a61_all_servers_restart_with_their_data(scene: Scene) {
    let (a, b) = led(&scene).await;
    a.must("write config", a.dcs.set_config(&Map::from_iter([("ttl".to_owned(), 30.into())]), None, a.soon()).await);
    let seen = a.leader().await.expect("a leads");
    for server in 0..scene.stage.servers() {
        scene.stage.kill(server).await.expect("a server can be killed");
    }
    a_load_fails_in_time(&a).await;
    for server in 0..scene.stage.servers() {
        scene.stage.restart(server).await.expect("a server can be restarted");
    }
    // How long servers take to start is their affair.
    let patience = a.timing.retry_timeout * 12;
    recovers_within(&a, patience).await;
    recovers_within(&b, patience).await;
    let renewed = a.renews(&seen).await;
    let view = b.view().await;
    assert_eq!(view.leader_name() == Some(&a.name), renewed.is_some(), "held or lost, never both: {view:?}");
    assert!(view.config.is_some_and(|config| config.is_usable()), "the data is still there");
}

pub(super) async fn a62_slow_answers_are_awaited_and_very_slow_ones_are_not(scene: Scene) {
    let (a, link) = scene.member_behind_link("a").await;
    a.wins().await;
    assert!(a.releases().await);
    link.delay_answers(link.attempt().mul_f64(0.8)).await;
    a.view().await;
    a.wins().await;
    let seen = a.leader().await.expect("a leads");
    assert!(a.renews(&seen).await.is_some());

    link.delay_answers(link.attempt() * 3).await;
    everything_fails_in_time(&a, &seen).await;
    link.heal().await;
    recovers(&a).await;
}

pub(super) async fn a63_a_lost_answer_to_an_acquire_is_never_a_loss(scene: Scene) {
    let ((a, link), b) = (scene.member_behind_link("a").await, scene.member("b").await);
    for round in 0..3 {
        a.view().await;
        a.touch(&a.record()).await;
        link.lose_answers(true).await;
        let heal = async {
            tokio::time::sleep(link.attempt() / 2).await;
            link.lose_answers(false).await;
        };
        let deadline = Deadline::after(a.timing.retry_timeout.max(link.attempt() * 3));
        let (outcome, ()) = tokio::join!(a.dcs.attempt_to_acquire_leader(deadline), heal);
        let leads = b.view().await.leader_name() == Some(&a.name);
        match outcome {
            Ok(Acquisition::Won(lease)) => assert!(leads && lease.is_valid(a.clock.now()), "round {round}"),
            Ok(Acquisition::Lost(_)) => assert!(!leads, "round {round}: it leads and was told that it lost"),
            Err(error) => {
                assert_eq!(error.fate, Fate::Unknown, "round {round}: {}", error.chain());
                recovers(&a).await;
            }
        }
        if leads {
            assert!(a.leads_a_cycle().await.is_some(), "round {round}");
            assert!(a.releases().await, "round {round}");
        }
    }
}

pub(super) async fn a64_a_lost_answer_to_a_conditional_write_leaves_old_or_new(scene: Scene) {
    let ((a, link), b) = (scene.member_behind_link("a").await, scene.member("b").await);
    let config = |number: u64| Map::from_iter([("number".to_owned(), Value::from(number))]);
    let write = |number, expected: Option<Revision>| {
        let (dcs, config) = (a.dcs.clone(), config(number));
        let deadline = Deadline::after(a.timing.retry_timeout.max(link.attempt() * 3));
        async move { dcs.set_config(&config, expected.as_ref(), deadline).await }
    };
    // Views may be a moment old, so what was acknowledged is waited for.
    let shown_to_b = async |revision: &Revision| {
        eventually("what was acknowledged is shown", b.timing.retry_timeout, || async {
            match b.view().await.config {
                Some(config) if config.revision == *revision => Ok(config),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    };
    let Write::Applied(mut newest) = a.must("write config", write(0, None).await) else { panic!("nothing was asked of it") };
    for round in 1..=3 {
        let before = shown_to_b(&newest).await;
        link.lose_answers(true).await;
        let heal = async {
            tokio::time::sleep(link.attempt() / 2).await;
            link.lose_answers(false).await;
        };
        let (outcome, ()) = tokio::join!(write(round, Some(before.revision.clone())), heal);
        let after = b.view().await.config.expect("it is there");
        let is_new = after.data == Some(config(round));
        assert!(is_new || after == before, "round {round}: neither old nor new: {after:?}");
        match outcome {
            Ok(Write::Applied(revision)) => {
                let shown = shown_to_b(&revision).await;
                assert_eq!(shown.data, Some(config(round)), "round {round}");
            }
            Ok(Write::Refused) => {
                assert!(!is_new, "round {round}: it was written, and the writer was told that it was not")
            }
            Err(error) => assert_eq!(error.fate, Fate::Unknown, "round {round}: {}", error.chain()),
        }
        recovers(&a).await;
        newest = eventually("a write", a.timing.retry_timeout * 2, || async {
            let seen = a.view().await.config.expect("it is there").revision;
            match a.must("write again", write(round, Some(seen)).await) {
                Write::Applied(revision) => Ok(revision),
                Write::Refused => Err("refused, with what was shown a moment ago".to_owned()),
            }
        })
        .await;
    }
}

pub(super) async fn a66_a_member_that_was_cut_off_finds_its_lock_lost(scene: Scene) {
    let ((a, link), b) = (scene.member_behind_link("a").await, scene.member("b").await);
    let lease = a.wins().await;
    let seen = a.leader().await.expect("a leads");
    link.cut().await;
    a_load_fails_in_time(&a).await;
    fails_in_time(&a, "renew", a.dcs.renew_leader(&seen, a.soon())).await;
    eventually("the lock is free", scene.longest_life() * 2, || async {
        if b.acquires().await { Ok(()) } else { Err("it is still held".to_owned()) }
    })
    .await;
    assert!(!lease.is_valid(a.clock.now()), "two members believe in the lock");
    link.heal().await;
    recovers(&a).await;
    let theirs = b.leader().await;
    assert_eq!(a.renews(&seen).await, None);
    assert_eq!(b.leader().await, theirs);
}

pub(super) async fn a67_servers_restart_one_after_the_other(scene: Scene) {
    let (a, b) = led(&scene).await;
    for server in 0..scene.stage.servers() {
        scene.stage.kill(server).await.expect("a server can be killed");
        goes_on(&a, &b).await;
        scene.stage.restart(server).await.expect("a server can be restarted");
        // Until it has caught up, the next one must not stop.
        for _ in 0..3 {
            tokio::time::sleep(a.timing.loop_wait).await;
            goes_on(&a, &b).await;
        }
    }
}
