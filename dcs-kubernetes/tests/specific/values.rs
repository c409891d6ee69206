//! What is kept beside the lock, and in whose objects.

use std::sync::Arc;

use dcs_core::{Dcs, InitializeWrite, Write};
use serde_json::{Map, json};
use store_servers::Servers;

use crate::support::middle::{Middle, Request};
use crate::support::{as_admin, labels};
use crate::{Outcome, Place, annotation};

pub(super) async fn configuration_history_and_initialize_do_not_remove_each_other(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(servers).await?;
    let (a, b) = (place.member("a", "10.0.0.1").await?, place.member("b", "10.0.0.2").await?);
    assert!(a.dcs.initialize(InitializeWrite::CreateOnly, "", a.soon()).await?.is_applied());
    let config = Map::from_iter([("ttl".to_owned(), 30.into())]);
    // Written by different members, with and without having seen each other's.
    b.dcs.set_config(&config, None, b.soon()).await?;
    a.dcs.set_history(&json!([[1, 2, "x"]]), a.soon()).await?;
    assert!(a.dcs.initialize(InitializeWrite::Overwrite, "7123456789012345678", a.soon()).await?.is_applied());
    let object = place.object(&place.object_path("demo-config")).await?;
    assert_eq!(annotation(&object, "config"), Some(r#"{"ttl":30}"#));
    assert_eq!(annotation(&object, "history"), Some(r#"[[1,2,"x"]]"#));
    assert_eq!(annotation(&object, "initialize"), Some("7123456789012345678"));
    a.dcs.cancel_initialization(a.soon()).await?;
    // A configuration that somebody changed does not keep anybody from founding the cluster.
    let empty = json!([]);
    let (first, second) =
        tokio::join!(b.dcs.set_history(&empty, b.soon()), a.dcs.initialize(InitializeWrite::CreateOnly, "7123456789012345679", a.soon()));
    first?;
    assert!(second?.is_applied());
    let object = place.object(&place.object_path("demo-config")).await?;
    assert_eq!(annotation(&object, "config"), Some(r#"{"ttl":30}"#));
    // Their version is one: a configuration that was read before the history changed is refused.
    let seen = a.dcs.load(a.soon()).await?.config.ok_or("it is there")?;
    a.dcs.set_history(&json!([[1, 3, "y"]]), a.soon()).await?;
    assert_eq!(a.dcs.set_config(&config, Some(&seen.revision), a.soon()).await?, Write::Refused);
    // One of another object is none of this.
    let Write::Applied(of_sync) = a.dcs.set_sync(&dcs_core::model::SyncRecord::default(), None, a.soon()).await? else {
        return Err("it was free".into());
    };
    assert_eq!(a.dcs.set_config(&config, Some(&of_sync), a.soon()).await?, Write::Refused);
    Ok(())
}

pub(super) async fn two_clusters_in_one_namespace_do_not_mix(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(Arc::clone(&servers)).await?;
    let config = || as_admin(&servers, &place.section());
    let (short, long) = (place.of("demo", None, "a", config()?), place.of("demo2", None, "b", config()?));
    place.api.make_pod(&place.namespace, "a", &labels("demo"), "10.0.0.1").await?;
    place.api.make_pod(&place.namespace, "b", &labels("demo2"), "10.0.0.2").await?;
    for member in [&short, &long] {
        member.dcs.load(member.soon()).await?;
        member.wins().await?;
        member.touches("running", "primary").await?;
        member.dcs.set_config(&Map::new(), None, member.soon()).await?;
    }
    let view = short.dcs.load(short.soon()).await?;
    assert_eq!(view.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["a"]);
    short.dcs.delete_cluster(short.soon()).await?;
    assert_eq!(long.leader().await?.as_deref(), Some("b"));
    let view = short.dcs.load(short.soon()).await?;
    assert!(view.is_unlocked() && view.config.is_none());
    assert_eq!(view.members.len(), 1, "pods stay");
    Ok(())
}

pub(super) async fn groups_have_objects_of_their_own(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_config_maps(Arc::clone(&servers)).await?;
    let config = || as_admin(&servers, &place.section());
    let (zero, one) = (place.of("demo", Some(0), "a", config()?), place.of("demo", Some(1), "b", config()?));
    for (member, group) in [(&zero, "0"), (&one, "1")] {
        let mut labels = labels("demo");
        labels["citus-group"] = group.into();
        place.api.make_pod(&place.namespace, &member.name, &labels, "10.0.0.1").await?;
        member.dcs.load(member.soon()).await?;
        member.wins().await?;
        let object = place.object(&place.object_path(&format!("demo-{group}-leader"))).await?;
        assert_eq!(object["metadata"]["labels"], labels);
        assert_eq!(annotation(&object, "leader"), Some(member.name.as_str()));
    }
    Ok(())
}

pub(super) async fn the_service_that_keeps_endpoints_is_made_once(servers: Arc<Servers>) -> Outcome {
    let place = Place::with_endpoints(Arc::clone(&servers)).await?;
    let middle = Middle::before(&servers).await?;
    let a = place.member_behind("a", &middle).await?;
    for _ in 0..3 {
        a.touches("running", "replica").await?;
    }
    assert_eq!(middle.count(Request::CreateService), 1);
    let service = place.object(&format!("/api/v1/namespaces/{}/services/demo-config", place.namespace)).await?;
    assert_eq!((&service["spec"]["clusterIP"], &service["spec"]["selector"]), (&json!("None"), &json!(null)));
    assert_eq!(service["metadata"]["labels"], labels("demo"));
    // Asked for again when its Endpoints are made, and it exists.
    a.dcs.set_config(&Map::new(), None, a.soon()).await?;
    a.touches("running", "primary").await?;
    assert_eq!(middle.count(Request::CreateService), 2);
    assert_eq!(middle.answered(409), [Request::CreateService]);
    Ok(())
}
