//! `GET /raft`: the node of the embedded store that this agent is.

use http::StatusCode;

use crate::rest::app::App;
use crate::rest::reply::Reply;

/// How long the node may take to answer. It does so at once, unless its disk is stuck.
#[cfg(feature = "raft")]
const ANSWER: std::time::Duration = std::time::Duration::from_secs(1);

pub(super) async fn get(app: &App) -> Reply {
    match &app.raft {
        None => Reply::text(StatusCode::NOT_FOUND, "this agent is not a node of the embedded store (raft)"),
        #[cfg(feature = "raft")]
        Some(node) => match node.status(dcs_core::Deadline::after(ANSWER)).await {
            Ok(status) => Reply::json(StatusCode::OK, &crate::raft_json::status_json(&status)),
            Err(problem) => Reply::json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "problem": problem })),
        },
        #[cfg(not(feature = "raft"))]
        Some(node) => match *node {},
    }
}

/// What the node adds to the metrics; nothing if there is none.
pub(super) async fn metrics(app: &App) -> String {
    match &app.raft {
        None => String::new(),
        #[cfg(feature = "raft")]
        Some(node) => {
            let status = node.status(dcs_core::Deadline::after(ANSWER)).await;
            let snapshot = app.handle.snapshot();
            crate::rest::raft_metrics::metrics_text(status.ok().as_ref(), &snapshot.settings.scope, app.handle.me.as_str())
        }
        #[cfg(not(feature = "raft"))]
        Some(node) => match *node {},
    }
}
