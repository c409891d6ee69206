//! What a member is shown while its watch runs (ours, 76 to 78): a store may then serve views without asking anybody, and
//! none of that may be seen from outside.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::Scene;
use super::scene::{Actor, eventually};
use crate::model::{ClusterView, Lsn, MemberRecord, Revision};
use crate::{Interest, Wake, Write};

/// So long a watch gets to begin, and a store to find out that nothing happens.
const WARM: Duration = Duration::from_millis(500);

fn config(number: u64) -> Map<String, Value> {
    Map::from_iter([("number".to_owned(), number.into())])
}

fn number(view: &ClusterView) -> Option<u64> {
    view.config.as_ref()?.data.as_ref()?.get("number")?.as_u64()
}

async fn write(member: &Actor, value: u64) -> Revision {
    match member.must("write config", member.dcs.set_config(&config(value), None, member.soon()).await) {
        Write::Applied(revision) => revision,
        Write::Refused => panic!("nothing was asked of the configuration"),
    }
}

/// Runs as an agent does for some cycles in which nothing happens.
async fn idles(member: &Actor) {
    for _ in 0..3 {
        member.view().await;
        member.touch(&member.record()).await;
        member.waits(Interest::FOLLOWER, WARM).await;
    }
}

pub(super) async fn a76_what_woke_a_member_is_in_its_next_view(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    write(&a, 0).await;
    idles(&b).await;
    for round in 1..=20 {
        let change = async {
            tokio::task::yield_now().await;
            write(&a, round).await
        };
        let wait = async {
            let (wake, _) = b.waits(Interest::FOLLOWER, Duration::from_secs(5)).await;
            assert_eq!(wake, Wake::Changed, "round {round}");
            b.view().await
        };
        let (written, view) = tokio::join!(change, wait);
        // It may have been woken by the round before; then this one is still to come.
        let newest = number(&view).expect("it was written");
        assert!(newest + 1 >= round, "round {round}: woken and shown {newest}");
        eventually("the newest configuration", Duration::from_secs(2), || async {
            let view = b.view().await;
            if number(&view) != Some(round) {
                return Err(format!("{:?}", number(&view)));
            }
            assert_eq!(view.config.map(|config| config.revision), Some(written.clone()), "round {round}");
            Ok(())
        })
        .await;
    }
}

pub(super) async fn a77_a_member_is_shown_its_own_writes_while_its_watch_runs(scene: Scene) {
    let a = scene.member("a").await;
    write(&a, 0).await;
    idles(&a).await;
    for round in 1..=30 {
        let written = write(&a, round).await;
        let view = a.view().await;
        assert_eq!(number(&view), Some(round));
        assert_eq!(view.config.map(|config| config.revision), Some(written), "round {round}");

        let record = MemberRecord { xlog_location: Some(Lsn(round)), ..a.record() };
        a.touch(&record).await;
        let view = a.view().await;
        let shown = view.members.iter().find(|member| member.name == a.name).and_then(|member| member.record.xlog_location);
        assert_eq!(shown, Some(Lsn(round)), "round {round}");
    }
    a.wins().await;
    assert_eq!(a.leader().await.map(|leader| leader.name), Some(a.name.clone()));
    assert!(a.releases().await);
    assert_eq!(a.leader().await, None);
    a.must("delete the cluster", a.dcs.delete_cluster(a.soon()).await);
    assert_eq!(number(&a.view().await), None);
}

pub(super) async fn a78_a_member_that_is_cut_off_is_not_shown_the_past_for_long(scene: Scene) {
    let (a, (b, link)) = (scene.member("a").await, scene.member_behind_link("b").await);
    write(&a, 0).await;
    idles(&b).await;
    link.cut().await;
    write(&a, 1).await;
    let cut = Instant::now();
    // One period, and then one question that has to fail.
    let longest = b.timing.loop_wait + b.timing.retry_timeout * 2;
    eventually("that nothing is shown", longest, || async {
        match b.dcs.load(b.soon()).await {
            Ok(view) => Err(format!("{:?} after {:?}", number(&view), cut.elapsed())),
            Err(_) => Ok(()),
        }
    })
    .await;
    link.heal().await;
    eventually("a view", b.timing.retry_timeout * 3, || async {
        let view = b.dcs.load(b.soon()).await.map_err(|error| error.chain())?;
        assert_eq!(number(&view), Some(1), "what is shown is what is there");
        Ok(())
    })
    .await;
}
