//! Following somebody else (rows F of section 1.15), and whom to follow.

use dcs_core::model::{ClusterView, Member, MemberName, Role, Tags, Timeline};

use super::action::{Answer, Ask, Effect, Reload, Task};
use super::cycle::{Cycle, Outcome};
use super::journal::{Record, Rule};
use super::memory::RewindState;
use super::observation::{Monitor, Upstream};
use super::{action::DemoteKind, reconnect, rewind, standby};
use crate::endpoint::ConnUrl;
use crate::ports::{CallbackEvent, FollowPlan, RecoveryDiff};
use crate::settings::{EffectiveSettings, GlobalConfig, StandbyCluster};

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

/// Whom a standby follows.
#[derive(Clone, Copy, Debug)]
enum Node<'v> {
    /// Nobody: what it has comes from its own WAL and an archive.
    Nobody,
    /// The remote member of a standby cluster.
    Remote(&'v StandbyCluster),
    /// A member of this cluster.
    Member(&'v Member),
}

/// What whom a node follows depends on, beside the view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Follower<'a> {
    me: &'a MemberName,
    tags: &'a Tags,
    use_slots: bool,
    cfg: &'a GlobalConfig,
}

impl<'a> Follower<'a> {
    /// The node that has these settings.
    pub(crate) fn of(settings: &'a EffectiveSettings) -> Self {
        let EffectiveSettings { name, tags, global, postgresql, .. } = settings;
        Self { me: name, tags, use_slots: postgresql.use_slots, cfg: global }
    }

    fn in_cycle(c: &Cycle<'a>) -> Self {
        Self { me: &c.obs.me, tags: &c.obs.tags, use_slots: c.obs.use_slots, cfg: c.cfg }
    }

    /// Whom it follows in `view`: the first that fits.
    fn node<'v>(&self, view: &'v ClusterView) -> Node<'v>
    where
        'a: 'v,
    {
        if self.tags.nostream() {
            return Node::Nobody;
        }
        if let Some(section) = &self.cfg.standby_cluster
            && (view.leader_name() == Some(self.me) || (view.is_unlocked() && !self.cfg.pause))
        {
            return Node::Remote(section);
        }
        member_to_follow(view, self.me.as_str(), self.tags.replicatefrom()).map_or(Node::Nobody, Node::Member)
    }

    /// What its server should look like as a standby in `view`.
    pub(crate) fn plan(&self, view: &ClusterView) -> FollowPlan {
        let upstream = match self.node(view) {
            Node::Remote(section) => {
                let leads = view.leader_name() == Some(self.me);
                let role = if leads { Role::StandbyLeader } else { Role::Replica };
                return standby::plan_of_remote(section, role, self.use_slots);
            }
            Node::Member(member) => upstream(member),
            Node::Nobody => None,
        };
        let slot = (self.use_slots && upstream.is_some()).then(|| dcs_core::keys::slot_name_from_member(self.me.as_str()));
        let overrides = self.cfg.standby_cluster.as_ref().map(standby::overrides).unwrap_or_default();
        FollowPlan { upstream, slot, role: Role::Replica, overrides }
    }
}

/// The plan for a standby in the current view.
pub(super) fn plan(c: &Cycle<'_>) -> FollowPlan {
    Follower::in_cycle(c).plan(&c.view)
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
            if matches!(Follower::in_cycle(c).node(&c.view), Node::Nobody) {
                return Ok(format!("no action. I am ({})", c.me()));
            }
        }
    } else if c.obs.server.is_or_becomes_primary() {
        // F3
        if let Some(section) = &c.cfg.standby_cluster {
            standby::demote_cluster(c, section);
            return Ok(demoted.to_owned());
        }
        // F4, with hardening rule X10: a promotion that was requested counts as done.
        c.arm_rewind_check();
        c.memory.lease = None;
        c.push(Effect::Demote(DemoteKind::ImmediateNoLock));
        return Ok(c.noted(Rule::DemoteNoLock, demoted));
    }
    // F5: the remote cluster has gone on to a timeline that the leader here does not know of yet.
    if c.cfg.standby_cluster.is_some()
        && let Some(next) = c.memory.leader_timeline.map(|timeline| Timeline(timeline.0.saturating_add(1)))
        && matches!(c.need(Ask::HistoryFile(next))?, Answer::HistoryFile(Some(_)))
    {
        c.arm_rewind_check();
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
    // F8: the lock names a member that is not there now. What this server streams from is still the best it has.
    let knows_nobody = c.cfg.standby_cluster.is_some() && plan.role == Role::Replica && plan.upstream.is_none();
    if knows_nobody && !c.obs.tags.nostream() {
        return Ok("continue following the old known standby leader".to_owned());
    }
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
            // F11
            let leads = |role| role == Role::StandbyLeader;
            let moves = leads(plan.role) != leads(c.role());
            c.set_role(plan.role);
            if moves {
                c.push(Effect::Call(CallbackEvent::RoleChange));
            }
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
    if c.cfg.standby_cluster.is_some() {
        return standby::follow_leader(c);
    }
    let leader = c.view.leader_name().map(ToString::to_string).unwrap_or_default();
    let line = format!("no action. I am ({}), a secondary, and following a leader ({leader})", c.me());
    follow(c, "demoting self because I do not have the lock and I was a leader", &line, false)
}
