//! What members say about themselves.

use std::sync::Arc;

use dcs_core::{Dcs, ErrorKind, Fate, Touched};
use dcs_kubernetes::Config;
use serde_json::json;
use store_servers::Servers;

use crate::support::as_admin;
use crate::support::middle::{Middle, Request};
use crate::{ADMIN, Outcome, Place, annotation};

pub(super) async fn labels_and_status_change_in_one_request_and_only_when_they_must(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    let mut section = place.section();
    section.insert("leader_label_value".to_owned(), "master".into());
    section.insert("tmp_role_label".to_owned(), "tmp_role".into());
    section.insert("bootstrap_labels".to_owned(), json!({"boots": "yes"}));
    let config = place.config_through(&middle, &json!({"token": ADMIN}), &section)?;
    let a = place.member_with("a", "10.0.0.1", config).await?;
    let steps = [
        ("initializing new cluster", "uninitialized", false, None, None, Some("yes")),
        ("running", "replica", false, Some("replica"), Some("replica"), None),
        ("running", "replica", true, Some("master"), Some("primary"), None),
        ("running", "primary", true, Some("master"), Some("primary"), None),
        ("running", "primary", false, None, None, None),
        ("stopped", "demoted", false, None, None, None),
    ];
    let mut leads = false;
    for (state, role, leading, label, tmp, boots) in steps {
        if leading && !leads {
            a.wins().await?;
        } else if leads && !leading {
            assert!(a.dcs.release_leader(None, a.soon()).await?);
        }
        leads = leading;
        let before = middle.count(Request::PatchPod);
        let touched = a.touches(state, role).await?;
        assert_eq!(a.touches(state, role).await?, Touched::Unchanged, "{state} {role}");
        let patches = middle.count(Request::PatchPod) - before;
        assert_eq!(patches, usize::from(touched == Touched::Written), "{state} {role}");
        let pod = place.pod("a").await?;
        let labels = &pod["metadata"]["labels"];
        assert_eq!((labels["role"].as_str(), labels["tmp_role"].as_str(), labels["boots"].as_str()), (label, tmp, boots), "{state} {role}");
        assert_eq!(annotation(&pod, "status"), Some(format!(r#"{{"state":"{state}","role":"{role}"}}"#).as_str()));
        assert_eq!(labels["cluster-name"], crate::SCOPE, "what others put there stays");
    }
    // A label that somebody took away comes back.
    assert_eq!(a.touches("running", "replica").await?, Touched::Written);
    let path = format!("/api/v1/namespaces/{}/pods/a", place.namespace);
    place.api.patch(&path, &json!({"metadata": {"labels": {"role": "something"}}})).await?;
    store_servers::eventually("the label is put right", crate::TIMING.retry_timeout, || async {
        match a.touches("running", "replica").await {
            Ok(Touched::Written) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(place.pod("a").await?["metadata"]["labels"]["role"], "replica");
    Ok(())
}

pub(super) async fn a_member_without_a_pod_says_so(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(Arc::clone(&servers)).await?;
    let config: Config = as_admin(&servers, &place.section())?;
    let a = place.without_pod("a", config);
    a.dcs.load(a.soon()).await?;
    let error = a.touches("running", "replica").await.err().ok_or("there is no pod")?;
    assert_eq!((error.kind, error.fate), (ErrorKind::Misconfigured, Fate::NotApplied));
    assert!(error.chain().contains("404 NotFound"), "{}", error.chain());
    // It can lead all the same: the lock is not on the pod. Its address is not known, so nothing is touched there.
    a.wins().await?;
    a.keeps().await
}
