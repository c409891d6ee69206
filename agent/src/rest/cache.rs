//! The status of this node, rendered once for all who ask.
//!
//! A health check is answered many times a second on every node. What it needs is put together only when one of its
//! sources has changed: the engine's snapshot, the state of PostgreSQL, or the report of the server, which is at most a
//! second old and read with one query for all askers.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use dcs_core::model::{ServerState, Timeline};
use dcs_core::{Deadline, Moment};
use ha_engine::decide::observation::Monitor;
use ha_engine::ports::{LocalState, ServerStatus, StatusReport};
use ha_engine::{EngineHandle, Snapshot};
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use super::dto::status_json;
use super::status::{Facts, may_be_asked};

/// How old a report may be.
const MAX_AGE: Duration = Duration::from_secs(1);

/// How long a health check waits for a report.
const HEALTH_LIMIT: Duration = Duration::from_secs(1);

/// How long everybody else waits, the second try included. Peers give up after two seconds.
const STATUS_LIMIT: Duration = Duration::from_millis(1800);

/// The pause before a server that could not be asked is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The status of this node at one moment.
#[derive(Debug)]
pub struct Status {
    /// What the engine knew.
    pub snapshot: Arc<Snapshot>,
    /// What PostgreSQL was doing.
    pub local: LocalState,
    /// What the server said, if it was asked.
    pub report: Option<Arc<StatusReport>>,
    /// The timeline, if it is known.
    pub timeline: Option<Timeline>,
    /// What follows from these.
    pub facts: Facts,
    /// All of it as JSON.
    pub body: Bytes,
}

/// What a report must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// None is needed.
    None,
    /// At most a second old.
    Recent,
    /// The same, and the server is asked again if it could not be reached.
    Persistent,
    /// Read after the request arrived. The leader race compares positions: an old one could elect a node that is behind.
    Fresh,
}

/// Where statuses come from.
#[derive(Debug)]
pub struct Cache {
    handle: EngineHandle,
    local: watch::Receiver<LocalState>,
    last: RwLock<Option<Arc<Status>>>,
    /// The last report that was read for somebody who wanted a fresh one; held while the next is read.
    turn: Mutex<Option<Arc<StatusReport>>>,
    /// The timeline of a standby, as read last.
    own_timeline: Mutex<Option<Timeline>>,
}

impl Status {
    /// What the server said, if it was asked and answered.
    pub fn server(&self) -> Option<&ServerStatus> {
        self.report.as_ref().and_then(|report| report.server.as_ref()).filter(|_| may_be_asked(self.local.state))
    }
}

impl Cache {
    /// Statuses of the node of `handle`.
    pub fn new(handle: EngineHandle) -> Self {
        let local = handle.postgres().subscribe();
        Self { handle, local, last: RwLock::new(None), turn: Mutex::new(None), own_timeline: Mutex::new(None) }
    }

