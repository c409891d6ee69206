//! The API of version 2.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dcs_core::adapter::KeyValueDcs;
use dcs_core::keys::ClusterPath;
use dcs_core::model::{Leader, Lsn, MemberRecord, Status};
use dcs_core::{
    Acquisition, BootClock, Clock, Consistency, Dcs, Deadline, Entry, Error, ErrorKind, Expect, Fate, KeyValueStore, LockAttempt,
    LockRenewal, Renewal, Timing,
};
use dcs_etcd::v2::{Config, EtcdV2};
use futures::future::join_all;
use serde_json::{Value, json};
use store_servers::certificates::Workshop;
use store_servers::conformance::TIMING;
use store_servers::etcd::Options;
use store_servers::eventually;

use crate::saboteur::{Answer, Asked, Saboteur};
use crate::support::{Cluster, can_run};
use crate::{LEADER, MEMBER, PREFIX};

fn soon() -> Deadline {
    Deadline::after(TIMING.retry_timeout)
}

fn with_v2(options: Options) -> Options {
    Options { more: vec!["--enable-v2".to_owned()], ..options }
}

fn store_with(section: Value, timing: Timing) -> EtcdV2 {
    let config = Config::from_section(section.as_object().expect("it is one")).expect("a good section");
    EtcdV2::new(config, timing, Arc::new(BootClock))
}

fn store(cluster: &Cluster) -> EtcdV2 {
    store_with(json!({"hosts": cluster.hosts()}), TIMING)
}

fn must<T>(outcome: Result<T, Error>) -> T {
    outcome.unwrap_or_else(|error| panic!("{}", error.chain()))
}

async fn wins(store: &EtcdV2, owner: &str) {
    let outcome = must(store.acquire_lock(LEADER, owner, soon()).await);
    assert!(matches!(outcome, LockAttempt::Won(_)), "{outcome:?}");
}

async fn existing(store: &EtcdV2, key: &str) -> Entry {
    must(store.get(key, soon()).await).unwrap_or_else(|| panic!("{key} does not exist"))
}

#[tokio::test]
async fn a_server_without_the_api_says_how_to_get_it_or_do_without() {
    if !can_run("a_server_without_the_api_says_how_to_get_it_or_do_without") {
        return;
    }
    let cluster = Cluster::start(&Options::default()).await;
    let a = store(&cluster);
    let error = a.read(PREFIX, Consistency::Relaxed, Deadline::after(Duration::from_secs(1))).await.expect_err("it is off");
    let text = error.chain();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{text}");
    assert!(text.contains("--enable-v2") && text.contains("`etcd3`"), "{text}");
}

#[tokio::test]
async fn both_apis_have_keys_of_their_own() {
    if !can_run("both_apis_have_keys_of_their_own") {
        return;
    }
    let cluster = Cluster::start(&with_v2(Options::default())).await;
    wins(&store(&cluster), "old").await;
    crate::wins(&crate::store(&cluster), "new").await;
    assert_eq!(existing(&store(&cluster), LEADER).await.value, b"old");
}

