//! Tokens and certificates: who is let in, who is not, and what they are told.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dcs_consul::Consul;
use dcs_core::keys::ClusterPath;
use dcs_core::model::MemberRecord;
use dcs_core::{BootClock, Consistency, Deadline, ErrorKind, Expect, Fate, KeyValueStore, LockRenewal};
use serde_json::{Value, json};
use store_servers::certificates::{Files, Workshop};
use store_servers::consul::{MASTER_TOKEN, Options};
use store_servers::{Servers, eventually, report_not_run};

use crate::support::{Hand, can_run};
use crate::{LEADER, MEMBER, PREFIX, TIMING, config, keeps, loads, section, soon, store_with, wins};

/// What the documentation says a token needs.
const RULES: &str = r#"
    key_prefix "service/demo" { policy = "write" }
    session_prefix "" { policy = "write" }
    service_prefix "demo" { policy = "write" }
"#;

/// A new token with those rights, and only those: its id for people, and its secret.
async fn new_token(hand: &Hand, name: &str, rules: &str) -> (String, String) {
    hand.put("acl/policy", json!({"Name": name, "Rules": rules}).to_string()).await;
    let token = hand.put("acl/token", json!({"Policies": [{"Name": name}]}).to_string()).await;
    let text = |field: &str| token[field].as_str().expect("every token has one").to_owned();
    (text("AccessorID"), text("SecretID"))
}

fn with_token(servers: &Servers, token: Option<&str>) -> Consul {
    store_with(&section(servers, 0, json!({"token": token})), TIMING)
}

async fn exchanges(store: &Consul, servers: &Servers, options: Value) -> Result<(), String> {
    store.set_access(&config(&section(servers, 0, options))).await.map_err(|error| error.chain())
}

