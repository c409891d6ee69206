//! What time does to the lock and to members (items 15, 23, 24, 27, 29, 31, 65).

use std::time::Duration;

use super::Scene;
use super::scene::{Actor, eventually};
use crate::{LeaderLease, Moment, Timing};

/// How much earlier than its ttl an abandoned key may be seen to be gone: what a poll and a clock's granularity cost.
const EARLY: Duration = Duration::from_secs(1);
/// What looking costs.
const LATE: Duration = Duration::from_millis(500);

pub(super) async fn a15_a_renewed_lock_outlives_its_ttl(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    let begun = a.clock.now();
    while a.clock.now() - begun < a.timing.ttl * 2 {
        tokio::time::sleep(a.timing.loop_wait).await;
        let lease = a.leads_a_cycle().await.expect("the lock is renewed in time");
        assert!(lease.is_valid(a.clock.now()));
        assert!(!b.acquires().await);
    }
}

pub(super) async fn a23_an_abandoned_lock_lives_its_ttl_and_no_longer(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    tokio::time::sleep(a.timing.loop_wait).await;
    let seen = a.leader().await.expect("a leads");
    let lease = a.renews(&seen).await.expect("nobody else is there");
    let gone = lock_is_gone(&scene, &b).await;
    check_life(&scene, lease, gone);
}

/// Waits until nobody holds the lock.
async fn lock_is_gone(scene: &Scene, watcher: &Actor) -> Moment {
    eventually("the expiry of the lock", scene.longest_life() * 2, || async {
        match watcher.leader().await {
            None => Ok(watcher.clock.now()),
            Some(leader) => Err(format!("{leader:?}")),
        }
    })
    .await
}

fn check_life(scene: &Scene, lease: LeaderLease, gone: Moment) {
    let lived = gone - lease.sent_at();
    let believed = lease.valid_until() - lease.sent_at();
    assert!(gone >= lease.valid_until(), "it was gone after {lived:?}, while its holder believed in it for {believed:?}");
    assert!(lived + EARLY >= scene.timing.ttl, "it lived for {lived:?} only");
    assert!(lived <= scene.longest_life() + LATE, "it lived for {lived:?}");
}

pub(super) async fn a24_an_expired_lock_is_acquired_without_delay(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    lock_is_gone(&scene, &b).await;
    let begun = b.clock.now();
    b.wins().await;
    let took = b.clock.now() - begun;
    assert!(took < Duration::from_secs(1), "it took {took:?}");
}

pub(super) async fn a27_a_changed_ttl_keeps_the_lock_and_takes_effect(scene: Scene) {
    let (mut a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    a.touch(&a.record()).await;
    let ttl = scene.timing.ttl + Duration::from_secs(2);
    a.timing = Timing { ttl, ..scene.timing };
    a.dcs.set_timing(a.timing);
    let mut lease = None;
    for _ in 0..2 {
        lease = a.leads_a_cycle().await;
        assert_eq!(b.view().await.leader_name(), Some(&a.name), "the lock was never free");
    }
    let lease = lease.expect("the lock is kept");
    assert!(lease.valid_until() - lease.sent_at() > scene.timing.ttl, "{lease:?}");
    let gone = lock_is_gone(&scene, &b).await;
    assert!(gone >= lease.valid_until());
    assert!(gone - lease.sent_at() <= ttl + scene.profile.expiry_granularity + LATE);
}

pub(super) async fn a29_an_abandoned_member_vanishes_after_its_ttl(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let before = a.clock.now();
    a.touch(&a.record()).await;
    let written = a.clock.now();
    let gone = eventually("the expiry of the member", scene.longest_life() * 2, || async {
        let members = b.view().await.members;
        if members.is_empty() { Ok(b.clock.now()) } else { Err(format!("{members:?}")) }
    })
    .await;
    assert!(gone - before + EARLY >= scene.timing.ttl, "it lived for {:?} only", gone - before);
    assert!(gone - written <= scene.longest_life() + LATE, "it lived for {:?}", gone - written);
}

pub(super) async fn a31_keys_of_an_earlier_process_are_taken_over(scene: Scene) {
    let (first, b) = (scene.member("a").await, scene.member("b").await);
    first.wins().await;
    first.touch(&first.record()).await;

    // The process was killed and is started again: same name, new handle.
    let second = scene.member("a").await;
    let before = b.leader().await;
    assert!(!second.acquires().await, "acquiring never overwrites, not even a key of our own name");
    assert_eq!(b.leader().await, before);
    let begun = second.clock.now();
    assert!(second.leads_a_cycle().await.is_some(), "the lock carries our name");
    let took = second.clock.now() - begun;
    assert!(took < scene.timing.ttl / 2, "it took {took:?}");
    let view = b.view().await;
    let member = view.member(&second.name).and_then(|member| member.handle.clone());
    let leader = view.leader.and_then(|leader| leader.handle);
    assert!(leader == member || scene.profile.liveness_per_key, "both keys hang on the new handle");

    // Past the end of the first handle, with renewals by the second process only.
    while second.clock.now() - begun < scene.longest_life() + scene.timing.loop_wait {
        tokio::time::sleep(scene.timing.loop_wait).await;
        assert!(second.leads_a_cycle().await.is_some(), "the end of the first handle took the lock along");
        let view = b.view().await;
        assert_eq!(view.leader_name(), Some(&second.name));
        assert!(view.member(&second.name).is_some(), "the end of the first handle took the member along");
        assert!(!b.acquires().await);
    }
}

pub(super) async fn a65_a_member_that_slept_past_its_ttl_does_not_believe_in_its_lock(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let lease = a.wins().await;
    let seen = a.leader().await.expect("a leads");
    tokio::time::sleep(scene.timing.ttl * 2 + scene.profile.expiry_granularity).await;
    assert!(!lease.is_valid(a.clock.now()));
    b.wins().await;
    assert_eq!(a.renews(&seen).await, None, "the lock is somebody else's");
    assert_eq!(b.view().await.leader_name(), Some(&b.name));

    // The other way: nobody took it meanwhile.
    let seen = b.leader().await.expect("b leads");
    tokio::time::sleep(scene.timing.ttl * 2 + scene.profile.expiry_granularity).await;
    let renewed = b.renews(&seen).await;
    // Where a lock expires only in the eyes of others, it is still there to be renewed.
    assert!(renewed.is_some() || !scene.profile.recreates_lock);
    assert_eq!(a.view().await.leader_name(), renewed.map(|_| &b.name));
    if let Some(lease) = renewed {
        assert!(lease.is_valid(b.clock.now()));
    }
}