#[tokio::test]
async fn a_renewal_keeps_the_life_of_the_key_and_a_new_key_begins_another() {
    if !can_run("a_renewal_keeps_the_life_of_the_key_and_a_new_key_begins_another") {
        return;
    }
    let cluster = Cluster::start(&with_v2(Options::default())).await;
    let (a, b) = (store(&cluster), store(&cluster));
    wins(&a, "a").await;
    let first = existing(&a, LEADER).await;
    let renewal = must(a.renew_lock(LEADER, "a", &first, soon()).await);
    let LockRenewal::Kept(grip) = renewal else { panic!("{renewal:?}") };
    assert!(grip.lease.is_valid(BootClock.now()));
    let second = existing(&a, LEADER).await;
    assert_eq!((grip.written.as_ref(), &second.handle), (Some(&second.revision), &first.handle));
    assert_ne!(second.revision, first.revision);

    assert_eq!(must(b.renew_lock(LEADER, "b", &second, soon()).await), LockRenewal::Lost);
    assert_eq!(existing(&b, LEADER).await, second, "somebody else's renewal left it alone");
    assert_eq!(must(a.release_lock(LEADER, &first, soon()).await), dcs_core::Deletion::Refused, "it was renewed since");
    must(a.delete(LEADER, Expect::Any, soon()).await);
    let renewal = must(a.renew_lock(LEADER, "a", &second, soon()).await);
    assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");
    assert_ne!(existing(&a, LEADER).await.handle, first.handle);
    // A permanent write ends its life as a bound key.
    must(a.put(LEADER, b"a", Expect::Any, soon()).await);
    assert_eq!(existing(&a, LEADER).await.handle, None);
}

#[tokio::test]
async fn servers_that_are_not_in_the_configuration_are_found_by_machines() {
    if !can_run("servers_that_are_not_in_the_configuration_are_found_by_machines") {
        return;
    }
    let cluster = Cluster::start(&with_v2(Options::three())).await;
    let a = store_with(json!({"host": cluster.hosts()[0]}), TIMING);
    must(a.read(PREFIX, Consistency::Relaxed, soon()).await);
    eventually("the members are known", Duration::from_secs(5), || async {
        let text = format!("{a:?}");
        let known = cluster.hosts().iter().filter(|host| text.contains(host.as_str())).count();
        if known == 3 { Ok(()) } else { Err(text) }
    })
    .await;
    cluster.kill(0);
    must(a.read(PREFIX, Consistency::Relaxed, soon()).await);
    // The others may have to elect a leader first.
    eventually("the lock is taken", TIMING.retry_timeout * 3, || async {
        match a.acquire_lock(LEADER, "a", soon()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.chain()),
        }
    })
    .await;
}

/// Does one request of the administration, as root if there are users.
async fn administer(cluster: &Cluster, method: reqwest::Method, path: &str, body: Value) -> u16 {
    let url = format!("http://{}{path}", cluster.hosts()[0]);
    let request = reqwest::Client::new().request(method, url).basic_auth("root", Some("rootpw")).json(&body);
    request.send().await.expect("etcd answers").status().as_u16()
}

#[tokio::test]
async fn users_are_let_in_with_the_right_password_only() {
    if !can_run("users_are_let_in_with_the_right_password_only") {
        return;
    }
    let cluster = Cluster::start(&with_v2(Options::default())).await;
    let put = |path: &'static str, body: Value| administer(&cluster, reqwest::Method::PUT, path, body);
    let of_service = json!({"kv": {"read": ["/service/*"], "write": ["/service/*"]}});
    let steps = [
        put("/v2/auth/users/root", json!({"user": "root", "password": "rootpw"})).await,
        put("/v2/auth/roles/service", json!({"role": "service", "permissions": of_service})).await,
        put("/v2/auth/users/quorate", json!({"user": "quorate", "password": "secret", "roles": ["service"]})).await,
        put("/v2/auth/enable", json!({})).await,
        // Whoever has no name is a guest, and may do nothing here.
        put("/v2/auth/roles/guest", json!({"role": "guest", "revoke": {"kv": {"read": ["/*"], "write": ["/*"]}}})).await,
    ];
    assert!(steps.iter().all(|status| (200..300).contains(status)), "{steps:?}");

    let as_user = |password: &str| json!({"hosts": cluster.hosts(), "username": "quorate", "password": password});
    let good = store_with(as_user("secret"), TIMING);
    wins(&good, "a").await;
    for bad in [json!({"hosts": cluster.hosts()}), as_user("wrong")] {
        let error = store_with(bad, TIMING).put(MEMBER, b"{}", Expect::Any, soon()).await.expect_err("it is refused");
        assert_eq!((error.kind, error.fate), (ErrorKind::Denied, Fate::NotApplied), "{}", error.chain());
    }
    let error = good.put("/elsewhere", b"", Expect::Any, soon()).await.expect_err("it may not");
    assert_eq!(error.kind, ErrorKind::Denied, "{}", error.chain());

    // A changed password.
    let changed = put("/v2/auth/users/quorate", json!({"user": "quorate", "password": "new"})).await;
    assert_eq!(changed, 200);
    let seen = Entry { key: LEADER.to_owned(), value: b"a".to_vec(), revision: 1_u64.into(), handle: None };
    let error = good.renew_lock(LEADER, "a", &seen, soon()).await.expect_err("it is refused");
    assert_eq!(error.kind, ErrorKind::Denied, "{}", error.chain());
    let config = Config::from_section(as_user("new").as_object().expect("it is one")).expect("a good section");
    good.set_access(&config).await.expect("nothing is wrong with it");
    assert!(matches!(must(good.renew_lock(LEADER, "a", &seen, soon()).await), LockRenewal::Kept(_)));
}

