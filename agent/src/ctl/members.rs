//! Which members a command is for.

use std::collections::BTreeSet;

use dcs_core::model::{ClusterView, Member, MemberRecord};

use super::arguments::Role;
use super::context::{Cluster, Context};
use super::failure::Failure;

/// The holder of the lock; one without data if its member key is gone.
pub fn leader(view: &ClusterView) -> Option<Member> {
    let leader = view.leader.as_ref()?;
    let bare = || Member {
        name: leader.name.clone(),
        revision: leader.revision.clone(),
        handle: leader.handle.clone(),
        record: MemberRecord::default(),
    };
    Some(view.leader_member().cloned().unwrap_or_else(bare))
}

/// The members of a role.
pub fn of_role(view: &ClusterView, role: Role) -> Vec<Member> {
    let leader = leader(view);
    let published = leader.as_ref().and_then(|leader| leader.record.role.as_deref());
    match role {
        Role::Leader => leader.into_iter().collect(),
        Role::Primary if published == Some("standby_leader") => Vec::new(),
        Role::StandbyLeader if matches!(published, Some("primary" | "master")) => Vec::new(),
        Role::Primary | Role::StandbyLeader => leader.into_iter().collect(),
        Role::Replica | Role::Standby => view.members.iter().filter(|member| Some(&member.name) != view.leader_name()).cloned().collect(),
        Role::Any => view.members.clone(),
    }
}

/// Those who can be asked about the cluster as a whole: members with a REST address, the leader first.
pub fn leader_first(view: &ClusterView) -> Vec<Member> {
    let reachable = |member: &&Member| member.record.api_url.is_some();
    let leads = |member: &Member| Some(&member.name) == view.leader_name();
    let (first, others): (Vec<_>, Vec<_>) = view.members.iter().filter(reachable).cloned().partition(leads);
    first.into_iter().chain(others).collect()
}

/// What a selection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reading configuration files again.
    Reload,
    /// Restarting PostgreSQL.
    Restart,
    /// Building the data directory anew. Never done to everybody just because nobody was named.
    Reinitialize,
    /// Dropping a scheduled restart.
    Flush,
}

impl Action {
    /// The word in messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Restart => "restart",
            Self::Reinitialize => "reinitialize",
            Self::Flush => "flush",
        }
    }
}

/// What was typed about members.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The names; none means all.
    pub names: &'a [String],
    /// The role.
    pub role: Role,
    /// Whether nothing may be asked.
    pub force: bool,
    /// What it is for.
    pub action: Action,
}

/// Prints the member table and picks the members that are meant.
///
/// # Errors
///
/// There is nobody to pick from, or nobody of those who were named.
pub async fn select(context: &mut Context, cluster: &Cluster, view: &ClusterView, wanted: Wanted<'_>) -> Result<Vec<Member>, Failure> {
    let mut members = of_role(view, wanted.role);
    members.sort_by(|left, right| left.name.cmp(&right.name));
    if wanted.names.is_empty() && members.is_empty() {
        return Err(Failure::error(format!("{} cluster doesn't have any members", cluster.name)));
    }
    context.show_members(cluster, view)?;

    if !wanted.names.is_empty() {
        let names: BTreeSet<&str> = wanted.names.iter().map(String::as_str).collect();
        members.retain(|member| names.contains(member.name.as_str()));
        if members.is_empty() {
            let role = match wanted.action {
                Action::Reinitialize => "replica".to_owned(),
                _ => format!("'{}'", wanted.role.word()),
            };
            return Err(Failure::error(format!("No {role} among provided members")));
        }
        return Ok(members);
    }
    if wanted.action != Action::Reinitialize {
        return Ok(members);
    }
    if wanted.force {
        return Ok(Vec::new());
    }
    let question = format!("Which member do you want to reinitialize [{}]?", names(&members));
    let answer = context.console.ask(&question, Some("")).await?;
    members.retain(|member| member.name == answer.as_str());
    if members.is_empty() {
        return Err(Failure::error(format!("{answer} is not a member of cluster")));
    }
    Ok(members)
}

/// Asks whether to go on, unless everything is forced.
///
/// # Errors
///
/// The answer is no.
pub async fn confirm(context: &mut Context, members: &[Member], force: bool, action: Action) -> Result<(), Failure> {
    let question = format!("Are you sure you want to {} members {}?", action.word(), names(members));
    if force || context.console.confirm(&question).await? { Ok(()) } else { Err(Failure::error(format!("Aborted {}", action.word()))) }
}

/// The names as they stand in prompts: `a, b`.
pub fn names(members: &[Member]) -> String {
    members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
}
