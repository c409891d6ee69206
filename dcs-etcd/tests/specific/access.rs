//! Users and certificates: who is let in, who is not, and what they are told.

use std::path::Path;
use std::time::Duration;

use dcs_core::{Deadline, ErrorKind, KeyValueStore, LockRenewal};
use dcs_etcd::{Config, Etcd};
use etcd_client::{Client, Permission};
use serde_json::{Value, json};

use crate::support::{Cluster, can_run};
use crate::{LEADER, loads, loads_by, renews, soon, store, store_with, wins};
use store_servers::certificates::{Files, Workshop};
use store_servers::conformance::TIMING;
use store_servers::etcd::Options;
use store_servers::{eventually, report_not_run};

/// A connection that is refused is tried again until the time is over: here there need not be much of it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Adds `root` and a user that may do everything below `/service/`.
pub(crate) async fn add_users(direct: &mut Client) {
    direct.user_add("root", "rootpw", None).await.expect("a user");
    direct.role_add("root").await.expect("a role");
    direct.user_grant_role("root", "root").await.expect("a grant");
    direct.user_add("quorate", "secret", None).await.expect("a user");
    direct.role_add("service").await.expect("a role");
    let all = Permission::read_write("/service/").with_prefix();
    direct.role_grant_permission("service", all).await.expect("a grant");
    direct.user_grant_role("quorate", "service").await.expect("a grant");
}

fn as_user(password: &str) -> Value {
    json!({"username": "quorate", "password": password})
}

#[tokio::test]
async fn users_are_let_in_with_the_right_password_only() {
    if !can_run("users_are_let_in_with_the_right_password_only") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let mut direct = cluster.direct().await;
    add_users(&mut direct).await;

    // Not asked for yet: credentials do no harm.
    let early = store_with(&cluster.section(as_user("secret")), TIMING);
    let nobody = store(&cluster);
    wins(&early, "early").await;
    loads(&nobody).await.expect("etcd asks for nothing");

    direct.auth_enable().await.expect("it can be enabled");
    let error = loads(&nobody).await.expect_err("a user is asked for");
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.chain().contains("user name is empty"), "{}", error.chain());

    let wrong = store_with(&cluster.section(as_user("wrong")), TIMING);
    let error = loads(&wrong).await.expect_err("the password is wrong");
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.chain().contains("invalid user ID or password"), "{}", error.chain());
    assert!(!format!("{wrong:?} {}", error.chain()).contains("wrong\""), "the password is told");

    // Whoever connected before gets a token when it is needed, and loses nothing.
    let renewal = renews(&early, "early").await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");

    let good = store_with(&cluster.section(as_user("secret")), TIMING);
    loads(&good).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    let elsewhere = good.put("/elsewhere", b"", dcs_core::Expect::Any, soon()).await.expect_err("it may not");
    assert_eq!((elsewhere.kind, elsewhere.fate), (ErrorKind::Denied, dcs_core::Fate::NotApplied));
    assert!(elsewhere.chain().contains("permission denied"), "{}", elsewhere.chain());

    // A restart of etcd forgets all tokens.
    cluster.restart(0);
    cluster.serves(0).await;
    for store in [&early, &good] {
        loads(store).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    }
    let renewal = renews(&early, "early").await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");
}

#[tokio::test]
async fn a_new_password_is_taken_up_without_losing_the_lock() {
    if !can_run("a_new_password_is_taken_up_without_losing_the_lock") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let mut direct = cluster.direct().await;
    add_users(&mut direct).await;
    direct.auth_enable().await.expect("it can be enabled");
    let a = store_with(&cluster.section(as_user("secret")), TIMING);
    wins(&a, "a").await;

    let options = etcd_client::ConnectOptions::new().with_user("root", "rootpw");
    let mut root = Client::connect(cluster.hosts(), Some(options)).await.expect("root may");
    root.user_change_password("quorate", "new").await.expect("it can be changed");
    let error = loads(&a).await.expect_err("the old password is no good any more");
    assert_eq!(error.kind, ErrorKind::Denied, "{}", error.chain());

    exchanges(&a, &cluster.section(as_user("new"))).await.expect("nothing is wrong with it");
    let renewal = renews(&a, "a").await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");

    root.auth_disable().await.expect("it can be disabled");
    let renewal = renews(&a, "a").await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");
}