#[tokio::test]
async fn tls_with_client_certificates() {
    const TEST: &str = "tls_with_client_certificates";
    if !can_run(TEST) {
        return;
    }
    let Some(workshop) = Workshop::open() else {
        return store_servers::report_not_run(TEST, "no `openssl` on the PATH; `apt-get install openssl` installs it");
    };
    let ca = workshop.self_signed("authority", "DNS:authority");
    let signed = |name: &str| workshop.signed_by(&ca, name, "DNS:localhost,IP:127.0.0.1", "10");
    let (server, client, next) = (signed("server"), signed("client"), signed("next"));
    let options =
        Options { client_ca: Some(ca.cert.clone()), address: Some(std::net::Ipv4Addr::LOCALHOST.into()), ..Options::with_tls(&server) };
    let cluster = Cluster::start(&with_v2(options)).await;
    let section =
        |cert: &Path, key: &Path| json!({"hosts": cluster.hosts(), "protocol": "https", "cacert": ca.cert, "cert": cert, "key": key});
    let config = |section: Value| Config::from_section(section.as_object().expect("it is one")).expect("a good section");
    let a = store_with(section(&client.cert, &client.key), TIMING);
    wins(&a, "a").await;
    let seen = existing(&a, LEADER).await;
    // A name instead of an address, of which the certificate is proof as well.
    let port = cluster.addresses()[0].port();
    let named = json!({"host": "localhost", "port": port, "protocol": "https", "cacert": ca.cert, "cert": client.cert, "key": client.key});
    must(store_with(named, TIMING).read(PREFIX, Consistency::Relaxed, soon()).await);

    let short = || Deadline::after(Duration::from_secs(1));
    let without = store_with(json!({"hosts": cluster.hosts(), "protocol": "https", "cacert": ca.cert}), TIMING);
    let error = without.read(PREFIX, Consistency::Relaxed, short()).await.expect_err("a certificate is asked for");
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
    let other = store_with(json!({"hosts": cluster.hosts(), "protocol": "https", "cacert": client.cert}), TIMING);
    let error = other.read(PREFIX, Consistency::Relaxed, short()).await.expect_err("nobody vouches for the server");
    assert!(error.chain().contains("UnknownIssuer"), "{}", error.chain());

    // Other certificates without losing the lock, unless they cannot be used.
    let missing = config(section(&next.cert, &workshop.path().join("missing.key")));
    assert!(a.set_access(&missing).await.expect_err("there is no such file").to_string().contains("missing.key"));
    std::fs::remove_file(&client.cert).expect("it is there");
    a.set_access(&config(section(&next.cert, &next.key))).await.expect("nothing is wrong with them");
    assert!(matches!(must(a.renew_lock(LEADER, "a", &seen, soon()).await), LockRenewal::Kept(_)));
}

