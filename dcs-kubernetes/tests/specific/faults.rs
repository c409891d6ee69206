//! Answers of every kind to every request, and what must not be made of them.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::model::{Lsn, Status, SyncRecord};
use dcs_core::{Acquisition, BootClock, BoxError, Clock, Dcs, Deadline, ErrorKind, Fate, InitializeWrite, Renewal, Timing, Write};
use serde_json::{Map, json};
use store_servers::apiserver::ALICE;
use store_servers::{Servers, eventually};

use crate::support::middle::{Fault, Middle, Request};
use crate::{ADMIN, Member, Outcome, Place, TIMING};

/// What servers and proxies say. None of it is a definite no: 404 and 409 are one only in Kubernetes' own words.
const CODES: [u16; 18] = [302, 400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 422, 429, 500, 501, 502, 503, 504];

/// Enough for several attempts.
fn short() -> Deadline {
    Deadline::after(Duration::from_millis(700))
}

/// Enough to look, after a renewal that was refused, what is there.
fn with_a_look() -> Deadline {
    Deadline::after(Duration::from_secs(2))
}

/// Cycles so short that what the watch told never suffices: each load is a request, which can then be answered wrongly.
fn asks_with_every_load(member: &Member) {
    member.dcs.set_timing(Timing { loop_wait: Duration::from_millis(1), ..TIMING });
}

/// The member leads, nobody else does, and it is told so.
async fn still_leads(place: &Place, a: &Member, what: &str) -> Outcome {
    a.keeps().await.map_err(|error| format!("{what}: {error}"))?;
    let object = place.object(&place.leader_path()).await?;
    assert_eq!(crate::annotation(&object, "leader"), Some("a"), "{what}");
    Ok(())
}

pub(super) async fn no_answer_to_any_request_is_taken_for_a_lost_lock(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    let a = place.member_behind("a", &middle).await?;
    asks_with_every_load(&a);
    let everything = [
        Request::Get,
        Request::List,
        Request::Watch,
        Request::Patch,
        Request::PatchPod,
        Request::Create,
        Request::CreateService,
        Request::Delete,
    ];
    a.wins().await?;
    a.dcs.set_config(&Map::new(), None, a.soon()).await?;
    for code in CODES {
        for body in ["", r#"{"kind":"Status","status":"Failure","message":"injected","reason":"Injected"}"#] {
            for kind in everything {
                middle.meet(kind, Fault::Answer(code, body), usize::MAX);
            }
            let what = format!("{code} to everything");
            meets_only_errors(&a, &what).await?;
            middle.heal();
            still_leads(&place, &a, &what).await?;
        }
    }
    // Once, to each kind of request alone, in the middle of a cycle that then goes on.
    for code in CODES {
        for kind in everything {
            middle.meet(kind, Fault::Answer(code, "{}"), 1);
            let what = format!("{code} once to {kind:?}");
            prompts(&place, &a, kind).await?;
            let _ = a.dcs.load(short()).await;
            match a.dcs.renew_leader(&a.seen(), with_a_look()).await {
                Ok(Renewal::Lost) => return Err(format!("{what}: the lock was said to be lost").into()),
                Ok(Renewal::Renewed(_)) | Err(_) => {}
            }
            let _ = a.touches("running", &fastrand::u64(..).to_string()).await;
            eventually(&format!("{what}: it is met"), TIMING.retry_timeout, || async {
                if middle.left().is_empty() { Ok(()) } else { Err("it is not asked".to_owned()) }
            })
            .await;
            middle.heal();
            still_leads(&place, &a, &what).await?;
        }
    }
    // What answers nonsense with success is not believed either.
    for kind in [Request::Get, Request::Patch] {
        for nonsense in ["", "<html>", "[]", "7"] {
            middle.meet(kind, Fault::Answer(200, nonsense), usize::MAX);
            let renewal = a.dcs.renew_leader(&a.seen(), with_a_look()).await;
            assert!(!matches!(renewal, Ok(Renewal::Lost)), "{kind:?} {nonsense:?}");
            middle.heal();
            still_leads(&place, &a, "nonsense").await?;
        }
    }
    Ok(())
}

/// Does what needs requests of this kind, if a cycle in which nothing happens has none.
async fn prompts(place: &Place, a: &Member, kind: Request) -> Outcome {
    match kind {
        Request::Get | Request::Patch | Request::PatchPod => {}
        // Whoever is refused does not believe what it has watched, and begins anew.
        Request::List | Request::Watch => {
            let _ = a.dcs.set_config(&Map::new(), Some(&1_u64.into()), a.soon()).await;
        }
        // The Service is made again with the object that it keeps.
        Request::Create | Request::CreateService => {
            place.api.delete(&place.object_path("demo-config")).await?;
            let _ = a.dcs.set_config(&Map::new(), None, a.soon()).await;
        }
        Request::Delete => {
            let _ = a.dcs.delete_cluster(a.soon()).await;
            a.dcs.set_config(&Map::new(), None, a.soon()).await?;
        }
    }
    Ok(())
}

