//! `raft add`, `remove`, `replace`, `transfer`. Each looks, asks the leader if there is anything left to ask for, and looks
//! again until it is so: an answer that was lost costs a repetition and nothing else.

use std::time::Duration;

use dcs_core::Deadline;
use dcs_raft::message::{Identity, Request, Response};
use dcs_raft::status::{NodeRole, Status};
use dcs_raft::transport::Address;
use tokio::time::sleep;

use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::raft_nodes::{RaftNodes, View, members, votes};

/// How long a look, a removal or a transfer may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The pause before looking again.
const PAUSE: Duration = Duration::from_millis(300);

pub(super) async fn add(context: &mut Context, nodes: &RaftNodes, address: &Address, limit: Duration) -> Result<(), Failure> {
    let view = nodes.look(Deadline::after(LIMIT)).await;
    join(context, nodes, &view, address, limit).await
}

pub(super) async fn remove(context: &mut Context, nodes: &RaftNodes, address: &Address, force: bool) -> Result<(), Failure> {
    let view = nodes.look(Deadline::after(LIMIT)).await;
    let name = address.to_string();
    must_be_member(view.best()?, &name)?;
    confirm(context, &format!("Are you sure you want to remove {name} from the Raft cluster?"), force, "remove").await?;
    take_out(context, nodes, &name).await
}

pub(super) async fn replace(
    context: &mut Context,
    nodes: &RaftNodes,
    old: &Address,
    new: &Address,
    limit: Duration,
    force: bool,
) -> Result<(), Failure> {
    let (gone, come) = (old.to_string(), new.to_string());
    if old == new {
        let text = format!("A node that comes back to {gone} without its files takes its own place by itself: start it");
        return Err(Failure::error(text));
    }
    let view = nodes.look(Deadline::after(LIMIT)).await;
    must_be_member(view.best()?, &gone)?;
    let question = format!("Are you sure you want to replace {gone} by {come} in the Raft cluster?");
    confirm(context, &question, force, "replace").await?;
    join(context, nodes, &view, new, limit).await?;
    take_out(context, nodes, &gone).await
}

pub(super) async fn transfer(context: &mut Context, nodes: &RaftNodes, to: Option<&Address>) -> Result<(), Failure> {
    let view = nodes.look(Deadline::after(LIMIT)).await;
    let former = view.leader().ok_or_else(|| no_leader(&view))?;
    let wanted = to.map(Address::to_string);
    if wanted.as_ref().is_some_and(|wanted| *wanted == former.address) {
        return context.console.line(format!("{} leads the Raft cluster already", former.address));
    }
    let to = match &wanted {
        None => None,
        Some(wanted) => {
            must_be_member(former, wanted)?;
            let voter = former.peers.iter().find(|peer| peer.address == *wanted && peer.voter && !peer.absent);
            Some(voter.ok_or_else(|| Failure::error(format!("{wanted} does not vote: it cannot lead")))?.id)
        }
    };
    let handed_over = |view: &View| match (&wanted, view.leader()) {
        (Some(wanted), Some(leader)) => leader.address == *wanted,
        (None, Some(leader)) => leader.id != former.id,
        (_, None) => false,
    };
    let view = carry_out(nodes, &Request::Transfer { to }, handed_over, "the leader has not handed over").await?;
    let leader = view.leader().map_or_else(String::new, |leader| leader.address.clone());
    context.console.line(format!("Success: {leader} leads the Raft cluster"))
}

