//! Failsafe mode, as far as it exists without the mode itself.

use http::StatusCode;
use serde_json::{Value, json};

use crate::rest::app::App;
use crate::rest::reply::Reply;

/// The members that a leader would ask, as last loaded.
pub(super) fn get(app: &App) -> Reply {
    let snapshot = app.handle.snapshot();
    match snapshot.view.as_ref().map(|view| &view.failsafe) {
        Some(Some(members @ Value::Object(_))) => Reply::json(StatusCode::OK, members),
        None if snapshot.dcs_last_seen == 0 => Reply::json(StatusCode::OK, &json!({})),
        _ => Reply::error_page(StatusCode::BAD_GATEWAY, "There is no failsafe key in the store"),
    }
}

/// A leader that lost the store asks whether it may go on. It never may: only a clear yes counts, and a node without
/// failsafe mode cannot promise to stand back.
pub(super) fn post() -> Reply {
    Reply::error_page(StatusCode::BAD_GATEWAY, "Failsafe mode is not active on this node")
}
