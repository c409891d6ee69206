//! Watches that end, expire, or tell nothing any more.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::{Dcs, Interest, Timing, Wake};
use serde_json::Map;
use store_servers::{Servers, eventually};

use crate::support::middle::{Fault, Middle, Request};
use crate::{Outcome, Place, TIMING};

/// What a server says of a version that it does not remember.
const EXPIRED: &str = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"too old resource version: 1 (99)\",\"reason\":\"Expired\",\"code\":410}}\n";

async fn a_change_wakes_whoever_waits(servers: Arc<Servers>, fault: Option<Fault>) -> Result<Middle, dcs_core::BoxError> {
    let place = Place::with_config_maps(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    if let Some(fault) = fault {
        middle.meet(Request::Watch, fault, 4);
    }
    let (a, b) = (place.member("a", "10.0.0.1").await?, place.member_behind("b", &middle).await?);
    a.dcs.set_config(&Map::new(), None, a.soon()).await?;
    eventually("the first watches are over", TIMING.retry_timeout, || async {
        if middle.count(Request::Watch) >= 4 { Ok(()) } else { Err(format!("{} watches", middle.count(Request::Watch))) }
    })
    .await;
    b.dcs.load(b.soon()).await?;
    let change = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        a.wins().await
    };
    let (wake, won) = tokio::join!(b.dcs.wait(Interest::FOLLOWER, Duration::from_secs(10)), change);
    won?;
    assert_eq!(wake, Wake::Changed);
    eventually("it has seen who leads", TIMING.retry_timeout, || async {
        let leader = b.leader().await.map_err(|error| error.to_string())?;
        if leader.as_deref() == Some("a") { Ok(()) } else { Err(format!("{leader:?}")) }
    })
    .await;
    Ok(middle)
}

pub(super) async fn an_expired_watch_is_listed_again_and_loses_nothing(servers: Arc<Servers>) -> Outcome {
    let middle = a_change_wakes_whoever_waits(servers, Some(Fault::Answer(200, EXPIRED))).await?;
    let lists = middle.count(Request::List);
    assert!(lists >= 4, "{lists} lists");
    Ok(())
}

pub(super) async fn a_watch_that_ends_goes_on(servers: Arc<Servers>) -> Outcome {
    // It ends at once, and nothing was said.
    let middle = a_change_wakes_whoever_waits(servers, Some(Fault::Answer(200, ""))).await?;
    assert_eq!(middle.count(Request::List), 2, "where it was is known");
    Ok(())
}

pub(super) async fn a_watch_that_tells_nothing_any_more_is_found_out(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(Arc::clone(&servers)).await?;
    let link = dcs_core::conformance::proxy::Proxy::start(servers.addresses()[0]).await?;
    let user = serde_json::json!({"token": crate::ADMIN});
    let config = crate::with_kubeconfig(&servers, &place.section(), link.address(), &user)?;
    let (a, b) = (place.member("a", "10.0.0.1").await?, place.member_with("b", "10.0.0.2", config).await?);
    a.wins().await?;
    b.dcs.load(b.soon()).await?;
    // What is open stays open and tells nothing, for longer than an attempt may take.
    link.cut();
    eventually("nothing is remembered any more", TIMING.retry_timeout * 2, || async {
        match b.dcs.load(b.soon()).await {
            Ok(view) => Err(format!("{view:?}")),
            Err(_) => Ok(()),
        }
    })
    .await;
    let config = Map::from_iter([("ttl".to_owned(), 30.into())]);
    a.dcs.set_config(&config, None, a.soon()).await?;
    link.heal();
    eventually("what was written meanwhile is seen", TIMING.retry_timeout * 2, || async {
        let view = b.dcs.load(b.soon()).await.map_err(|error| error.chain())?;
        if view.config.is_some_and(|config| config.is_usable()) { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    Ok(())
}

pub(super) async fn a_cycle_asks_nothing_but_the_renewal_while_there_is_one_and_something_otherwise(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    let (a, b) = (place.member("a", "10.0.0.1").await?, place.member_behind("b", &middle).await?);
    // Longer than the machine may need to pass an event on.
    b.dcs.set_timing(Timing { loop_wait: Duration::from_secs(10), ..TIMING });
    let count = || [Request::Get, Request::List, Request::Patch, Request::PatchPod, Request::Create].map(|kind| middle.count(kind));
    let waits = || b.dcs.wait(Interest::FOLLOWER, TIMING.loop_wait);
    a.wins().await?;
    b.touches("running", "replica").await?;
    assert_eq!(b.leader().await?.as_deref(), Some("a"));

    let idle = count();
    for _ in 0..3 {
        let (kept, wake) = tokio::join!(a.keeps(), waits());
        kept?;
        assert_eq!(wake, Wake::TimedOut, "a renewal is no news");
        assert_eq!(b.leader().await?.as_deref(), Some("a"));
        b.touches("running", "replica").await?;
    }
    assert_eq!(count(), idle, "the renewals that the watch told of say enough");

    // Nobody renews any more.
    let asked = |before: [usize; 5]| [before[0] + 1, before[1], before[2], before[3], before[4]];
    b.dcs.set_timing(TIMING);
    eventually("the server is asked", TIMING.loop_wait * 5, || async {
        let leader = b.leader().await.map_err(|error| error.to_string())?;
        if leader.as_deref() == Some("a") && count() == asked(idle) { Ok(()) } else { Err(format!("{leader:?}, {:?}", count())) }
    })
    .await;
    // Nobody leads.
    let before = count();
    let (released, wake) = tokio::join!(a.dcs.release_leader(None, a.soon()), waits());
    assert_eq!((released?, wake), (true, Wake::Changed));
    assert_eq!(b.leader().await?, None);
    assert_eq!(count(), asked(before), "whoever may lead next looks for itself");
    // Whoever leads hears of its own renewals: they are all that it asks.
    b.dcs.set_timing(Timing { loop_wait: Duration::from_secs(10), ..TIMING });
    b.wins().await?;
    assert_eq!(b.leader().await?.as_deref(), Some("b"));
    for _ in 0..3 {
        eventually("the watch tells of the renewal", TIMING.loop_wait * 5, || async {
            let before = count();
            b.keeps().await.map_err(|error| error.to_string())?;
            let leader = b.leader().await.map_err(|error| error.to_string())?;
            let renewed = [before[0], before[1], before[2] + 1, before[3], before[4]];
            if leader.as_deref() == Some("b") && count() == renewed { Ok(()) } else { Err(format!("{leader:?}, {:?}", count())) }
        })
        .await;
    }
    Ok(())
}

/// Whoever may hold the lock cannot look away for an hour.
pub(super) async fn a_list_is_asked_for_again_in_the_next_cycle_whatever_pause_was_asked_for(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    middle.meet(Request::List, Fault::Headers(503, &[("retry-after", "3600")]), 1);
    place.member_behind("a", &middle).await?;
    assert_eq!(middle.answered(503), [Request::List]);
    Ok(())
}
