//! `make bench`: our agent beside Patroni from PyPI, with the same `patroni.yml` and the same store, in one run; before that the embedded
//! store beside etcd, and after it what idle agents ask of each store. With `--only stores`, `agents` or `requests` one of these alone.
//!
//! What is measured is what a client sees: for how long nobody took its writes. Everything happens on loopback and is bounded in count and
//! time. One agent's cluster runs after the other's, so that neither takes the processor from the other.

mod load;
mod measure;
mod patroni;
mod requests;
mod store;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use tests::{Agent, StoreKind};

use crate::measure::Plan;
use crate::table::StoreResult;

/// What can be measured alone.
const PARTS: [&str; 3] = ["stores", "agents", "requests"];

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(wanted) = read(&arguments) else {
        let stores = StoreKind::OUTSIDE.map(StoreKind::name).join("|");
        eprintln!("usage: bench [--quick] [--only {}] [--store {stores}]", PARTS.join("|"));
        return ExitCode::from(2);
    };
    match compare(&wanted).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is to be measured.
struct Wanted {
    plan: Plan,
    parts: Vec<&'static str>,
    /// Whose requests.
    stores: Vec<StoreKind>,
}

fn read(arguments: &[String]) -> Option<Wanted> {
    let mut wanted = Wanted { plan: Plan::FULL, parts: PARTS.to_vec(), stores: StoreKind::OUTSIDE.to_vec() };
    let mut arguments = arguments.iter().map(String::as_str);
    while let Some(argument) = arguments.next() {
        match argument {
            "--quick" => wanted.plan = Plan::QUICK,
            "--only" => {
                let only = arguments.next()?;
                wanted.parts.retain(|part| *part == only);
            }
            "--store" => {
                let only = arguments.next()?;
                wanted.stores.retain(|store| store.name().eq_ignore_ascii_case(only));
            }
            _ => return None,
        }
    }
    (!wanted.parts.is_empty() && !wanted.stores.is_empty()).then_some(wanted)
}

async fn compare(wanted: &Wanted) -> Result<()> {
    let Wanted { plan, parts, stores } = wanted;
    if parts.contains(&"stores") {
        compare_stores(plan).await?;
        println!();
    }
    if parts.contains(&"agents") {
        compare_agents(plan).await?;
        println!();
    }
    if parts.contains(&"requests") {
        compare_requests(plan, stores).await?;
    }
    Ok(())
}

/// The one read with which a leader confirms its lock in each loop, six in a minute, as a share of each of three members.
const CONFIRMATIONS: f64 = 6.0 / 3.0;

async fn compare_requests(plan: &Plan, stores: &[StoreKind]) -> Result<()> {
    let theirs = patroni::installed().await?;
    let version = patroni::version(&theirs).await?;
    println!("Idle clusters of Quorate and of {version}: three nodes, ttl 30, loop_wait 10, watched for {} s.\n", plan.watched.as_secs());
    let mut rates = Vec::new();
    for &store in stores {
        match store.lacking(1) {
            None => rates.push(requests::beside_each_other(store, &theirs, plan.watched).await?),
            Some(lacks) => println!("{:>10}: not measured: {lacks}", store.name()),
        }
    }
    println!();
    print!("{}", table::requests(&rates, &version, CONFIRMATIONS));
    Ok(())
}

async fn compare_stores(plan: &Plan) -> Result<()> {
    println!("The embedded store beside etcd: three nodes each, on the disk of the temporary directory, which both wait for.");
    println!("The embedded one encrypts what its nodes say, and each of them waits for the disk twice in a commit, an etcd server once.");
    println!(
        "Rounds: {} s of puts by one client and by {}, {} dead leaders.\n",
        plan.stores.span.as_secs(),
        store::CLIENTS,
        plan.stores.elections
    );
    let embedded = one_store(StoreKind::Raft, plan).await?;
    let etcd = one_store(StoreKind::Etcd, plan).await?;
    print!("{}", table::stores(&embedded, &etcd));
    Ok(())
}

async fn one_store(kind: StoreKind, plan: &Plan) -> Result<StoreResult> {
    let nodes = store::all(kind, &plan.stores).await?;
    let (memory, processor) = measure::idle_with(kind, plan).await?;
    Ok(StoreResult { nodes, memory, processor })
}

async fn compare_agents(plan: &Plan) -> Result<()> {
    let theirs = patroni::installed().await?;
    let version = patroni::version(&theirs).await?;
    println!("Quorate beside {version}: three nodes each, ttl 30, loop_wait 10, retry_timeout 10, one etcd, loopback, fsync off.");
    println!("Rounds: {} switchovers, {} dead postmasters, {} dead nodes; medians.\n", plan.switchovers, plan.postmasters, plan.nodes);
    let ours = measure::all(Agent::Quorate, None, plan).await?;
    let theirs = measure::all(Agent::Patroni, Some(&theirs), plan).await?;
    println!();
    print!("{}", table::agents(&ours, &theirs, &version));
    Ok(())
}
