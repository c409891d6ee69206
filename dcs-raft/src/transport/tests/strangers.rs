//! Those who come by and do not belong here.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::preamble::{self, Kind};
use super::super::{frame, preamble::VERSION};
use super::*;
use crate::message::Hello;

const NOTHING: &[u8] = &[];

async fn knock(house: &House) -> TcpStream {
    TcpStream::connect(house.listener.local_address()).await.unwrap()
}

/// What is said until the connection is closed, in whatever way.
async fn rest(tcp: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let _ended = in_time().bound("the end of the connection", tcp.read_to_end(&mut said)).await.unwrap();
    said
}

/// A connection without security, after both sides said what they speak.
async fn speak(house: &House) -> TcpStream {
    let mut tcp = knock(house).await;
    preamble::connect(&mut tcp, Kind::of(false, false), in_time()).await.unwrap();
    tcp
}

/// The same, as a client that was let in.
pub(super) async fn enter(house: &House) -> TcpStream {
    let mut tcp = speak(house).await;
    tcp.write_all(&encoded(&Hello::Client)).await.unwrap();
    let mut welcome = vec![0; encoded(&Welcome::Accepted).len()];
    tcp.read_exact(&mut welcome).await.unwrap();
    assert_eq!(welcome, encoded(&Welcome::Accepted));
    tcp
}

pub(super) fn encoded(message: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(message, true, &mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn garbage_costs_its_connection_and_one_line_in_the_log() {
    let (logs, _guard) = Logs::capture();
    let plain = plain().await;
    let house = House::open(&plain).await;
    for garbage in
        [&b"GET / HTTP/1.1\r\nHost: db1\r\n\r\n"[..], &[0; 100], &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0], b"SSH-2.0-nobody\r\n"]
    {
        let mut tcp = knock(&house).await;
        tcp.write_all(garbage).await.unwrap();
        assert_eq!(rest(&mut tcp).await, NOTHING, "nothing is said to strangers");
    }
    // Whoever only looks whether somebody listens is no stranger.
    drop(knock(&house).await);
    house.serves(&plain).await;
    assert_eq!(logs.count("does not speak the protocol"), 1, "{}", logs.text());
    assert_eq!(logs.count("WARN"), 1, "{}", logs.text());
}

#[tokio::test]
async fn those_who_connect_and_say_nothing_make_room_for_others() {
    let secured = security(Some("secret"), None).await;
    let limits = Limits { strangers: 4, handshake: Duration::from_secs(3600), ..Limits::default() };
    let house = House::open_with("127.0.0.1:0", &secured, limits).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(knock(&house).await);
    }
    house.serves(&secured).await;
    for tcp in silent.iter_mut().take(16) {
        assert_eq!(rest(tcp).await, NOTHING);
    }
}

#[tokio::test]
async fn who_says_nothing_or_only_half_of_it_is_sent_away_when_the_time_is_over() {
    let (logs, _guard) = Logs::capture();
    let plain = plain().await;
    let house = House::open_with("127.0.0.1:0", &plain, Limits { handshake: Duration::from_millis(200), ..Limits::default() }).await;
    let mut silent = knock(&house).await;
    let mut half = knock(&house).await;
    half.write_all(&preamble::MAGIC).await.unwrap();
    let mut nameless = speak(&house).await;
    for tcp in [&mut silent, &mut half, &mut nameless] {
        assert_eq!(rest(tcp).await, NOTHING);
    }
    logs.shows("no answer in time").await;
    house.serves(&plain).await;
}

#[tokio::test]
async fn there_are_only_so_many_connections_and_each_that_ends_makes_room() {
    let plain = plain().await;
    let house = House::open_with("127.0.0.1:0", &plain, Limits { connections: 2, ..Limits::default() }).await;
    let (first, second) = (house.client(&plain).await, house.client(&plain).await);
    assert_eq!(rest(&mut knock(&house).await).await, NOTHING);
    drop(first);
    let deadline = in_time();
    while ClientConnection::open(&house.address(), &plain, in_time()).await.is_err() {
        assert!(!deadline.has_passed(), "the place was never free");
    }
    assert_eq!(second.request(&echo("here"), in_time()).await.unwrap(), echoed("here"));
}

