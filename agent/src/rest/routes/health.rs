//! Health checks, `GET /patroni`, `/liveness`, `/readiness` and `/metrics`.

use std::sync::Arc;

use dcs_core::model::{Role, ServerState};
use http::{StatusCode, Uri};

use super::raft;
use crate::rest::app::App;
use crate::rest::cache::{Report, Status};
use crate::rest::health::{self, Node};
use crate::rest::metrics::metrics_text;
use crate::rest::query::Query;
use crate::rest::reply::Reply;

/// 200 or 503, judged now: a lease that has ended while a report was waited for counts as ended.
fn code(app: &App, uri: &Uri, status: &Status) -> StatusCode {
    let healthy = health::is_healthy(uri.path(), &Query::parse(uri.query()), node(app, status));
    code_of(healthy)
}

fn code_of(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn node<'a>(app: &App, status: &'a Status) -> Node<'a> {
    let now = app.handle.clock().now();
    Node {
        facts: &status.facts,
        // The lease of the newest snapshot: it may have been lost or renewed meanwhile.
        is_leader: app.handle.snapshot().is_leader(now),
        tags: &status.snapshot.settings.tags,
    }
}

/// A health check with the status as its body.
pub(super) async fn with_body(app: &App, uri: &Uri) -> Reply {
    let status = app.cache.status(Report::Recent).await;
    Reply::rendered_json(code(app, uri, &status), status.body.clone())
}

/// A health check without a body.
pub(super) async fn status_only(app: &App, uri: &Uri) -> Reply {
    let mut status: Arc<Status>;
    if health::is_about_leadership(uri.path()) {
        // The lease decides, and a server that hangs must not hold up the answer.
        status = app.cache.status(Report::None).await;
        if status.facts.paused && !status.facts.has_view {
            status = app.cache.status(Report::Recent).await;
        }
    } else {
        status = app.cache.status(Report::Recent).await;
    }
    Reply::status_only(code(app, uri, &status))
}

pub(super) async fn patroni(app: &App) -> Reply {
    let status = app.cache.status(Report::Fresh).await;
    Reply::rendered_json(StatusCode::OK, status.body.clone())
}

pub(super) fn liveness(app: &App) -> Reply {
    let snapshot = app.handle.snapshot();
    let local = app.handle.postgres().local();
    let runs_as_primary = local.role == Role::Primary && local.state == ServerState::Running;
    let now = app.handle.clock().now();
    let ttl = snapshot.settings.global.ttl;
    Reply::status_only(code_of(health::is_live(snapshot.is_paused(), runs_as_primary, snapshot.next_run, ttl, now)))
}

pub(super) async fn readiness(app: &App, uri: &Uri) -> Reply {
    let snapshot = app.handle.snapshot();
    if snapshot.is_leader(app.handle.clock().now()) {
        return Reply::status_only(StatusCode::OK);
    }
    let status = app.cache.status(Report::Persistent).await;
    let maximum_lag = snapshot.settings.global.maximum_lag_on_failover;
    let ready = health::readiness(&Query::parse(uri.query()), node(app, &status), maximum_lag);
    if let Err(reason) = &ready {
        tracing::debug!("The node is not ready: {reason}");
    }
    Reply::status_only(code_of(ready.is_ok()))
}

pub(super) async fn metrics(app: &App) -> Reply {
    let status = app.cache.status(Report::Persistent).await;
    let mut text = metrics_text(&status, &app.handle.me);
    text.push_str(&raft::metrics(app).await);
    Reply::metrics(text)
}
