//! Member keys, as long as nothing expires (items 28, 30, 32).

use super::Scene;
use crate::Touched;
use crate::model::MemberRecord;

pub(super) async fn a28_a_member_is_written_only_when_it_changed(scene: Scene) {
    let (a, hand) = (scene.member("a").await, scene.outside().await);
    assert_eq!(a.touch(&a.record()).await, Touched::Written);
    let first = hand.get("members/a").await.expect("it was written");
    for _ in 0..3 {
        a.view().await;
        let needed = if scene.profile.liveness_per_key { Touched::Written } else { Touched::Unchanged };
        assert_eq!(a.touch(&a.record()).await, needed);
    }
    let same = hand.get("members/a").await.expect("it is there");
    assert_eq!(same.value, first.value);
    assert_eq!(same == first, !scene.profile.liveness_per_key, "it was written without need, or not kept alive");
    let changed = MemberRecord { state: Some("stopped".to_owned()), ..a.record() };
    assert_eq!(a.touch(&changed).await, Touched::Written);
    let second = hand.get("members/a").await.expect("it is there");
    assert_ne!(second.revision, first.revision);
    assert_eq!(a.view().await.members.into_iter().map(|member| member.record).collect::<Vec<_>>(), [changed]);
}

pub(super) async fn a30_a_destroyed_handle_is_replaced_within_two_calls(scene: Scene) {
    let (a, hand) = (scene.member("a").await, scene.outside().await);
    a.touch(&a.record()).await;
    let before = hand.get("members/a").await.expect("it was written");
    hand.revoke(&before).await;
    assert_eq!(hand.get("members/a").await, None, "its handle took it along");
    for _ in 0..2 {
        tokio::time::sleep(a.timing.loop_wait).await;
        a.view().await;
        // The first call may find out only that the handle is gone.
        let _ = a.dcs.touch_member(&a.record(), a.soon()).await;
    }
    let after = hand.get("members/a").await.expect("it is back");
    assert_ne!(after.handle, before.handle);
}

pub(super) async fn a32_releasing_the_lock_leaves_the_member(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.wins().await;
    a.touch(&a.record()).await;
    assert!(a.releases().await);
    // Not longer than one cycle, on stores that can release only by ending the session.
    a.view().await;
    a.touch(&a.record()).await;
    assert!(b.view().await.member(&a.name).is_some());
    assert!(a.acquires().await, "its handle is as good as before");
}

pub(super) async fn a32_member_and_leader_hang_on_one_handle(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    a.touch(&a.record()).await;
    a.wins().await;
    let view = b.view().await;
    let member = view.member(&a.name).and_then(|member| member.handle.clone());
    assert_eq!(view.leader.and_then(|leader| leader.handle), member);
}
