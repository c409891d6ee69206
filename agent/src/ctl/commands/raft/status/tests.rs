use dcs_raft::identity::{ClusterId, NodeId};

use super::*;

fn status(id: u64, role: NodeRole) -> Status {
    Status {
        id: NodeId(id),
        address: format!("10.0.0.{id}:2222"),
        cluster: ClusterId(0xabc),
        role,
        leader: Some("10.0.0.1:2222".to_owned()),
        term: 3,
        commit: 120,
        applied: 119 + u64::from(role == NodeRole::Leader),
        last_index: 121,
        snapshot_index: 100,
        has_quorum: true,
        changing: false,
        clock_ms: 5_000,
        peers: Vec::new(),
        uptime_ms: 61_500,
        version: "0.1.0".to_owned(),
        storage_problem: None,
    }
}

fn peer(id: u64, voter: bool, matched: Option<u64>) -> PeerStatus {
    PeerStatus {
        id: NodeId(id),
        address: format!("10.0.0.{id}:2222"),
        voter,
        absent: false,
        connected: matched.is_some(),
        match_index: matched,
        next_index: matched.map(|index| index + 1),
        last_contact_ms: matched.map(|_| 87),
    }
}

/// A leader, a follower, a voter that does not answer, one that never came, and a learner.
fn view() -> View {
    let mut leader = status(1, NodeRole::Leader);
    let absent = PeerStatus { absent: true, ..peer(4, true, None) };
    leader.peers = vec![peer(2, true, Some(121)), peer(3, true, None), absent, peer(5, false, Some(17))];
    let seen = |status: Status| Seen { address: status.address.clone(), status: Ok(status) };
    let silent = Seen { address: "10.0.0.3:2222".to_owned(), status: Err("connection refused".to_owned()) };
    View { nodes: vec![seen(status(2, NodeRole::Follower)), seen(leader), silent, seen(status(5, NodeRole::Learner))] }
}

fn text(view: &View, shown: Shown) -> String {
    render(view, view.best().unwrap(), shown)
}

#[test]
fn the_table_shows_what_the_leader_sees_and_what_the_nodes_say() {
    insta::assert_snapshot!("raft_status", text(&view(), Shown::As(Format::Pretty)));
}

#[test]
fn scripts_get_the_lines_that_they_know() {
    insta::assert_snapshot!("raft_status_syncobj", text(&view(), Shown::Syncobj));
}

#[test]
fn machines_get_everything_of_every_node_with_ids_as_text() {
    let nodes: Vec<Value> = serde_json::from_str(&text(&view(), Shown::As(Format::Json))).unwrap();
    assert_eq!(nodes.len(), 4);
    assert_eq!(nodes[1]["cluster"], json!("00000000000000000000000000000abc"));
    assert_eq!(nodes[1]["peers"][0]["id"], json!("0000000000000002"));
    assert_eq!(nodes[2], json!({"address": "10.0.0.3:2222", "problem": "connection refused"}));
    let tsv = text(&view(), Shown::As(Format::Tsv));
    assert_eq!(tsv.lines().count(), 6, "a head and five members: {tsv}");
}

#[test]
fn a_minority_is_shown_as_it_is() {
    let alone =
        Status { leader: None, has_quorum: false, peers: vec![peer(1, true, None), peer(2, true, None)], ..status(3, NodeRole::Candidate) };
    let view = View {
        nodes: vec![
            Seen { address: alone.address.clone(), status: Ok(alone) },
            Seen { address: "10.0.0.1:2222".to_owned(), status: Err("timed out".to_owned()) },
        ],
    };
    let text = text(&view, Shown::As(Format::Pretty));
    assert!(text.contains("| 10.0.0.3:2222 | 0000000000000003 | candidate |"), "{text}");
    assert!(text.contains(" 10.0.0.3:2222 knows of no leader: nothing can be written\n"), "{text}");
    assert!(text.contains(" 10.0.0.1:2222 does not say how it is: timed out\n"), "{text}");
}

#[test]
fn a_node_of_another_cluster_and_a_full_disk_are_pointed_out() {
    let mut view = view();
    let foreign = Status { cluster: ClusterId(7), commit: 900, ..status(9, NodeRole::Follower) };
    view.nodes.push(Seen { address: foreign.address.clone(), status: Ok(foreign) });
    if let Ok(status) = &mut view.nodes[0].status {
        status.storage_problem = Some("no space left on device".to_owned());
    }
    let text = text(&view, Shown::As(Format::Pretty));
    assert!(text.contains(" 10.0.0.9:2222 belongs to another Raft cluster, 00000000000000000000000000000007\n"), "{text}");
    assert!(text.contains(" 10.0.0.2:2222 cannot write to its storage: no space left on device\n"), "{text}");
}

#[test]
fn nobody_there_is_an_error_that_names_everybody() {
    let view = View { nodes: vec![Seen { address: "a:1".to_owned(), status: Err("refused".to_owned()) }] };
    assert_eq!(view.best().unwrap_err().to_string(), "No node of the Raft cluster answers: a:1: refused");
}
