//! An empty data directory (rows N of section 1.4), and a bootstrap in progress (rows B of section 1.5).

use dcs_core::InitializeWrite;
use dcs_core::model::{ClusterView, MemberName, Role, Timeline};

use super::action::{Ask, Effect, ExitReason, Task};
use super::cycle::{Cycle, Outcome};
use super::journal::Rule;
use super::memory::Critical;
use super::observation::{DataDir, Upstream};
use super::{replica, standby, sync, watchdog};
use crate::ports::{CallbackEvent, CloneSource};
use crate::settings::ReplicaMethod;

/// C14: nothing to run. The lock, if it is mine, goes back.
pub(super) fn without_data(c: &mut Cycle<'_>) -> Outcome {
    c.set_role(Role::Uninitialized);
    if c.obs.server.postmaster.is_running() {
        c.push(Effect::StopImmediately);
    }
    watchdog::let_go(c);
    let mine = c.lock_is_mine();
    if let DataDir::Inaccessible(error) = &c.obs.server.data_dir {
        if mine {
            c.release_lock();
            return Ok(c.noted(Rule::ReleaseNoData, "released leader key voluntarily as data dir not accessible and currently leader"));
        }
        return Ok(format!("data directory is not accessible: {error}"));
    }
    if mine {
        c.release_lock();
        return Ok(c.noted(Rule::ReleaseNoData, "released leader key voluntarily as data dir empty and currently leader"));
    }
    if c.paused() {
        return Ok("running with empty data directory".to_owned());
    }
    fill(c)
}

/// Rows N.
fn fill(c: &mut Cycle<'_>) -> Outcome {
    if c.view.is_unlocked() && c.view.initialize.is_none() && !c.obs.tags.nofailover() && c.obs.may_bootstrap {
        if !c.written(Ask::ClaimBootstrap)? {
            // N3
            return Ok(c.noted(Rule::BootstrapElsewhere, "failed to acquire initialize lock"));
        }
        c.memory.bootstrapping = true;
        c.memory.critical = Critical::Pending;
        if let Some(section) = &c.cfg.standby_cluster {
            // N1
            let follow = standby::plan_of_remote(section, Role::StandbyLeader, c.obs.use_slots);
            let source = CloneSource { node: follow.upstream.clone(), methods: Vec::new(), fast_checkpoint: false };
            c.task = Some(Task::BootstrapStandbyLeader { source, follow });
            return Ok("trying to bootstrap a new standby leader".to_owned());
        }
        // N2
        c.task = Some(Task::Bootstrap);
        return Ok(c.noted(Rule::Bootstrap, "trying to bootstrap a new cluster"));
    }
    if let Some((source, from)) = clone_member(c) {
        // N4
        let name = format!("bootstrap {from}");
        let task = Task::Clone { name, source, follow: replica::plan(c) };
        c.task = Some(task);
        return Ok(c.noted(Rule::Clone, format!("trying to bootstrap {from}")));
    }
    // N5
    let bootstrap_elsewhere = c.view.initialize.as_deref() == Some("");
    if c.obs.has_leaderless_method && !bootstrap_elsewhere {
        let task = Task::Clone {
            name: "bootstrap (without leader)".to_owned(),
            // The remote member of a standby cluster is there without a leader.
            source: CloneSource {
                node: c.cfg.standby_cluster.as_ref().and_then(standby::remote_member),
                methods: Vec::new(),
                fast_checkpoint: false,
            },
            follow: replica::plan(c),
        };
        c.task = Some(task);
        return Ok(c.noted(Rule::Clone, "trying to bootstrap (without leader)"));
    }
    // N6
    let whom = if c.cfg.standby_cluster.is_some() { "standby_leader" } else { "leader" };
    Ok(c.noted(Rule::CloneWaits, format!("waiting for {whom} to bootstrap")))
}

/// The node to copy: one of those that offer themselves, otherwise the leader. `chance` is any number: judgement knows no
/// randomness of its own.
fn clone_node(view: &ClusterView, me: &MemberName, chance: usize) -> Option<(Upstream, bool)> {
    let leader = view.leader_member()?;
    let offering: Vec<Upstream> = view
        .members
        .iter()
        .filter(|member| member.name != *me && member.name != leader.name)
        .filter(|member| member.record.is_running() && member.record.tags.clonefrom())
        .filter_map(replica::upstream)
        .collect();
    match offering.len() {
        0 => replica::upstream(leader).map(|upstream| (upstream, true)),
        count => offering.into_iter().nth(chance % count).map(|upstream| (upstream, false)),
    }
}

/// A number that differs from node to node and from try to try.
fn chance(c: &Cycle<'_>) -> usize {
    usize::try_from(c.now.moment.since_origin().as_millis() / 7).unwrap_or_default()
}

/// The node to copy, and how operators call it.
fn clone_member(c: &Cycle<'_>) -> Option<(CloneSource, String)> {
    let (node, is_leader) = clone_node(&c.view, c.me(), chance(c))?;
    let from = format!("from {} '{}'", if is_leader { "leader" } else { "replica" }, node.name);
    let source = CloneSource { node: Some(node), methods: Vec::new(), fast_checkpoint: is_brand_new(&c.view) };
    Some((source, from))
}

