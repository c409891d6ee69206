//! The lock: conflicts, lost answers, subsets, transitions.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::conformance::proxy::Proxy;
use dcs_core::election::Election;
use dcs_core::model::{Lsn, Status};
use dcs_core::{Acquisition, BootClock, BoxError, Clock, Dcs, Deadline, Renewal};
use serde_json::{Value, json};
use store_servers::Servers;
use store_servers::apiserver::ADMIN;

use crate::support::middle::{Fault, Middle, Request};
use crate::support::{TIMING, as_admin, with_kubeconfig};
use crate::{Outcome, Place, annotation};

pub(super) async fn leader_and_address_change_in_one_request(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(servers).await?;
    let (a, b) = (place.member("a", "10.0.0.1").await?, place.member("b", "10.0.0.2").await?);
    let version = {
        a.wins().await?;
        let object = place.object(&place.leader_path()).await?;
        let subset = &object["subsets"][0];
        assert_eq!(subset["addresses"][0]["ip"], "10.0.0.1");
        let target = &subset["addresses"][0]["targetRef"];
        assert_eq!((&target["kind"], &target["name"], &target["namespace"]), (&json!("Pod"), &json!("a"), &json!(place.namespace)));
        assert_eq!(subset["ports"], json!([{"port": 5432, "protocol": "TCP"}]));
        object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
    };
    for _ in 0..5 {
        a.keeps().await?;
        assert!(a.dcs.release_leader(Some(Lsn(42)), a.soon()).await?);
        b.wins().await?;
        assert!(b.dcs.release_leader(None, b.soon()).await?);
        a.wins().await?;
    }
    // Every state that anybody could have seen.
    let path = format!("/api/v1/namespaces/{}/endpoints?watch=true&timeoutSeconds=1&resourceVersion={version}", place.namespace);
    let (_, events) = place.api.ask("GET", &path, "", None).await?;
    let events = events.as_str().ok_or("several lines")?;
    let mut states = 0;
    for line in events.lines() {
        let event: Value = serde_json::from_str(line)?;
        let object = &event["object"];
        if object["metadata"]["name"] != crate::SCOPE {
            continue;
        }
        let address = object["subsets"][0]["addresses"][0]["ip"].as_str();
        let expected = annotation(object, "leader").map(|leader| if leader == "a" { "10.0.0.1" } else { "10.0.0.2" });
        assert_eq!(address, expected, "{object}");
        states += 1;
    }
    assert!(states >= 20, "{states} states");
    Ok(())
}

pub(super) async fn transitions_count_changes_of_leader_and_acquire_time_stays(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(servers).await?;
    let (a, b) = (place.member("a", "10.0.0.1").await?, place.member("b", "10.0.0.2").await?);
    let shown = async || -> Result<[String; 3], BoxError> {
        let object = place.object(&place.leader_path()).await?;
        Ok(["transitions", "acquireTime", "renewTime"].map(|name| annotation(&object, name).unwrap_or_default().to_owned()))
    };
    a.wins().await?;
    let [transitions, acquired, renewed] = shown().await?;
    assert_eq!(transitions, "0");
    assert!(renewed.ends_with("+00:00") && renewed.len() == "2026-01-01T00:00:00.000000+00:00".len(), "{renewed}");
    for _ in 0..3 {
        a.keeps().await?;
    }
    let [transitions, still, later] = shown().await?;
    assert_eq!((transitions.as_str(), &still), ("0", &acquired));
    assert!(later > renewed);

    assert!(a.dcs.release_leader(None, a.soon()).await?);
    b.wins().await?;
    let [transitions, of_b, _] = shown().await?;
    assert_eq!(transitions, "1");
    assert!(of_b > acquired);
    // Whoever takes a lock again that was its own all the time goes on where it was.
    tokio::time::sleep(TIMING.ttl + Duration::from_millis(500)).await;
    b.wins().await?;
    let [transitions, again, _] = shown().await?;
    assert_eq!((transitions.as_str(), again), ("1", of_b));
    tokio::time::sleep(TIMING.ttl + Duration::from_millis(500)).await;
    a.wins().await?;
    assert_eq!(shown().await?[0], "2");
    assert_eq!(b.renews().await?, Renewal::Lost);
    Ok(())
}

