//! Connections between nodes.

use tokio::net::TcpListener;

use super::*;

/// Asks until there is a report of this kind.
async fn reported(links: &PeerLinks, wanted: LinkReport) {
    eventually(&format!("{wanted:?}"), || links.take_reports().contains(&(NodeId(2), wanted))).await;
}

fn snapshot(index: u64) -> PeerFrame {
    let snapshot = crate::message::SnapshotData { index, state: vec![7; 3 << 20], ..Default::default() };
    PeerFrame::Raft(RaftMessage { snapshot: Some(snapshot), ..RaftMessage::default() })
}

#[tokio::test]
async fn a_thread_without_a_runtime_can_send() {
    let plain = plain().await;
    let mut house = House::open(&plain).await;
    let links = links(1, &plain);
    let peers = BTreeMap::from([(NodeId(1), "127.0.0.1:1".to_owned()), (NodeId(2), house.address().to_string())]);
    let links = std::thread::spawn(move || {
        links.set_peers(&peers);
        links.send(NodeId(2), raft(1));
        links.send(NodeId(3), raft(2));
        links
    });
    // The thread cannot be waited for here, where the connection is made.
    assert_eq!(house.next_frame().await, (NodeId(1), raft(1)));
    let links = links.join().unwrap();
    assert_eq!(links.status().into_keys().collect::<Vec<_>>(), [NodeId(2)], "a node has no link to itself");
}

#[tokio::test]
async fn frames_arrive_in_their_order_the_large_ones_too() {
    let secured = security(Some("secret"), None).await;
    let mut house = House::open(&secured).await;
    let links = links_to(&house.address(), &secured);
    let mut sent: Vec<_> = (1..100).map(raft).collect();
    sent.insert(50, snapshot(50));
    for frame in &sent {
        links.send(NodeId(2), frame.clone());
    }
    for frame in sent {
        let (from, received) = house.next_frame().await;
        assert_eq!(from, NodeId(1));
        assert!(received == frame, "another frame than was sent");
    }
    reported(&links, LinkReport::SnapshotSent).await;
}

#[tokio::test]
async fn sending_to_a_node_that_does_not_answer_loses_frames_and_never_waits() {
    let plain = plain().await;
    // It takes the connection, and that is all.
    let mute = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let links = links_to(&mute.local_addr().unwrap().into(), &plain);
    let (_tcp, _) = in_time().bound("a connection", mute.accept()).await.unwrap().unwrap();
    links.send(NodeId(2), snapshot(1));
    for index in 0..10_000 {
        links.send(NodeId(2), raft(index));
    }
    assert!(links.take_reports().contains(&(NodeId(2), LinkReport::SnapshotLost)));
    assert!(!is_connected(&links));
}

#[tokio::test]
async fn a_node_that_does_not_read_delays_nobody_else() {
    let plain = plain().await;
    let mut reading = House::open(&plain).await;
    let stuck = House::open(&plain).await;
    let links = links(1, &plain);
    links.set_peers(&BTreeMap::from([(NodeId(2), stuck.address().to_string()), (NodeId(3), reading.address().to_string())]));
    // Its door takes a thousand frames and waits then; the buffers of the system take some more.
    for index in 0..30 {
        links.send(NodeId(2), snapshot(index));
    }
    for index in 0..20_000 {
        links.send(NodeId(2), raft(index));
    }
    links.send(NodeId(3), raft(1));
    assert_eq!(reading.next_frame().await, (NodeId(1), raft(1)));
}

#[tokio::test]
async fn a_link_is_made_again_when_the_other_node_comes_back() {
    let secured = security(Some("secret"), None).await;
    let mut house = House::open(&secured).await;
    let address = house.address();
    let links = links_to(&address, &secured);
    links.send(NodeId(2), raft(1));
    assert_eq!(house.next_frame().await, (NodeId(1), raft(1)));

    house.listener.stop().await;
    eventually("the end of the connection", || !is_connected(&links)).await;
    reported(&links, LinkReport::FramesLost).await;

    let mut house = House::open_with(&address.to_string(), &secured, Limits::default()).await;
    eventually("a new connection", || is_connected(&links)).await;
    links.send(NodeId(2), raft(2));
    assert_eq!(house.next_frame().await, (NodeId(1), raft(2)));
}

#[tokio::test]
async fn a_node_that_is_not_welcome_logs_the_words_of_the_other_and_asks_again() {
    let (logs, _guard) = Logs::capture();
    let plain = plain().await;
    let house = House::open(&plain).await;
    *lock(&house.door.refuse) = Some("this is another cluster");
    let links = links_to(&house.address(), &plain);
    logs.shows("no connection to another node of the embedded store: the other side refused: this is another cluster").await;
    logs.shows("a node of the embedded store was refused: this is another cluster").await;
    assert!(!is_connected(&links));
    *lock(&house.door.refuse) = None;
    eventually("a welcome", || is_connected(&links)).await;
    assert_eq!(logs.count("the other side refused"), 1, "{}", logs.text());
}