#[tokio::test]
async fn what_the_watch_missed_for_good_is_told_as_unnamed() {
    if !can_run("what_the_watch_missed_for_good_is_told_as_unnamed") {
        return;
    }
    let cluster = Cluster::start(&with_v2(Options::default())).await;
    let (a, b) = (store(&cluster), store(&cluster));
    let after = must(a.read(PREFIX, Consistency::Relaxed, soon()).await).cursor;
    wins(&b, "b").await;
    // etcd remembers a thousand changes.
    for _ in 0..11 {
        join_all((0..100).map(|_| b.put("/elsewhere", b"x", Expect::Any, soon())))
            .await
            .into_iter()
            .for_each(|outcome| drop(must(outcome)));
    }
    let changes = must(a.wait_for_changes(PREFIX, after, soon()).await);
    assert!(changes.unnamed && changes.cursor > after, "{changes:?}");
    // And it goes on from there.
    must(b.delete(LEADER, Expect::Any, soon()).await);
    let changes = must(a.wait_for_changes(PREFIX, changes.cursor, soon()).await);
    assert_eq!(changes.keys.first().map(|change| change.kind), Some(dcs_core::ChangeKind::Deleted), "{changes:?}");
}

/// Long enough that nothing expires while a test looks for something else.
const PATIENT: Timing = Timing { ttl: Duration::from_secs(60), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(8) };

