//! How a node of the embedded store is, as JSON for `GET /raft` and `quoratectl raft status`.

use dcs_raft::status::{PeerStatus, Status};
use serde_json::{Value, json};

/// The status of a node. Ids are hexadecimal text, as in the log: readers of JSON would round numbers of that size.
pub fn status_json(status: &Status) -> Value {
    json!({
        "id": status.id.to_string(),
        "address": status.address,
        "cluster": status.cluster.to_string(),
        "role": status.role,
        "leader": status.leader,
        "term": status.term,
        "commit": status.commit,
        "applied": status.applied,
        "last_index": status.last_index,
        "snapshot_index": status.snapshot_index,
        "log_entries": log_entries(status),
        "has_quorum": status.has_quorum,
        "changing": status.changing,
        "clock_ms": status.clock_ms,
        "peers": status.peers.iter().map(peer_json).collect::<Vec<_>>(),
        "uptime_ms": status.uptime_ms,
        "version": status.version,
        "storage_problem": status.storage_problem,
    })
}

/// How many entries are in the log, and not in the snapshot only.
pub fn log_entries(status: &Status) -> u64 {
    status.last_index.saturating_sub(status.snapshot_index)
}

fn peer_json(peer: &PeerStatus) -> Value {
    json!({
        "id": peer.id.to_string(),
        "address": peer.address,
        "voter": peer.voter,
        "absent": peer.absent,
        "connected": peer.connected,
        "match_index": peer.match_index,
        "next_index": peer.next_index,
        "last_contact_ms": peer.last_contact_ms,
    })
}
