//! The dynamic configuration.

use axum::body::Body;
use dcs_core::Write;
use dcs_core::codec::{merge_patch, same_object};
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::rest::app::App;
use crate::rest::body::{Presence, read_object};
use crate::rest::reply::Reply;

pub(super) async fn get(app: &App) -> Reply {
    match app.view().await {
        Ok(view) => match view.config.as_ref().and_then(|config| config.data.as_ref()) {
            Some(data) => Reply::json(StatusCode::OK, &Value::Object(data.clone())),
            None => Reply::error_page(StatusCode::BAD_GATEWAY, "The store has no valid dynamic configuration"),
        },
        Err(reply) => reply,
    }
}

/// Merges the body into the configuration, by compare-and-set: of two requests at once both are in, or one is told.
pub(super) async fn patch(app: &App, headers: &HeaderMap, body: Body) -> Reply {
    let patch = match read_object(headers, body, Presence::Required).await {
        Ok(patch) => patch,
        Err(reply) => return reply,
    };
    let deadline = app.store_deadline();
    let view = match app.load(deadline).await {
        Ok(view) => view,
        Err(reply) => return reply,
    };
    let stored = view.config.as_ref().and_then(|config| Some((&config.revision, config.data.clone()?)));
    let Some((revision, mut data)) = stored else {
        let explanation = "The store has no valid dynamic configuration that could be changed";
        return Reply::error_page(StatusCode::SERVICE_UNAVAILABLE, explanation);
    };
    if merge_patch(&mut data, &patch) {
        match app.handle.dcs().set_config(&data, Some(revision), deadline).await {
            Ok(Write::Applied(_)) => {}
            Ok(Write::Refused) => {
                let explanation = "Somebody else changed the configuration at the same moment";
                return Reply::error_page(StatusCode::CONFLICT, explanation);
            }
            Err(error) => return app.store_failed(&error),
        }
    }
    app.handle.wake();
    Reply::json(StatusCode::OK, &Value::Object(data))
}

/// Replaces the configuration, whatever it is.
pub(super) async fn put(app: &App, headers: &HeaderMap, body: Body) -> Reply {
    let data = match read_object(headers, body, Presence::Required).await {
        Ok(data) => data,
        Err(reply) => return reply,
    };
    let deadline = app.store_deadline();
    let view = match app.load(deadline).await {
        Ok(view) => view,
        Err(reply) => return reply,
    };
    let stored = view.config.as_ref().and_then(|config| config.data.as_ref());
    if !stored.is_some_and(|stored| same_object(&data, stored)) {
        match app.handle.dcs().set_config(&data, None, deadline).await {
            Ok(Write::Applied(_)) => app.handle.wake(),
            Ok(Write::Refused) => {
                return Reply::error_page(StatusCode::BAD_GATEWAY, "The store refused the configuration");
            }
            Err(error) => return app.store_failed(&error),
        }
    }
    Reply::json(StatusCode::OK, &Value::Object(data))
}
