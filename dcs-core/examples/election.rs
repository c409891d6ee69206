//! Leader election of a plain task, in one program and with the store in memory: what needs no server to be tried.
//!
//! ```sh
//! cargo run -p dcs-core --features memory --example memory-election
//! ```

use std::sync::Arc;
use std::time::Duration;

use dcs_core::election::Election;
use dcs_core::keys::ClusterPath;
use dcs_core::memory::Server;
use dcs_core::{BootClock, Timing};

/// Everything that can go wrong here ends the program.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A leader that vanishes is replaced after the ttl.
const TIMING: Timing = Timing { ttl: Duration::from_secs(6), loop_wait: Duration::from_secs(2), retry_timeout: Duration::from_secs(2) };

#[tokio::main]
async fn main() -> Outcome<()> {
    let server = Server::new(Arc::new(BootClock));
    let a_while = || tokio::time::sleep(Duration::from_secs(3));
    tokio::try_join!(take_part("alice", &server, a_while()), take_part("bob", &server, a_while()))?;
    Ok(())
}

/// Works whenever it leads, until it is told to stop.
async fn take_part(name: &str, server: &Arc<Server>, stop: impl Future<Output = ()>) -> Outcome<()> {
    let dcs = server.dcs(ClusterPath::new(None, "election"), name.into(), TIMING);
    let election = Election::start(dcs, name.into(), Arc::clone(server.clock()), TIMING);
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
    for piece in 1..=3 {
        println!("{name} does piece {piece}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
