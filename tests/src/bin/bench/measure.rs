//! Measuring one agent.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tests::checker::Pace;
use tests::poll::{self, PATIENCE};
use tests::settings::Times;
use tests::{Agent, Cluster, Loss, Node, StoreKind, postgres, process};
use tokio::time::{Instant, sleep};

use crate::{load, store};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rounds of switching over.
    pub(crate) switchovers: usize,
    /// Rounds of killing the postmaster.
    pub(crate) postmasters: usize,
    /// Rounds of killing the primary's node.
    pub(crate) nodes: usize,
    /// How long idle agents are watched.
    idle: Duration,
    /// How long requests are sent, and how often.
    load: (Duration, usize),
    /// What is asked of the stores.
    pub(crate) stores: store::Plan,
    /// For how long the requests of idle agents are counted.
    pub(crate) watched: Duration,
}

impl Plan {
    /// What `make bench` does: about half an hour.
    pub(crate) const FULL: Self = Self {
        switchovers: 5,
        postmasters: 5,
        nodes: 3,
        idle: Duration::from_secs(30),
        load: (Duration::from_secs(3), 3),
        stores: store::Plan { span: Duration::from_secs(10), elections: 5 },
        watched: Duration::from_secs(60),
    };

    /// One round of each, for trying it out.
    pub(crate) const QUICK: Self = Self {
        switchovers: 1,
        postmasters: 1,
        nodes: 1,
        idle: Duration::from_secs(10),
        load: (Duration::from_secs(1), 1),
        stores: store::Plan { span: Duration::from_secs(3), elections: 1 },
        watched: Duration::from_secs(20),
    };
}

/// The medians for one agent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// The longest time without an acknowledged write around a switchover.
    pub(crate) switchover: Duration,
    /// The same around the death of the postmaster.
    pub(crate) postmaster: Duration,
    /// From the moment the lock vanished from the store to the next acknowledged write, after the death of the primary's node.
    pub(crate) node: Duration,
    /// Resident memory of an idle agent with its helpers, in MiB, mean of the nodes.
    pub(crate) memory: f64,
    /// Processor time of an idle agent with its helpers, in milliseconds per second, mean of the nodes.
    pub(crate) processor: f64,
    /// Answers per second to `GET /primary`.
    pub(crate) requests: f64,
}

/// Builds a cluster of this agent, and measures everything there is.
///
/// PostgreSQL does not wait for the disk, as in the tests. After a crash it would synchronize every file before anything else, for seconds that
/// depend on the disk alone and not on the agent that waits for it.
pub(crate) async fn all(agent: Agent, programs: Option<&Path>, plan: &Plan) -> Result<Measured> {
    let mut builder = Cluster::builder()
        .agent(agent)
        .times(Times::default_of_patroni())
        // A row every few milliseconds, and nobody who disturbs the agents by asking them.
        .pace(Pace { rows: Duration::from_millis(3), samples: None });
    if let Some(programs) = programs {
        builder = builder.programs_in(programs);
    }
    let mut cluster = builder.assemble().await?;
    cluster.start_all()?;
    cluster.eventually_settled().await?;
    tell(agent, "three nodes are up");

    let (memory, processor) = idle(&cluster, plan.idle).await?;
    tell(agent, &format!("idle: {memory:.1} MiB, {processor:.2} ms/s"));
    let requests = requests(&cluster, plan).await?;
    tell(agent, &format!("GET /primary: {requests:.0} req/s"));

    cluster.begin_checking().await?;
    let mut switchovers = Vec::new();
    for _ in 0..plan.switchovers {
        switchovers.push(switch_over(&cluster).await?);
    }
    tell(agent, &format!("switchovers: {}", in_millis(&switchovers)));
    let mut postmasters = Vec::new();
    for _ in 0..plan.postmasters {
        postmasters.push(kill_postmaster(&cluster).await?);
    }
    tell(agent, &format!("dead postmasters: {}", in_millis(&postmasters)));
    let mut nodes = Vec::new();
    for _ in 0..plan.nodes {
        nodes.push(kill_node(&cluster).await?);
    }
    tell(agent, &format!("dead nodes, after the lock expired: {}", in_millis(&nodes)));
    cluster.finish(Loss::SUDDEN_DEATH).await?;
    Ok(Measured { switchover: median(switchovers), postmaster: median(postmasters), node: median(nodes), memory, processor, requests })
}

/// Memory in MiB and processor time in milliseconds per second of our idle agent with this store, for the mean of three nodes.
pub(crate) async fn idle_with(store: StoreKind, plan: &Plan) -> Result<(f64, f64)> {
    let cluster = Cluster::builder().agent(Agent::Quorate).store(store).times(Times::default_of_patroni()).assemble().await?;
    cluster.start_all()?;
    cluster.eventually_settled().await?;
    let measured = idle(&cluster, plan.idle).await?;
    cluster.finish_unchecked();
    Ok(measured)
}