    /// The status now.
    pub async fn status(&self, wanted: Report) -> Arc<Status> {
        let asked = self.handle.clock().now();
        let deadline = Deadline::after(if wanted == Report::Recent { HEALTH_LIMIT } else { STATUS_LIMIT });
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner).clone();
        let report = if self.may_ask() && wanted != Report::None {
            match last.as_ref().and_then(|last| last.report.as_ref()).filter(|report| is_good(report, wanted, asked)) {
                Some(report) => Some(Arc::clone(report)),
                None => self.ask(wanted, asked, deadline).await,
            }
        } else {
            None
        };
        let snapshot = self.handle.snapshot();
        let timeline = match report.as_ref().and_then(|report| report.server.as_ref()).map(|server| &server.monitor) {
            Some(Monitor::Primary(primary)) => Some(primary.timeline),
            Some(Monitor::Standby(standby)) if standby.received_timeline.is_some() => standby.received_timeline,
            Some(Monitor::Standby(_)) if wanted == Report::Fresh => self.own_timeline(&snapshot, deadline).await,
            _ => snapshot.timeline,
        };
        self.render(last, snapshot, report, timeline, wanted == Report::None)
    }

    fn may_ask(&self) -> bool {
        may_be_asked(self.local.borrow().state)
    }

    async fn ask(&self, wanted: Report, asked: Moment, deadline: Deadline) -> Option<Arc<StatusReport>> {
        let postgres = self.handle.postgres();
        let first = match wanted {
            Report::Fresh => self.ask_after(asked, deadline).await,
            Report::Recent => return Some(postgres.report(MAX_AGE, deadline).await),
            Report::None | Report::Persistent => Some(postgres.report(MAX_AGE, deadline).await),
        };
        let running = self.local.borrow().state == ServerState::Running;
        let failed = first.as_ref().is_none_or(|report| report.server.is_none());
        if failed && running && deadline.remaining() > RETRY_PAUSE {
            tokio::time::sleep(RETRY_PAUSE).await;
            return self.ask_after(self.handle.clock().now(), deadline).await;
        }
        first
    }

    /// A report that was begun after `asked`. Everybody who waits while one is on its way shares the next.
    async fn ask_after(&self, asked: Moment, deadline: Deadline) -> Option<Arc<StatusReport>> {
        let mut turn = deadline.bound("another asker", self.turn.lock()).await.ok()?;
        if let Some(report) = turn.as_ref().filter(|report| report.read_at > asked) {
            return Some(Arc::clone(report));
        }
        let report = self.handle.postgres().report(Duration::ZERO, deadline).await;
        *turn = Some(Arc::clone(&report));
        Some(report)
    }

    /// The timeline of a standby that receives nothing. The leader race compares positions by it, so an old value will
    /// do only while it is the leader's.
    async fn own_timeline(&self, snapshot: &Snapshot, deadline: Deadline) -> Option<Timeline> {
        let view = snapshot.fresh_view(self.handle.clock().now());
        let leaders = view.and_then(|view| view.leader_member()).and_then(|leader| leader.record.timeline);
        let mut own = deadline.bound("another asker", self.own_timeline.lock()).await.ok()?;
        if own.is_none() || *own != leaders {
            *own = self.handle.postgres().own_timeline(deadline).await;
        }
        *own
    }

    /// The last status if it was made from the same things, otherwise a new one.
    fn render(
        &self,
        last: Option<Arc<Status>>,
        snapshot: Arc<Snapshot>,
        report: Option<Arc<StatusReport>>,
        timeline: Option<Timeline>,
        any_report: bool,
    ) -> Arc<Status> {
        let view_is_fresh = snapshot.fresh_view(self.handle.clock().now()).is_some();
        let failsafe = self.handle.failsafe_is_active();
        let local = {
            // Held no longer than it takes to look: PostgreSQL's side writes here.
            let local = self.local.borrow();
            if let Some(last) = last
                && Arc::ptr_eq(&last.snapshot, &snapshot)
                && last.facts.has_view == view_is_fresh
                && last.facts.failsafe == failsafe
                && last.local == *local
                && (any_report || (last.timeline == timeline && same(last.report.as_ref(), report.as_ref())))
            {
                return last;
            }
            local.clone()
        };
        let me = &self.handle.me;
        let facts = Facts::gather(&snapshot, me, &local, report.as_deref(), view_is_fresh, failsafe);
        let mut status = Status { snapshot, local, report, timeline, facts, body: Bytes::new() };
        status.body = Bytes::from(Value::Object(status_json(&status, me)).to_string());
        let status = Arc::new(status);
        if !any_report {
            *self.last.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&status));
        }
        status
    }
}

fn is_good(report: &StatusReport, wanted: Report, now: Moment) -> bool {
    match wanted {
        Report::None => true,
        Report::Recent => now.saturating_since(report.read_at) < MAX_AGE,
        Report::Persistent => now.saturating_since(report.read_at) < MAX_AGE && report.server.is_some(),
        Report::Fresh => false,
    }
}

fn same(one: Option<&Arc<StatusReport>>, other: Option<&Arc<StatusReport>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}
