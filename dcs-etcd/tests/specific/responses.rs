//! What real servers say when something is wrong, by each version of etcd that is there, and what is made of it. (Users,
//! leases, a full disk quota and compaction have tests of their own.)

use std::process::Command;
use std::time::Duration;

use dcs_core::{Consistency, Deadline, Error, ErrorKind, Expect, Fate, KeyValueStore, LockRenewal, Timing};
use serde_json::json;
use store_servers::conformance::TIMING;
use store_servers::etcd::{Options, Version};
use store_servers::{eventually, on_the_path, report_not_run};

use crate::access::add_users;
use crate::support::{Cluster, can_run};
use crate::{LEADER, MEMBER, PREFIX, loads, renews, soon, store, store_with, wins};

/// The versions that can be had here; says which cannot.
fn versions(test: &str) -> Vec<Version> {
    let there = |version: &Version| match version.program() {
        Ok(_) => true,
        Err(lacking) => {
            report_not_run(&format!("{test} with {version:?}"), &lacking.to_string());
            false
        }
    };
    [Version::Installed, Version::V35].into_iter().filter(there).collect()
}

fn meaning(error: &Error, words: &str) -> (ErrorKind, Fate) {
    let text = error.chain();
    assert!(text.contains(words), "{text}");
    (error.kind, error.fate)
}

#[tokio::test]
async fn what_is_too_large_is_refused_for_good_and_damages_nothing() {
    for version in versions("what_is_too_large_is_refused_for_good_and_damages_nothing") {
        let cluster = Cluster::start(&Options { version, ..Options::default() }).await;
        let a = store(&cluster);
        a.put(MEMBER, b"small", Expect::Any, soon()).await.expect("it can be written");
        for (size, words) in [(1700 << 10, "request is too large"), (3 << 20, "larger than max")] {
            let error = a.put(MEMBER, &vec![b'x'; size], Expect::Any, soon()).await.expect_err("it is too large");
            assert_eq!(meaning(&error, words), (ErrorKind::Misconfigured, Fate::NotApplied));
        }
        assert_eq!(crate::existing(&a, MEMBER).await.value, b"small");
    }
}

#[tokio::test]
async fn without_a_majority_nothing_is_written_and_the_error_says_so() {
    for version in versions("without_a_majority_nothing_is_written_and_the_error_says_so") {
        let cluster = Cluster::start(&Options { version, ..Options::three() }).await;
        let a = store(&cluster);
        wins(&a, "a").await;
        cluster.kill(1);
        cluster.kill(2);
        // The one that is left has to notice first.
        eventually("it says that there is no leader", TIMING.retry_timeout * 4, || async {
            let short = Deadline::after(Duration::from_secs(2));
            let error = a.put(MEMBER, b"x", Expect::Any, short).await.expect_err("there is no majority");
            assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
            if error.chain().contains("no leader") { Ok(()) } else { Err(error.chain()) }
        })
        .await;
        // Neither does one server alone tell what is stored as if it knew, nor is the lock lost.
        let error = a.get(MEMBER, Deadline::after(Duration::from_secs(2))).await.expect_err("there is no majority");
        assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
        let error = renews_by(&a, Deadline::after(Duration::from_secs(2))).await.expect_err("there is no majority");
        assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
        cluster.restart(1);
        eventually("the others are back", TIMING.retry_timeout * 4, || async { loads(&a).await.map_err(|error| error.chain()) }).await;
        let renewal = renews(&a, "a").await.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");
    }
}

async fn renews_by(store: &dcs_etcd::Etcd, deadline: Deadline) -> Result<LockRenewal, Error> {
    let seen = dcs_core::Entry { key: LEADER.to_owned(), value: b"a".to_vec(), revision: 1_u64.into(), handle: None };
    store.renew_lock(LEADER, "a", &seen, deadline).await
}

