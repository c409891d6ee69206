//! `make demo`: a cluster of three, a primary that dies, and nobody who has to get up at night.
//!
//! With `--once` it ends by itself, with status 0 if everything happened that it tells. Without, it stays until Ctrl-C. Either way it leaves
//! nothing behind. The agents keep the cluster's state among themselves; with `--store etcd3`, in an etcd of its own.

use std::fmt::Display;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use serde_json::json;
use tests::poll::{self, PATIENCE};
use tests::{Agent, Cluster, Loss, Node, StoreKind, postgres};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

const ROWS: u32 = 1000;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((once, store)) = read(&arguments) else {
        eprintln!("usage: demo [--once] [--store raft|etcd3]");
        return ExitCode::from(2);
    };
    let ended = demonstrate(once, store).await;
    // By now everything the demo started is gone: it went with the cluster.
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether it ends by itself, and which store it has.
fn read(arguments: &[String]) -> Option<(bool, StoreKind)> {
    let (mut once, mut store) = (false, StoreKind::Raft);
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(argument) = arguments.next() {
        match argument {
            "--once" => once = true,
            "--store" => {
                store = match arguments.next()? {
                    "raft" => StoreKind::Raft,
                    "etcd3" => StoreKind::Etcd,
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
    Some((once, store))
}

async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into),
        _ = terminate.recv() => Ok(()),
    }
}

async fn demonstrate(once: bool, store: StoreKind) -> Result<()> {
    let agent = Agent::from_environment()?;
    let story = Story { began: Instant::now() };
    let beside = match store {
        StoreKind::Raft => "and nothing else: the agents keep\nthe cluster's state among themselves, with Raft",
        _ => "and etcd",
    };
    println!("{}: three nodes on this machine, each an agent with its own PostgreSQL, {beside}.\n", agent.name());

    // What the tests switch off for speed is on here.
    let durable = json!({"postgresql": {"parameters": {"fsync": null}}});
    let mut cluster = Cluster::builder().agent(agent).store(store).dynamic(&durable).assemble().await?;
    let ready = if store == StoreKind::Etcd { "etcd is up; " } else { "" };
    story.tell(format_args!("{ready}everything is in {}", cluster.sandbox().directory().display()));
    let ended = tokio::select! {
        ended = happen(&mut cluster, &story, once) => Some(ended),
        interrupted = interrupted() => {
            interrupted?;
            None
        }
    };
    match ended {
        None => {
            println!("\nStopping everything.");
            cluster.finish_unchecked();
            Ok(())
        }
        Some(ended) => {
            ended?;
            cluster.finish(Loss::SUDDEN_DEATH).await?;
            story.tell("the client, too, finds every row that it must, and never saw two primaries");
            Ok(())
        }
    }
}

/// Everything that is shown.
async fn happen(cluster: &mut Cluster, story: &Story, once: bool) -> Result<()> {
    cluster.start_all()?;
    story.tell(format_args!("three agents are up, running as user {}", cluster.sandbox().account().name));
    let first = cluster.leader().await?.name.clone();
    story.tell(format_args!("{first} has made a database and leads"));
    let first = cluster.node(&first)?;
    for node in cluster.others(first) {
        cluster.eventually_follows(node, first).await?;
        story.tell(format_args!("{} has copied it and follows", node.name));
    }
    list(cluster).await?;

    write_rows(first, 1).await?;
    story.tell(format_args!("{ROWS} rows are written"));
    for node in cluster.nodes() {
        eventually_has_rows(node, ROWS).await?;
    }
    story.tell("all three nodes have them");

    let first = first.name.clone();
    cluster.begin_checking().await?;
    let first = cluster.node(&first)?;
    story.tell("a client has begun to write a row every 20 ms, to whichever node takes writes");
    fail_over(cluster, first, story).await?;

    if once {
        return Ok(());
    }
    how_to_look_around(cluster)?;
    std::future::pending().await
}

/// Kills the leader's node, watches another take over, and brings the first one back.
async fn fail_over(cluster: &Cluster, first: &Node, story: &Story) -> Result<()> {
    println!();
    let killed = Instant::now();
    first.kill().await?;
    story.tell(format_args!("{} is dead: SIGKILL to its agent and its PostgreSQL at once", first.name));
    story.tell(format_args!("its lock lives for {} s at most, and until then nobody may take its place", cluster.times.ttl.as_secs()));
    let new = cluster.eventually_leader_other_than(first).await?;
    story.tell(format_args!("{} leads", new.name));
    cluster.eventually_writes().await?;
    let gap = cluster.history()?.longest_gap_since(killed);
    story.tell(format_args!("the client writes again, after {:.1} s without", gap.as_secs_f64()));
    let count = rows(new).await?;
    ensure!(count == ROWS, "{} has {count} rows of {ROWS}", new.name);
    story.tell(format_args!("of the {ROWS} rows none is missing"));
    for node in cluster.others(first).filter(|node| node.name != new.name) {
        cluster.eventually_follows(node, new).await?;
        story.tell(format_args!("{} follows {}", node.name, new.name));
    }
    list(cluster).await?;

    first.start()?;
    story.tell(format_args!("{} is started again", first.name));
    cluster.eventually_follows(first, new).await?;
    story.tell(format_args!("{} has rejoined, and follows {}", first.name, new.name));
    write_rows(new, ROWS + 1).await?;
    for node in cluster.nodes() {
        eventually_has_rows(node, 2 * ROWS).await?;
    }
    story.tell(format_args!("{ROWS} more rows are written, and all three nodes have all {}", 2 * ROWS));
    list(cluster).await
}

async fn write_rows(leader: &Node, from: u32) -> Result<()> {
    let to = from + ROWS - 1;
    let statements = format!("CREATE TABLE IF NOT EXISTS demo (id int PRIMARY KEY); INSERT INTO demo SELECT generate_series({from}, {to})");
    leader.execute(&statements).await
}

async fn rows(node: &Node) -> Result<u32> {
    Ok(node.ask("SELECT count(*) FROM demo").await?.parse()?)
}

async fn eventually_has_rows(node: &Node, expected: u32) -> Result<()> {
    poll::until(&format!("{} has {expected} rows", node.name), PATIENCE, async || {
        let count = rows(node).await?;
        ensure!(count == expected, "{count} rows");
        Ok(())
    })
    .await
}

/// Shows what the control tool says.
async fn list(cluster: &Cluster) -> Result<()> {
    let table = cluster.ctl(&["list"]).await?.success()?;
    println!();
    for line in table.lines() {
        println!("    {line}");
    }
    println!();
    Ok(())
}

fn how_to_look_around(cluster: &Cluster) -> Result<()> {
    let Some(node) = cluster.nodes().first() else { bail!("a cluster has nodes") };
    let tool = cluster.agent.control_tool()?;
    let control = format!("{} -c {}", tool.display(), node.file().display());
    let hosts: Vec<String> = cluster.nodes().iter().map(|node| node.postgres.address.ip().to_string()).collect();
    let ports: Vec<String> = cluster.nodes().iter().map(|node| node.postgres.address.port().to_string()).collect();
    let (user, password) = postgres::SUPERUSER;
    println!("The cluster stays up. Look around in another terminal:\n");
    println!("    {control} list");
    println!("    {control} switchover {}", cluster.scope);
    println!("    {control} topology");
    let psql = store_servers::on_the_path("psql").unwrap_or(postgres::bin_dir()?.join("psql"));
    println!(
        "    {} 'host={} port={} user={user} password={password} dbname=postgres target_session_attrs=read-write'",
        psql.display(),
        hosts.join(","),
        ports.join(",")
    );
    println!("    curl http://{}/cluster", node.rest);
    println!("    tail -f {}", node.log().display());
    println!("\nCtrl-C ends it and removes everything.");
    Ok(())
}

/// What happens, with the time at which it did.
struct Story {
    began: Instant,
}

impl Story {
    fn tell(&self, what: impl Display) {
        println!("{:6.1} s  {what}", self.began.elapsed().as_secs_f64());
    }
}
