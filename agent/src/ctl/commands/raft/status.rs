//! `raft status`: as a table for people, as JSON or YAML with everything, and as the lines that scripts know from the
//! `syncobj_admin` of Patroni's Raft library.

use std::collections::BTreeMap;
use std::time::Duration;

use dcs_core::Deadline;
use dcs_raft::status::{NodeRole, PeerStatus, Status};
use dcs_raft::transport::Address;
use serde_json::{Value, json};

use crate::config::yaml;
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::output::{EmptyValues, Format, Listing};
use crate::ctl::python;
use crate::ctl::raft_nodes::{RaftNodes, Seen, View};
use crate::ctl::table::Align;
use crate::raft_json::{log_entries, status_json};

/// How long all nodes together may take.
const LOOK: Duration = Duration::from_secs(10);

/// How the status is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// As a list of the members, or as everything that the nodes say.
    As(Format),
    /// As the sorted lines of `syncobj_admin -status`.
    Syncobj,
}

pub(super) async fn run(context: &mut Context, nodes: &RaftNodes, node: Option<Address>, shown: Shown) -> Result<(), Failure> {
    let text = match node {
        Some(node) => {
            let seen = nodes.status_of(&node, Deadline::after(LOOK)).await;
            let view = View { nodes: vec![seen] };
            render(&view, view.best()?, shown)
        }
        None => {
            let view = nodes.look(Deadline::after(LOOK)).await;
            render(&view, view.best()?, shown)
        }
    };
    context.console.write(&text)
}

/// The text, from the point of view of `best`.
fn render(view: &View, best: &Status, shown: Shown) -> String {
    match shown {
        Shown::Syncobj => syncobj(view, best),
        Shown::As(Format::Json) => format!("{}\n", python::json(&everything(view))),
        Shown::As(Format::Yaml) => format!("{}\n", yaml::block(&everything(view))),
        Shown::As(format) => {
            let mut text = listing(view, best).render(format, EmptyValues::Kept);
            if format.is_drawn() {
                for note in notes(view, best) {
                    text.push_str(&format!(" {note}\n"));
                }
            }
            text
        }
    }
}

/// What every node that was asked says of itself.
fn everything(view: &View) -> Value {
    let one = |seen: &Seen| match &seen.status {
        Ok(status) => status_json(status),
        Err(problem) => json!({ "address": seen.address, "problem": problem }),
    };
    Value::Array(view.nodes.iter().map(one).collect())
}

fn listing(view: &View, best: &Status) -> Listing {
    let (left, right) = (Align::Left, Align::Right);
    let columns = vec![
        ("Address", left),
        ("Node", left),
        ("Role", left),
        ("Connected", left),
        ("Match", right),
        ("Next", right),
        ("Last contact", right),
        ("Term", right),
        ("Applied", right),
    ];
    let mut rows = vec![own_row(best)];
    rows.extend(best.peers.iter().map(|peer| peer_row(view, best, peer)));
    rows.sort_by_key(|row| row.first().map(python::text));
    let title = format!(" Raft cluster: {} (term {}, commit {}, applied {}) ", best.cluster, best.term, best.commit, best.applied);
    Listing { title, columns, rows }
}

fn own_row(status: &Status) -> Vec<Value> {
    vec![
        json!(status.address),
        json!(status.id.to_string()),
        json!(status.role),
        json!("-"),
        json!(""),
        json!(""),
        json!(""),
        json!(status.term),
        json!(status.applied),
    ]
}

fn peer_row(view: &View, best: &Status, peer: &PeerStatus) -> Vec<Value> {
    let own = view.statuses().find(|status| status.id == peer.id && status.cluster == best.cluster);
    let role = match own {
        Some(own) => json!(own.role),
        None if peer.absent => json!("absent"),
        None if peer.voter => json!("voter"),
        None => json!("learner"),
    };
    let number = |number: Option<u64>| number.map_or(json!(""), |number| json!(number));
    let contact =
        peer.last_contact_ms.map_or(String::new(), |milliseconds| format!("{:.1} s", Duration::from_millis(milliseconds).as_secs_f64()));
    vec![
        json!(peer.address),
        json!(peer.id.to_string()),
        role,
        json!(if peer.connected { "yes" } else { "no" }),
        number(peer.match_index),
        number(peer.next_index),
        json!(contact),
        number(own.map(|own| own.term)),
        number(own.map(|own| own.applied)),
    ]
}

