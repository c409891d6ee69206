//! Switchover and failover on request.
//!
//! ```text
//!   body ─► checks on a fresh view ─► are there candidates? ─► failover key ─► wake the loop ─► watch who leads
//! ```
//!
//! The checks run in a fixed order, and the first that fails answers. Whoever receives the request may be the node that
//! steps down; it only watches the store.

mod watch;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use dcs_core::codec::{ScheduleError, parse_schedule};
use dcs_core::model::{ClusterView, FailoverRequest, Member, MemberName, ScheduledTime, Tags, Timeline};
use dcs_core::{Deadline, Write};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use ha_engine::decide::journal::{Record, Rule};
use ha_engine::decide::observation::{PeerAnswer, PeerTarget};
use ha_engine::settings::SyncMode;
use ha_engine::settings::values::{is_set, text};
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use self::watch::Outcome;
use crate::cluster_json::Modes;
use crate::rest::app::App;
use crate::rest::body::{Presence, read_object};
use crate::rest::reply::Reply;

/// How long candidates may take to tell their state.
const POLL_LIMIT: Duration = Duration::from_secs(2);

/// A request is refused with this status and text.
type Refusal = (StatusCode, String);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A leader that works hands over.
    Switchover,
    /// Somebody takes over, whether or not there is a leader.
    Failover,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Failover => "failover",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Switchover => "Switchover",
            Self::Failover => "Failover",
        }
    }

    /// What was done, once it is done.
    fn done(self) -> &'static str {
        match self {
            Self::Switchover => "switched over",
            Self::Failover => "failed over",
        }
    }

    /// The same at the beginning of a sentence.
    fn done_title(self) -> &'static str {
        match self {
            Self::Switchover => "Switched over",
            Self::Failover => "Failed over",
        }
    }
}

pub(super) async fn post(app: &App, headers: &HeaderMap, body: Body, kind: Kind) -> Reply {
    let body = match read_object(headers, body, Presence::Required).await {
        Ok(body) => body,
        Err(reply) => return reply,
    };
    let view = match app.load(app.store_deadline()).await {
        Ok(view) => view,
        Err(reply) => return reply,
    };
    let asked = Asked::read(&body);
    tracing::info!(
        "received {} request with leader={} candidate={} scheduled_at={}",
        kind.name(),
        shown(asked.leader.as_ref()),
        shown(asked.candidate.as_ref()),
        asked.scheduled_at.as_ref().map_or_else(|| "none".to_owned(), text),
    );
    let modes = app.modes(&view);
    let names = (asked.leader.clone(), asked.candidate.clone());
    let (kind, request) = match asked.check(kind, modes, app.handle.clock().wall()) {
        Ok(checked) => checked,
        Err((status, problem)) => {
            note_refusal(app, kind, &names, &problem);
            return Reply::text(status, problem);
        }
    };
    if request.scheduled_at.is_none()
        && let Err(problem) = is_possible(app, &view, modes, kind, &request).await
    {
        note_refusal(app, kind, &names, &problem);
        return Reply::text(StatusCode::PRECONDITION_FAILED, problem);
    }
    match app.handle.dcs().set_failover(&request, None, app.store_deadline()).await {
        Ok(Write::Applied(_)) => {}
        failed => {
            if let Err(error) = failed {
                tracing::warn!("The failover key was not written: {}", error.chain());
            }
            return Reply::text(StatusCode::SERVICE_UNAVAILABLE, "failed to write failover key into DCS");
        }
    }
    app.handle.wake();
    if request.scheduled_at.is_some() {
        return Reply::text(StatusCode::ACCEPTED, format!("{} scheduled", kind.title()));
    }
    let (status, sentence) =
        watch::until_done(app, view.leader_name().cloned(), request.candidate.as_ref()).await.sentence(kind, request.candidate.as_ref());
    Reply::text(status, sentence)
}

