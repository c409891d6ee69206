//! A new cluster from what this stopped node has, when the majority of the embedded store is lost for good. It gives up what
//! only the others had, so it is guarded: the node must be stopped, nobody else may have a leader, and the id of the cluster
//! has to be typed.

use dcs_core::{Deadline, chain};
use dcs_raft::Config;
use dcs_raft::recovery::{self, RecoveryError, Report};
use dcs_raft::status::Status;
use dcs_raft::transport::Address;

use crate::config::LocalConfig;
use crate::ctl::failure::Failure;
use crate::ctl::prompt::Console;
use crate::ctl::raft_nodes::{RaftNodes, View, configured};

/// How long the other nodes may take to say how they are.
const LOOK: std::time::Duration = std::time::Duration::from_secs(10);

/// Forms a new cluster of this node alone, after it was looked at and confirmed. `force` spares the confirmation, and
/// nothing else.
///
/// # Errors
///
/// The configuration names no node, it is running, it has no files, another node has a leader, the wrong id was typed, or
/// the new files cannot be written.
pub async fn run(local: &LocalConfig, force: bool, console: &mut Console) -> Result<(), Failure> {
    let config = configured(local).map_err(Failure::error)?;
    let address = config.self_addr.clone().ok_or_else(|| {
        Failure::error("`raft.self_addr` is missing: this is not the configuration of a node, and there is nothing to recover")
    })?;
    let directory = config.data_dir.clone();
    let report = blocking(move || recovery::inspect(&directory)).await?;
    let view = RaftNodes::new(&others(&config, &address, &report)).look(Deadline::after(LOOK)).await;
    if let Some(alive) = view.statuses().find(|status| status.leader.is_some() && status.has_quorum) {
        return Err(Failure::error(majority_is_there(alive, &report)));
    }
    console.write(&described(&report, &view))?;
    if !force {
        let typed = console.ask("Please type the id of the Raft cluster to give it up and form a new one", None).await?;
        if typed.trim() != report.cluster.to_string() {
            return Err(Failure::error("That is not the id of the cluster: nothing was changed"));
        }
    }
    let (directory, own) = (config.data_dir.clone(), address.clone());
    let done = blocking(move || recovery::form_new_cluster(&directory, &own)).await?;
    let kept = done.kept.map_or_else(String::new, |kept| format!("; the former files are kept as {kept}"));
    console.line(format!(
        "Success: {address} is the only member of a new Raft cluster{kept}\n\
         Start it now. Every other node joins it when it is started after its `raft.data_dir` was moved away"
    ))
}

/// All nodes that may be alive, as a client knows them.
fn others(config: &Config, own: &Address, report: &Report) -> Config {
    let members = report.members.iter().filter_map(|member| member.address.parse().ok());
    let mut partners: Vec<Address> = Vec::new();
    for other in config.partners.iter().cloned().chain(members).filter(|other| other != own) {
        if !partners.contains(&other) {
            partners.push(other);
        }
    }
    Config { self_addr: None, partners, ..config.clone() }
}

fn majority_is_there(alive: &Status, report: &Report) -> String {
    let leader = alive.leader.as_deref().unwrap_or("itself");
    let (what, way) = if alive.cluster == report.cluster {
        (
            "the majority is not lost",
            "start this node as it is; if its files are damaged, move `raft.data_dir` away first, and it joins anew",
        )
    } else {
        ("there is another cluster already", "move `raft.data_dir` away and start this node: it joins that cluster")
    };
    format!("{} answers and follows the leader {leader}: {what}\n\nhint: {way}", alive.address)
}

/// What there is, and what forming a new cluster from it means.
fn described(report: &Report, view: &View) -> String {
    let mut text = format!(
        "Raft storage {}\n  cluster {}, node {}, members {}\n  term {}, last entry {}, committed up to {}, snapshot at {}, {} keys\n",
        report.place,
        report.cluster,
        report.node,
        report.members.iter().map(|member| member.address.as_str()).collect::<Vec<_>>().join(", "),
        report.term,
        report.last_index,
        report.commit,
        report.snapshot_index,
        report.keys,
    );
    for other in view.statuses() {
        let further = (other.term, other.last_index) > (report.term, report.last_index);
        let advice = if further { "it may have more than this node: recover there instead" } else { "stop it first" };
        text.push_str(&format!(
            "  {} is running without a leader, in term {} with last entry {}: {advice}\n",
            other.address, other.term, other.last_index
        ));
    }
    text.push_str("A new cluster begins with what this node has. What may be lost, or happen:\n");
    for line in report.what_may_be_lost() {
        text.push_str(&format!("  - {line}\n"));
    }
    text
}

async fn blocking(action: impl FnOnce() -> Result<Report, RecoveryError> + Send + 'static) -> Result<Report, Failure> {
    match tokio::task::spawn_blocking(action).await {
        Ok(done) => done.map_err(|error| Failure::error(chain(&error))),
        Err(error) => Err(Failure::error(format!("the recovery ended unexpectedly: {error}"))),
    }
}

#[cfg(test)]
mod tests;