#[tokio::test]
async fn another_version_is_refused_by_the_accepting_side_which_names_both() {
    let (logs, _guard) = Logs::capture();
    let plain = plain().await;
    let house = House::open(&plain).await;
    let mut tcp = knock(&house).await;
    tcp.write_all(&preamble::bytes(99, Kind::of(false, false))).await.unwrap();
    assert_eq!(rest(&mut tcp).await, preamble::bytes(VERSION, Kind::of(false, false)), "the other side can name both as well");
    logs.shows(&format!("the other side speaks version 99 of the protocol, this side version {VERSION}")).await;
    house.serves(&plain).await;
}

#[tokio::test]
async fn another_version_is_refused_by_the_connecting_side_which_names_both() {
    let newer = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = Address::from(newer.local_addr().unwrap());
    let _task = Task(tokio::spawn(async move {
        let (mut tcp, _) = newer.accept().await.unwrap();
        tcp.write_all(&preamble::bytes(99, Kind::of(true, true))).await.unwrap();
        rest(&mut tcp).await;
    }));
    let error = ClientConnection::open(&address, &*plain().await, in_time()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("the other side speaks version 99 of the protocol, this side version {VERSION}"));
}

#[tokio::test]
async fn something_else_on_the_port_of_a_node_is_recognised() {
    let other = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = Address::from(other.local_addr().unwrap());
    let _task = Task(tokio::spawn(async move {
        let (mut tcp, _) = other.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        rest(&mut tcp).await;
    }));
    let error = ClientConnection::open(&address, &*plain().await, in_time()).await.unwrap_err();
    assert!(matches!(error, TransportError::Foreign), "{error}");
}

#[tokio::test]
async fn a_stranger_is_not_read_beyond_a_small_frame() {
    let (logs, _guard) = Logs::capture();
    let plain = plain().await;
    let house = House::open(&plain).await;
    let mut tcp = speak(&house).await;
    tcp.write_all(&u32::try_from(frame::STRANGER_LIMIT + 1).unwrap().to_be_bytes()).await.unwrap();
    assert_eq!(rest(&mut tcp).await, NOTHING);
    logs.shows("a frame of 65537 bytes, where 65536 are allowed").await;
    house.serves(&plain).await;
}

#[tokio::test]
async fn a_client_is_not_read_beyond_the_largest_frame() {
    let (logs, _guard) = Logs::capture();
    let plain = plain().await;
    let house = House::open(&plain).await;
    let mut tcp = enter(&house).await;
    tcp.write_all(&u32::try_from(frame::LIMIT + 1).unwrap().to_be_bytes()).await.unwrap();
    assert_eq!(rest(&mut tcp).await, NOTHING);
    logs.shows("a frame of 67108865 bytes, where 67108864 are allowed").await;
    house.serves(&plain).await;
}

#[tokio::test]
async fn a_request_that_was_damaged_on_its_way_is_not_carried_out() {
    let (logs, _guard) = Logs::capture();
    let plain = plain().await;
    let house = House::open(&plain).await;
    let mut request = encoded(&(1_u64, echo("hello")));
    *request.last_mut().unwrap() ^= 1;
    let mut tcp = enter(&house).await;
    tcp.write_all(&request).await.unwrap();
    assert_eq!(rest(&mut tcp).await, NOTHING);
    logs.shows("a frame arrived damaged").await;
}

#[tokio::test]
async fn a_frame_without_meaning_ends_the_connection_only() {
    let (logs, _guard) = Logs::capture();
    let plain = plain().await;
    let house = House::open(&plain).await;
    let mut tcp = enter(&house).await;
    tcp.write_all(&encoded(&[0xff_u8; 20])).await.unwrap();
    assert_eq!(rest(&mut tcp).await, NOTHING);
    logs.shows("a frame cannot be understood").await;
    house.serves(&plain).await;
}
