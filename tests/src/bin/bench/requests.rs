//! What an idle cluster asks of its store: requests per minute and member, as the store itself counts them.
//!
//! Everything is as it is after an installation: ttl 30, loop_wait 10, three members. What servers ask themselves without any agent is counted
//! first, and left out.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tests::settings::Times;
use tests::{Agent, Cluster, StoreKind};
use tokio::time::{Instant, sleep};

/// What one kind of store was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    /// The store.
    pub(crate) store: StoreKind,
    /// Requests per minute and member of our agents.
    pub(crate) ours: f64,
    /// The same of Patroni's.
    pub(crate) theirs: f64,
}

/// Measures one store with both agents.
pub(crate) async fn beside_each_other(store: StoreKind, patroni: &Path, span: Duration) -> Result<Rates> {
    let ours = of_idle(Agent::Quorate, None, store, span).await?;
    println!("{:>10}: Quorate {ours:.1} requests per minute and member", store.name());
    let theirs = of_idle(Agent::Patroni, Some(patroni), store, span).await?;
    println!("{:>10}: Patroni {theirs:.1} requests per minute and member", store.name());
    Ok(Rates { store, ours, theirs })
}

async fn of_idle(agent: Agent, programs: Option<&Path>, store: StoreKind, span: Duration) -> Result<f64> {
    let times = Times::default_of_patroni();
    let mut builder = Cluster::builder().agent(agent).store(store).times(times);
    if let Some(programs) = programs {
        builder = builder.programs_in(programs);
    }
    let cluster = builder.assemble().await?;
    let background = per_minute(&cluster, span / 2).await?;
    cluster.start_all()?;
    cluster.eventually_settled().await?;
    // What a new cluster has to write is written by then.
    sleep(times.loop_wait * 3).await;
    let rate = per_minute(&cluster, span).await?;
    let members = u32::try_from(cluster.nodes().len())?;
    cluster.finish_unchecked();
    Ok((rate - background) / f64::from(members))
}

async fn per_minute(cluster: &Cluster, span: Duration) -> Result<f64> {
    let (before, began) = (cluster.store.requests().await?, Instant::now());
    // Nothing is awaited here: the span itself is what is measured.
    sleep(span).await;
    let counted = u32::try_from(cluster.store.requests().await? - before)?;
    Ok(f64::from(counted) * 60.0 / began.elapsed().as_secs_f64())
}
