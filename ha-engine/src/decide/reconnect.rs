//! A standby whose upstream is back.
//!
//! A standby that has lost its upstream tries again at once, and then every `wal_retrieve_retry_interval` (5 s by default).
//! An upstream that restarts is usually up again a moment after such a try. When its member key says so, the standby nudges
//! its startup process, which ends that sleep. (Another upstream needs no nudge: the reload that names it is one.)
//!
//! ```text
//!   upstream: running ─► restarting ─► running        member keys wake this node for each
//!   standby:  streams    does not      does not: nudge, and again with growing pauses ─► streams
//! ```

use dcs_core::Moment;
use dcs_core::model::ServerState;

use super::action::Effect;
use super::cycle::Cycle;
use super::observation::Monitor;
use super::repeat::Repeat;
use crate::ports::FollowPlan;

/// What a standby has seen of the member that it streams from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSeen {
    name: String,
    running: bool,
    /// When the startup process is nudged next; nothing while there is no reason to.
    nudge: Option<Repeat>,
}

/// Orders a nudge when the upstream has come back and this standby does not stream: at once if it was seen to be away,
/// otherwise after a pause, in which most standbys begin to stream by themselves. Again with growing pauses while that has
/// not helped.
///
/// Not in pause: a nudge makes the server read its configuration, which somebody may be editing.
pub(super) fn nudge_if_upstream_is_back(c: &mut Cycle<'_>, plan: &FollowPlan) {
    let before = c.memory.upstream.take();
    let Some(upstream) = &plan.upstream else {
        return;
    };
    let before = before.filter(|seen| seen.name == upstream.name);
    let running = c
        .view
        .members
        .iter()
        .find(|member| member.name == upstream.name.as_str())
        .is_some_and(|member| member.record.state.as_deref() == Some(ServerState::Running.as_str()));
    let disconnected = matches!(&c.obs.server.monitor, Monitor::Standby(standby) if !standby.is_streaming());
    let nudge = (running && disconnected && !c.paused()).then(|| when_to_nudge(before.as_ref(), c.now.moment));
    let nudge = nudge.map(|nudge| {
        if !nudge.is_due(c.now.moment) {
            return nudge;
        }
        c.info(format!("Waking up the startup process of PostgreSQL: {} is running and I do not stream from it", upstream.name));
        c.push(Effect::Nudge);
        nudge.done(c.now.moment)
    });
    if let Some(nudge) = nudge {
        c.wake_at(nudge.due());
    }
    c.memory.upstream = Some(UpstreamSeen { name: upstream.name.clone(), running, nudge });
}

fn when_to_nudge(before: Option<&UpstreamSeen>, now: Moment) -> Repeat {
    match before {
        Some(seen) if !seen.running => Repeat::at(now),
        Some(UpstreamSeen { nudge: Some(planned), .. }) => *planned,
        _ => Repeat::after_a_pause(now),
    }
}