#[tokio::test]
async fn nodes_come_and_move_and_go() {
    let plain = plain().await;
    let (mut here, mut there) = (House::open(&plain).await, House::open(&plain).await);
    let links = links_to(&here.address(), &plain);
    links.send(NodeId(2), raft(1));
    assert_eq!(here.next_frame().await, (NodeId(1), raft(1)));

    links.set_peers(&BTreeMap::from([(NodeId(2), there.address().to_string())]));
    links.send(NodeId(2), raft(2));
    assert_eq!(there.next_frame().await, (NodeId(1), raft(2)));

    let peers = BTreeMap::from([(NodeId(2), there.address().to_string()), (NodeId(3), here.address().to_string())]);
    links.set_peers(&peers);
    assert!(links.status()[&NodeId(2)].connected, "a link that stays the same is not disturbed");
    links.send(NodeId(3), raft(3));
    assert_eq!(here.next_frame().await, (NodeId(1), raft(3)));

    links.set_peers(&BTreeMap::new());
    assert_eq!(links.status(), BTreeMap::new());
    links.send(NodeId(2), raft(4));
    eventually("the end of all connections", || [&here, &there].iter().all(|house| house.listener.peers() == 0)).await;
}

#[tokio::test]
async fn a_newer_connection_of_a_node_ends_its_older_one() {
    let plain = plain().await;
    let mut house = House::open(&plain).await;
    let older = links_to(&house.address(), &plain);
    eventually("the first connection", || is_connected(&older)).await;
    let newer = links_to(&house.address(), &plain);
    reported(&older, LinkReport::FramesLost).await;
    drop(older);
    eventually("the newer one to stay", || is_connected(&newer)).await;
    newer.send(NodeId(2), raft(1));
    assert_eq!(house.next_frame().await, (NodeId(1), raft(1)));
}

#[tokio::test]
async fn the_status_says_when_a_node_was_last_heard_of() {
    let plain = plain().await;
    let house = House::open(&plain).await;
    let unused = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let links = links_to(&unused.into(), &plain);
    assert_eq!(links.status()[&NodeId(2)], LinkStatus { connected: false, last_contact: None });
    // It cannot be reached, but it reaches this one.
    links.heard(NodeId(2));
    let heard = links.status()[&NodeId(2)];
    assert!(!heard.connected && heard.last_contact.is_some(), "{heard:?}");
    // The words of a welcome count as well, and a move does not make forget.
    links.set_peers(&BTreeMap::from([(NodeId(2), house.address().to_string())]));
    assert!(links.status()[&NodeId(2)].last_contact.is_some());
    eventually("a connection", || is_connected(&links)).await;
}

#[tokio::test]
async fn ipv6_addresses_and_names_are_reached() {
    let plain = plain().await;
    for bind in ["localhost:0", "[::1]:0"] {
        if bind.starts_with('[') && TcpListener::bind(bind).await.is_err() {
            eprintln!("skipped in part: there is no IPv6 here");
            continue;
        }
        let mut house = House::open_with(bind, &plain, Limits::default()).await;
        let host = bind.rsplit_once(':').unwrap().0;
        // Of a name with several addresses, one is listened on; all are tried.
        let address = format!("{host}:{}", house.listener.local_address().port()).parse().unwrap();
        let links = links_to(&address, &plain);
        links.send(NodeId(2), raft(1));
        assert_eq!(house.next_frame().await, (NodeId(1), raft(1)));
    }
}

#[tokio::test]
async fn a_name_or_an_address_that_is_none_is_said_in_the_log() {
    let (logs, _guard) = Logs::capture();
    let plain = plain().await;
    let links = links(1, &plain);
    links.set_peers(&BTreeMap::from([(NodeId(2), "nowhere.invalid:1".to_owned()), (NodeId(3), "db3".to_owned())]));
    logs.shows("cannot find the address of `nowhere.invalid`").await;
    logs.shows("`db3` is not an address: the port is missing").await;
}

#[tokio::test]
async fn a_port_that_is_in_use_is_an_error_that_names_it() {
    let plain = plain().await;
    let house = House::open(&plain).await;
    let door = Arc::clone(&house.door) as Arc<dyn Accept>;
    let error = Listener::start(&house.address(), plain, door, Limits::default()).await.unwrap_err();
    assert!(error.to_string().contains(&house.address().to_string()), "{error}");
}
