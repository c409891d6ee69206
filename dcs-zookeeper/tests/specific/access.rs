//! Who is let in, who may touch the nodes, and where they are: certificates, credentials, ACLs, paths, addresses.

use std::net::Ipv6Addr;
use std::path::Path;

use dcs_core::{Consistency, ErrorKind, Expect, KeyValueStore};
use dcs_zookeeper::Config;
use serde_json::{Value, json};
use store_servers::certificates::{Files, Workshop};
use store_servers::zookeeper::Options;
use store_servers::{Servers, report_not_run};
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

use crate::{LEADER, MEMBER, PREFIX, TIMING, can_run, direct, existing, is_kept, loads, renews, session, soon, store, store_with, wins};

/// A certificate in the form of an authority that signs others, and servers that have one of it.
struct Authority {
    workshop: Workshop,
    files: Files,
}

impl Authority {
    fn make(test: &str) -> Option<Self> {
        if !can_run(test) {
            return None;
        }
        let Some(workshop) = Workshop::open() else {
            report_not_run(test, "no `openssl` on the PATH; `apt-get install openssl` installs it");
            return None;
        };
        let files = workshop.self_signed("authority", "DNS:authority");
        Some(Self { workshop, files })
    }

    fn signs(&self, name: &str, names: &str) -> Files {
        self.workshop.signed_by(&self.files, name, names, "10")
    }

    /// One server for 127.0.0.0/8 as a whole cannot have a certificate, so this one is reached by the name `localhost`.
    async fn server(&self, names: &str, client_ca: bool) -> Servers {
        let options = Options {
            client_ca: client_ca.then(|| self.files.cert.clone()),
            address: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            ..Options::with_tls(&self.signs("server", names))
        };
        options.start().await.expect("ZooKeeper starts")
    }
}

fn section(servers: &Servers, ca: &Path, more: Value) -> Value {
    let mut section = json!({"hosts": format!("localhost:{}", servers.addresses()[0].port()), "use_ssl": true, "cacert": ca});
    let all = section.as_object_mut().expect("it is one");
    all.extend(more.as_object().cloned().expect("it is one"));
    section
}

fn with(files: &Files) -> Value {
    json!({"cert": files.cert, "key": files.key})
}

/// The first handshakes of a server of Java take their time.
async fn lets_in(section: &Value) -> dcs_zookeeper::ZooKeeper {
    let store = store_with(section, TIMING);
    let patience = std::time::Duration::from_secs(60);
    store_servers::eventually("it lets us in", patience, || async { loads(&store).await.map_err(|error| error.chain()) }).await;
    store
}

async fn refusal(section: &Value) -> (ErrorKind, String) {
    let outcome = store_with(section, TIMING).read(PREFIX, Consistency::Relaxed, soon()).await;
    let error = outcome.expect_err("it is refused");
    (error.kind, error.chain())
}

#[tokio::test]
async fn certificates_are_shown_and_verified_and_a_refusal_says_why() {
    let Some(authority) = Authority::make("certificates_are_shown_and_verified_and_a_refusal_says_why") else { return };
    let servers = authority.server("DNS:localhost", true).await;
    let ca = &authority.files.cert;
    let client = authority.signs("client", "DNS:client");

    let good = lets_in(&section(&servers, ca, with(&client))).await;
    wins(&good, "a").await;
    assert!(is_kept(&renews(&good, "a").await));

    let (kind, said) = refusal(&section(&servers, ca, json!({}))).await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(said.contains("Certificate"), "{said}");

    let stranger = authority.workshop.self_signed("stranger", "DNS:localhost");
    let (_, said) = refusal(&section(&servers, &stranger.cert, with(&client))).await;
    assert!(said.contains("UnknownIssuer"), "{said}");

    let (kind, said) = refusal(&section(&servers, Path::new("/nowhere/ca.crt"), with(&client))).await;
    assert_eq!(kind, ErrorKind::Misconfigured);
    assert!(said.contains("cannot read `/nowhere/ca.crt`"), "{said}");
}

