//! Three nodes in one program elect a leader of a plain task, and survive the loss of the node that led.
//!
//! `cargo run -p dcs-raft --example election`

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use dcs_core::adapter::KeyValueDcs;
use dcs_core::keys::ClusterPath;
use dcs_core::{Acquisition, BootClock, Clock, Dcs, Deadline, Interest, Renewal, Timing};
use dcs_raft::{Config, Node, RaftStore};

/// Everything that can go wrong here ends the program.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long the work of a leader that vanished waits for the next one, and how often a leader proves itself.
const TIMING: Timing = Timing { ttl: Duration::from_secs(5), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(3) };

/// How many pieces of work the leaders do, together.
const PIECES: usize = 12;

fn soon() -> Deadline {
    Deadline::after(TIMING.retry_timeout)
}

/// One participant: a node of the store, and a task that works whenever it leads.
async fn participate(name: &'static str, cluster: Arc<dyn dcs_raft::cluster::Cluster>, done: tokio::sync::mpsc::Sender<&'static str>) {
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let store = Arc::new(RaftStore::new(cluster, TIMING, Arc::clone(&clock)));
    let dcs = KeyValueDcs::new(store, Arc::clone(&clock), ClusterPath::new(None, "election"), name.into(), TIMING);
    loop {
        // Whatever fails is tried again: an error says nothing about who leads, only the lease does.
        let lease = match dcs.load(soon()).await {
            Ok(view) => match &view.leader {
                None => match dcs.attempt_to_acquire_leader(soon()).await {
                    Ok(Acquisition::Won(lease)) => Some(lease),
                    _ => None,
                },
                Some(leader) if leader.name.as_str() == name => match dcs.renew_leader(leader, soon()).await {
                    Ok(Renewal::Renewed(lease)) => Some(lease),
                    _ => None,
                },
                Some(_) => None,
            },
            Err(error) => {
                println!("{name}: {}", error.chain());
                None
            }
        };
        match lease {
            // A leader works only as long as its lease is certainly valid.
            Some(lease) if lease.is_valid(clock.now()) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                if done.send(name).await.is_err() {
                    return;
                }
            }
            // The watch wakes this as soon as the lock is free.
            _ => drop(dcs.wait(Interest::FOLLOWER, TIMING.loop_wait).await),
        }
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let directory = tempfile::tempdir()?;
    // Ports that are free now.
    let held = (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let addresses = held.iter().map(|port| port.local_addr().map(|address| address.to_string())).collect::<Result<Vec<_>, _>>()?;
    drop(held);

    let (sender, mut work) = tokio::sync::mpsc::channel(1);
    let mut participants = Vec::new();
    for (name, address) in ["alice", "bob", "carol"].into_iter().zip(&addresses) {
        let section = serde_json::json!({
            "self_addr": address,
            "partner_addrs": addresses,
            "data_dir": directory.path().join(name),
            "password": "a long random text",
        });
        let node = Node::start(Config::from_section(section.as_object().ok_or("a section")?)?, Arc::new(BootClock)).await?;
        let task = tokio::spawn(participate(name, node.cluster(), sender.clone()));
        participants.push((name, node, task));
    }
    drop(sender);

    let mut first = None;
    for piece in 1..=PIECES {
        let Some(worker) = work.recv().await else { return Err("everybody has gone".into()) };
        println!("piece {piece}: done by {worker}");
        let leader = *first.get_or_insert(worker);
        if piece == PIECES / 2
            && let Some(position) = participants.iter().position(|(name, ..)| *name == leader)
        {
            let (name, node, task) = participants.remove(position);
            println!("{name} and its node are gone; the lease is over after {:?} at most", TIMING.ttl);
            task.abort();
            node.stop().await;
        }
        if piece == PIECES && leader == worker {
            return Err("nobody took over".into());
        }
    }
    for (_, node, task) in participants {
        task.abort();
        node.stop().await;
    }
    Ok(())
}