#[tokio::test]
async fn a_token_needs_just_the_rights_that_the_documentation_names() {
    if !can_run("a_token_needs_just_the_rights_that_the_documentation_names") {
        return;
    }
    let servers = Options { acl: true, ..Options::default() }.start().await.expect("Consul starts");
    let hand = Hand::at(&servers, 0);
    let (_, token) = new_token(&hand, "quorate", RULES).await;
    let a = with_token(&servers, Some(&token));
    assert_eq!(loads(&a).await.unwrap_or_else(|error| panic!("{}", error.chain())), 0);
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    keeps(&a, "a").await;
    let large = vec![b'x'; 500 << 10];
    for value in [&b"{}"[..], &large] {
        a.put("/service/demo/config", value, Expect::Any, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    }
    a.delete("/service/demo/config", Expect::Any, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    a.delete_prefix(PREFIX, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(!format!("{a:?}").contains(&token), "the token is told");

    let elsewhere = a.put("/elsewhere", b"", Expect::Any, soon()).await.expect_err("it may not");
    assert_eq!((elsewhere.kind, elsewhere.fate), (ErrorKind::Denied, Fate::NotApplied), "{}", elsewhere.chain());

    // The service, by the same token.
    let options = section(&servers, 0, json!({"token": token, "register_service": true}));
    let (_, cluster) = dcs_consul::open(config(&options), TIMING, Arc::new(BootClock), ClusterPath::new(None, "demo"), "demo", "n1".into());
    let record = |state: &str| MemberRecord {
        role: Some("replica".to_owned()),
        state: Some(state.to_owned()),
        api_url: Some("http://127.0.0.1:8008/patroni".to_owned()),
        conn_url: Some("postgres://127.0.0.1:5432/postgres".to_owned()),
        ..MemberRecord::default()
    };
    for (state, registered) in [("running", true), ("stopped", false)] {
        cluster.touch_member(&record(state), soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(hand.get("agent/services").await["demo/n1"].is_object(), registered, "{state}");
    }

    let master = with_token(&servers, Some(MASTER_TOKEN));
    master.put("/elsewhere", b"", Expect::Any, soon()).await.expect("the master may");
}

/// Consul answers a list without the keys that one may not read. An agent that took that for an empty cluster would bootstrap
/// a new one.
#[tokio::test]
async fn keys_that_may_not_be_read_are_no_empty_cluster() {
    if !can_run("keys_that_may_not_be_read_are_no_empty_cluster") {
        return;
    }
    let servers = Options { acl: true, ..Options::default() }.start().await.expect("Consul starts");
    let hand = Hand::at(&servers, 0);
    hand.put("kv/service/demo/initialize", "7000000000000000000").await;
    let (_, other) = new_token(&hand, "other", r#"key_prefix "other" { policy = "write" }"#).await;
    for token in [None, Some(other.as_str())] {
        let a = with_token(&servers, token);
        for consistency in [Consistency::Relaxed, Consistency::Linearizable] {
            let error = a.read(PREFIX, consistency, soon()).await.expect_err("it may not be read");
            assert_eq!(error.kind, ErrorKind::Denied, "{}", error.chain());
            assert!(error.chain().contains("Permission denied; look at `consul.token`"), "{}", error.chain());
        }
        let error = a.ensure_handle(soon()).await.expect_err("it may not have a session");
        assert_eq!((error.kind, error.fate), (ErrorKind::Denied, Fate::NotApplied), "{}", error.chain());
    }
    let wrong = with_token(&servers, Some("9d0f9c0e-0000-0000-0000-000000000000"));
    let error = loads(&wrong).await.expect_err("there is no such token");
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.chain().contains("ACL not found"), "{}", error.chain());
    let unsendable = with_token(&servers, Some("a\nb"));
    let error = loads(&unsendable).await.expect_err("no header can have that");
    assert_eq!(error.kind, ErrorKind::Misconfigured);
}

#[tokio::test]
async fn a_new_token_is_taken_up_without_losing_the_lock() {
    if !can_run("a_new_token_is_taken_up_without_losing_the_lock") {
        return;
    }
    let servers = Options { acl: true, ..Options::default() }.start().await.expect("Consul starts");
    let hand = Hand::at(&servers, 0);
    let (id, first) = new_token(&hand, "first", RULES).await;
    let (_, second) = new_token(&hand, "second", RULES).await;
    let a = with_token(&servers, Some(&first));
    wins(&a, "a").await;
    let seen = a.get(LEADER, soon()).await.expect("Consul answers").expect("it is there");
    let handle = a.handle();

    hand.delete(&format!("acl/token/{id}")).await;
    // Consul remembers tokens for a while.
    eventually("the token is gone", Duration::from_secs(60), || async {
        match a.renew_lock(LEADER, "a", &seen, soon()).await {
            Ok(LockRenewal::Kept(_)) => Err("it is still known".to_owned()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Denied, "{}", error.chain());
                Ok(())
            }
        }
    })
    .await;
    assert_eq!(a.handle().map(|handle| handle.id), handle.map(|handle| handle.id), "a refusal does not end the session");

    exchanges(&a, &servers, json!({"token": second})).await.expect("nothing is wrong with it");
    let LockRenewal::Kept(grip) = a.renew_lock(LEADER, "a", &seen, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain())) else {
        panic!("it is ours")
    };
    assert_eq!(grip.written, None, "the lock is as it was");
}

fn workshop(test: &str) -> Option<Workshop> {
    if !can_run(test) {
        return None;
    }
    let workshop = Workshop::open();
    if workshop.is_none() {
        report_not_run(test, "no `openssl` on the PATH; `apt-get install openssl` installs it");
    }
    workshop
}

/// One server on localhost that speaks TLS.
async fn tls(files: &Files, authority: &Path, client_certificates: bool) -> Servers {
    let options = Options {
        tls: Some((files.clone(), authority.to_owned())),
        client_certificates,
        address: Some(Ipv4Addr::LOCALHOST.into()),
        ..Options::default()
    };
    options.start().await.expect("Consul starts")
}

fn over_tls(servers: &Servers, mut options: Value) -> Consul {
    options["scheme"] = "https".into();
    store_with(&section(servers, 0, options), TIMING)
}

async fn refusal(store: &Consul) -> String {
    let error = store.read(PREFIX, Consistency::Relaxed, Deadline::after(Duration::from_secs(2))).await.expect_err("it is refused");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
    error.chain()
}

#[tokio::test]
async fn tls_with_client_certificates() {
    let Some(workshop) = workshop("tls_with_client_certificates") else { return };
    let ca = workshop.self_signed("authority", "DNS:authority");
    let (server, client) =
        (workshop.signed_by(&ca, "server", "DNS:localhost,IP:127.0.0.1", "10"), workshop.signed_by(&ca, "client", "DNS:client", "10"));
    let servers = tls(&server, &ca.cert, true).await;

    let a = over_tls(&servers, json!({"cacert": ca.cert, "cert": client.cert, "key": client.key}));
    wins(&a, "a").await;
    keeps(&a, "a").await;

    // The key in the file of the certificate.
    let both = workshop.path().join("both.pem");
    let text = |path: &Path| std::fs::read_to_string(path).expect("it was written");
    std::fs::write(&both, text(&client.cert) + &text(&client.key)).expect("it can be written");
    let b = over_tls(&servers, json!({"cacert": ca.cert, "cert": both}));
    loads(&b).await.unwrap_or_else(|error| panic!("{}", error.chain()));

    let none = refusal(&over_tls(&servers, json!({"cacert": ca.cert}))).await;
    assert!(none.contains("client certificate") || none.contains("does not accept our certificate"), "{none}");
    let stranger = workshop.self_signed("stranger", "DNS:stranger");
    let unknown = refusal(&over_tls(&servers, json!({"cacert": ca.cert, "cert": stranger.cert, "key": stranger.key}))).await;
    assert!(unknown.contains("does not accept our certificate"), "{unknown}");

    let missing = over_tls(&servers, json!({"cacert": "/nonexistent/ca.crt"}));
    let error = loads(&missing).await.expect_err("there is no such file");
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    assert!(error.chain().contains("cannot read `/nonexistent/ca.crt`"), "{}", error.chain());
}

#[tokio::test]
async fn other_certificates_are_taken_up_without_losing_the_lock_unless_they_cannot_be_used() {
    let Some(workshop) = workshop("other_certificates_are_taken_up_without_losing_the_lock_unless_they_cannot_be_used") else { return };
    let ca = workshop.self_signed("authority", "DNS:authority");
    let signed = |name: &str, names: &str| workshop.signed_by(&ca, name, names, "10");
    let (server, first, second) = (signed("server", "IP:127.0.0.1"), signed("first", "DNS:first"), signed("second", "DNS:second"));
    let servers = tls(&server, &ca.cert, true).await;
    let presenting = |files: &Files| json!({"scheme": "https", "cacert": ca.cert, "cert": files.cert, "key": files.key});
    let a = over_tls(&servers, presenting(&first));
    wins(&a, "a").await;

    std::fs::remove_file(&first.cert).expect("it is there");
    let missing = Files { cert: workshop.path().join("missing.crt"), ..second.clone() };
    let error = exchanges(&a, &servers, presenting(&missing)).await.expect_err("there is no such file");
    assert!(error.contains("missing.crt"), "{error}");
    keeps(&a, "a").await;

    exchanges(&a, &servers, presenting(&second)).await.expect("nothing is wrong with them");
    keeps(&a, "a").await;
}

#[tokio::test]
async fn certificates_that_prove_nothing_are_refused_with_the_reason() {
    let Some(workshop) = workshop("certificates_that_prove_nothing_are_refused_with_the_reason") else { return };
    let ca = workshop.self_signed("authority", "DNS:authority");
    let other = workshop.self_signed("stranger", "DNS:stranger");
    let server = workshop.signed_by(&ca, "server", "DNS:consul.example.com", "10");
    let servers = tls(&server, &ca.cert, false).await;

    let text = refusal(&over_tls(&servers, json!({"cacert": other.cert}))).await;
    assert!(text.contains("UnknownIssuer"), "{text}");
    let text = refusal(&over_tls(&servers, json!({}))).await;
    assert!(text.contains("UnknownIssuer"), "{text}");
    let text = refusal(&over_tls(&servers, json!({"cacert": ca.cert}))).await;
    assert!(text.contains("not valid for name") && text.contains("consul.example.com"), "{text}");
    // As before: an authority that is named is asked, whatever `verify` says; without one, `verify` decides.
    let text = refusal(&over_tls(&servers, json!({"cacert": other.cert, "verify": false}))).await;
    assert!(text.contains("UnknownIssuer"), "{text}");
    loads(&over_tls(&servers, json!({"verify": false}))).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    // TLS is not tried where it was not asked for.
    let plain = store_with(&section(&servers, 0, json!({})), TIMING);
    let error = loads(&plain).await.expect_err("the server speaks TLS");
    assert!(error.chain().contains("Client sent an HTTP request to an HTTPS server"), "{}", error.chain());
    drop(servers);

    let expired = workshop.signed_by(&ca, "expired", "IP:127.0.0.1", "0");
    let servers = tls(&expired, &ca.cert, false).await;
    // It is valid for the second in which it was made.
    eventually("it expires", TIMING.retry_timeout, || async {
        let text = loads(&over_tls(&servers, json!({"cacert": ca.cert}))).await.err().map(|error| error.chain()).unwrap_or_default();
        if text.contains("expired") { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test]
async fn one_plain_self_signed_certificate_for_everything() {
    let Some(workshop) = workshop("one_plain_self_signed_certificate_for_everything") else { return };
    let one = workshop.self_signed("everything", "DNS:localhost,IP:127.0.0.1");
    let servers = tls(&one, &one.cert, true).await;
    let a = over_tls(&servers, json!({"cacert": one.cert, "cert": one.cert, "key": one.key}));
    wins(&a, "a").await;
    keeps(&a, "a").await;
}

#[tokio::test]
async fn literal_ipv6_addresses_and_names_with_several_addresses_work() {
    if !can_run("literal_ipv6_addresses_and_names_with_several_addresses_work") {
        return;
    }
    let servers = Options::on_ipv6().start().await.expect("Consul starts");
    let address = servers.plan(0).address;
    assert!(address.is_ipv6());
    let port = address.port();
    for section in
        [json!({"host": format!("[::1]:{port}")}), json!({"host": "::1", "port": port}), json!({"url": format!("http://[::1]:{port}")})]
    {
        loads(&store_with(section.as_object().expect("it is one"), TIMING)).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    }
    // Where both addresses belong to the name, Consul listens on one of them only.
    let both = std::net::ToSocketAddrs::to_socket_addrs(&("localhost", port)).is_ok_and(|mut all| all.any(|one| one.is_ipv6()));
    if both {
        let local = store_with(json!({"host": "localhost", "port": port}).as_object().expect("it is one"), TIMING);
        loads(&local).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    }
}
