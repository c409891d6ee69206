//! `GET /cluster` and `GET /history`.

use http::StatusCode;
use serde_json::{Value, json};

use crate::cluster_json::cluster_json;
use crate::rest::app::App;
use crate::rest::reply::Reply;

pub(super) async fn cluster(app: &App) -> Reply {
    let view = match app.load(app.store_deadline()).await {
        Ok(view) => view,
        Err(reply) => return reply,
    };
    let mut cluster = cluster_json(&view, app.modes(&view));
    cluster.insert("scope".to_owned(), app.handle.snapshot().settings.scope.clone().into());
    Reply::json(StatusCode::OK, &Value::Object(cluster))
}

pub(super) async fn history(app: &App) -> Reply {
    match app.view().await {
        Ok(view) => match view.history.as_ref().map(|history| &history.raw) {
            Some(lines @ Value::Array(_)) => Reply::json(StatusCode::OK, lines),
            _ => Reply::json(StatusCode::OK, &json!([])),
        },
        Err(reply) => reply,
    }
}
