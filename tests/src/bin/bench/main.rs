//! `make bench`: our agent beside Patroni from PyPI, with the same `patroni.yml` and the same store, in one run.
//!
//! What is measured is what a client sees: for how long nobody took its writes. Everything happens on loopback and is bounded in count and
//! time. One agent's cluster runs after the other's, so that neither takes the processor from the other.

mod load;
mod measure;
mod patroni;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use tests::Agent;

use crate::measure::Plan;

#[tokio::main]
async fn main() -> ExitCode {
    let quick = std::env::args().nth(1).as_deref() == Some("--quick");
    let plan = if quick { Plan::QUICK } else { Plan::FULL };
    match compare(&plan).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn compare(plan: &Plan) -> Result<()> {
    let theirs = patroni::installed().await?;
    let version = patroni::version(&theirs).await?;
    println!("Quorate beside {version}: three nodes each, ttl 30, loop_wait 10, retry_timeout 10, one etcd, loopback, fsync off.");
    println!("Rounds: {} switchovers, {} dead postmasters, {} dead nodes; medians.\n", plan.switchovers, plan.postmasters, plan.nodes);
    let ours = measure::all(Agent::Quorate, None, plan).await?;
    let theirs = measure::all(Agent::Patroni, Some(&theirs), plan).await?;
    println!();
    print!("{}", table::render(&ours, &theirs, &version));
    Ok(())
}