/// Nothing that the member does is a success, and nothing is a definite no.
async fn meets_only_errors(a: &Member, what: &str) -> Outcome {
    let must_fail = |outcome: Result<(), dcs_core::Error>, operation: &str| -> Outcome {
        outcome.err().map(drop).ok_or_else(|| format!("{what}: {operation} succeeded").into())
    };
    let seen = a.seen();
    let (renewal, view) = tokio::join!(a.dcs.renew_leader(&seen, with_a_look()), a.dcs.load(with_a_look()));
    must_fail(renewal.map(drop), "the renewal")?;
    // Whoever may not read the lock goes by what the watch told. Nobody is shown a cluster without a leader.
    if let Ok(view) = view {
        assert_eq!(view.leader.map(|leader| leader.name.to_string()).as_deref(), Some("a"), "{what}");
    }
    must_fail(a.dcs.release_leader(Some(Lsn(1)), short()).await.map(drop), "releasing")?;
    let acquired = a.dcs.attempt_to_acquire_leader(short()).await;
    assert!(!matches!(acquired, Ok(Acquisition::Won(_))), "{what}: {acquired:?}");
    let status = Status { last_lsn: Lsn(fastrand::u64(..)), ..Status::default() };
    must_fail(a.dcs.write_status(&status, false, short()).await.map(drop), "status")?;
    let record = a.record("running", &fastrand::u64(..).to_string());
    must_fail(a.dcs.touch_member(&record, short()).await.map(drop), "touching")?;
    let sync = SyncRecord { leader: Some("a".into()), ..SyncRecord::default() };
    let outcome = a.dcs.set_sync(&sync, Some(&1_u64.into()), short()).await;
    assert!(!matches!(outcome, Ok(Write::Applied(_))), "{what}: {outcome:?}");
    must_fail(a.dcs.set_config(&Map::new(), None, short()).await.map(drop), "configuration")?;
    let outcome = a.dcs.initialize(InitializeWrite::CreateOnly, "7123456789012345678", short()).await;
    assert!(!matches!(outcome, Ok(Write::Applied(_))), "{what}: {outcome:?}");
    must_fail(a.dcs.delete_cluster(short()).await, "deleting")
}

/// What an ingress says that knows no such path, or an API server that has not learnt its paths yet.
pub(super) async fn a_no_that_is_not_kubernetes_own_proves_nothing(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    let a = place.member_behind("a", &middle).await?;
    asks_with_every_load(&a);
    a.wins().await?;
    for (code, body) in [(404, "404 page not found"), (404, "default backend - 404"), (409, ""), (409, r#"{"reason":"Conflict"}"#)] {
        let what = format!("{code} {body}");
        // The lock can be looked at, and is as it was.
        middle.meet(Request::Patch, Fault::Answer(code, body), usize::MAX);
        let error = a.dcs.renew_leader(&a.seen(), with_a_look()).await.err().ok_or_else(|| format!("{what}: a renewal"))?;
        assert_eq!(error.kind, ErrorKind::Unavailable, "{what}");
        middle.heal();
        still_leads(&place, &a, &what).await?;
        // It cannot be looked at.
        middle.meet(Request::Get, Fault::Answer(code, body), usize::MAX);
        assert!(a.dcs.load(short()).await.is_err(), "{what}");
        assert!(a.dcs.release_leader(None, short()).await.is_err(), "{what}");
        middle.heal();
        still_leads(&place, &a, &what).await?;
        // Once, and then the truth.
        middle.meet(Request::Patch, Fault::Answer(code, body), 1);
        a.keeps().await.map_err(|error| format!("{what}: {error}"))?;
    }
    // In its own words, but not true: whoever reads sees the lock as it was.
    let absent = r#"{"kind":"Status","status":"Failure","reason":"NotFound","message":"endpoints \"demo\" not found","code":404}"#;
    middle.meet(Request::Patch, Fault::Answer(404, absent), 1);
    a.keeps().await?;
    middle.meet(Request::Patch, Fault::Answer(404, absent), usize::MAX);
    assert!(a.dcs.renew_leader(&a.seen(), with_a_look()).await.is_err());
    middle.heal();
    still_leads(&place, &a, "said to be absent").await
}

pub(super) async fn a_server_that_asks_to_wait_is_given_the_time(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    let a = place.member_behind("a", &middle).await?;
    a.wins().await?;
    let clock = BootClock;
    // Whatever the code: whoever says when to come again means that.
    for code in [429, 503, 403] {
        middle.meet(Request::Patch, Fault::Headers(code, &[("retry-after", "1")]), 1);
        let before = clock.now();
        a.keeps().await?;
        let took = clock.now() - before;
        assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "{code}: {took:?}");
    }
    // More time than there is: nothing is tried any more.
    middle.meet(Request::Patch, Fault::Headers(503, &[("retry-after", "60")]), 1);
    let before = clock.now();
    let error = a.renews().await.err().ok_or("there is no time for that")?;
    assert!(clock.now() - before < Duration::from_secs(1));
    assert_eq!(error.fate, Fate::Unknown);
    Ok(())
}

