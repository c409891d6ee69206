use std::time::Duration;

use dcs_core::BootClock;

use super::*;
use crate::config::{Environment, LocalConfig};

const TIMING: Timing = Timing { ttl: Duration::from_secs(30), loop_wait: Duration::from_secs(10), retry_timeout: Duration::from_secs(10) };

/// A section of each store, as short as it can be, with the one option that a test exchanges.
fn settings(sections: &str) -> StoreSettings {
    let text = format!("{{scope: demo, name: n1, {sections}}}");
    let environment = Environment::read([("PATRONI_CONFIGURATION", text.as_str())]);
    LocalConfig::load(None, environment).expect("YAML").store().expect("a section of a store")
}

/// Each store's section at its shortest, and one that cannot be used with the option that is to blame.
const SECTIONS: &[(&str, &str, &str)] = &[
    ("consul", "host: 'h:8500'", "scheme: ftp"),
    ("etcd", "host: h", "host: 'h:x'"),
    ("etcd3", "host: h", "host: 'h:x'"),
    ("exhibitor", "hosts: [h], port: 8181", "hosts: [h], port: x"),
    ("kubernetes", "labels: {a: b}", "labels: b"),
    ("raft", "partner_addrs: ['h:2222']", "partner_addrs: h"),
    ("zookeeper", "hosts: 'h:2181'", "hosts: 'h:x'"),
];

#[test]
fn every_store_of_the_list_is_built_in_and_tested_here() {
    let mut tested: Vec<&str> = SECTIONS.iter().map(|(section, _, _)| *section).collect();
    tested.sort_unstable();
    assert_eq!(available(), tested);
}

#[tokio::test]
async fn every_store_opens_for_an_agent_and_for_the_control_tool_and_sends_nothing() {
    for (section, options, _) in SECTIONS {
        let settings = settings(&format!("{section}: {{{options}}}"));
        check(&settings).expect("usable");
        let clock: Arc<dyn Clock> = Arc::new(BootClock);
        let opened = open(&settings, TIMING, Arc::clone(&clock)).await.expect("open");
        assert_eq!(opened.dcs.store_name(), *section);
        opened.access.follow(&settings).await.expect("nothing changed");
        open_for_control_tool(&settings, Some(0), TIMING, clock).await.expect("open");
    }
}

#[tokio::test]
async fn an_unusable_option_is_named_with_its_section_by_every_store() {
    for (section, usable, unusable) in SECTIONS {
        let usable = settings(&format!("{section}: {{{usable}}}"));
        let unusable = settings(&format!("{section}: {{{unusable}}}"));
        let error = check(&unusable).expect_err("unusable").to_string();
        assert!(error.contains(&format!("`{section}.")), "{error}");
        let opened = open(&usable, TIMING, Arc::new(BootClock)).await.expect("open");
        let refused = opened.access.follow(&unusable).await.expect_err("unusable").to_string();
        assert_eq!(refused, error, "a reload says what the start says");
    }
}

#[tokio::test]
async fn a_reload_does_not_change_the_store() {
    let opened = open(&settings("etcd3: {host: h}"), TIMING, Arc::new(BootClock)).await.expect("open");
    let error = opened.access.follow(&settings("raft: {partner_addrs: ['h:1']}")).await.expect_err("another store").to_string();
    assert!(error.contains("the store is `etcd3` until the agent is restarted"), "{error}");
}
