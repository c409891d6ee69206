//! The leader lock, as long as nothing expires (items 10 to 14, 16 to 22, 25, 26, 72).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Scene;
use crate::model::{Lsn, Status};
use crate::{Acquisition, Renewal};

pub(super) async fn a10_acquire_on_a_free_lock_wins(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    let lease = a.wins().await;
    assert!(lease.is_valid(a.clock.now()));
    for member in [&a, &b] {
        assert_eq!(member.view().await.leader_name(), Some(&a.name));
    }
}

pub(super) async fn a11_acquire_on_a_held_lock_loses_and_changes_nothing(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    let before = b.leader().await;
    match b.attempt().await {
        Acquisition::Lost(holder) => assert!(holder.is_none_or(|holder| holder == a.name)),
        Acquisition::Won(_) => panic!("two leaders"),
    }
    assert_eq!(b.leader().await, before);
}

pub(super) async fn a12_acquiring_again_does_not_extend_the_belief(scene: Scene) {
    let a = scene.member("a").await;
    let first = a.wins().await;
    tokio::time::sleep(a.timing.loop_wait / 4).await;
    if let Acquisition::Won(second) = a.attempt().await {
        // Either nothing new was learned, or the store was asked anew.
        assert!(second == first || second.sent_at() > first.sent_at(), "{first:?} {second:?}");
        assert!(second.valid_until() <= a.clock.now() + a.timing.ttl);
    }
    assert_eq!(a.view().await.leader_name(), Some(&a.name));
}

pub(super) async fn a13_two_at_the_same_instant_have_one_winner(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    for round in 0..100 {
        let (a_won, b_won) = tokio::join!(a.acquires(), b.acquires());
        assert!(a_won != b_won, "round {round}: a {a_won}, b {b_won}");
        let winner = if a_won { &a } else { &b };
        assert_eq!(b.view().await.leader_name(), Some(&winner.name), "round {round}");
        assert!(winner.releases().await, "round {round}");
    }
}

pub(super) async fn a14_ten_at_once_have_one_winner(scene: Scene) {
    let mut members = Vec::new();
    for number in 0..10 {
        members.push(scene.member(&format!("m{number}")).await);
    }
    for round in 0..20 {
        let won = futures::future::join_all(members.iter().map(|member| member.acquires())).await;
        let winners: Vec<_> = members.iter().zip(&won).filter(|(_, won)| **won).map(|(member, _)| member).collect();
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        assert_eq!(members[0].view().await.leader_name(), Some(&winners[0].name), "round {round}");
        assert!(winners[0].releases().await, "round {round}");
    }
}

pub(super) async fn a16_renewal_by_a_non_holder_is_lost_and_leaves_the_key(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    let before = a.leader().await.expect("a leads");
    assert_eq!(b.renews(&before).await, None);
    assert_eq!(a.leader().await, Some(before.clone()));
    assert!(a.renews(&before).await.is_some());
}

pub(super) async fn a17_renewal_after_the_key_was_deleted_brings_it_back(scene: Scene) {
    let (a, hand) = (scene.member("a").await, scene.outside().await);
    a.wins().await;
    let seen = a.leader().await.expect("a leads");
    hand.delete("leader").await;
    let renewed = a.renews(&seen).await.is_some();
    assert_eq!(renewed, scene.profile.recreates_lock);
    assert_eq!(a.view().await.leader_name(), renewed.then_some(&a.name));
}

pub(super) async fn a18_renewal_after_somebody_else_took_the_lock_is_lost(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    let seen = a.leader().await.expect("a leads");
    tokio::time::sleep(scene.longest_life()).await;
    b.wins().await;
    let theirs = b.leader().await;
    assert_eq!(a.renews(&seen).await, None);
    assert_eq!(a.leader().await, theirs);
}

pub(super) async fn a19_release_frees_the_lock_at_once(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    assert!(a.releases().await);
    assert_eq!(a.leader().await, None);
    b.wins().await;
}

pub(super) async fn a20_release_by_a_non_holder_changes_nothing(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    assert!(!b.releases().await, "nobody holds it");
    a.wins().await;
    let before = a.view().await;
    let released = b.must("release", b.dcs.release_leader(Some(Lsn(42)), b.soon()).await);
    assert!(!released);
    assert_eq!(a.view().await, before);
}