pub(super) async fn a_newcomer_waits_a_whole_ttl_before_it_takes_a_lock_that_nobody_renews(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(servers).await?;
    place.member("a", "10.0.0.1").await?.wins().await?;
    // Its clock says that it was renewed long ago, or will be: nobody looks at that.
    let times = json!({"metadata": {"annotations": {"renewTime": "1999-01-01T00:00:00.000000+00:00"}}});
    place.api.patch(&place.leader_path(), &times).await?;
    tokio::time::sleep(TIMING.ttl).await;
    let clock = BootClock;
    let before = clock.now();
    let b = place.member("b", "10.0.0.2").await?;
    while b.dcs.attempt_to_acquire_leader(b.soon()).await? == Acquisition::Lost(Some("a".into())) {
        // Its time may end between the two.
        let leader = b.leader().await?;
        assert!(leader.as_deref() == Some("a") || clock.now() - before >= TIMING.ttl, "{leader:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(clock.now() - before < TIMING.ttl * 2);
    }
    assert!(clock.now() - before >= TIMING.ttl);
    Ok(())
}

pub(super) async fn a_renewal_whose_answer_was_lost_is_a_renewal(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    let a = place.member_behind("a", &middle).await?;
    a.wins().await?;
    let clock = BootClock;
    for code in [500, 502, 503, 504] {
        // It is done, and we are told that it was not; the next attempt meets its own trace.
        middle.meet(Request::Patch, Fault::Instead(code), 1);
        let before = clock.now();
        match a.renews().await? {
            Renewal::Renewed(lease) => assert!(lease.sent_at() - before < Duration::from_millis(100), "counted from the first attempt"),
            Renewal::Lost => return Err(format!("{code}: it was renewed").into()),
        }
    }
    // The same when the connection goes: nobody knows whether it was done.
    let link = Proxy::start(servers.addresses()[0]).await?;
    let config = with_kubeconfig(&servers, &place.section(), link.address(), &json!({"token": ADMIN}))?;
    let a = place.member_with("a", "10.0.0.1", config).await?;
    link.lose_answers(true);
    let heal = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        link.lose_answers(false);
    };
    let (renewal, ()) = tokio::join!(a.renews(), heal);
    assert!(matches!(renewal?, Renewal::Renewed(_)));
    let object = place.object(&place.leader_path()).await?;
    assert_eq!(annotation(&object, "transitions"), Some("0"));
    Ok(())
}

pub(super) async fn an_acquisition_whose_answer_was_lost_is_won(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    let (a, b) = (place.member_behind("a", &middle).await?, place.member("b", "10.0.0.2").await?);
    // There is no object yet: it is created, and the second attempt is told that it exists.
    middle.meet(Request::Create, Fault::Instead(503), 1);
    a.wins().await?;
    a.keeps().await?;
    assert!(a.dcs.release_leader(None, a.soon()).await?);
    middle.meet(Request::Patch, Fault::Instead(500), 1);
    a.wins().await?;
    assert_eq!(b.leader().await?.as_deref(), Some("a"));
    // The same when it comes out only later: what was given up for lost is found, and worth what it was worth then.
    assert!(a.dcs.release_leader(None, a.soon()).await?);
    middle.meet(Request::Patch, Fault::Instead(500), 1);
    middle.meet(Request::Patch, Fault::Answer(500, "{}"), usize::MAX);
    let clock = BootClock;
    let before = clock.now();
    let short = Deadline::after(Duration::from_millis(800));
    assert!(a.dcs.attempt_to_acquire_leader(short).await.is_err_and(|error| error.fate == dcs_core::Fate::Unknown));
    let gave_up = clock.now();
    middle.heal();
    let lease = a.wins().await?;
    assert!(lease.sent_at() >= before && lease.sent_at() < gave_up);
    a.keeps().await?;
    // Another process of the same name has not said that, and waits.
    let other = place.member("a", "10.0.0.1").await?;
    assert_eq!(other.dcs.attempt_to_acquire_leader(other.soon()).await?, Acquisition::Lost(Some("a".into())));
    // Somebody else's is never taken for our own.
    assert!(a.dcs.release_leader(None, a.soon()).await?);
    a.dcs.load(a.soon()).await?;
    b.wins().await?;
    middle.meet(Request::Patch, Fault::Answer(500, "{}"), 1);
    assert!(matches!(a.dcs.attempt_to_acquire_leader(a.soon()).await?, Acquisition::Lost(_)));
    Ok(())
}