/// A request that never reaches the leader leaves a trace all the same.
fn note_refusal(app: &App, kind: Kind, (leader, candidate): &(Option<MemberName>, Option<MemberName>), problem: &str) {
    let what = format!("a {} was asked for and refused: {problem}", kind.name());
    let record = Record::new(Rule::RequestRefused, what).fact_if("leader", leader.as_ref()).fact_if("candidate", candidate.as_ref());
    app.handle.note(record);
}

impl Outcome {
    fn sentence(&self, kind: Kind, candidate: Option<&MemberName>) -> Refusal {
        match (self, candidate) {
            (Self::Led(by), Some(candidate)) if by != candidate => {
                (StatusCode::OK, format!("{} to \"{by}\" instead of \"{candidate}\"", kind.done_title()))
            }
            (Self::Led(by), _) => (StatusCode::OK, format!("Successfully {} to \"{by}\"", kind.done())),
            (Self::Failed, _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{} failed", kind.title())),
            (Self::Unknown, _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{} status unknown", kind.title())),
        }
    }
}

/// Cancels a scheduled switchover.
pub(super) async fn delete(app: &App) -> Reply {
    let deadline = app.store_deadline();
    let view = match app.load(deadline).await {
        Ok(view) => view,
        Err(reply) => return reply,
    };
    let Some(key) = view.failover.as_ref().filter(|key| key.request.scheduled_at.is_some()) else {
        return Reply::text(StatusCode::NOT_FOUND, "no switchover is scheduled");
    };
    match app.handle.dcs().set_failover(&FailoverRequest::default(), Some(&key.revision), deadline).await {
        Ok(Write::Applied(_)) => {
            app.handle.wake();
            Reply::text(StatusCode::OK, "scheduled switchover deleted")
        }
        Ok(Write::Refused) => Reply::error_page(StatusCode::CONFLICT, "The request was changed or carried out at the same moment"),
        Err(error) => app.store_failed(&error),
    }
}

fn shown(name: Option<&MemberName>) -> &str {
    name.map_or("none", MemberName::as_str)
}

/// The body.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    leader: Option<MemberName>,
    candidate: Option<MemberName>,
    scheduled_at: Option<Value>,
}

impl Asked {
    fn read(body: &Map<String, Value>) -> Self {
        let field = |key: &str| body.get(key).filter(|value| is_set(value));
        let name = |key: &str| field(key).map(|value| MemberName::from(text(value)));
        Self {
            leader: name("leader"),
            candidate: name("candidate").or_else(|| name("member")),
            scheduled_at: field("scheduled_at").cloned(),
        }
    }