/// Takes over who we are from another section.
async fn exchanges(store: &Etcd, section: &serde_json::Map<String, Value>) -> Result<(), String> {
    let config = Config::from_section(section).expect("a good one");
    store.set_access(&config).await.map_err(|error| error.to_string())
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

fn trusting(ca: &Path) -> Value {
    json!({"cacert": ca})
}

fn presenting(ca: &Path, files: &Files) -> Value {
    json!({"cacert": ca, "cert": files.cert, "key": files.key})
}

fn on_localhost(options: Options) -> Options {
    Options { address: Some(std::net::Ipv4Addr::LOCALHOST.into()), ..options }
}

async fn refusal(cluster: &Cluster, options: Value) -> String {
    let a = store_with(&cluster.section(options), TIMING);
    let error = loads_by(&a, Deadline::after(PATIENCE)).await.expect_err("the connection must be refused");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
    error.chain()
}

#[tokio::test]
async fn tls_with_client_certificates() {
    let Some(workshop) = workshop("tls_with_client_certificates") else { return };
    let ca = workshop.self_signed("authority", "DNS:authority");
    let names = "DNS:localhost,IP:127.0.0.1";
    let (server, client) = (workshop.signed_by(&ca, "server", names, "10"), workshop.signed_by(&ca, "client", "DNS:client", "10"));
    let options = Options { client_ca: Some(ca.cert.clone()), ..Options::with_tls(&server) };
    let cluster = Cluster::start(&on_localhost(options)).await;

    let a = store_with(&cluster.section(presenting(&ca.cert, &client)), TIMING);
    wins(&a, "a").await;
    let renewal = renews(&a, "a").await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");

    // The key in the file of the certificate.
    let both = workshop.path().join("both.pem");
    let text = |path: &Path| std::fs::read_to_string(path).expect("it was written");
    std::fs::write(&both, text(&client.cert) + &text(&client.key)).expect("it can be written");
    let b = store_with(&cluster.section(json!({"cacert": ca.cert, "cert": both})), TIMING);
    loads(&b).await.unwrap_or_else(|error| panic!("{}", error.chain()));

    let none = refusal(&cluster, trusting(&ca.cert)).await;
    assert!(none.contains("perhaps the server asks for a client certificate"), "{none}");
    let unknown = workshop.self_signed("stranger", "DNS:stranger");
    let stranger = refusal(&cluster, presenting(&ca.cert, &unknown)).await;
    assert!(stranger.contains("perhaps the server does not accept our client certificate"), "{stranger}");

    let missing = store_with(&cluster.section(json!({"cacert": "/nonexistent/ca.crt"})), TIMING);
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
    let options = Options { client_ca: Some(ca.cert.clone()), ..Options::with_tls(&server) };
    let cluster = Cluster::start(&on_localhost(options)).await;
    let a = store_with(&cluster.section(presenting(&ca.cert, &first)), TIMING);
    wins(&a, "a").await;

    // Nobody can connect with the first certificate any more, but whoever is connected does not notice.
    std::fs::remove_file(&first.cert).expect("it is there");
    let missing = Files { cert: workshop.path().join("missing.crt"), ..second.clone() };
    let error = exchanges(&a, &cluster.section(presenting(&ca.cert, &missing))).await.expect_err("there is no such file");
    assert!(error.contains("missing.crt"), "{error}");
    let renewal = renews(&a, "a").await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");

    exchanges(&a, &cluster.section(presenting(&ca.cert, &second))).await.expect("nothing is wrong with them");
    assert_eq!(a.server(), None, "the connection with the first certificate is still in use");
    let renewal = renews(&a, "a").await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");
}

#[tokio::test]
async fn one_plain_self_signed_certificate_for_everything() {
    let Some(workshop) = workshop("one_plain_self_signed_certificate_for_everything") else { return };
    let one = workshop.self_signed("everything", "DNS:localhost,IP:127.0.0.1");
    let options = Options { client_ca: Some(one.cert.clone()), ..Options::with_tls(&one) };
    let cluster = Cluster::start(&on_localhost(options)).await;
    let a = store_with(&cluster.section(presenting(&one.cert, &one)), TIMING);
    wins(&a, "a").await;
    let renewal = renews(&a, "a").await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");
    assert!(a.get(LEADER, soon()).await.expect("etcd answers").is_some());
}

#[tokio::test]
async fn certificates_that_prove_nothing_are_refused_with_the_reason() {
    let Some(workshop) = workshop("certificates_that_prove_nothing_are_refused_with_the_reason") else { return };
    let ca = workshop.self_signed("authority", "DNS:authority");
    let other = workshop.self_signed("stranger", "DNS:stranger");
    let server = workshop.signed_by(&ca, "server", "DNS:etcd.example.com", "10");
    let cluster = Cluster::start(&on_localhost(Options::with_tls(&server))).await;

    let text = refusal(&cluster, trusting(&other.cert)).await;
    assert!(text.contains("UnknownIssuer"), "{text}");
    let text = refusal(&cluster, trusting(&ca.cert)).await;
    assert!(text.contains("not valid for name") && text.contains("etcd.example.com"), "{text}");
    // Without anything to trust nothing is verified, as before.
    loads(&store_with(&cluster.section(json!({})), TIMING)).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    // TLS is not tried where it was not asked for.
    let plain = store_with(&cluster.section(json!({"protocol": "http"})), TIMING);
    let error = loads_by(&plain, Deadline::after(PATIENCE)).await.expect_err("the server speaks TLS");
    assert!(error.chain().contains("perhaps it speaks TLS"), "{}", error.chain());
    drop(cluster);

    let expired = workshop.signed_by(&ca, "expired", "DNS:localhost,IP:127.0.0.1", "0");
    let cluster = Cluster::start(&on_localhost(Options::with_tls(&expired))).await;
    // It is valid for the second in which it was made.
    eventually("it expires", TIMING.retry_timeout, || async {
        let a = store_with(&cluster.section(trusting(&ca.cert)), TIMING);
        let error = loads_by(&a, Deadline::after(PATIENCE)).await.err();
        let text = error.map(|error| error.chain()).unwrap_or_default();
        if text.contains("expired") { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test]
async fn the_common_name_of_a_certificate_is_a_user() {
    let Some(workshop) = workshop("the_common_name_of_a_certificate_is_a_user") else { return };
    let ca = workshop.self_signed("authority", "DNS:authority");
    let signed = |name: &str| workshop.signed_by(&ca, name, "DNS:localhost,IP:127.0.0.1", "10");
    let (server, known, unknown) = (signed("server"), signed("quorate"), signed("nobody"));
    let options = Options { client_ca: Some(ca.cert.clone()), ..Options::with_tls(&server) };
    let cluster = Cluster::start(&on_localhost(options)).await;
    let pem = |path: &Path| std::fs::read(path).expect("it was written");
    let tls = etcd_client::TlsOptions::new()
        .ca_certificate(etcd_client::Certificate::from_pem(pem(&ca.cert)))
        .identity(etcd_client::Identity::from_pem(pem(&unknown.cert), pem(&unknown.key)));
    let hosts: Vec<_> = cluster.hosts().iter().map(|host| format!("https://{host}")).collect();
    let options = etcd_client::ConnectOptions::new().with_tls(tls);
    let mut direct = Client::connect(hosts, Some(options)).await.expect("a client");
    add_users(&mut direct).await;
    direct.auth_enable().await.expect("it can be enabled");

    let a = store_with(&cluster.section(presenting(&ca.cert, &known)), TIMING);
    wins(&a, "a").await;
    let renewal = renews(&a, "a").await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");
    let b = store_with(&cluster.section(presenting(&ca.cert, &unknown)), TIMING);
    let error = loads(&b).await.expect_err("etcd does not know this user");
    assert_eq!(error.kind, ErrorKind::Denied, "{}", error.chain());
    // Beside a password the certificate only opens the connection.
    let mut both = presenting(&ca.cert, &unknown);
    both.as_object_mut().expect("it is one").extend(as_user("secret").as_object().expect("it is one").clone());
    loads(&store_with(&cluster.section(both), TIMING)).await.unwrap_or_else(|error| panic!("{}", error.chain()));
}