/// Statuses with bodies, in etcd's form and in others', and whether the request may have been done all the same.
fn answers() -> Vec<(Answer, bool)> {
    let no = |status: u16, code: u32, cause: &str| {
        let body = json!({"errorCode": code, "message": "made up", "cause": cause, "index": 7});
        Answer::http(status, &body.to_string())
    };
    let definite = [no(403, 102, ""), no(400, 104, ""), no(401, 110, "Insufficient credentials"), no(400, 203, "")];
    let vague = [
        no(500, 300, "etcdserver: request timed out"),
        no(500, 300, "etcdserver: no leader"),
        no(500, 301, ""),
        no(400, 400, ""),
        no(400, 401, ""),
        no(500, 999, ""),
        Answer::http(200, "<html>welcome</html>"),
        Answer::http(200, ""),
        Answer::http(200, "{}"),
        Answer::http(200, r#"{"action":"set","node":{"key":"/x"}}"#),
    ];
    let status = |status: u16| Answer::http(status, "no");
    let definite = definite.into_iter().chain([301, 400, 401, 403, 404, 405, 413, 429].map(status));
    let vague = vague.into_iter().chain([408, 500, 502, 503, 504].map(status));
    definite.map(|answer| (answer, false)).chain(vague.map(|answer| (answer, true))).collect()
}

async fn survives(cluster: &Cluster, number: usize, answer: &Answer, may_be_done: bool) {
    let saboteur = Saboteur::start(cluster.addresses()[0]).await;
    let store = Arc::new(store_with(json!({"host": saboteur.host(), "use_proxies": true}), PATIENT));
    let scope = format!("injection-{number}");
    let dcs = KeyValueDcs::new(store.clone(), Arc::new(BootClock), ClusterPath::new(None, &scope), "a".into(), PATIENT);
    let patient = || Deadline::after(PATIENT.retry_timeout);
    let leader = async || -> Option<Leader> { must(dcs.load(patient()).await).leader };

    for asked in [Asked::Dropped, Asked::Done] {
        if asked == Asked::Done && !may_be_done {
            continue;
        }
        let what = format!("acquiring, {answer:?}, the request {asked:?}");
        saboteur.answer_next("PUT", asked, answer);
        let outcome = dcs.attempt_to_acquire_leader(patient()).await;
        saboteur.stop();
        match (outcome, leader().await) {
            (Ok(Acquisition::Won(lease)), Some(_)) => assert!(lease.is_valid(BootClock.now()), "{what}"),
            (Err(_), None) => assert!(matches!(must(dcs.attempt_to_acquire_leader(patient()).await), Acquisition::Won(_)), "{what}"),
            (Err(_), Some(_)) if asked == Asked::Done => {}
            (outcome, leader) => panic!("{what}: {outcome:?}, and {leader:?} leads"),
        }
        for part in ["GET /v2/keys", "PUT /v2/keys"] {
            let seen = leader().await.unwrap_or_else(|| panic!("{what}: nobody leads"));
            let what = format!("leading, {answer:?} to {part}, the request {asked:?}");
            saboteur.answer_next(part, asked, answer);
            let _ = dcs.load(patient()).await;
            match dcs.renew_leader(&seen, patient()).await {
                Ok(Renewal::Lost) => panic!("{what}: an error was taken for a lost lock"),
                Ok(Renewal::Renewed(lease)) => assert!(lease.is_valid(BootClock.now()), "{what}"),
                Err(error) => assert_ne!(error.kind, ErrorKind::HandleGone, "{what}: {}", error.chain()),
            }
            assert!(saboteur.stop(), "{what}: it was not called");
            assert!(matches!(must(dcs.renew_leader(&seen, patient()).await), Renewal::Renewed(_)), "{what}");
            assert_eq!(leader().await.map(|leader| leader.handle), Some(seen.handle), "{what}: the lock was made anew");
        }
        let what = format!("releasing, {answer:?}, the request {asked:?}");
        saboteur.answer_next("DELETE", asked, answer);
        let released = dcs.release_leader(None, patient()).await;
        saboteur.stop();
        match (released, leader().await) {
            (Ok(true), None) => {}
            (Err(_), Some(_)) => assert!(must(dcs.release_leader(None, patient()).await), "{what}"),
            (Err(_), None) if asked == Asked::Done => {}
            (released, leader) => panic!("{what}: {released:?}, and {leader:?} leads"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_taken_for_a_lost_lock_unless_it_says_so() {
    if !can_run("no_answer_is_taken_for_a_lost_lock_unless_it_says_so") {
        return;
    }
    let cluster = Cluster::start(&with_v2(Options::default())).await;
    let answers = answers();
    join_all(answers.iter().enumerate().map(|(number, (answer, done))| survives(&cluster, number, answer, *done))).await;
}

#[tokio::test]
async fn a_leaders_cycle_is_four_requests_and_a_followers_three() {
    if !can_run("a_leaders_cycle_is_four_requests_and_a_followers_three") {
        return;
    }
    let cluster = Cluster::start(&with_v2(Options::default())).await;
    let counted = || {
        let names = ["etcd_http_received_total"];
        names.iter().filter_map(|name| store_servers::etcd::metric(&cluster, name, &[""])).sum::<u64>()
    };
    let member = |name: &str| {
        let store = Arc::new(store_with(json!({"hosts": cluster.hosts(), "use_proxies": true}), TIMING));
        KeyValueDcs::new(store, Arc::new(BootClock), ClusterPath::new(None, "demo"), name.into(), TIMING)
    };
    let (a, b) = (member("a"), member("b"));
    assert!(matches!(must(a.attempt_to_acquire_leader(soon()).await), Acquisition::Won(_)));
    must(b.load(soon()).await);
    for number in 0..3 {
        let before = counted();
        let seen = must(a.load(soon()).await).leader.expect("a leads");
        assert!(matches!(must(a.renew_leader(&seen, soon()).await), Renewal::Renewed(_)));
        must(a.touch_member(&MemberRecord::default(), soon()).await);
        must(a.write_status(&Status { last_lsn: Lsn(number), ..Status::default() }, false, soon()).await);
        let of_leader = counted() - before;
        must(b.load(soon()).await);
        must(b.touch_member(&MemberRecord::default(), soon()).await);
        assert_eq!((of_leader, counted() - before - of_leader), (4, 2), "polls not counted");
    }
}
