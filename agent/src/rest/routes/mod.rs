//! From a request to its answer.
//!
//! The first element of the path chooses the handler together with the method; `/cluster/x` is `/cluster`. What has no
//! handler is a health check if it only reads, and 501 otherwise.

mod cluster;
mod config;
mod failsafe;
mod health;
mod raft;
mod reinitialize;
mod restart;
mod switchover;

use axum::body::Body;
use axum::response::Response;
use ha_engine::{Command, EngineGone};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;

use super::app::App;
use super::auth::{Caller, Members};
use super::reply::Reply;

/// Answers one request.
pub(super) async fn answer(app: &App, caller: Caller, request: Request<Incoming>) -> Response {
    let live = app.live();
    let (parts, body) = request.into_parts();
    let element = first_element(parts.uri.path());
    let reply = match parts.method {
        Method::GET => read(app, element, &parts.uri).await,
        Method::HEAD | Method::OPTIONS => health::status_only(app, &parts.uri).await,
        _ => match Action::find(&parts.method, element) {
            None => Reply::unsupported(&parts.method),
            Some(action) => {
                let authorization = parts.headers.get(AUTHORIZATION);
                let snapshot = app.handle.snapshot();
                let view = snapshot.fresh_view(app.handle.clock().now()).map(AsRef::as_ref);
                match live.access.check(caller, authorization, action.members(), view).await {
                    Ok(()) => action.run(app, &parts.headers, Body::new(body)).await,
                    Err(refusal) => refusal,
                }
            }
        },
    };
    tracing::debug!("{} - - \"{} {}\" {}", caller.address, parts.method, parts.uri.path(), reply.status().as_u16());
    reply.into_response(&live.decoration)
}

fn first_element(path: &str) -> &str {
    path.trim_start_matches('/').split('/').next().unwrap_or_default()
}

/// What only reads.
async fn read(app: &App, element: &str, uri: &http::Uri) -> Reply {
    match element {
        "patroni" => health::patroni(app).await,
        "liveness" => health::liveness(app),
        "readiness" => health::readiness(app, uri).await,
        "cluster" => cluster::cluster(app).await,
        "history" => cluster::history(app).await,
        "metrics" => health::metrics(app).await,
        "config" => config::get(app).await,
        "failsafe" => failsafe::get(app),
        "raft" => raft::get(app).await,
        _ => health::with_body(app, uri).await,
    }
}

/// What changes something, and is subject to access control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    PatchConfig,
    PutConfig,
    Reload,
    Restart,
    DeleteRestart,
    Reinitialize,
    Switchover,
    Failover,
    DeleteSwitchover,
    Failsafe,
    Sigterm,
}

impl Action {
    fn find(method: &Method, element: &str) -> Option<Self> {
        Some(match (method.as_str(), element) {
            ("PATCH", "config") => Self::PatchConfig,
            ("PUT", "config") => Self::PutConfig,
            ("POST", "reload") => Self::Reload,
            ("POST", "restart") => Self::Restart,
            ("DELETE", "restart") => Self::DeleteRestart,
            ("POST", "reinitialize") => Self::Reinitialize,
            ("POST", "switchover") => Self::Switchover,
            ("POST", "failover") => Self::Failover,
            ("DELETE", "switchover") => Self::DeleteSwitchover,
            ("POST", "failsafe") => Self::Failsafe,
            ("POST", "sigterm") => Self::Sigterm,
            _ => return None,
        })
    }

    fn members(self) -> Members {
        if self == Self::Failsafe { Members::DoNotCount } else { Members::Count }
    }

    async fn run(self, app: &App, headers: &HeaderMap, body: Body) -> Reply {
        match self {
            Self::PatchConfig => config::patch(app, headers, body).await,
            Self::PutConfig => config::put(app, headers, body).await,
            // Waits for room in the mailbox: what was answered with "scheduled" must not be lost.
            Self::Reload => match app.handle.send(Command::Reload).await {
                Ok(()) => Reply::text(StatusCode::ACCEPTED, "reload scheduled"),
                Err(EngineGone) => app.engine_gone(),
            },
            Self::Restart => restart::post(app, headers, body).await,
            Self::DeleteRestart => restart::delete(app).await,
            Self::Reinitialize => reinitialize::post(app, headers, body).await,
            Self::Switchover => switchover::post(app, headers, body, switchover::Kind::Switchover).await,
            Self::Failover => switchover::post(app, headers, body, switchover::Kind::Failover).await,
            Self::DeleteSwitchover => switchover::delete(app).await,
            Self::Failsafe => failsafe::post(app, headers, body).await,
            // Patroni obeys only in tests on Windows.
            Self::Sigterm => Reply::text(StatusCode::ACCEPTED, "shutdown scheduled"),
        }
    }
}