pub(super) async fn configured_codes_are_tried_again(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    let tries = async |codes: serde_json::Value| -> Result<bool, BoxError> {
        let mut section = place.section();
        section.insert("retriable_http_codes".to_owned(), codes);
        let config = place.config_through(&middle, &json!({"token": ADMIN}), &section)?;
        let a = place.member_with("a", "10.0.0.1", config).await?;
        middle.meet(Request::PatchPod, Fault::Answer(403, "{}"), 1);
        let touched = a.touches("running", &fastrand::u64(..).to_string()).await;
        middle.heal();
        Ok(touched.is_ok())
    };
    assert!(!tries(json!([])).await?);
    assert!(tries(json!([403])).await?);
    assert!(tries(json!("502, 403")).await?);
    Ok(())
}

/// The reasons in the table of errors are these. (429 and 5xx cannot be asked for.)
pub(super) async fn the_server_says_no_in_the_words_that_the_table_of_errors_knows(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(servers).await?;
    let api = &place.api;
    let maps = format!("/api/v1/namespaces/{}/configmaps", place.namespace);
    let object = |name: &str, annotation: &str| json!({"metadata": {"name": name, "annotations": {"x": annotation}}});
    api.create(&maps, &object("x", "")).await?;
    let one = format!("{maps}/x");
    let stale = json!({"metadata": {"resourceVersion": "1", "annotations": {"x": "y"}}});
    let (merge, json_type) = ("application/strategic-merge-patch+json", "application/json");
    let bodies = [object("x", "y"), json!([1]), object("y", &"y".repeat(300 << 10)), object("z", &"z".repeat(4 << 20))];
    let [again, nonsense, long, huge] = &bodies;
    let cases = [
        (400, "BadRequest", api.ask("PATCH", &one, merge, Some(nonsense)).await?),
        (401, "Unauthorized", api.as_user("nobody").ask("GET", &maps, "", None).await?),
        (403, "Forbidden", api.as_user(ALICE).ask("GET", &maps, "", None).await?),
        (404, "NotFound", api.ask("GET", &format!("{maps}/nothing"), "", None).await?),
        (405, "MethodNotAllowed", api.ask("POST", &one, json_type, Some(again)).await?),
        (409, "Conflict", api.ask("PATCH", &one, merge, Some(&stale)).await?),
        (409, "AlreadyExists", api.ask("POST", &maps, json_type, Some(again)).await?),
        (413, "RequestEntityTooLarge", api.ask("POST", &maps, json_type, Some(huge)).await?),
        (415, "UnsupportedMediaType", api.ask("PATCH", &one, "text/plain", Some(again)).await?),
        (422, "Invalid", api.ask("POST", &maps, json_type, Some(long)).await?),
    ];
    for (code, reason, (answered, body)) in cases {
        assert_eq!((answered, body["reason"].as_str()), (code, Some(reason)), "{body}");
        assert_eq!(body["code"], code, "{body}");
    }
    // What is too old is told in the stream, after a success. Of what the server keeps in memory that takes a long time; of what it
    // has only in etcd, until etcd has forgotten it.
    let now = place.object(&maps).await?["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let forget = format!("http://{}/v3/kv/compaction", place.servers.addresses()[1]);
    let forgotten = reqwest::Client::new().post(forget).body(json!({"revision": now}).to_string()).send().await?;
    assert!(forgotten.status().is_success(), "{}", forgotten.text().await?);
    let events = format!("/api/v1/namespaces/{}/events?watch=true&resourceVersion=1&timeoutSeconds=1", place.namespace);
    let (code, body) = api.ask("GET", &events, "", None).await?;
    assert_eq!((code, &body["type"]), (200, &json!("ERROR")), "{body}");
    assert_eq!((&body["object"]["code"], &body["object"]["reason"]), (&json!(410), &json!("Expired")), "{body}");
    Ok(())
}
