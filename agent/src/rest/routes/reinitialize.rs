//! Building this node anew.

use axum::body::Body;
use ha_engine::settings::values::bool_word;
use http::{HeaderMap, StatusCode};

use crate::rest::app::App;
use crate::rest::body::{Presence, read_object};
use crate::rest::reply::Reply;

pub(super) async fn post(app: &App, headers: &HeaderMap, body: Body) -> Reply {
    let request = match read_object(headers, body, Presence::Optional).await {
        Ok(request) => request,
        Err(reply) => return reply,
    };
    let wants = |keys: &[&str]| keys.iter().any(|key| request.get(*key).and_then(bool_word).unwrap_or(false));
    // The documentation of Patroni says `from-leader`, its code `from_leader`.
    match app.handle.reinitialize(wants(&["force"]), wants(&["from_leader", "from-leader"])).await {
        Ok(None) => Reply::text(StatusCode::OK, "reinitialize started"),
        Ok(Some(refusal)) => Reply::text(StatusCode::SERVICE_UNAVAILABLE, refusal),
        Err(ha_engine::EngineGone) => app.engine_gone(),
    }
}
