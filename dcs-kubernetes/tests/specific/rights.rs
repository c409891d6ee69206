//! The manifests that are shipped: the API server takes them, their rights are enough, and each is needed for what they say.

use std::path::Path;
use std::sync::Arc;

use dcs_core::model::{FailoverRequest, Lsn, Status, SyncRecord};
use dcs_core::{Acquisition, BoxError, Dcs, ErrorKind, InitializeWrite, Renewal};
use serde_json::{Map, Value, json};
use store_servers::Servers;

use crate::support::labels;
use crate::support::middle::Middle;
use crate::{Member, Outcome, Place, SCOPE};

/// The objects of a manifest, for `namespace`.
fn manifest(name: &str, namespace: &str) -> Result<Vec<Value>, BoxError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/kubernetes").join(name);
    let text = std::fs::read_to_string(path)?;
    let mut objects: Vec<Value> = Vec::new();
    for document in text.split("\n---\n") {
        let mut object: Value = serde_saphyr::from_str(document)?;
        for subject in object["subjects"].as_array_mut().into_iter().flatten() {
            subject["namespace"] = namespace.into();
        }
        if object["metadata"]["name"] == "quorate-api-servers-demo" {
            object["metadata"]["name"] = format!("quorate-api-servers-{namespace}").into();
        }
        objects.push(object);
    }
    Ok(objects)
}

async fn apply(place: &Place, object: &Value) -> Outcome {
    let kind = object["kind"].as_str().ok_or("a kind")?;
    let group = object["apiVersion"].as_str().ok_or("a version")?;
    let base = if group == "v1" { "/api/v1".to_owned() } else { format!("/apis/{group}") };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&place.namespace);
    let plural = format!("{}s", kind.to_lowercase());
    let (code, answer) =
        place.api.ask("POST", &format!("{base}/namespaces/{namespace}/{plural}"), "application/json", Some(object)).await?;
    // The Role for all clusters may be there from another one.
    if code == 201 || (code == 409 && object["metadata"]["name"] == "quorate-api-servers") {
        return Ok(());
    }
    Err(format!("{kind} {}: {code} {answer}", object["metadata"]["name"]).into())
}

/// A member that runs as the service account of the manifest.
async fn as_account(place: &Place, middle: &Middle, name: &str, bypass: bool) -> Result<Member, BoxError> {
    let token = place.api.account_token(&place.namespace, "demo").await?;
    let mut section = place.section();
    section.insert("bypass_api_service".to_owned(), bypass.into());
    let config = place.config_through(middle, &json!({"token": token}), &section)?;
    place.api.make_pod(&place.namespace, name, &labels(SCOPE), "10.0.0.1").await?;
    Ok(place.without_pod(name, config))
}

/// Everything that a member ever does.
async fn lives(a: &Member) -> Outcome {
    a.dcs.load(a.soon()).await?;
    a.touches("initializing new cluster", "uninitialized").await?;
    a.dcs.initialize(InitializeWrite::CreateOnly, "", a.soon()).await?;
    a.dcs.cancel_initialization(a.soon()).await?;
    a.dcs.initialize(InitializeWrite::CreateOnly, "7123456789012345678", a.soon()).await?;
    a.wins().await?;
    a.keeps().await?;
    a.dcs.set_config(&Map::from_iter([("ttl".to_owned(), 30.into())]), None, a.soon()).await?;
    let status = Status { last_lsn: Lsn(1), retain_slots: vec!["b".to_owned()], ..Status::default() };
    a.dcs.write_status(&status, false, a.soon()).await?;
    a.dcs.write_failsafe(&Map::from_iter([("a".to_owned(), "http://a".into())]), a.soon()).await?;
    a.dcs.set_failover(&FailoverRequest { candidate: Some("b".into()), ..FailoverRequest::default() }, None, a.soon()).await?;
    a.dcs.set_failover(&FailoverRequest::default(), None, a.soon()).await?;
    a.dcs.set_sync(&SyncRecord { leader: Some("a".into()), ..SyncRecord::default() }, None, a.soon()).await?;
    a.dcs.delete_sync(None, a.soon()).await?;
    a.dcs.set_history(&json!([[1, 2, "x"]]), a.soon()).await?;
    a.touches("running", "primary").await?;
    assert!(a.dcs.release_leader(Some(Lsn(42)), a.soon()).await?);
    a.dcs.delete_cluster(a.soon()).await?;
    Ok(())
}

pub(super) async fn the_manifests_are_accepted_and_their_rights_are_enough(servers: Arc<Servers>) -> Outcome {
    for use_endpoints in [true, false] {
        let place = Place::new(Arc::clone(&servers), use_endpoints).await?;
        let name = if use_endpoints { "endpoints.yaml" } else { "configmaps.yaml" };
        for object in manifest(name, &place.namespace)? {
            apply(&place, &object).await.map_err(|error| format!("{name}: {error}"))?;
        }
        let middle = Middle::before(&servers).await?;
        let a = as_account(&place, &middle, "demo-0", false).await?;
        lives(&a).await.map_err(|error| format!("{name}: {error}"))?;
        assert_eq!(middle.answered(403), [], "{name}");
    }
    Ok(())
}

