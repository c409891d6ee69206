//! The manifests that are shipped, for tests that run with the rights that they give.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::apiserver::Api;

/// The service account of the manifests.
pub const ACCOUNT: &str = "demo";

/// The Role that lets the account find the API servers. It is in the namespace of theirs, and so shared by all clusters.
const API_SERVERS: &str = "quorate-api-servers";

/// The manifest for a cluster with its state in Endpoints, or in ConfigMaps.
#[must_use]
pub fn name(use_endpoints: bool) -> &'static str {
    if use_endpoints { "endpoints.yaml" } else { "configmaps.yaml" }
}

/// The objects of a manifest, for `namespace`.
///
/// # Errors
///
/// It cannot be read.
pub fn objects(use_endpoints: bool, namespace: &str) -> Result<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/kubernetes").join(name(use_endpoints));
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut objects = Vec::new();
    for document in text.split("\n---\n") {
        let mut object: Value = serde_saphyr::from_str(document)?;
        for subject in object["subjects"].as_array_mut().into_iter().flatten() {
            subject["namespace"] = namespace.into();
        }
        if object["metadata"]["name"] == format!("{API_SERVERS}-{ACCOUNT}") {
            object["metadata"]["name"] = format!("{API_SERVERS}-{namespace}").into();
        }
        objects.push(object);
    }
    Ok(objects)
}

/// The account of a manifest and its rights, and nothing else.
///
/// # Errors
///
/// It cannot be read.
pub fn rights(use_endpoints: bool, namespace: &str) -> Result<Vec<Value>> {
    let mut objects = objects(use_endpoints, namespace)?;
    objects.retain(|object| matches!(object["kind"].as_str(), Some("ServiceAccount" | "Role" | "RoleBinding")));
    Ok(objects)
}

/// Makes an object of a manifest, in `namespace` unless it names another.
///
/// # Errors
///
/// The server refuses it.
pub async fn apply(api: &Api, namespace: &str, object: &Value) -> Result<()> {
    let kind = object["kind"].as_str().context("a kind")?;
    let group = object["apiVersion"].as_str().context("a version")?;
    let base = if group == "v1" { "/api/v1".to_owned() } else { format!("/apis/{group}") };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or(namespace);
    let path = format!("{base}/namespaces/{namespace}/{}s", kind.to_lowercase());
    let (code, answer) = api.ask("POST", &path, "application/json", Some(object)).await?;
    // The Role for all clusters may be there from another one.
    let is_there = code == 409 && object["metadata"]["name"] == API_SERVERS;
    ensure!(code == 201 || is_there, "{kind} {}: {code} {answer}", object["metadata"]["name"]);
    Ok(())
}