pub(super) async fn a_renewal_that_somebody_else_overtook_looks_and_goes_on(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    let a = place.member_behind("a", &middle).await?;
    a.wins().await?;
    let status = Status { last_lsn: Lsn(7), ..Status::default() };
    for round in 0..10 {
        // Something that is not ours changes on the object, faster than any watch.
        let path = place.leader_path();
        let note = json!({"metadata": {"annotations": {"somebody": round.to_string()}}});
        let (written, kept) = tokio::join!(place.api.patch(&path, &note), a.keeps());
        written?;
        kept?;
        a.dcs.write_status(&status, false, a.soon()).await?;
    }
    // The watches hear nothing of it, and the version that is known is an old one: looked at, it is still ours.
    middle.meet(Request::Watch, Fault::Answer(500, "{}"), usize::MAX);
    place.api.patch(&place.leader_path(), &json!({"metadata": {"annotations": {"somebody": "else"}}})).await?;
    a.keeps().await?;
    // And somebody else's is somebody else's.
    place.api.patch(&place.leader_path(), &json!({"metadata": {"annotations": {"leader": "b"}}})).await?;
    assert_eq!(a.renews().await?, Renewal::Lost);
    let object = place.object(&place.leader_path()).await?;
    assert_eq!(annotation(&object, "leader"), Some("b"));
    Ok(())
}

pub(super) async fn a_deleted_lock_is_made_anew_by_its_holder(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(servers).await?;
    let a = place.member("a", "10.0.0.1").await?;
    a.wins().await?;
    place.api.delete(&place.leader_path()).await?;
    a.keeps().await?;
    assert_eq!(a.leader().await?.as_deref(), Some("a"));
    // Without the name in it, it is nobody's.
    place.api.patch(&place.leader_path(), &json!({"metadata": {"annotations": {"leader": null}}})).await?;
    assert_eq!(a.renews().await?, Renewal::Lost);
    assert_eq!(a.leader().await?, None);
    Ok(())
}

pub(super) async fn a_leader_cycle_needs_three_requests_at_most(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    let a = place.member_behind("a", &middle).await?;
    a.wins().await?;
    a.touches("running", "primary").await?;
    let count = || [Request::Get, Request::List, Request::Patch, Request::PatchPod, Request::Create].map(|kind| middle.count(kind));
    for lsn in 1..=5 {
        let before = count();
        a.dcs.load(a.soon()).await?;
        a.keeps().await?;
        a.touches("running", "primary").await?;
        a.dcs.write_status(&Status { last_lsn: Lsn(lsn), ..Status::default() }, false, a.soon()).await?;
        let after = count();
        let sent: Vec<_> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        // The watch may have told of the renewal before the next load, which then has nothing to ask.
        assert!(sent[0] <= 1, "one look at most: {sent:?}");
        assert_eq!(sent[1..], [0, 2, 0, 0], "the renewal, and the status");
    }
    let before = count();
    let _ = a.dcs.wait(dcs_core::Interest::LEADER, Duration::from_millis(300)).await;
    assert_eq!(count(), before, "waiting sends nothing");
    Ok(())
}

pub(super) async fn an_election_without_pods_hands_the_lock_over(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(Arc::clone(&servers)).await?;
    let candidate = |name: &str| -> Result<Election, BoxError> {
        let member = place.without_pod(name, as_admin(&servers, &place.section())?);
        Ok(Election::start(member.dcs, name.into(), Arc::new(BootClock), TIMING))
    };
    let (a, b) = (candidate("a")?, candidate("b")?);
    let leadership = a.campaign().await?;
    let work = tokio::time::timeout(TIMING.ttl, leadership.hold(std::future::pending::<()>())).await;
    assert!(work.is_err(), "it was renewed as long as it was worked");
    let (resigned, next) = tokio::join!(leadership.resign(), b.campaign());
    resigned?;
    let object = place.object(&place.leader_path()).await?;
    assert_eq!((annotation(&object, "leader"), annotation(&object, "transitions")), (Some("b"), Some("1")));
    next?.resign().await?;
    a.leave().await;
    b.leave().await;
    Ok(())
}