/// A cluster on its first timeline where nobody streams yet: a fast checkpoint disturbs nobody.
fn is_brand_new(view: &ClusterView) -> bool {
    let first_timeline = view.leader_member().and_then(|leader| leader.record.timeline) == Some(Timeline(1));
    first_timeline && view.members.iter().all(|member| member.record.replication_state.is_none())
}

/// Where to copy from when the node is built anew because its history has diverged.
pub(super) fn clone_source(c: &Cycle<'_>) -> CloneSource {
    let node = clone_node(&c.view, c.me(), chance(c)).map(|(node, _)| node);
    CloneSource { node, methods: Vec::new(), fast_checkpoint: false }
}

/// Where to copy from when an operator wants the node built anew; `from_leader` insists on the leader and
/// `pg_basebackup`.
pub(crate) fn reinitialize_source(
    view: &ClusterView,
    me: &MemberName,
    from_leader: bool,
    configured: &[ReplicaMethod],
    chance: usize,
) -> CloneSource {
    if !from_leader {
        let node = clone_node(view, me, chance).map(|(node, _)| node);
        return CloneSource { node, methods: Vec::new(), fast_checkpoint: false };
    }
    let basebackup = configured.iter().find(|method| matches!(method, ReplicaMethod::BaseBackup(_))).cloned();
    CloneSource {
        node: view.leader_member().and_then(replica::upstream),
        methods: vec![basebackup.unwrap_or(ReplicaMethod::BaseBackup(serde_json::Value::Null))],
        fast_checkpoint: false,
    }
}

/// Rows B: a bootstrap is in progress here.
pub(super) fn in_progress(c: &mut Cycle<'_>) -> Outcome {
    // B1
    if !c.obs.server.postmaster.is_running() || c.memory.critical == Critical::Done(false) {
        return Ok(give_up(c));
    }
    match c.memory.critical {
        Critical::Done(true) => {}
        // B3
        _ if c.is_primary() => {
            c.set_role(Role::Primary);
            return Ok(match c.obs.task {
                Some(_) => "running post_bootstrap".to_owned(),
                None => {
                    c.task = Some(Task::PostBootstrap);
                    c.noted(Rule::Bootstrap, "running post_bootstrap")
                }
            });
        }
        // B2
        _ => return Ok("waiting for end of recovery after bootstrap".to_owned()),
    }
    // B4
    let Some(system_id) = c.obs.server.system_id.clone() else {
        c.error("the new cluster's system identifier cannot be read");
        return Ok(give_up(c));
    };
    if !watchdog::is_armed(c)? {
        c.error("Cancelling bootstrap because watchdog activation failed");
        return Ok(give_up(c));
    }
    if !c.acquire(Ask::TakeLock)? {
        c.error("somebody else took the leader lock while this node bootstrapped the cluster");
        return Ok(give_up(c));
    }
    sync::begin(c)?;
    c.memory.bootstrapping = false;
    c.memory.critical = Critical::Idle;
    c.memory.managed = true;
    c.push(Effect::WriteInitialize(InitializeWrite::Overwrite, system_id));
    c.push(Effect::WriteConfig);
    if c.role() != Role::StandbyLeader {
        // A standby leader was started as what it is, and `on_start` was called for that.
        c.push(Effect::Call(CallbackEvent::Start));
        c.push(Effect::CheckpointAfterPromotion);
    }
    c.push(Effect::TouchMember);
    Ok(c.noted(Rule::BootstrapDone, "initialized a new cluster"))
}

fn give_up(c: &mut Cycle<'_>) -> String {
    // A valid identifier is that of somebody who was faster.
    if c.view.system_id().is_none() {
        c.info("removing initialize key after failed attempt to bootstrap the cluster");
        c.push(Effect::CancelInitialize);
    }
    c.push(Effect::StopImmediately);
    c.push(Effect::MoveDataDirectoryAside);
    let message = "Failed to bootstrap cluster".to_owned();
    c.push(Effect::Exit(ExitReason { message: message.clone(), leave_postgres: false }));
    c.noted(Rule::BootstrapFailed, message)
}

/// C8 and C9: a leader repairs what the store has lost.
pub(super) fn repair_store(c: &mut Cycle<'_>) {
    if c.view.system_id().is_none()
        && let Some(system_id) = c.obs.server.system_id.clone()
    {
        let how = match c.view.initialize {
            None => InitializeWrite::CreateOnly,
            Some(_) => InitializeWrite::Overwrite,
        };
        c.push(Effect::WriteInitialize(how, system_id));
        c.noted(Rule::StoreRepaired, "the store had lost the cluster's system identifier: it is written again");
    }
    if !c.view.config.as_ref().is_some_and(dcs_core::model::DynamicConfig::is_usable) {
        c.push(Effect::WriteConfig);
        c.noted(Rule::StoreRepaired, "the store had lost the dynamic configuration: it is written again");
    }
}
