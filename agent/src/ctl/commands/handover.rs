//! What switchover and failover have in common: from questions to the request, in a fixed order that scripts rely on.

use http::Method;
use serde_json::{Value, json};

use dcs_core::model::{ClusterView, FailoverRequest, Member, MemberName, ScheduledTime};
use ha_engine::settings::{GlobalConfig, SyncMode};

use crate::ctl::agents::{Answer, Unreachable};
use crate::ctl::arguments::Target;
use crate::ctl::context::{Cluster, Context};
use crate::ctl::failure::Failure;
use crate::ctl::{members, python, summary};

/// What an agent that is too old for `/switchover` answers.
const NOT_SUPPORTED: &str = "Server does not support this operation";

/// Which of the two.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// The leader steps down.
    Switchover {
        /// Who the user says leads.
        leader: Option<String>,
        /// When.
        scheduled: Option<String>,
    },
    /// A candidate takes over.
    Failover,
}

impl Kind {
    fn word(&self) -> &'static str {
        match self {
            Self::Switchover { .. } => "switchover",
            Self::Failover => "failover",
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::Switchover { .. } => "Switchover",
            Self::Failover => "Failover",
        }
    }
}

/// What will be asked for.
struct Request {
    leader: Option<String>,
    candidate: Option<String>,
    at: Option<ScheduledTime>,
}

impl Request {
    fn body(&self) -> Value {
        let mut body = json!({ "candidate": self.candidate });
        if let Some(leader) = &self.leader {
            body["leader"] = json!(leader);
        }
        if let Some(at) = self.at {
            body["scheduled_at"] = json!(at.to_string());
        }
        body
    }

    fn key(&self) -> FailoverRequest {
        let name = |name: &Option<String>| name.as_deref().filter(|name| !name.is_empty()).map(MemberName::from);
        FailoverRequest { leader: name(&self.leader), candidate: name(&self.candidate), scheduled_at: self.at }
    }
}

/// Runs the one or the other.
pub(super) async fn run(context: &mut Context, target: &Target, kind: Kind, candidate: Option<String>, force: bool) -> Result<(), Failure> {
    let cluster = open(context, target, force).await?;
    let view = cluster.load().await?;
    context.console.line("Current cluster topology")?;
    context.show_members(&cluster, &view)?;

    let dialog = Dialog { name: &cluster.name, view: &view, modes: summary::modes(&view), kind: &kind, force };
    let leader = dialog.leader(context).await?;
    let candidate = dialog.candidate(context, candidate).await?;
    let at = dialog.time(context).await?;
    let request = Request { leader, candidate, at };
    dialog.confirm(context, request.at).await?;

    match ask_agent(context, &view, &kind, &request).await {
        Ok(answer) if matches!(answer.status, 200 | 202) => {
            let view = cluster.load().await?;
            let now = context.time.event();
            context.console.line(format!("{now} {}", answer.text))?;
            context.show_members(&cluster, &view)
        }
        Ok(answer) => context.console.line(format!("{} failed, details: {}, {}", kind.title(), answer.status, answer.text)),
        Err(reason) => {
            tracing::warn!("{reason}");
            tracing::warn!("Failing over to DCS");
            let now = context.time.event();
            context.console.line(format!("{now} Could not {} using Patroni api, falling back to DCS", kind.word()))?;
            ask_store(&cluster, &request).await?;
            context.show_members(&cluster, &view)
        }
    }
}

async fn open(context: &mut Context, target: &Target, force: bool) -> Result<Cluster, Failure> {
    if !context.settings.citus || target.group.is_some() {
        return context.open(target).await;
    }
    if force {
        return Err(Failure::error("For Citus clusters the --group must me specified"));
    }
    let name = context.cluster_name(target)?;
    let group = context.console.ask_number("Citus group").await?;
    context.open_group(&name, Some(group)).await
}

async fn ask_agent(context: &Context, view: &ClusterView, kind: &Kind, request: &Request) -> Result<Answer, Unreachable> {
    let candidate = || {
        let name = request.candidate.as_deref()?;
        view.members.iter().find(|member| member.name == name).cloned()
    };
    let member: Member = members::leader(view).or_else(candidate).ok_or_else(|| Unreachable("there is nobody to ask".to_owned()))?;
    let body = request.body();
    let answer = context.call(&member, Method::POST, Some(kind.word()), Some(&body)).await?;
    let too_old = matches!(kind, Kind::Switchover { .. }) && answer.status == 501 && answer.text.contains(NOT_SUPPORTED);
    if too_old { context.call(&member, Method::POST, Some("failover"), Some(&body)).await } else { Ok(answer) }
}

async fn ask_store(cluster: &Cluster, request: &Request) -> Result<(), Failure> {
    let written = cluster.dcs.set_failover(&request.key(), None, cluster.deadline()).await;
    written.map(|_| ()).map_err(|error| cluster.unusable(&error))
}