pub(super) async fn a21_release_publishes_the_final_position_and_keeps_the_slots(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    let slots = Some(BTreeMap::from([("b".to_owned(), Lsn(7))]));
    let status = Status { last_lsn: Lsn(10), slots, retain_slots: vec!["c".to_owned()] };
    a.must("write status", a.dcs.write_status(&status, false, a.soon()).await);

    // Whoever sees the lock free sees the position as well.
    let release = async { a.must("release", a.dcs.release_leader(Some(Lsn(42)), a.soon()).await) };
    let watch = async {
        loop {
            let view = b.view().await;
            if view.is_unlocked() {
                return view;
            }
        }
    };
    let (released, view) = tokio::join!(release, watch);
    assert!(released);
    assert_eq!(view.status, Status { last_lsn: Lsn(42), ..status });
}

pub(super) async fn a22_take_leader_on_a_free_lock_wins(scene: Scene) {
    let a = scene.member("a").await;
    let taken = a.must("take the lock", a.dcs.take_leader(a.soon()).await);
    assert!(matches!(taken, Acquisition::Won(lease) if lease.is_valid(a.clock.now())), "{taken:?}");
    assert_eq!(a.view().await.leader_name(), Some(&a.name));
    assert!(a.leads_a_cycle().await.is_some());
}

pub(super) async fn a25_a_leader_cycle_writes_status_and_failsafe_after_the_lock(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    let seen = a.leader().await.expect("a leads");
    let lease = a.renews(&seen).await.expect("nobody else is there");
    let failsafe = Map::from_iter([("a".to_owned(), Value::from("http://a:8008/patroni"))]);
    assert!(a.must("write", a.dcs.write_status(&status(1), true, a.soon()).await));
    assert!(a.must("write", a.dcs.write_failsafe(&failsafe, a.soon()).await));
    assert!(lease.is_valid(a.clock.now()));
    let view = b.view().await;
    assert_eq!((view.status, view.failsafe), (status(1), Some(Value::Object(failsafe))));

    // The same cycle of a member that does not hold the lock stops before it writes.
    let renewal = b.must("renew", b.dcs.renew_leader(&seen, b.soon()).await);
    assert_eq!(renewal, Renewal::Lost);
    assert_eq!(b.view().await.status, status(1));
}

fn status(lsn: u64) -> Status {
    Status { last_lsn: Lsn(lsn), ..Status::default() }
}

pub(super) async fn a26_unchanged_status_and_failsafe_are_not_written(scene: Scene) {
    let (a, hand) = (scene.member("a").await, scene.outside().await);
    a.wins().await;
    let failsafe = Map::from_iter([("a".to_owned(), Value::from("http://a:8008/patroni"))]);
    a.must("write", a.dcs.write_status(&status(1), false, a.soon()).await);
    a.must("write", a.dcs.write_failsafe(&failsafe, a.soon()).await);
    let before = (hand.get("status").await, hand.get("failsafe").await);
    for member in [a.clone(), scene.member("a").await] {
        member.view().await;
        assert!(!member.must("write", member.dcs.write_status(&status(1), false, member.soon()).await));
        assert!(!member.must("write", member.dcs.write_failsafe(&failsafe, member.soon()).await));
    }
    assert_eq!((hand.get("status").await, hand.get("failsafe").await), before);
    assert!(a.must("write", a.dcs.write_status(&status(2), false, a.soon()).await));
}

pub(super) async fn a72_a_leader_cycle_needs_three_requests(scene: Scene) {
    let a = scene.member("a").await;
    a.wins().await;
    a.touch(&a.record()).await;
    let requests = || scene.stage.requests().expect("the harness counts requests");
    for lsn in 1..=5 {
        tokio::time::sleep(a.timing.loop_wait).await;
        let before = requests();
        let seen = a.leader().await.expect("a leads");
        a.renews(&seen).await.expect("nobody else is there");
        a.touch(&a.record()).await;
        a.must("write", a.dcs.write_status(&status(lsn), false, a.soon()).await);
        let sent = requests() - before;
        assert!(sent <= 3, "{sent} requests: load, renew and status are enough, the member key has not changed");
    }
}
