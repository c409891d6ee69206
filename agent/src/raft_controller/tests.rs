use super::*;

use dcs_raft::status::NodeRole;

use crate::config::Environment;
use crate::raft_testing::Nodes;

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::read(variables.iter().copied())
}

async fn refusal(local: LocalConfig) -> String {
    match RaftController::start(local).await {
        Ok(_) => panic!("it starts"),
        Err(error) => chain(&error),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_witnesses_make_a_cluster_and_one_that_is_stopped_hands_over() {
    let mut nodes = Nodes::start(3).await;
    let leader = nodes.until_complete(3).await;
    let position = nodes.addresses.iter().position(|address| *address == leader).unwrap();
    let term = nodes.status(position).await.unwrap().term;
    nodes.stop_node(position).await;
    let led = |statuses: &[dcs_raft::status::Status]| statuses.iter().any(|status| status.role == NodeRole::Leader);
    let statuses = nodes.until("another one leads", led).await;
    assert_eq!(statuses[0].term, term + 1, "it handed over: nobody had to wait and vote again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_can_be_configured_by_variables_alone() {
    let nodes = Nodes::prepare(1);
    let directory = nodes.data_dir(0);
    let variables = [("PATRONI_RAFT_SELF_ADDR", nodes.addresses[0].as_str()), ("PATRONI_RAFT_DATA_DIR", directory.to_str().unwrap())];
    let local = LocalConfig::load(None, environment(&variables)).unwrap();
    let mut controller = RaftController::start(local).await.unwrap();
    assert_eq!(controller.node().address().to_string(), nodes.addresses[0]);
    controller.reload().await;
    controller.stop().await;
}

#[tokio::test]
async fn a_witness_without_an_address_says_what_it_needs() {
    let nothing = LocalConfig::load(None, environment(&[("PATRONI_LOG_LEVEL", "INFO")])).unwrap();
    let text = refusal(nothing).await;
    assert!(text.contains("`raft`") && text.contains("PATRONI_RAFT_SELF_ADDR"), "{text}");
    let client = LocalConfig::load(None, environment(&[("PATRONI_RAFT_PARTNER_ADDRS", "a:1,b:1")])).unwrap();
    let text = refusal(client).await;
    assert!(text.contains("`raft.self_addr`") && text.contains("a witness is a node"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_counts_after_a_reload_and_a_broken_file_changes_nothing() {
    let mut nodes = Nodes::start(1).await;
    let path = nodes.file(0, 1);
    let good = std::fs::read_to_string(&path).unwrap();
    let deadline = || dcs_core::Deadline::after(std::time::Duration::from_secs(5));
    let ask = async |local: &LocalConfig| {
        let config = stores::raft_config(&local.raft().unwrap()).unwrap();
        let node = config.self_addr.clone().unwrap();
        dcs_raft::RemoteCluster::new(&config).request_of(&node, &dcs_raft::message::Request::Discover, deadline()).await
    };
    let before = nodes.config(0, 1);
    std::fs::write(&path, good.replace("password: secret", "password: another")).unwrap();
    let after = LocalConfig::load(Some(&path), Environment::empty()).unwrap();
    assert!(ask(&before).await.is_ok() && ask(&after).await.is_err());

    std::fs::write(&path, good.replace("password: secret", "password: another")).unwrap();
    nodes.running[0].as_mut().unwrap().reload().await;
    assert!(ask(&before).await.is_err() && ask(&after).await.is_ok());

    std::fs::write(&path, "raft: [").unwrap();
    nodes.running[0].as_mut().unwrap().reload().await;
    assert!(ask(&after).await.is_ok());
}