/// What a table does not show.
fn notes(view: &View, best: &Status) -> Vec<String> {
    let mut notes = Vec::new();
    match &best.leader {
        None => notes.push(format!("{} knows of no leader: nothing can be written", best.address)),
        Some(_) if !best.has_quorum => notes.push(format!("{} does not hear from a majority: nothing can be written", best.address)),
        Some(leader) if view.leader().is_none() => notes.push(format!("this is what {} sees; its leader is {leader}", best.address)),
        Some(_) => {}
    }
    if best.changing {
        notes.push("a change of the members is under way".to_owned());
    }
    for seen in &view.nodes {
        match &seen.status {
            Err(problem) => notes.push(format!("{} does not say how it is: {problem}", seen.address)),
            Ok(status) if status.cluster != best.cluster => {
                notes.push(format!("{} belongs to another Raft cluster, {}", seen.address, status.cluster));
            }
            Ok(status) if status.role == NodeRole::Removed => notes.push(format!("{} was removed from the cluster", seen.address)),
            Ok(status) => {
                let problem = status.storage_problem.as_ref();
                notes.extend(problem.map(|problem| format!("{} cannot write to its storage: {problem}", seen.address)));
            }
        }
    }
    notes
}

/// The keys and forms of `syncobj_admin -status`. A node that does not vote yet is what it calls a read-only node.
fn syncobj(view: &View, status: &Status) -> String {
    let leader_commit = view.leader().filter(|leader| leader.cluster == status.cluster).map_or(status.commit, |leader| leader.commit);
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    let mut put = |key: String, value: String| lines.insert(key, value);
    put("commit_idx".into(), status.commit.to_string());
    put("enabled_code_version".into(), "0".into());
    put("has_quorum".into(), if status.has_quorum { "True" } else { "False" }.into());
    put("last_applied".into(), status.applied.to_string());
    put("leader".into(), status.leader.clone().unwrap_or_else(|| "None".to_owned()));
    put("leader_commit_idx".into(), leader_commit.to_string());
    put("log_len".into(), log_entries(status).to_string());
    put("raft_term".into(), status.term.to_string());
    put("revision".into(), status.version.clone());
    put("self".into(), status.address.clone());
    put("self_code_version".into(), "0".into());
    let state = match status.role {
        NodeRole::Leader => "2",
        NodeRole::Candidate => "1",
        NodeRole::Follower | NodeRole::Learner | NodeRole::Removed => "0",
    };
    put("state".into(), state.into());
    put("uptime".into(), (status.uptime_ms / 1000).to_string());
    put("version".into(), status.version.clone());
    for (kind, voters) in [("partner_node", true), ("readonly_node", false)] {
        let nodes: Vec<&PeerStatus> = status.peers.iter().filter(|peer| peer.voter == voters).collect();
        put(format!("{kind}s_count"), nodes.len().to_string());
        for node in nodes {
            put(format!("{kind}_status_server_{}", node.address), if node.connected { "2" } else { "0" }.into());
        }
    }
    for (kind, index) in [("match", (|peer| peer.match_index) as fn(&PeerStatus) -> Option<u64>), ("next_node", |peer| peer.next_index)] {
        let known: Vec<(&PeerStatus, u64)> = status.peers.iter().filter_map(|peer| Some((peer, index(peer)?))).collect();
        put(format!("{kind}_idx_count"), known.len().to_string());
        for (peer, index) in known {
            put(format!("{kind}_idx_server_{}", peer.address), index.to_string());
        }
    }
    lines.iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
}

#[cfg(test)]
mod tests;
