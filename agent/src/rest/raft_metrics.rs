//! The metrics of the embedded store, which Patroni does not have.

use std::fmt::Display;

use dcs_raft::status::{NodeRole, PeerStatus, Status};

use super::metrics::{Page, escaped};
use crate::raft_json::log_entries;

/// The metrics of a node. One that does not answer, or has no cluster yet, leads nothing and has no quorum.
pub(super) fn metrics_text(status: Option<&Status>, scope: &str, name: &str) -> String {
    let mut page = Page::new(scope, name);
    let leads = status.is_some_and(|status| status.role == NodeRole::Leader);
    gauge(&mut page, "is_leader", "Value is 1 if this node leads the Raft cluster of the embedded store, 0 otherwise.", u8::from(leads));
    let has_quorum = status.is_some_and(|status| status.has_quorum);
    gauge(&mut page, "has_quorum", "Value is 1 if this node hears from a majority of the Raft cluster, 0 otherwise.", u8::from(has_quorum));
    let Some(status) = status else { return page.text };
    counter(&mut page, "term", "Current term of the Raft cluster.", status.term);
    counter(&mut page, "commit_index", "Last entry of the Raft log that a majority is known to have.", status.commit);
    counter(&mut page, "applied_index", "Last entry of the Raft log that this node has applied.", status.applied);
    gauge(&mut page, "log_entries", "Entries in the Raft log of this node that no snapshot has replaced yet.", log_entries(status));
    let peers = &status.peers;
    of_peers(&mut page, peers, "connected", "Value is 1 if there is a connection to the peer, 0 otherwise.", |peer| {
        Some(u8::from(peer.connected))
    });
    of_peers(
        &mut page,
        peers,
        "match_index",
        "Last entry of the Raft log that the peer is known to have; only the leader knows.",
        |peer| peer.match_index,
    );
    of_peers(&mut page, peers, "last_contact_seconds", "Seconds since the peer was last heard of.", |peer| {
        peer.last_contact_ms.map(|milliseconds| std::time::Duration::from_millis(milliseconds).as_secs_f64())
    });
    page.text
}

fn gauge(page: &mut Page, name: &str, help: &str, value: impl Display) {
    metric(page, "gauge", name, help, value);
}

fn counter(page: &mut Page, name: &str, help: &str, value: impl Display) {
    metric(page, "counter", name, help, value);
}

fn metric(page: &mut Page, kind: &str, name: &str, help: &str, value: impl Display) {
    let name = format!("quorate_raft_{name}");
    page.head(kind, &name, help);
    page.sample(&name, "", value);
}

/// One sample for each peer of which it is known. Without any the metric is left out.
fn of_peers<T: Display>(page: &mut Page, peers: &[PeerStatus], name: &str, help: &str, value: impl Fn(&PeerStatus) -> Option<T>) {
    let name = format!("quorate_raft_peer_{name}");
    let mut known = peers.iter().filter_map(|peer| Some((peer, value(peer)?))).peekable();
    if known.peek().is_some() {
        page.head("gauge", &name, help);
    }
    for (peer, value) in known {
        page.sample(&name, &format!(",peer=\"{}\"", escaped(&peer.address)), value);
    }
}