#[tokio::test]
async fn the_name_in_the_certificate_matters_unless_verify_is_off() {
    let Some(authority) = Authority::make("the_name_in_the_certificate_matters_unless_verify_is_off") else { return };
    let servers = authority.server("DNS:elsewhere", false).await;
    let ca = &authority.files.cert;
    lets_in(&section(&servers, ca, json!({"verify": false}))).await;
    let (_, said) = refusal(&section(&servers, ca, json!({}))).await;
    assert!(said.contains("elsewhere") || said.contains("not valid for name"), "{said}");
    let stranger = authority.workshop.self_signed("stranger", "DNS:localhost");
    let (_, said) = refusal(&section(&servers, &stranger.cert, json!({"verify": false}))).await;
    assert!(said.contains("UnknownIssuer"), "{said}");
}

#[tokio::test]
async fn an_encrypted_key_is_refused_with_the_way_out() {
    let Some(authority) = Authority::make("an_encrypted_key_is_refused_with_the_way_out") else { return };
    let servers = authority.server("DNS:localhost", false).await;
    let client = authority.signs("client", "DNS:client");
    let key = authority.workshop.path().join("encrypted.key");
    let encrypted = std::process::Command::new("openssl")
        .args(["pkcs8", "-topk8", "-passout", "pass:secret", "-in"])
        .arg(&client.key)
        .arg("-out")
        .arg(&key)
        .status();
    assert!(encrypted.expect("openssl runs").success());
    let more = json!({"cert": client.cert, "key": key, "key_password": "secret"});
    let (kind, said) = refusal(&section(&servers, &authority.files.cert, more)).await;
    assert_eq!(kind, ErrorKind::Misconfigured);
    assert!(said.contains("encrypted") && said.contains("openssl pkey"), "{said}");
}

#[tokio::test]
async fn new_nodes_allow_what_set_acls_says_and_nothing_else() {
    let Some(authority) = Authority::make("new_nodes_allow_what_set_acls_says_and_nothing_else") else { return };
    let servers = authority.server("DNS:localhost", true).await;
    let ca = &authority.files.cert;
    let (ours, other) = (authority.signs("ours", "DNS:ours"), authority.signs("other", "DNS:other"));
    let mut all = with(&ours);
    all["set_acls"] = json!({"CN=ours": ["all"], "CN=other": ["READ", "create"]});
    let a = lets_in(&section(&servers, ca, all)).await;
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.expect("written");
    a.put("/service/demo/config", b"{}", Expect::Any, soon()).await.expect("written");

    let b = store_with(&section(&servers, ca, with(&other)), TIMING);
    assert_eq!(existing(&b, LEADER).await.value, b"a");
    for key in ["/service/demo/config", MEMBER] {
        let error = b.put(key, b"stolen", Expect::Any, soon()).await.expect_err("it may not write");
        assert_eq!((error.kind, error.fate), (ErrorKind::Denied, dcs_core::Fate::NotApplied));
        assert!(error.chain().contains("set_acls") || error.chain().contains("ACLs"), "{}", error.chain());
    }
    assert!(b.put("/service/demo/history", b"[]", Expect::Absent, soon()).await.expect("it may create").is_applied());

    let tls = zookeeper_client::TlsOptions::new()
        .with_pem_ca(&std::fs::read_to_string(ca).expect("a file"))
        .expect("a certificate")
        .with_pem_identity(&std::fs::read_to_string(&ours.cert).expect("a file"), &std::fs::read_to_string(&ours.key).expect("a file"))
        .expect("a key");
    let host = format!("localhost:{}", servers.addresses()[0].port());
    let client = Client::connector().with_tls(tls).secure_connect(&host).await.expect("let in");
    let expected = [
        Acl::new(Permission::ALL, AuthId::new("x509", "CN=ours")),
        Acl::new(Permission::READ | Permission::CREATE, AuthId::new("x509", "CN=other")),
    ];
    for path in ["/service", "/service/demo", LEADER, MEMBER, "/service/demo/config"] {
        assert_eq!(client.get_acl(path).await.expect("it may look").0, expected, "{path}");
    }
}

