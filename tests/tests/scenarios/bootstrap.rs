//! From three empty directories to a cluster.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::poll::{self, PATIENCE};
use tests::{Cluster, Loss, StoreKind};

on_every_store! {
    every_store: [
        three_empty_nodes_become_one_leader_and_two_streaming_replicas,
    ]
    etcd_and_raft: [
        the_cluster_begins_with_the_options_and_settings_of_its_file,
        scripts_make_files_for_postgresql_alone_and_the_log_is_as_open_as_the_umask_says,
    ]
}

async fn three_empty_nodes_become_one_leader_and_two_streaming_replicas(store: StoreKind) -> Result<()> {
    let mut cluster = Cluster::builder().store(store).assemble().await?;
    cluster.start_all()?;
    let leader = cluster.eventually_settled().await?;

    let identifier = leader.ask("SELECT system_identifier FROM pg_control_system()").await?;
    let published = cluster.store.get(&cluster.key("initialize")).await?;
    ensure!(published.as_deref() == Some(&identifier), "{published:?} was published for {identifier}");
    for node in cluster.others(leader) {
        let theirs = node.ask("SELECT system_identifier FROM pg_control_system()").await?;
        ensure!(theirs == identifier, "{} is {theirs}, the leader {identifier}", node.name);
    }
    let owner = cluster.store.get(&cluster.key("leader")).await?;
    ensure!(owner.as_deref() == Some(&leader.name), "{} leads, but the lock says {owner:?}", leader.name);

    cluster.begin_checking().await?;
    cluster.finish(Loss::None).await
}

async fn the_cluster_begins_with_the_options_and_settings_of_its_file(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder()
        .store(store)
        .members(1)
        .dynamic(&json!({"postgresql": {"parameters": {"work_mem": "7MB", "max_connections": 33}}}))
        .local(&json!({"postgresql": {"parameters": {"log_line_prefix": "here: "}}}))
        .start()
        .await?;
    let leader = cluster.leader().await?;

    for (setting, expected) in [
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
        ("work_mem", "7MB"),
        ("max_connections", "33"),
        ("log_line_prefix", "here: "),
    ] {
        let found = leader.ask(&format!("SHOW {setting}")).await?;
        ensure!(found == expected, "{setting} is {found:?} and should be {expected:?}");
    }
    let config: Value = leader.get("/config").await?.json()?;
    ensure!(config["postgresql"]["parameters"]["work_mem"] == "7MB", "/config is {config}");
    cluster.finish(Loss::None).await
}

async fn scripts_make_files_for_postgresql_alone_and_the_log_is_as_open_as_the_umask_says(store: StoreKind) -> Result<()> {
    let cluster = Cluster::builder()
        .store(store)
        .members(1)
        .local(&json!({"log": {"dir": "."}, "postgresql": {"callbacks": {"on_start": "sh -c 'umask > umask.new; mv umask.new umask'"}}}))
        .start()
        .await?;
    let node = cluster.leader().await?;

    let told = poll::until("the callback has run", PATIENCE, async || Ok(fs::read_to_string(node.directory.join("umask"))?)).await?;
    ensure!(told.trim() == "0077", "scripts run with umask {told}");
    let ours = node.directory.join("ours");
    File::create(&ours)?;
    let mode = |path: &Path| Ok::<_, std::io::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
    let (log, ours) = (mode(&node.directory.join("patroni.log"))?, mode(&ours)?);
    ensure!(log == ours, "the log has mode {log:o}, and what the agent's parent makes {ours:o}");
    cluster.finish(Loss::None).await
}
