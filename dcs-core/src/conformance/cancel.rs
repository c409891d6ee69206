//! Dropping what is under way (item 71).

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use serde_json::Map;

use super::Scene;
use super::scene::eventually;
use crate::Interest;
use crate::model::{Lsn, Status};

/// Polls `operation` a few times and drops it, finished or not.
async fn begin<F: Future>(operation: F, polls: usize) {
    let mut operation = pin!(operation);
    for _ in 0..polls {
        if futures::poll!(operation.as_mut()).is_ready() {
            return;
        }
        // Long enough for an answer to arrive, so that the next poll goes one step further.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(super) async fn a71_dropping_any_future_leaves_the_client_usable(scene: Scene) {
    let (a, b) = (scene.member("a").await, scene.member("b").await);
    for polls in 1..12 {
        begin(a.dcs.load(a.soon()), polls).await;
        begin(a.dcs.touch_member(&a.record(), a.soon()), polls).await;
        begin(a.dcs.attempt_to_acquire_leader(a.soon()), polls).await;
        begin(a.dcs.wait(Interest::FOLLOWER, Duration::from_secs(5)), polls).await;
        // Whatever became of the attempt, a load tells, and a renewal proves it.
        if let Some(seen) = a.leader().await {
            assert_eq!(seen.name, a.name);
            begin(a.dcs.renew_leader(&seen, a.soon()), polls).await;
            let status = Status { last_lsn: Lsn(polls as u64), ..Status::default() };
            begin(a.dcs.write_status(&status, false, a.soon()), polls).await;
            a.must("write status", a.dcs.write_status(&status, false, a.soon()).await);
            assert_eq!(b.view().await.status, status);
            assert!(a.renews(&seen).await.is_some());
        }
        begin(a.dcs.set_config(&Map::new(), None, a.soon()), polls).await;
        begin(a.dcs.release_leader(Some(Lsn(42)), a.soon()), polls).await;
        // A release that was dropped may still happen; asked for again, it has happened when it returns.
        a.releases().await;
        eventually("the lock is free", a.timing.retry_timeout, || async {
            match b.leader().await {
                None => Ok(()),
                Some(leader) => Err(format!("{leader:?}")),
            }
        })
        .await;
        b.wins().await;
        assert!(b.releases().await);
    }
    // After all that the client still does a whole life.
    a.wins().await;
    assert!(a.leads_a_cycle().await.is_some());
    assert!(a.releases().await);
}
