//! Watches that end, expire, or tell nothing any more.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::{Dcs, Interest, Wake};
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
    let failed = b.dcs.load(b.soon()).await;
    assert!(failed.is_err());
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