    /// The checks that need no look at the members. A failover that names a leader is a switchover from then on.
    fn check(self, kind: Kind, modes: Modes, now: jiff::Timestamp) -> Result<(Kind, FailoverRequest), Refusal> {
        let bad = |problem: &str| Err((StatusCode::BAD_REQUEST, problem.to_owned()));
        match kind {
            Kind::Failover if self.candidate.is_none() => {
                return bad("Failover could be performed only to a specific candidate");
            }
            Kind::Switchover if self.leader.is_none() => {
                return bad("Switchover could be performed only from a specific leader");
            }
            Kind::Failover | Kind::Switchover => {}
        }
        let scheduled_at = match &self.scheduled_at {
            Some(_) if kind == Kind::Failover => return bad("Failover can't be scheduled"),
            Some(_) if modes.pause => return bad("Can't schedule switchover in the paused state"),
            Some(time) => Some(parse_time(time, kind.name(), now)?),
            None => None,
        };
        if modes.pause && self.candidate.is_none() {
            return bad("Switchover is possible only to a specific candidate in a paused state");
        }
        let kind = if kind == Kind::Failover && self.leader.is_some() {
            tracing::warn!("received failover request with leader specified - performing switchover instead");
            Kind::Switchover
        } else {
            kind
        };
        if self.leader == self.candidate {
            return bad("Switchover target and source are the same");
        }
        Ok((kind, FailoverRequest { leader: self.leader, candidate: self.candidate, scheduled_at }))
    }
}

/// A time that lies ahead.
///
/// # Errors
///
/// The refusal, for a request to do `action` then.
pub(super) fn parse_time(value: &Value, action: &str, now: jiff::Timestamp) -> Result<ScheduledTime, Refusal> {
    match parse_schedule(value.as_str().unwrap_or_default()) {
        Ok(time) if time.instant() < now => Err((StatusCode::UNPROCESSABLE_ENTITY, format!("Cannot schedule {action} in the past"))),
        Ok(time) => Ok(time),
        Err(ScheduleError::NoTimeZone(_)) => {
            Err((StatusCode::BAD_REQUEST, format!("Timezone information is mandatory for the scheduled {action}")))
        }
        Err(ScheduleError::NotParsable) => {
            let problem = "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601";
            Err((StatusCode::UNPROCESSABLE_ENTITY, problem.to_owned()))
        }
    }
}

/// Whether somebody could take over now; otherwise why not.
async fn is_possible(app: &App, view: &ClusterView, modes: Modes, kind: Kind, request: &FailoverRequest) -> Result<(), String> {
    let newest = view.history.as_ref().and_then(|history| history.cluster_timeline());
    let targets = candidates(view, modes, kind, request)?.into_iter().filter_map(|member| {
        let target = PeerTarget { name: member.name.clone(), api_url: member.record.api_url.clone()? };
        Some((target, &member.record.tags))
    });
    let deadline = Deadline::after(POLL_LIMIT);
    let peers = Arc::clone(&app.peers);
    // One by one, so that the first good answer is enough: another member may be dead.
    let mut asked: FuturesUnordered<_> =
        targets.map(|(target, published)| ask(peers.as_ref(), target, published, newest, deadline)).collect();
    while let Some(can) = asked.next().await {
        if can {
            return Ok(());
        }
    }
    Err(format!("{} is not possible: no good candidates have been found", kind.name()))
}

async fn ask(
    peers: &dyn ha_engine::ports::Peers,
    target: PeerTarget,
    published: &Tags,
    newest: Option<Timeline>,
    deadline: Deadline,
) -> bool {
    let answers = peers.poll(std::slice::from_ref(&target), deadline).await;
    answers.iter().any(|(_, answer)| match answer {
        PeerAnswer::Status(status) => {
            // A node behind the newest timeline may say `nofailover` only to be skipped in a race by agents that compare bare
            // positions. An operator who wants it all the same goes by its member key.
            let behind = status.timeline.zip(newest).is_some_and(|(theirs, newest)| theirs < newest);
            let tags = if behind { published } else { &status.tags };
            !tags.nofailover() && !status.watchdog_failed
        }
        PeerAnswer::Unreachable => false,
    })
}

/// The members among which a new leader is looked for.
fn candidates<'a>(view: &'a ClusterView, modes: Modes, kind: Kind, request: &FailoverRequest) -> Result<Vec<&'a Member>, String> {
    let leader = view.leader_name();
    if request.leader.is_some() && request.leader.as_ref() != leader {
        return Err("leader name does not match".to_owned());
    }
    let named_standbys = modes.synchronous_mode == SyncMode::On;
    if let Some(candidate) = &request.candidate {
        if kind == Kind::Switchover && named_standbys && !view.sync.lists(candidate) {
            return Err("candidate name does not match with sync_standby".to_owned());
        }
        return view.member(candidate).map(|member| vec![member]).ok_or_else(|| "candidate does not exists".to_owned());
    }
    let found: Vec<&Member> = if named_standbys {
        view.members.iter().filter(|member| view.sync.lists(&member.name)).collect()
    } else {
        let other = |member: &&Member| leader.is_none_or(|leader| member.name != *leader && member.record.api_url.is_some());
        view.members.iter().filter(other).collect()
    };
    if !found.is_empty() {
        return Ok(found);
    }
    Err(if named_standbys {
        format!("{} is not possible: can not find sync_standby", kind.name())
    } else {
        format!("{} is not possible: cluster does not have members except leader", kind.name())
    })
}

#[cfg(test)]
mod tests;