/// The questions, each with its checks.
struct Dialog<'a> {
    name: &'a str,
    view: &'a ClusterView,
    modes: GlobalConfig,
    kind: &'a Kind,
    force: bool,
}

impl Dialog<'_> {
    fn current_leader(&self) -> Option<&str> {
        self.view.leader_name().map(MemberName::as_str)
    }

    /// Who steps down; only a switchover says so.
    async fn leader(&self, context: &mut Context) -> Result<Option<String>, Failure> {
        let Kind::Switchover { leader, .. } = self.kind else { return Ok(None) };
        let current = self.current_leader().ok_or_else(|| Failure::error("This cluster has no leader"))?;
        let leader = match leader {
            Some(leader) => leader.clone(),
            None if self.force => current.to_owned(),
            None => {
                let question = if self.modes.standby_cluster.is_some() { "Standby Leader" } else { "Primary" };
                context.console.ask(question, Some(current)).await?
            }
        };
        if leader != current {
            return Err(Failure::error(format!("Member {leader} is not the leader of cluster {}", self.name)));
        }
        Ok(Some(leader))
    }

    async fn candidate(&self, context: &mut Context, given: Option<String>) -> Result<Option<String>, Failure> {
        let current = self.current_leader();
        let others = self.view.members.iter().filter(|member| Some(member.name.as_str()) != current);
        let mut names: Vec<&str> = others.filter(|member| !member.record.tags.nofailover()).map(|member| member.name.as_str()).collect();
        names.sort_unstable();
        if names.is_empty() {
            return Err(Failure::error(format!("No candidates found to {} to", self.kind.word())));
        }
        let candidate = match given {
            None if !self.force => {
                let question = format!("Candidate {}", python::name_list(names.iter().copied()));
                Some(context.console.ask(&question, Some("")).await?)
            }
            given => given,
        };
        let named = candidate.as_deref().filter(|name| !name.is_empty());
        if matches!(self.kind, Kind::Failover) && named.is_none() {
            return Err(Failure::error("Failover could be performed only to a specific candidate"));
        }
        if let Some(named) = named.filter(|named| !names.contains(named)) {
            return Err(Failure::error(if Some(named) == current {
                format!("Member {named} is already the leader of cluster {}", self.name)
            } else {
                format!("Member {named} does not exist in cluster {} or is tagged as nofailover", self.name)
            }));
        }
        if let Some(named) = named {
            self.confirm_asynchronous(context, named).await?;
        }
        Ok(named.map(str::to_owned))
    }

    /// A failover to a node that may lack acknowledged data needs a second thought.
    async fn confirm_asynchronous(&self, context: &mut Context, candidate: &str) -> Result<(), Failure> {
        let synchronous = self.modes.synchronous_mode != SyncMode::Off && self.modes.standby_cluster.is_none();
        let listed = self.view.sync.is_empty() || self.view.sync.lists_or_leads(&MemberName::from(candidate));
        if self.force || matches!(self.kind, Kind::Switchover { .. }) || !synchronous || listed {
            return Ok(());
        }
        let question = format!("Are you sure you want to failover to the asynchronous node {candidate}?");
        if context.console.confirm(&question).await? { Ok(()) } else { Err(Failure::error("Aborting failover")) }
    }

    async fn time(&self, context: &mut Context) -> Result<Option<ScheduledTime>, Failure> {
        let Kind::Switchover { scheduled, .. } = self.kind else { return Ok(None) };
        let answer = match scheduled {
            Some(scheduled) => scheduled.clone(),
            None if self.force => return Ok(None),
            None => {
                let example = context.time.next_hour();
                let question = format!("When should the switchover take place (e.g. {example} ) ");
                context.console.ask(&question, Some("now")).await?
            }
        };
        let at = context.time.scheduled(&answer)?;
        if at.is_some() && self.modes.pause {
            return Err(Failure::error("Can't schedule switchover in the paused state"));
        }
        Ok(at)
    }

    async fn confirm(&self, context: &mut Context, at: Option<ScheduledTime>) -> Result<(), Failure> {
        if self.force {
            return Ok(());
        }
        let demoting = self.current_leader().map(|leader| format!(", demoting current leader {leader}")).unwrap_or_default();
        let (question, refusal) = match at {
            Some(at) => (
                format!("Are you sure you want to schedule switchover of cluster {} at {at}{demoting}?", self.name),
                "Aborting scheduled switchover".to_owned(),
            ),
            None => (
                format!("Are you sure you want to {} cluster {}{demoting}?", self.kind.word(), self.name),
                format!("Aborting {}", self.kind.word()),
            ),
        };
        if context.console.confirm(&question).await? { Ok(()) } else { Err(Failure::error(refusal)) }
    }
}