#[tokio::test]
async fn credentials_are_told_to_every_server_and_can_be_exchanged() {
    if !can_run("credentials_are_told_to_every_server_and_can_be_exchanged") {
        return;
    }
    let servers = Options::three().start().await.expect("ZooKeeper starts");
    let owner = direct(&servers).await;
    owner.auth("digest", b"quorate:secret").await.expect("told");
    let acls = Acls::creator_all();
    for path in ["/service", "/service/demo"] {
        owner.create(path, b"", &CreateMode::Persistent.with_acls(acls)).await.expect("made");
    }
    let with_password = |password: &str| json!({"hosts": servers.hosts(), "auth_data": {"digest": format!("quorate:{password}")}});

    let error = loads(&store(&servers)).await.expect_err("it may not look");
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.chain().contains("auth_data"), "{}", error.chain());
    let a = store_with(&with_password("wrong"), TIMING);
    assert_eq!(a.acquire_lock(LEADER, "a", soon()).await.expect_err("it may not create").kind, ErrorKind::Denied);

    // The right password after a reload, and the session stays.
    let before = session(&a);
    let right = with_password("secret");
    a.set_access(&Config::from_section(right.as_object().expect("it is one")).expect("a good section")).await.expect("taken over");
    wins(&a, "a").await;
    assert_eq!(session(&a), before);

    // The next server is told, too.
    let used = a.server().expect("a server is in use");
    servers.kill(servers.hosts().iter().position(|host| *host == used).expect("it is one of them"));
    store_servers::eventually("the lock is renewed elsewhere", TIMING.retry_timeout * 3, || async {
        renews(&a, "a").await.map_err(|error| error.chain())
    })
    .await;
    assert_ne!(a.server(), Some(used));
    assert_eq!(session(&a), before);
}

#[tokio::test]
async fn a_scheme_that_the_server_does_not_know_is_refused_for_good() {
    if !can_run("a_scheme_that_the_server_does_not_know_is_refused_for_good") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let section = json!({"hosts": servers.hosts(), "auth_data": {"nonsense": "x"}});
    let (kind, said) = refusal(&section).await;
    assert_eq!(kind, ErrorKind::Denied, "{said}");
    assert!(said.contains("auth_data"), "{said}");
}

#[tokio::test]
async fn everything_is_below_the_path_behind_the_hosts() {
    if !can_run("everything_is_below_the_path_behind_the_hosts") {
        return;
    }
    let servers = Options::default().start().await.expect("ZooKeeper starts");
    let a = store_with(&json!({"hosts": format!("{}/apps/pg", servers.hosts()[0])}), TIMING);
    wins(&a, "a").await;
    a.put_bound(MEMBER, b"{}", soon()).await.expect("written");
    let snapshot = a.read(PREFIX, Consistency::Linearizable, soon()).await.expect("a read");
    let mut keys: Vec<_> = snapshot.entries.iter().map(|entry| entry.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, [LEADER, MEMBER]);
    assert!(loads(&store(&servers)).await.is_ok_and(|count| count == 0));
    assert!(direct(&servers).await.check_stat(&format!("/apps/pg{LEADER}")).await.expect("asked").is_some());

    let cursor = a.wait_for_changes(PREFIX, snapshot.cursor, soon()).await.expect("the watch is set").cursor;
    let other = store_with(&json!({"hosts": format!("{}/apps/pg", servers.hosts()[0])}), TIMING);
    other.put("/service/demo/config", b"{}", Expect::Any, soon()).await.expect("written");
    let changes = a.wait_for_changes(PREFIX, cursor, soon()).await.expect("a change");
    assert_eq!(changes.keys.iter().map(|change| change.key.as_str()).collect::<Vec<_>>(), ["/service/demo/config"]);
    a.delete_prefix(PREFIX, soon()).await.expect("deleted");
    assert_eq!(loads(&a).await.expect("a load"), 0);
}

#[tokio::test]
async fn ipv6_and_names_with_several_addresses_work() {
    if !can_run("ipv6_and_names_with_several_addresses_work") {
        return;
    }
    let options = Options { address: Some(Ipv6Addr::LOCALHOST.into()), ..Options::default() };
    let Ok(servers) = options.start().await else {
        report_not_run("ipv6_and_names_with_several_addresses_work", "there is no IPv6 here");
        return;
    };
    let address = servers.addresses()[0];
    for host in [address.to_string(), format!("localhost:{}", address.port())] {
        let store = store_with(&json!({"hosts": host}), TIMING);
        match loads(&store).await {
            Ok(_) => assert_eq!(store.server(), Some(host)),
            // `localhost` is not everywhere both.
            Err(error) => assert!(host.starts_with("localhost") && error.chain().contains("refused"), "{}", error.chain()),
        }
    }
}