#[tokio::test]
async fn three_hundred_members_and_a_large_configuration_are_read_and_watched() {
    if !can_run("three_hundred_members_and_a_large_configuration_are_read_and_watched") {
        return;
    }
    // More than the 4 MiB that gRPC takes by default.
    const MEMBERS: usize = 300;
    let cluster = Cluster::start(&Options::default()).await;
    let (a, b) = (store(&cluster), store(&cluster));
    let member = vec![b'm'; 12 << 10];
    let writes = (0..MEMBERS).map(|number| {
        let (a, member) = (&a, &member);
        async move { a.put(&format!("{PREFIX}members/m{number}"), member, Expect::Any, soon()).await.expect("it can be written") }
    });
    futures::future::join_all(writes).await;
    a.put(&format!("{PREFIX}config"), &vec![b'c'; 1 << 20], Expect::Any, soon()).await.expect("it can be written");
    for consistency in [Consistency::Relaxed, Consistency::Linearizable] {
        let snapshot = b.read(PREFIX, consistency, soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(snapshot.entries.len(), MEMBERS + 1);
        assert!(snapshot.entries.iter().map(|entry| entry.value.len()).sum::<usize>() > 4 << 20);
    }
    // The watch plays back all of it at once.
    let changes = b.wait_for_changes(PREFIX, dcs_core::Cursor(1), soon()).await.expect("it never fails");
    assert!(!changes.keys.is_empty() || changes.unnamed, "{changes:?}");
}

/// Leads for three seconds with tokens that live for one or two.
async fn leads_on_short_tokens(options: Options) {
    let cluster = Cluster::start(&options).await;
    let mut direct = cluster.direct().await;
    add_users(&mut direct).await;
    direct.auth_enable().await.expect("it can be enabled");
    let timing = Timing { loop_wait: Duration::from_millis(500), ..TIMING };
    let a = store_with(&cluster.section(json!({"username": "quorate", "password": "secret"})), timing);
    wins(&a, "a").await;
    let before = crate::existing(&a, LEADER).await;
    // A busy leader, whose tokens are used all the time, and then one that slept longer than they live.
    for pause in [[Duration::from_millis(300); 10].as_slice(), &[Duration::from_secs(3)]].concat() {
        tokio::time::sleep(pause).await;
        loads(&a).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        let renewal = renews(&a, "a").await.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert!(matches!(renewal, LockRenewal::Kept(_)), "{renewal:?}");
        a.put_bound(MEMBER, b"{}", soon()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    }
    assert_eq!(crate::existing(&a, LEADER).await, before, "the lock was made anew");
}

#[tokio::test]
async fn tokens_that_expire_cost_a_leader_nothing() {
    if versions("tokens_that_expire_cost_a_leader_nothing").contains(&Version::V35) {
        let more = ["--auth-token-ttl", "1"].map(str::to_owned).to_vec();
        leads_on_short_tokens(Options { version: Version::V35, more, ..Options::default() }).await;
    }
}

#[tokio::test]
async fn signed_tokens_that_expire_cost_a_leader_nothing() {
    const TEST: &str = "signed_tokens_that_expire_cost_a_leader_nothing";
    if !can_run(TEST) {
        return;
    }
    let Some(openssl) = on_the_path("openssl") else {
        return report_not_run(TEST, "no `openssl` on the PATH; `apt-get install openssl` installs it");
    };
    let directory = tempfile::tempdir().expect("a directory");
    let (private, public) = (directory.path().join("key.pem"), directory.path().join("public.pem"));
    let run = |arguments: &[&std::ffi::OsStr]| {
        let output = Command::new(&openssl).args(arguments).output().expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["genrsa".as_ref(), "-out".as_ref(), private.as_os_str(), "2048".as_ref()]);
    run(&["rsa".as_ref(), "-in".as_ref(), private.as_os_str(), "-pubout".as_ref(), "-out".as_ref(), public.as_os_str()]);
    let token = format!("jwt,pub-key={},priv-key={},sign-method=RS256,ttl=2s", public.display(), private.display());
    leads_on_short_tokens(Options { more: vec!["--auth-token".to_owned(), token], ..Options::default() }).await;
}
