//! Failsafe mode: the members that a leader asks when it has lost the store, and what this one answers.

use std::collections::BTreeMap;

use axum::body::Body;
use dcs_core::model::Lsn;
use ha_engine::NoWord;
use ha_engine::decide::failsafe::exclusion::FailsafeCall;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

use crate::rest::app::App;
use crate::rest::body::{Presence, read_object};
use crate::rest::reply::Reply;

/// The members that a leader would ask, as last known.
pub(super) fn get(app: &App) -> Reply {
    let snapshot = app.handle.snapshot();
    match &snapshot.failsafe.map {
        Some(members @ Value::Object(_)) => Reply::json(StatusCode::OK, members),
        None if snapshot.dcs_last_seen == 0 => Reply::json(StatusCode::OK, &json!({})),
        _ => Reply::error_page(StatusCode::BAD_GATEWAY, "There is no failsafe key in the store"),
    }
}

/// A leader that lost the store asks whether it may go on.
pub(super) async fn post(app: &App, headers: &HeaderMap, body: Body) -> Reply {
    if !app.handle.snapshot().settings.global.failsafe_mode {
        return is_off();
    }
    let request = match read_object(headers, body, Presence::Required).await {
        Ok(request) => request,
        Err(reply) => return reply,
    };
    let Some(call) = call(&request) else {
        return Reply::error_page(StatusCode::BAD_REQUEST, "The body lacks `name`, `conn_url` or `api_url`");
    };
    let name = call.name.clone();
    match app.handle.give_word(call) {
        Ok(position) => {
            tracing::debug!("{name} leads without the store, and was given the word that it may");
            let accepted = Reply::text(StatusCode::OK, "Accepted");
            match position {
                Some(position) => accepted.with_header("lsn", position.0),
                None => accepted,
            }
        }
        Err(NoWord::Off) => is_off(),
        Err(refusal @ NoWord::RunningAsLeader) => {
            tracing::warn!("{name} leads without the store, and was refused the word that it may");
            Reply::text(StatusCode::INTERNAL_SERVER_ERROR, refusal.to_string())
        }
    }
}

fn is_off() -> Reply {
    Reply::error_page(StatusCode::BAD_GATEWAY, "Failsafe mode is off")
}

/// What the body says; nothing if it lacks something that is needed.
fn call(request: &Map<String, Value>) -> Option<FailsafeCall> {
    let text = |key: &str| request.get(key).and_then(Value::as_str).map(str::to_owned);
    let name = text("name").filter(|name| !name.is_empty())?;
    Some(FailsafeCall {
        name: name.as_str().into(),
        conn_url: text("conn_url")?,
        api_url: text("api_url")?,
        slots: request.get("slots").and_then(Value::as_object).map(positions),
    })
}

/// Those of the positions that can be understood.
fn positions(slots: &Map<String, Value>) -> BTreeMap<String, Lsn> {
    slots.iter().filter_map(|(name, lsn)| Some((name.clone(), Lsn(lsn.as_u64()?)))).collect()
}
