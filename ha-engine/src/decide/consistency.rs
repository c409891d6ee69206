//! Helping members that wait for consistency.
//!
//! A standby accepts connections once it has replayed everything up to its minimum recovery point. After `pg_rewind` that is
//! where the source was about to write next, so it is reached only when the source writes again. An idle primary does so
//! when its background writer thinks of it, every 15 s or later. A leader that sees such a member writes a small record.
//!
//! ```text
//!   member key: replica, `starting` ─► leader wakes ─► record ─► the member replays it and accepts connections
//! ```

use std::collections::BTreeSet;

use dcs_core::model::{Member, MemberName, Role, ServerState, Timeline};

use super::action::Effect;
use super::cycle::Cycle;
use super::observation::Monitor;
use super::repeat::Repeat;

/// Whether `member` may be waiting for WAL of a primary on `timeline`: a replica that is starting, and, as far as it says,
/// not on another timeline. One that does not stream would not receive it.
fn may_wait(member: &Member, timeline: Timeline) -> bool {
    let record = &member.record;
    let says = |word: &Option<String>, expected: &str| word.as_deref() == Some(expected);
    says(&record.state, ServerState::Starting.as_str())
        && says(&record.role, Role::Replica.as_str())
        && record.timeline.is_none_or(|theirs| theirs == timeline)
        && !record.tags.nostream()
}

/// Orders a WAL record when a member has begun to wait, and again with growing pauses while it still waits: any record
/// that is written after a rewind will do, so one is nearly always enough.
///
/// Not in pause: who starts a server then does it by hand, and who compares the positions of servers that should be idle
/// must not find them moving.
pub(super) fn help_waiting_members(c: &mut Cycle<'_>) {
    let leads = c.lock_is_mine() && c.memory.lease.is_some() && !c.paused();
    let timeline = match &c.obs.server.monitor {
        Monitor::Primary(primary) if leads => primary.timeline,
        _ => {
            c.memory.helped_members.clear();
            return;
        }
    };
    let waiting: BTreeSet<MemberName> = c
        .view
        .members
        .iter()
        .filter(|member| member.name != *c.me() && may_wait(member, timeline))
        .map(|member| member.name.clone())
        .collect();
    c.memory.helped_members.retain(|name, _| waiting.contains(name));
    let now = c.now.moment;
    for name in waiting {
        let help = c.memory.helped_members.get(&name).copied().unwrap_or(Repeat::at(now));
        let help = if help.is_due(now) {
            if !c.effects.contains(&Effect::WriteWalRecord) {
                c.push(Effect::WriteWalRecord);
            }
            c.info(format!("Writing a WAL record because {name} may be waiting for one to become consistent"));
            help.done(now)
        } else {
            help
        };
        c.wake_at(help.due());
        c.memory.helped_members.insert(name, help);
    }
}
