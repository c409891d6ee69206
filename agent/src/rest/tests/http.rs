//! What is the same for all requests: protocol, bodies, access, decoration.

use std::time::Duration;

use ha_engine::settings::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::config::{BasicAuth, RestApiSettings, ServerTokens};
use crate::http_client::BasicCredentials;
use crate::rest::testing::{Node, settings};

#[tokio::test]
async fn a_load_balancer_of_the_old_school_gets_a_status_line() {
    let node = Node::start().await;
    let answer = node.raw("OPTIONS / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    node.lead();
    let answer = node.raw("OPTIONS / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = node.raw("HEAD /primary HTTP/1.0\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_client_of_http_1_0_is_answered_and_hung_up_on() {
    let node = Node::start().await;
    let answer = node.raw("GET /patroni HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with('}'), "{answer}");
    let body = "{\"foo\": 1}";
    let answer = node.raw(&format!("POST /failover HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    assert!(answer.starts_with("HTTP/1.0 400 Bad Request\r\n"), "{answer}");
    assert!(answer.ends_with("Failover could be performed only to a specific candidate"), "{answer}");
}

#[tokio::test]
async fn a_connection_of_http_1_1_serves_several_requests() {
    let node = Node::start().await;
    let request = "GET /liveness HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /liveness HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = node.raw(&format!("{request}{request}{last}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{answer}");
}

#[tokio::test]
async fn what_is_not_there_is_unsupported_in_the_words_that_tools_look_for() {
    let node = Node::start().await;
    for (method, target) in
        [("POST", "/nosuch"), ("PUT", "/switchover"), ("DELETE", "/config"), ("POST", "/"), ("BREW", "/config"), ("PATCH", "/patroni")]
    {
        let answer = node.send(method, target, None).await;
        assert_eq!(answer.status, 501, "{method} {target}");
        assert!(answer.body.contains("Server does not support this operation"), "{}", answer.body);
        assert!(answer.body.contains(&format!("Unsupported method ('{method}')")), "{}", answer.body);
        assert_eq!(answer.header("content-type"), Some("text/html;charset=utf-8"));
    }
    let answer = node.raw("POST /nosuch HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 501 Unsupported method ('POST')\r\n"), "{answer}");
}

#[tokio::test]
async fn only_the_first_element_of_the_path_chooses() {
    let node = Node::start().await;
    assert_eq!(node.get("//cluster/x/y?z").await.status, 200);
    assert_eq!(node.get("/cluster?lag=1").await.status, 200);
    assert_eq!(node.get("/Cluster").await.status, 503);
    assert_eq!(node.send("POST", "/reload/now", None).await.status, 202);
}

#[tokio::test]
async fn every_row_of_the_body_rules() {
    let node = Node::start().await;
    let request = |target: &str, rest: &str| format!("POST {target} HTTP/1.0\r\n{rest}");
    let cases: [(&str, u16, u16); 8] = [
        ("\r\n", 411, 200),
        ("Content-Length: 0\r\n\r\n", 400, 200),
        ("Content-Length: 2\r\n\r\n{}", 400, 200),
        ("Content-Length: 4\r\n\r\nnope", 400, 400),
        ("Content-Length: 2\r\n\r\n[]", 400, 400),
        ("Content-Length: 4\r\n\r\nnull", 400, 400),
        ("Content-Length: 5\r\n\r\n{\"a\":", 400, 400),
        ("Content-Length: 99999999\r\n\r\n", 413, 413),
    ];
    for (rest, required, optional) in cases {
        for (target, expected) in [("/switchover", required), ("/failover", required), ("/restart", optional), ("/reinitialize", optional)]
        {
            let answer = node.raw(&request(target, rest)).await;
            assert!(answer.starts_with(&format!("HTTP/1.0 {expected} ")), "{target} {rest:?}: {answer}");
        }
    }
    // HTTP itself knows what a length is.
    let answer = node.raw(&request("/restart", "Content-Length: x\r\n\r\n")).await;
    assert!(answer.contains(" 400 Bad Request\r\n"), "{answer}");
    let not_utf8 = b"POST /restart HTTP/1.0\r\nContent-Length: 9\r\n\r\n{\"a\":\"\xff\"}";
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(not_utf8).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 400 "), "{answer}");
}

#[tokio::test]
async fn a_bad_body_does_nothing() {
    let node = Node::start().await;
    assert_eq!(node.send("POST", "/reinitialize", Some("{force")).await.status, 400);
    assert_eq!(node.send("POST", "/restart", Some("[]")).await.status, 400);
    assert_eq!(node.heard(), Vec::<String>::new());
}

fn with_password() -> RestApiSettings {
    let authentication = Some(BasicAuth { username: "admin".to_owned(), password: Secret::new("secret") });
    RestApiSettings { authentication, ..settings() }
}

#[tokio::test]
async fn reading_is_free_and_changing_needs_the_password() {
    let node = Node::with(&with_password()).await;
    for target in ["/patroni", "/cluster", "/config", "/metrics"] {
        assert_ne!(node.get(target).await.status, 401, "{target}");
    }
    for (method, target) in [
        ("PATCH", "/config"),
        ("PUT", "/config"),
        ("POST", "/reload"),
        ("POST", "/restart"),
        ("DELETE", "/restart"),
        ("POST", "/switchover"),
        ("DELETE", "/switchover"),
        ("POST", "/failover"),
        ("POST", "/reinitialize"),
        ("POST", "/failsafe"),
        ("POST", "/sigterm"),
    ] {
        let answer = node.send(method, target, Some("{}")).await;
        assert_eq!(answer.said(), (401, "no auth header received"), "{method} {target}");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"Patroni\""));
    }
    assert_eq!(node.heard(), Vec::<String>::new());

    let key = BasicCredentials { username: "admin".to_owned(), password: Secret::new("secret") }.encoded();
    let good = node.raw(&format!("POST /reload HTTP/1.0\r\nAuthorization: Basic {key}\r\n\r\n")).await;
    assert!(good.starts_with("HTTP/1.0 202 ") && good.ends_with("reload scheduled"), "{good}");
    let bad = node.raw("PATCH /config HTTP/1.0\r\nAuthorization: Basic Zm9v\r\nContent-Length: 2\r\n\r\n{}").await;
    assert!(bad.starts_with("HTTP/1.0 401 ") && bad.ends_with("not authenticated"), "{bad}");
    assert_eq!(node.heard(), ["reload"]);
}

#[tokio::test]
async fn addresses_that_are_not_listed_may_not_change_anything() {
    let listed = RestApiSettings { allowlist: vec!["10.0.0.0/8".to_owned()], ..settings() };
    let node = Node::with(&listed).await;
    assert_eq!(node.send("POST", "/reload", None).await.said(), (403, "Access is denied"));
    assert_eq!(node.send("POST", "/failsafe", None).await.said(), (403, "Access is denied"));
    assert_eq!(node.get("/patroni").await.status, 200);
    node.server.reload(&RestApiSettings { allowlist: vec!["127.0.0.0/8".to_owned()], ..listed }).await.unwrap();
    assert_eq!(node.send("POST", "/reload", None).await.status, 202);
}

#[tokio::test]
async fn members_may_change_something_by_their_published_address() {
    let node = Node::with(&RestApiSettings { allowlist_include_members: true, ..settings() }).await;
    assert_eq!(node.send("POST", "/reload", None).await.said(), (403, "Access is denied"));
    assert_eq!(node.send("POST", "/failsafe", None).await.status, 502);
    let member = node.publish("127.0.0.1").await;
    node.cycle().await;
    assert_eq!(node.send("POST", "/reload", None).await.status, 202);
    drop(member);
}

#[tokio::test]
async fn answers_are_decorated_as_configured() {
    let extra_headers = vec![("X-Team".to_owned(), "db".to_owned()), ("bad header".to_owned(), "x".to_owned())];
    let node = Node::with(&RestApiSettings { server_tokens: ServerTokens::ProductOnly, extra_headers, ..settings() }).await;
    for (method, target, extra, server) in [
        ("GET", "/patroni", Some("db"), Some("Quorate")),
        ("GET", "/metrics", Some("db"), Some("Quorate")),
        ("POST", "/reload", Some("db"), Some("Quorate")),
        ("POST", "/nosuch", None, Some("Quorate")),
        ("OPTIONS", "/", None, None),
        ("GET", "/liveness", None, None),
    ] {
        let answer = node.send(method, target, None).await;
        assert_eq!((answer.header("x-team"), answer.header("server")), (extra, server), "{method} {target}");
    }
    node.server.reload(&RestApiSettings { server_tokens: ServerTokens::Minimal, ..settings() }).await.unwrap();
    let minimal = node.get("/patroni").await;
    assert!(minimal.header("server").unwrap().starts_with("Quorate/"));
    node.server.reload(&settings()).await.unwrap();
    assert_eq!(node.get("/patroni").await.header("server"), None);
}

#[tokio::test]
async fn slow_clients_bother_nobody() {
    let node = Node::start().await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(b"POST /restart HTTP/1.1\r\nContent-Length: 10\r\n\r\n{").await.unwrap();
        slow.push(stream);
    }
    let started = tokio::time::Instant::now();
    assert_eq!(node.get("/liveness").await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_room_comes_back() {
    let node = Node::start().await;
    let mut open = Vec::new();
    for _ in 0..crate::rest::connection::MAX_CONNECTIONS {
        open.push(TcpStream::connect(node.address).await.unwrap());
    }
    let closed = async {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        // The server may close before it has read.
        let _ = stream.write_all(b"OPTIONS / HTTP/1.0\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    assert_eq!(closed.await, b"");
    open.truncate(10);
    let room = async {
        loop {
            let mut stream = TcpStream::connect(node.address).await.unwrap();
            let _ = stream.write_all(b"OPTIONS / HTTP/1.0\r\n\r\n").await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            if !answer.is_empty() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), room).await.expect("room comes back");
}

#[tokio::test]
async fn a_new_address_is_taken_before_the_old_one_is_left() {
    let node = Node::start().await;
    let mut moved = settings();
    moved.listen.host = "localhost".to_owned();
    node.server.reload(&moved).await.unwrap();
    let address = node.server.local_addr().await;
    assert_ne!(address, node.address);
    let answer = reqwest::get(format!("http://{address}/liveness")).await.unwrap();
    assert_eq!(answer.status(), 200);
    TcpStream::connect(node.address).await.expect_err("the old address is left");
}

#[tokio::test]
async fn the_same_port_on_every_address_can_be_taken_over() {
    let node = Node::start().await;
    let mut everywhere = settings();
    everywhere.listen.host = "*".to_owned();
    everywhere.listen.port = node.address.port();
    node.server.reload(&everywhere).await.unwrap();
    assert_eq!(node.get("/liveness").await.status, 200);
}

#[tokio::test]
async fn an_address_that_cannot_be_used_leaves_the_server_where_it_was() {
    let node = Node::start().await;
    let mut elsewhere = settings();
    elsewhere.listen.host = "192.0.2.1".to_owned();
    let error = node.server.reload(&elsewhere).await.unwrap_err();
    assert!(error.to_string().contains("192.0.2.1:0"), "{error}");
    let taken = Node::start().await;
    elsewhere.listen = crate::config::RestListen { host: "127.0.0.1".to_owned(), port: taken.address.port() };
    node.server.reload(&elsewhere).await.unwrap_err();
    let address = node.server.local_addr().await;
    let answer = reqwest::get(format!("http://{address}/liveness")).await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_shutdown_refuses_at_once_and_lets_running_requests_end() {
    let node = Node::start().await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 202");
    let started = tokio::time::Instant::now();
    node.server.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(3));
    TcpStream::connect(node.address).await.expect_err("nobody listens any more");
    node.server.shutdown().await;
}