/// Waits until the node votes. Nobody but the node itself can ask to be a member, so this only sees to it that it will.
async fn join(context: &mut Context, nodes: &RaftNodes, view: &View, address: &Address, limit: Duration) -> Result<(), Failure> {
    let name = address.to_string();
    let best = view.best()?;
    if view.leader().is_some_and(|leader| votes(leader, &name)) {
        return context.console.line(format!("{name} is a member of the Raft cluster already, and votes"));
    }
    let others = members(best).join(", ");
    match nodes.ask(address, &Request::Discover, Deadline::after(LIMIT)).await {
        Ok(Response::Identity(identity)) => can_join(&identity, best, &name, &others).map_err(Failure::error)?,
        Ok(_) => return Err(Failure::error(format!("What answers at {name} makes no sense"))),
        Err(problem) => {
            return Err(Failure::error(format!(
                "Nobody answers at {name}: {problem}\n\nhint: nodes join by themselves. Start an agent or `quorate raft-controller` \
                 there with `raft.self_addr: {name}`, the same password, and `raft.partner_addrs` that name members: {others}"
            )));
        }
    }
    context.console.line(format!("{name} is there and joins by itself; waiting until it votes"))?;
    let end = Deadline::after(limit);
    loop {
        let view = nodes.look(end).await;
        let problem = match view.leader() {
            Some(leader) if votes(leader, &name) && !leader.changing => {
                return context.console.line(format!("Success: {name} votes in the Raft cluster"));
            }
            Some(leader) => match leader.peers.iter().find(|peer| peer.address == name && !peer.absent) {
                Some(peer) => format!("it has {} of {} entries", peer.match_index.unwrap_or(0), leader.last_index),
                None => "it has not asked the leader yet; its log says why".to_owned(),
            },
            None => "the Raft cluster has no leader".to_owned(),
        };
        if end.remaining() <= PAUSE {
            return Err(Failure::error(format!("{name} does not vote after {} seconds: {problem}", limit.as_secs())));
        }
        sleep(PAUSE).await;
    }
}

/// Whether a node will become a member without anybody's help; if not, why.
fn can_join(identity: &Identity, best: &Status, name: &str, members: &str) -> Result<(), String> {
    if identity.address != name {
        return Err(format!("The node at {name} calls itself {}: the other nodes know it by that address", identity.address));
    }
    match identity.cluster {
        Some(cluster) if cluster != best.cluster => Err(format!(
            "{name} belongs to another Raft cluster, {cluster}\n\nhint: to let it join this one, stop it, move its `raft.data_dir` away, \
             and start it with `raft.partner_addrs` that name members: {members}"
        )),
        Some(_) => Ok(()),
        None if identity.partners.iter().any(|partner| members.split(", ").any(|member| member == partner)) => Ok(()),
        None => Err(format!("{name} knows no member of this Raft cluster\n\nhint: put members into its `raft.partner_addrs`: {members}")),
    }
}

async fn take_out(context: &mut Context, nodes: &RaftNodes, name: &str) -> Result<(), Failure> {
    let gone = |view: &View| view.leader().is_some_and(|leader| !leader.changing && !members(leader).contains(&name));
    carry_out(nodes, &Request::Remove { address: name.to_owned() }, gone, &format!("{name} is not removed")).await?;
    context.console.line(format!("Success: {name} is removed from the Raft cluster"))
}

/// Asks the leader, whoever that is just then, until it is `done`. A refusal is the end of it.
async fn carry_out(nodes: &RaftNodes, request: &Request, done: impl Fn(&View) -> bool, failed: &str) -> Result<View, Failure> {
    let end = Deadline::after(LIMIT);
    loop {
        let view = nodes.look(end).await;
        if done(&view) {
            return Ok(view);
        }
        let leader = view.leader().and_then(|leader| leader.address.parse::<Address>().ok());
        let problem = match leader {
            None => no_leader(&view).to_string(),
            Some(leader) => match nodes.ask(&leader, request, end).await {
                Ok(Response::Done) => "the leader agreed, and it has not happened yet".to_owned(),
                Ok(Response::Refused(problem)) => return Err(Failure::error(problem)),
                Ok(Response::Unknown(problem)) | Err(problem) => problem,
                Ok(_) => "the leader's answer makes no sense".to_owned(),
            },
        };
        if end.remaining() <= PAUSE {
            return Err(Failure::error(format!("In {} seconds {failed}: {problem}", LIMIT.as_secs())));
        }
        sleep(PAUSE).await;
    }
}

fn no_leader(view: &View) -> Failure {
    match view.best() {
        Ok(best) if best.role == NodeRole::Removed => Failure::error(format!("{} was removed from its Raft cluster", best.address)),
        Ok(best) => Failure::error(format!("The Raft cluster {} has no leader: a majority of its members is needed", best.cluster)),
        Err(failure) => failure,
    }
}

fn must_be_member(status: &Status, address: &str) -> Result<(), Failure> {
    let members = members(status);
    if members.contains(&address) {
        return Ok(());
    }
    Err(Failure::error(format!("{address} is not a member of the Raft cluster; members are {}", members.join(", "))))
}

async fn confirm(context: &mut Context, question: &str, force: bool, action: &str) -> Result<(), Failure> {
    if force || context.console.confirm(question).await? { Ok(()) } else { Err(Failure::error(format!("Aborted {action}"))) }
}
