//! Watching who leads, after the failover key was written.
//!
//! The engine of this node is woken by every change of the leader key and reads the cluster then; its view is looked at
//! as soon as there is a new one. Once a second the cluster is read anew, for stores that do not wake and for an engine
//! that is busy.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_core::model::{ClusterView, MemberName};
use tokio::time::Instant;

use crate::rest::app::App;

/// How often the cluster is read without being woken, and how long the store may go on showing the time before the
/// key was written.
const PERIOD: Duration = Duration::from_secs(1);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This member leads now.
    Led(MemberName),
    /// The request is gone and nobody else leads.
    Failed,
    /// The time is over.
    Unknown,
}

/// What one view says about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Glimpse {
    /// Somebody else leads.
    Led(MemberName),
    /// The request is there.
    Pending,
    /// The request is gone, and nobody else leads.
    Gone,
}

/// Looks at `view`, where `before` led when the request was made.
fn look(view: &ClusterView, before: Option<&MemberName>) -> Glimpse {
    match view.leader_name() {
        Some(leader) if Some(leader) != before => Glimpse::Led(leader.clone()),
        _ if view.failover.is_none() => Glimpse::Gone,
        _ => Glimpse::Pending,
    }
}

/// Waits until somebody other than `before` leads, the request is gone, or the time is over. Cancel safe: it only reads.
pub(super) async fn until_done(app: &App, before: Option<MemberName>, candidate: Option<&MemberName>) -> Outcome {
    let loop_wait = app.handle.snapshot().settings.global.loop_wait;
    let started = Instant::now();
    let end = started + 2 * loop_wait.max(Duration::from_secs(10));
    let written_at = app.handle.clock().now();
    let mut snapshots = app.handle.subscribe();
    let mut next_load = started + PERIOD;
    let mut seen = false;
    let candidate = candidate.map_or("", MemberName::as_str);
    let mut changed = true;
    loop {
        if changed {
            let snapshot = snapshots.borrow_and_update().clone();
            let view = snapshot.view.as_ref().filter(|_| snapshot.view_loaded_at.is_some_and(|at| at > written_at));
            match view.map(|view| look(view, before.as_ref())) {
                Some(Glimpse::Led(by)) => return Outcome::Led(by),
                Some(Glimpse::Pending) => seen = true,
                // Worth a look of our own: that view may have been on its way while the key was written.
                Some(Glimpse::Gone) if seen => next_load = Instant::now(),
                Some(Glimpse::Gone) | None => {}
            }
        }
        changed = tokio::select! {
            Ok(()) = snapshots.changed() => true,
            () = tokio::time::sleep_until(next_load.min(end)) => false,
        };
        if Instant::now() >= end {
            tracing::debug!("Nobody else than {before:?} leads yet, {candidate:?} was wanted");
            return Outcome::Unknown;
        }
        if Instant::now() < next_load {
            continue;
        }
        next_load = Instant::now() + PERIOD;
        match app.handle.dcs().load(Deadline::at(end.min(next_load + PERIOD))).await {
            Ok(view) => {
                app.wake_if_new(&view);
                match look(&view, before.as_ref()) {
                    Glimpse::Led(by) => return Outcome::Led(by),
                    Glimpse::Pending => seen = true,
                    Glimpse::Gone if seen || started.elapsed() >= PERIOD => return Outcome::Failed,
                    Glimpse::Gone => {}
                }
            }
            Err(error) => tracing::debug!("While waiting for a new leader: {}", error.chain()),
        }
    }
}

#[cfg(test)]
mod tests {
    use dcs_core::model::{FailoverKey, FailoverRequest, Leader, Revision};

    use super::*;

    fn view(leader: Option<&str>, pending: bool) -> ClusterView {
        let revision = || Revision::from(1_u64);
        let request = FailoverRequest { candidate: Some("b".into()), ..FailoverRequest::default() };
        ClusterView {
            leader: leader.map(|name| Leader { name: name.into(), revision: revision(), handle: None }),
            failover: pending.then(|| FailoverKey { revision: revision(), request }),
            ..ClusterView::default()
        }
    }

    #[test]
    fn somebody_else_leading_is_what_counts() {
        let (a, b) = (MemberName::from("a"), MemberName::from("b"));
        for pending in [false, true] {
            assert_eq!(look(&view(Some("b"), pending), Some(&a)), Glimpse::Led(b.clone()));
            assert_eq!(look(&view(Some("b"), pending), None), Glimpse::Led(b.clone()));
        }
        for leader in [Some("a"), None] {
            assert_eq!(look(&view(leader, true), Some(&a)), Glimpse::Pending);
            assert_eq!(look(&view(leader, false), Some(&a)), Glimpse::Gone);
        }
    }
}