fn tell(agent: Agent, what: &str) {
    println!("{:>8}: {what}", agent.name());
}

async fn switch_over(cluster: &Cluster) -> Result<Duration> {
    let old = cluster.eventually_settled().await?;
    let began = Instant::now();
    let answer = cluster.switchover(old, &old.name, None).await?;
    ensure!(answer.status == 200, "{answer:?}");
    cluster.eventually_leader_other_than(old).await?;
    cluster.eventually_writes().await?;
    Ok(cluster.history()?.longest_gap_since(began))
}

async fn kill_postmaster(cluster: &Cluster) -> Result<Duration> {
    let leader = cluster.eventually_settled().await?;
    let before = leader.postmaster();
    let began = Instant::now();
    leader.signal_postmaster(Signal::SIGKILL)?;
    poll::until("another postmaster runs", PATIENCE, async || {
        let now = leader.postmaster();
        ensure!(now.is_some() && now != before, "{now:?}");
        Ok(())
    })
    .await?;
    cluster.eventually_writes().await?;
    Ok(cluster.history()?.longest_gap_since(began))
}

async fn kill_node(cluster: &Cluster) -> Result<Duration> {
    let old = cluster.eventually_settled().await?;
    let expiry = cluster.store.etcd()?.watch_removal(&cluster.key("leader")).await?;
    old.kill().await?;
    cluster.eventually_leader_other_than(old).await?;
    cluster.eventually_writes().await?;
    let expired = expiry.await??;
    let rows = cluster.history()?.rows();
    let first = rows
        .iter()
        .map(|row| row.write.acknowledged)
        .find(|acknowledged| *acknowledged > expired)
        .context("no write after the lock expired")?;
    old.start()?;
    Ok(first - expired)
}

async fn requests(cluster: &Cluster, plan: &Plan) -> Result<f64> {
    let leader = cluster.leader().await?;
    let (span, rounds) = plan.load;
    let mut rates = Vec::new();
    for _ in 0..rounds {
        rates.push(load::requests_per_second(leader.rest, span).await?);
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[rates.len() / 2])
}

/// Memory in MiB and processor time in milliseconds per second, for the mean node.
async fn idle(cluster: &Cluster, span: Duration) -> Result<(f64, f64)> {
    let nodes = u32::try_from(cluster.nodes().len())?;
    let times = || cluster.nodes().iter().map(processor_times).collect::<Result<Vec<_>>>();
    let before = times()?;
    let began = Instant::now();
    // Nothing is awaited here: the span itself is what is measured.
    sleep(span).await;
    let used: Duration = times()?.iter().zip(&before).map(|(after, before)| spent_between(before, after)).sum();
    let processor = used.as_secs_f64() * 1000.0 / began.elapsed().as_secs_f64() / f64::from(nodes);
    let memory = cluster.nodes().iter().map(resident_memory).sum::<Result<f64>>()?;
    Ok((memory / f64::from(nodes), processor))
}

/// The agent and what it started, but not PostgreSQL.
fn agent_processes(node: &Node) -> Result<Vec<Pid>> {
    let server = postgres::bin_dir()?;
    Ok(process::working_in(&node.directory)
        .into_iter()
        .filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| !program.starts_with(&server)))
        .collect())
}

fn resident_memory(node: &Node) -> Result<f64> {
    let mut kibibytes = 0_u32;
    for pid in agent_processes(node)? {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process without VmRSS")?;
        kibibytes += line.trim().trim_end_matches(" kB").parse::<u32>()?;
    }
    Ok(f64::from(kibibytes) / 1024.0)
}

/// What the scheduler gave to every thread. The ticks in `stat` would miss most of what a process does in short bursts.
fn processor_times(node: &Node) -> Result<BTreeMap<PathBuf, Duration>> {
    let mut times = BTreeMap::new();
    for pid in agent_processes(node)? {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            // A thread may end between being listed and being read.
            let spent = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let nanoseconds = spent.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0);
            times.insert(thread.path(), Duration::from_nanos(nanoseconds));
        }
    }
    Ok(times)
}

/// What the threads used that are there at the end. One that ended takes what it had used before with it, and is not to be subtracted.
fn spent_between(before: &BTreeMap<PathBuf, Duration>, after: &BTreeMap<PathBuf, Duration>) -> Duration {
    after.iter().map(|(thread, spent)| spent.saturating_sub(before.get(thread).copied().unwrap_or_default())).sum()
}

fn in_millis(durations: &[Duration]) -> String {
    let texts: Vec<String> = durations.iter().map(|duration| duration.as_millis().to_string()).collect();
    format!("{} ms", texts.join(", "))
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}
