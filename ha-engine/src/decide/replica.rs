//! Following somebody else (rows F of section 1.15), and whom to follow.

use dcs_core::model::{ClusterView, Member, MemberName, Role, Tags};

use super::action::{Answer, Ask, Effect, Reload, Task};
use super::cycle::{Cycle, Outcome};
use super::journal::{Record, Rule};
use super::memory::RewindState;
use super::observation::{Monitor, Upstream};
use super::{action::DemoteKind, reconnect, rewind};
use crate::endpoint::ConnUrl;
use crate::ports::{FollowPlan, RecoveryDiff};

/// The server of `member`, if it publishes where it is.
pub(crate) fn upstream(member: &Member) -> Option<Upstream> {
    let url = ConnUrl::parse(member.record.conn_url.as_deref()?)?;
    Some(Upstream { name: member.name.as_str().to_owned(), host: url.host, port: Some(url.port), dbname: url.dbname, remote: false })
}

/// The member to follow: `replicatefrom` if it is there and not me, otherwise the leader. Never myself.
pub(crate) fn member_to_follow<'v>(view: &'v ClusterView, me: &str, replicatefrom: Option<&str>) -> Option<&'v Member> {
    replicatefrom
        .filter(|name| *name != me)
        .and_then(|name| view.members.iter().find(|member| member.name == name))
        .or_else(|| view.leader_member())
        .filter(|member| member.name != me)
}

/// The plan for a replica in the current view.
pub(super) fn plan(c: &Cycle<'_>) -> FollowPlan {
    plan_in(&c.view, c.obs)
}

/// The plan for a replica in `view`.
pub(crate) fn plan_in(view: &ClusterView, obs: &super::observation::Observation) -> FollowPlan {
    plan_for(view, &obs.me, &obs.tags, obs.use_slots)
}

/// The plan for the replica `me` with these tags.
pub(crate) fn plan_for(view: &ClusterView, me: &MemberName, tags: &Tags, use_slots: bool) -> FollowPlan {
    let upstream = if tags.nostream() { None } else { member_to_follow(view, me.as_str(), tags.replicatefrom()).and_then(upstream) };
    let slot = (use_slots && upstream.is_some()).then(|| dcs_core::keys::slot_name_from_member(me.as_str()));
    FollowPlan { upstream, slot, role: Role::Replica, overrides: Vec::new() }
}

/// The plan that follows nobody: local WAL and `restore_command` only.
pub(crate) fn plan_nobody() -> FollowPlan {
    FollowPlan { upstream: None, slot: None, role: Role::Replica, overrides: Vec::new() }
}

/// Rows F. `demoted` is the line if this node had to stop being primary, `following` the line otherwise.
pub(super) fn follow(c: &mut Cycle<'_>, demoted: &str, following: &str, reload: bool) -> Outcome {
    if reload {
        c.reload(Reload::BeforeFollowing)?;
    }
    let primary = c.is_primary();
    let rewind_pending = c.memory.rewind == RewindState::Need && c.obs.rewind_policy.can_act();
    if c.paused() {
        if c.view.is_unlocked() || !rewind_pending {
            if primary {
                // F1
                c.set_role(Role::Primary);
                return Ok(c.noted(Rule::DemotePaused, "continue to run as primary without lock"));
            }
            // F2
            if c.role() != Role::StandbyLeader {
                c.set_role(Role::Replica);
            }
            if plan(c).upstream.is_none() {
                return Ok(format!("no action. I am ({})", c.me()));
            }
        }
    } else if c.obs.server.is_or_becomes_primary() {
        // F4, with hardening rule X10: a promotion that was requested counts as done.
        c.arm_rewind_check();
        c.memory.lease = None;
        c.push(Effect::Demote(DemoteKind::ImmediateNoLock));
        return Ok(c.noted(Rule::DemoteNoLock, demoted));
    }
    // F6
    if !c.obs.server.state.is_starting() {
        if let Some(line) = rewind::rewind_or_reinitialize(c)? {
            return Ok(line);
        }
        // F7
        let replay_paused = matches!(&c.obs.server.monitor, Monitor::Standby(standby) if standby.replay_paused);
        if !c.paused() && replay_paused && c.obs.server.major_version.is_some_and(|version| version >= 140_000) {
            c.info("Resuming paused WAL replay for PostgreSQL 14+");
            c.push(Effect::ResumeReplay);
            c.note(Record::new(Rule::ReplayResumed, "WAL replay had paused itself and is resumed"));
        }
    }
    let plan = plan(c);
    let diff = recovery_diff(c, &plan)?;
    if diff != RecoveryDiff::None {
        let upstream = plan.upstream.as_ref().map_or("nobody", |upstream| upstream.name.as_str());
        c.note(Record::new(Rule::Follow, format!("following {upstream} from now on")).fact("by", format!("{diff:?}").to_lowercase()));
    }
    match diff {
        RecoveryDiff::Restart => {
            // F9
            c.arm_rewind_check();
            c.task = Some(Task::Follow { name: "changing primary_conninfo and restarting", plan });
        }
        RecoveryDiff::Reload => {
            // F10
            c.arm_rewind_check();
            c.push(Effect::FollowByReload(plan));
        }
        RecoveryDiff::None => {
            c.set_role(Role::Replica);
            // F12: the same leader on a new timeline was promoted again after a crash.
            if let (Some(own), Some(leader)) = (c.memory.own_last_timeline, c.memory.leader_timeline)
                && own < leader
                && !c.memory.rewind.is_open()
            {
                c.arm_rewind_check();
                if let Some(line) = rewind::rewind_or_reinitialize(c)? {
                    return Ok(line);
                }
            }
            reconnect::nudge_if_upstream_is_back(c, &plan);
        }
    }
    Ok(following.to_owned())
}

fn recovery_diff(c: &Cycle<'_>, plan: &FollowPlan) -> Outcome<RecoveryDiff> {
    match c.need(Ask::RecoveryDiff(plan.clone()))? {
        Answer::RecoveryDiff(diff) => Ok(*diff),
        _ => Ok(RecoveryDiff::None),
    }
}

/// H10: somebody else holds the lock.
pub(super) fn follow_leader(c: &mut Cycle<'_>) -> Outcome {
    let leader = c.view.leader_name().map(ToString::to_string).unwrap_or_default();
    let line = format!("no action. I am ({}), a secondary, and following a leader ({leader})", c.me());
    follow(c, "demoting self because I do not have the lock and I was a leader", &line, false)
}
