//! Leader election of a plain task, on Consul. Start it in two terminals under two names, and end one of them with Ctrl-C or
//! `kill -9`:
//!
//! ```sh
//! cargo run -p dcs-consul --example consul-election -- alice '{"host": "127.0.0.1:8500"}'
//! cargo run -p dcs-consul --example consul-election -- bob '{"host": "127.0.0.1:8500"}'
//! ```

use std::sync::Arc;
use std::time::Duration;

use dcs_consul::{Config, Consul};
use dcs_core::adapter::KeyValueDcs;
use dcs_core::election::Election;
use dcs_core::keys::ClusterPath;
use dcs_core::{BootClock, Clock, Timing};

/// Everything that can go wrong here ends the program.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A leader that vanishes is replaced after the ttl. Consul allows no sessions below ten seconds, and keeps them for twice their time.
const TIMING: Timing = Timing { ttl: Duration::from_secs(20), loop_wait: Duration::from_secs(5), retry_timeout: Duration::from_secs(5) };

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
    let store = Arc::new(Consul::new(config, TIMING, Arc::clone(&clock)));
    // What people see when they ask Consul for its sessions.
    store.set_session_name(&format!("election-{name}"));
    let dcs = KeyValueDcs::new(store, Arc::clone(&clock), ClusterPath::new(None, "election"), name.into(), TIMING);
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
