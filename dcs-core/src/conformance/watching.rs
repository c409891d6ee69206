//! Waiting for changes (items 46 to 55).

use std::future::Future;
use std::time::Duration;

use serde_json::Map;

use super::Scene;
use super::scene::{Actor, eventually};
use crate::model::{FailoverRequest, Lsn, MemberRecord, Status};
use crate::{Interest, MemberInterest, Wake};

/// Within this time after the cause, a wait must have ended.
const PROMPT: Duration = Duration::from_secs(1);
/// So long somebody waits before something happens.
const BEFORE: Duration = Duration::from_millis(300);

/// Lets `watcher` wait while `cause` happens after a moment. Returns why the wait ended, and how long after the cause.
async fn wait_while(watcher: &Actor, interest: Interest, cause: impl Future<Output = ()>) -> (Wake, Duration) {
    let timeout = watcher.timing.loop_wait.max(Duration::from_secs(5));
    let cause = async {
        tokio::time::sleep(BEFORE).await;
        cause.await;
        watcher.clock.now()
    };
    let wait = async {
        let wake = watcher.dcs.wait(interest, timeout).await;
        (wake, watcher.clock.now())
    };
    let ((wake, ended), caused) = tokio::join!(wait, cause);
    (wake, ended.saturating_since(caused))
}

async fn wakes(watcher: &Actor, interest: Interest, cause: impl Future<Output = ()>) {
    watcher.view().await;
    let (wake, after) = wait_while(watcher, interest, cause).await;
    assert_eq!(wake, Wake::Changed, "{watcher:?} slept through it");
    assert!(after <= PROMPT, "{watcher:?} woke {after:?} after it");
}

async fn does_not_wake(watcher: &Actor, interest: Interest, cause: impl Future<Output = ()>) {
    watcher.view().await;
    let (wake, _) = wait_while(watcher, interest, cause).await;
    assert_eq!(wake, Wake::TimedOut, "{watcher:?} woke");
}

fn status(lsn: u64) -> Status {
    Status { last_lsn: Lsn(lsn), ..Status::default() }
}

async fn write_status(member: &Actor, lsn: u64) {
    member.must("write status", member.dcs.write_status(&status(lsn), false, member.soon()).await);
}

pub(super) async fn a46_a_release_wakes_within_a_second(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    let release = async { assert!(a.releases().await) };
    wakes(&b, Interest::FOLLOWER, release).await;
}

pub(super) async fn a47_an_expiry_wakes_within_two_seconds(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let lease = a.wins().await;
    b.view().await;
    let (wake, _) = b.waits(Interest::FOLLOWER, scene.longest_life() + Duration::from_secs(5)).await;
    let woken = b.clock.now();
    assert_eq!(wake, Wake::Changed);
    assert_eq!(b.leader().await, None, "it woke too early, or the expiry is not to be seen");
    let late = woken - (lease.sent_at() + scene.longest_life());
    assert!(late <= Duration::from_secs(2), "it woke {late:?} after the expiry");
}

pub(super) async fn a48_a_new_leader_wakes(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    wakes(&b, Interest::FOLLOWER, async { assert!(a.acquires().await) }).await;
}

pub(super) async fn a49_a_changed_configuration_wakes(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let write = async |number: u64| {
        let config = Map::from_iter([("ttl".to_owned(), number.into())]);
        a.must("write config", a.dcs.set_config(&config, None, a.soon()).await);
    };
    write(1).await;
    wakes(&b, Interest::FOLLOWER, write(2)).await;
    wakes(&b, Interest::LEADER, write(3)).await;
}

pub(super) async fn a49_a_failover_request_wakes(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let ask = async |leader: &str| {
        let request = FailoverRequest { leader: Some(leader.into()), ..FailoverRequest::default() };
        a.must("write failover", a.dcs.set_failover(&request, None, a.soon()).await);
    };
    wakes(&b, Interest::LEADER, ask("b")).await;
    wakes(&b, Interest::FOLLOWER, ask("a")).await;
}

pub(super) async fn a50_a_status_write_wakes_the_others_and_not_its_writer(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    if scene.profile.watches_everything {
        wakes(&b, Interest::FOLLOWER, write_status(&a, 1)).await;
    }
    does_not_wake(&a, Interest::LEADER, write_status(&a, 2)).await;
    // Nor from what it does with the keys that always wake the others.
    let own = async {
        a.must("write config", a.dcs.set_config(&Map::new(), None, a.soon()).await);
        a.must("clear failover", a.dcs.set_failover(&FailoverRequest::default(), None, a.soon()).await);
        assert!(a.leads_a_cycle().await.is_some());
    };
    does_not_wake(&a, Interest::LEADER, own).await;
}

