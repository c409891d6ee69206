//! Leader election of a plain task, on Kubernetes: two pods of one Deployment, say, of which one works. Outside of a pod it uses
//! your kubeconfig. Start it in two terminals under two names, and end one of them with Ctrl-C or `kill -9`:
//!
//! ```sh
//! context=$(kubectl config current-context)
//! cargo run -p dcs-kubernetes --example kubernetes-election -- alice '{"labels": {"app": "demo"}, "context": "'$context'"}'
//! cargo run -p dcs-kubernetes --example kubernetes-election -- bob '{"labels": {"app": "demo"}, "context": "'$context'"}'
//! ```
//!
//! The lock is the ConfigMap `election-leader`. `kubectl get configmap election-leader -o yaml` shows who leads.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::election::Election;
use dcs_core::{BootClock, Clock, Timing};
use dcs_kubernetes::{Config, Kubernetes, Who};

/// Everything that can go wrong here ends the program.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A leader that vanishes is replaced after the ttl.
const TIMING: Timing = Timing { ttl: Duration::from_secs(6), loop_wait: Duration::from_secs(2), retry_timeout: Duration::from_secs(2) };

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, name, section] = &arguments[..] else { return Err("usage: election NAME 'SECTION AS JSON'".into()) };
    let config = Config::from_section(&serde_json::from_str(section)?)?;
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    take_part(name, config, stop).await
}

/// Works whenever it leads, until it is told to stop.
async fn take_part(name: &str, config: Config, stop: impl Future<Output = ()>) -> Outcome<()> {
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let dcs = Kubernetes::new(config, "election", None, name.into(), TIMING, Arc::clone(&clock), Who::Agent);
    let election = Election::start(Arc::new(dcs), name.into(), clock, TIMING);
    let mut stop = std::pin::pin!(stop);
    loop {
        println!("{name} waits for its turn");
        let leadership = tokio::select! {
            won = election.campaign() => won?,
            () = &mut stop => break,
        };
        println!("{name} leads");
        let stopping = tokio::select! {
            // The work ends with the leadership: before anybody else can lead.
            ended = leadership.hold(work(name)) => { println!("{name} ends its turn: {ended:?}"); false }
            () = &mut stop => true,
        };
        // Nothing works any more: the next one may begin at once.
        leadership.resign().await?;
        if stopping {
            break;
        }
    }
    election.leave().await;
    Ok(())
}

/// What only one may do at a time.
async fn work(name: &str) {
    for piece in 1..=5 {
        println!("{name} does piece {piece}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
