//! Measuring the stores themselves, without agents: three nodes of each, on the same disk, which they wait for.
//!
//! The embedded store runs as three witnesses, so that both are three programs of their own, asked by clients over the network. An agent that
//! is a node itself is spared that way, but not the one from its node to the leader.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::poll::{self, PATIENCE};
use tests::sandbox::Sandbox;
use tests::stores::{Client, Server, Store, StoreKind};
use tests::{Agent, agents};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const NODES: u8 = 3;

/// How many clients write at once where throughput is measured.
pub(crate) const CLIENTS: usize = 16;

/// The size of what is written, about that of a member's key.
const VALUE: usize = 400;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// For how long one client writes, and then all of them.
    pub(crate) span: Duration,
    /// How often the leader is killed.
    pub(crate) elections: usize,
}

/// What one store did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// The median time until one client's put is acknowledged, when nobody else writes.
    pub(crate) median: Duration,
    /// What 99 of 100 of these puts do not exceed.
    pub(crate) slowest: Duration,
    /// Puts per second, of all clients together.
    pub(crate) throughput: f64,
    /// From the death of the leader to the next acknowledged put, median of the rounds.
    pub(crate) election: Duration,
}

/// Three nodes.
struct Nodes {
    store: Box<dyn Store>,
    witnesses: Vec<Server>,
    _sandbox: Sandbox,
}

impl Nodes {
    async fn start(kind: StoreKind) -> Result<Self> {
        let sandbox = Sandbox::create()?;
        let mut witnesses = Vec::new();
        let directories = (1..=NODES).map(|node| sandbox.make(&format!("node{node}"))).collect::<Result<Vec<_>>>()?;
        let store = kind.start(&sandbox, NODES, &directories, false).await?;
        if let Ok(raft) = store.raft() {
            let daemon = agents::runnable_by_all(&Agent::Quorate.daemon()?, &sandbox.make("bin")?)?;
            for (node, directory) in directories.iter().enumerate() {
                let witness = raft.witness(node, directory, &daemon, &sandbox)?;
                witness.start()?;
                witnesses.push(witness);
            }
        }
        let nodes = Self { store, witnesses, _sandbox: sandbox };
        nodes.store.eventually_all_healthy().await?;
        Ok(nodes)
    }

    /// The program of one node.
    fn server(&self, node: usize) -> Result<&Server> {
        self.witnesses.get(node).or_else(|| self.store.servers().get(node)).with_context(|| format!("there is no node {node}"))
    }
}

/// Starts three nodes of this store, and measures everything there is.
pub(crate) async fn all(kind: StoreKind, plan: &Plan) -> Result<Measured> {
    let nodes = Nodes::start(kind).await?;
    let everywhere: Vec<usize> = (0..usize::from(NODES)).collect();
    let alone = connected(&*nodes.store, &everywhere).await?;
    let mut alone = acknowledged(alone, "/bench/alone".to_owned(), Instant::now() + plan.span).await?;
    alone.sort();
    ensure!(!alone.is_empty(), "nothing was written");
    let (median, slowest) = (alone[alone.len() / 2], alone[alone.len() * 99 / 100]);

    let mut ready = Vec::new();
    for _ in 0..CLIENTS {
        ready.push(connected(&*nodes.store, &everywhere).await?);
    }
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for (number, client) in ready.into_iter().enumerate() {
        clients.spawn(acknowledged(client, format!("/bench/{number}"), began + plan.span));
    }
    let mut count = 0_u32;
    while let Some(written) = clients.join_next().await {
        count += u32::try_from(written??.len())?;
    }
    let throughput = f64::from(count) / began.elapsed().as_secs_f64();

    let mut elections = Vec::new();
    for _ in 0..plan.elections {
        elections.push(kill_leader(&nodes).await?);
    }
    elections.sort();
    let election = *elections.get(elections.len() / 2).context("no election was held")?;
    Ok(Measured { median, slowest, throughput, election })
}

/// A client of these nodes that has its connections: making them may take longer than a thousand puts.
async fn connected(store: &dyn Store, nodes: &[usize]) -> Result<Client> {
    let mut client = store.client(nodes).await?;
    client.put("/bench/connected", "yes").await?;
    Ok(client)
}

/// Writes one key after the other, and returns how long each took.
async fn acknowledged(mut client: Client, key: String, until: Instant) -> Result<Vec<Duration>> {
    let value = "x".repeat(VALUE);
    let mut spent = Vec::new();
    while Instant::now() < until {
        let began = Instant::now();
        client.put(&key, &value).await?;
        spent.push(began.elapsed());
    }
    Ok(spent)
}

/// Kills the leader, and waits until a client of one that is left has written.
async fn kill_leader(nodes: &Nodes) -> Result<Duration> {
    nodes.store.eventually_all_healthy().await?;
    let leader = poll::until("somebody leads the store", PATIENCE, async || nodes.store.leader().await).await?;
    let survivor = (leader + 1) % usize::from(NODES);
    let mut client = connected(&*nodes.store, &[survivor]).await?;

    let died = Instant::now();
    nodes.server(leader)?.signal(Signal::SIGKILL)?;
    loop {
        // A put that was on its way to the old leader may never be answered: whoever waits for it would measure its own patience.
        let put = timeout(Duration::from_millis(100), client.put("/bench/after", "it is led")).await;
        if matches!(put, Ok(Ok(()))) {
            break;
        }
        ensure!(died.elapsed() < PATIENCE, "nobody leads after {PATIENCE:?}");
    }
    let lasted = died.elapsed();
    nodes.server(leader)?.start()?;
    Ok(lasted)
}
