//! `make bench`: our agent beside Patroni from PyPI, with the same `patroni.yml` and the same store, in one run; and before that the embedded
//! store beside etcd. With `--only-stores` nothing but the latter.
//!
//! What is measured is what a client sees: for how long nobody took its writes. Everything happens on loopback and is bounded in count and
//! time. One agent's cluster runs after the other's, so that neither takes the processor from the other.

mod load;
mod measure;
mod patroni;
mod store;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use tests::{Agent, StoreKind};

use crate::measure::Plan;
use crate::table::StoreResult;

#[tokio::main]
async fn main() -> ExitCode {
    let asked = |option: &str| std::env::args().skip(1).any(|argument| argument == option);
    let plan = if asked("--quick") { Plan::QUICK } else { Plan::FULL };
    match compare(&plan, asked("--only-stores")).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn compare(plan: &Plan, only_stores: bool) -> Result<()> {
    compare_stores(plan).await?;
    if only_stores {
        return Ok(());
    }
    println!();
    compare_agents(plan).await
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