/// The rights of the manifest for the cluster's state, without some.
async fn without(place: &Place, resource: &str, verb: &str) -> Outcome {
    for object in manifest("endpoints.yaml", &place.namespace)? {
        let mut object = object;
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        if kind == "Role"
            && object["metadata"]["name"] == "demo"
            && let Some(rules) = object["rules"].as_array_mut()
        {
            for rule in rules.iter_mut().filter(|rule| rule["resources"] == json!([resource])) {
                rule["verbs"].as_array_mut().ok_or("a rule has verbs")?.retain(|other| other != verb);
            }
            rules.retain(|rule| rule["verbs"] != json!([]));
        }
        if ["ServiceAccount", "Role", "RoleBinding"].contains(&kind.as_str()) && object["metadata"]["namespace"].is_null() {
            apply(place, &object).await?;
        }
    }
    Ok(())
}

pub(super) async fn every_right_that_is_missing_is_told_and_never_costs_the_lock(servers: Arc<Servers>) -> Outcome {
    let cases = [
        ("endpoints", "list"),
        ("endpoints", "watch"),
        ("endpoints", "get"),
        ("endpoints", "create"),
        ("endpoints", "patch"),
        ("endpoints", "deletecollection"),
        ("pods", "list"),
        ("pods", "watch"),
        ("pods", "patch"),
        ("services", "create"),
    ];
    for (resource, verb) in cases {
        let place = Place::with_endpoints(Arc::clone(&servers)).await?;
        without(&place, resource, verb).await?;
        let middle = Middle::before(&servers).await?;
        let a = as_account(&place, &middle, "demo-0", false).await?;
        let what = format!("without {verb} on {resource}");
        let denied =
            |error: dcs_core::Error| (error.kind == ErrorKind::Denied).then_some(()).ok_or_else(|| format!("{what}: {}", error.chain()));
        let load = a.dcs.load(a.soon()).await;
        if verb == "list" {
            denied(load.err().ok_or("it cannot be loaded")?)?;
            continue;
        }
        load.map_err(|error| format!("{what}: {}", error.chain()))?;
        let won = a.dcs.attempt_to_acquire_leader(a.soon()).await;
        if (resource, verb) == ("endpoints", "create") {
            denied(won.err().ok_or("it cannot be created")?)?;
            // Once it exists, it is not needed any more.
            let object = json!({"metadata": {"name": SCOPE, "labels": labels(SCOPE)}});
            place.api.create(&format!("/api/v1/namespaces/{}/endpoints", place.namespace), &object).await?;
            a.dcs.load(a.soon()).await?;
            a.wins().await?;
        } else {
            assert!(matches!(won, Ok(Acquisition::Won(_))), "{what}: {won:?}");
        }
        // Whatever is forbidden, nobody is told that the lock is lost while it is not.
        match a.renews().await {
            Ok(Renewal::Renewed(_)) => assert_ne!((resource, verb), ("endpoints", "patch")),
            Ok(Renewal::Lost) => return Err(format!("{what}: the lock was said to be lost").into()),
            Err(error) => {
                assert_eq!((resource, verb), ("endpoints", "patch"), "{}", error.chain());
                denied(error)?;
            }
        }
        match a.touches("running", "primary").await {
            Ok(_) => assert_ne!((resource, verb), ("pods", "patch")),
            Err(error) => {
                assert_eq!((resource, verb), ("pods", "patch"), "{}", error.chain());
                denied(error)?;
            }
        }
        // Others are seen, if later.
        let b = place.member("demo-1", "10.0.0.2").await?;
        b.touches("running", "replica").await?;
        store_servers::eventually(&format!("{what}: another member is seen"), crate::TIMING.retry_timeout * 2, || async {
            let view = a.dcs.load(a.soon()).await.map_err(|error| error.chain())?;
            let state = view.member(&"demo-1".into()).and_then(|member| member.record.state.clone());
            if state.as_deref() == Some("running") { Ok(()) } else { Err(format!("{state:?}")) }
        })
        .await;
        if verb != "patch" || resource != "endpoints" {
            assert!(a.dcs.release_leader(None, a.soon()).await.map_err(|error| format!("{what}: {}", error.chain()))?, "{what}");
        }
        let deleted = a.dcs.delete_cluster(a.soon()).await;
        assert_eq!(deleted.is_err(), verb == "deletecollection", "{what}");
        assert!(!middle.answered(403).is_empty(), "{what}: it was used");
    }
    Ok(())
}

pub(super) async fn without_the_right_to_see_the_api_servers_the_service_is_used(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(Arc::clone(&servers)).await?;
    // Only the rights in the cluster's own namespace.
    without(&place, "nothing", "nothing").await?;
    let middle = Middle::before(&servers).await?;
    let a = as_account(&place, &middle, "demo-0", true).await?;
    lives(&a).await?;
    assert_eq!(a.dcs.server(), Some(middle.address().to_string()));
    assert_eq!(middle.answered(403).len(), 1, "asked for once");
    Ok(())
}