pub(super) async fn a51_a_member_key_wakes_only_who_asks_for_it(scene: Scene) {
    let (a, b, c) = (scene.member("a").await, scene.member("b").await, scene.member("c").await);
    let touch = async |member: &Actor, state: &str, lsn: u64| {
        let record = MemberRecord { state: Some(state.to_owned()), xlog_location: Some(Lsn(lsn)), ..member.record() };
        member.touch(&record).await;
    };
    let of_members = |members| Interest { members, ..Interest::FOLLOWER };
    does_not_wake(&b, of_members(MemberInterest::None), touch(&a, "running", 1)).await;
    does_not_wake(&b, Interest::LEADER, touch(&a, "running", 2)).await;
    if scene.profile.watches_everything {
        wakes(&b, of_members(MemberInterest::Any), touch(&a, "running", 3)).await;
        wakes(&b, Interest::LEADER, touch(&a, "starting", 3)).await;
        wakes(&b, Interest::FOLLOWER, touch(&a, "running", 3)).await;
        wakes(&b, Interest::LEADER, touch(&c, "running", 1)).await;
    }
}

pub(super) async fn a52_wake_ends_a_wait_and_a_wake_before_it_ends_the_next(scene: Scene) {
    let a = scene.member("a").await;
    a.view().await;
    let long = Duration::from_secs(10);
    let (wake, after) = wait_while(&a, Interest::FOLLOWER, async { a.dcs.wake() }).await;
    assert_eq!(wake, Wake::Changed);
    assert!(after < Duration::from_millis(500), "{after:?}");
    let (wake, _) = a.waits(Interest::FOLLOWER, Duration::from_secs(1)).await;
    assert_eq!(wake, Wake::TimedOut, "the wake-up was used up");

    a.dcs.wake();
    let (wake, took) = a.waits(Interest::FOLLOWER, long).await;
    assert_eq!(wake, Wake::Changed);
    assert!(took < Duration::from_millis(500), "{took:?}");
    let (wake, _) = a.waits(Interest::FOLLOWER, Duration::from_secs(1)).await;
    assert_eq!(wake, Wake::TimedOut);
}

pub(super) async fn a53_nothing_happening_ends_a_wait_in_time(scene: Scene) {
    let a = scene.member("a").await;
    a.view().await;
    for interest in [Interest::FOLLOWER, Interest::LEADER] {
        for timeout in [Duration::from_millis(300), Duration::from_secs(2)] {
            let (wake, took) = a.waits(interest, timeout).await;
            assert_eq!(wake, Wake::TimedOut);
            let slack = (Duration::from_millis(100), Duration::from_millis(1_500));
            assert!(took + slack.0 >= timeout && took <= timeout + slack.1, "{took:?} instead of {timeout:?}");
        }
    }
}

pub(super) async fn a54_a_change_during_a_cut_is_noticed_after_it(scene: Scene) {
    let (a, (b, link)) = (scene.member("a").await, scene.member_behind_link("b").await);
    a.wins().await;
    b.view().await;
    let timeout = Duration::from_secs(30);
    let cut = async {
        tokio::time::sleep(BEFORE).await;
        link.cut().await;
        assert!(a.releases().await);
        tokio::time::sleep(Duration::from_secs(1)).await;
        link.heal().await;
        b.clock.now()
    };
    let wait = async {
        let (wake, _) = b.waits(Interest::FOLLOWER, timeout).await;
        (wake, b.clock.now())
    };
    let ((wake, woken), healed) = tokio::join!(wait, cut);
    assert_eq!(wake, Wake::Changed);
    // Two seconds after reconnecting, which takes an attempt and a pause.
    let within = Duration::from_secs(2) + link.attempt() + Duration::from_secs(2);
    assert!(woken.saturating_since(healed) <= within, "{:?} after healing", woken.saturating_since(healed));
}

pub(super) async fn a55_a_thousand_status_writes_do_not_make_the_waiter_spin(scene: Scene) {
    const WRITES: u64 = 1000;
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    b.view().await;
    let write = async {
        for lsn in 1..=WRITES {
            write_status(&a, lsn).await;
        }
    };
    let mut loads = 0;
    let watch = async {
        loop {
            let (wake, _) = b.waits(Interest::FOLLOWER, b.timing.loop_wait).await;
            loads += 1;
            if b.view().await.status.last_lsn == Lsn(WRITES) {
                return;
            }
            assert!(wake == Wake::Changed || !scene.profile.watches_everything || loads > 1, "nothing woke it");
        }
    };
    tokio::join!(write, watch);
    assert!(loads <= WRITES + 10, "{loads} loads for {WRITES} writes");
    // What is left to report is reported once, and then it is quiet.
    eventually("quiet", Duration::from_secs(10), || async {
        match b.waits(Interest::FOLLOWER, Duration::from_millis(500)).await {
            (Wake::TimedOut, _) => Ok(()),
            (Wake::Changed, took) => Err(format!("woken after {took:?}")),
        }
    })
    .await;
}
