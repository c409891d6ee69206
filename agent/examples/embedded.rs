//! The whole agent in a program of its own, which has something to do where the primary is and nowhere else.
//!
//! ```sh
//! cargo run -p agent --example embedded -- postgres0.yml
//! ```
//!
//! The file is that of `quorate`, and so are REST API, `quoratectl` and everything else: for the cluster this program is an
//! agent like any other. PostgreSQL refuses to run as root, so run it as the user that owns the data directory.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use agent::{Agent, Ended, EngineHandle, Environment, LocalConfig};
use tokio::signal::unix::{SignalKind, signal};

/// Everything that can go wrong here ends the program.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<ExitCode> {
    // The program's own log: the agent writes to whatever `tracing` is given.
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let file = std::env::args().nth(1).map(PathBuf::from).ok_or("usage: embedded CONFIG")?;
    let config = LocalConfig::load(Some(&file), Environment::of_this_process())?;

    let mut terminate = signal(SignalKind::terminate())?;
    let mut stop = std::pin::pin!(async { terminate.recv().await.unwrap_or_default() });
    // Nothing if it was asked to stop while it still waited for the store.
    let Some(agent) = Agent::start(config, stop.as_mut()).await? else { return Ok(ExitCode::SUCCESS) };

    let job = tokio::spawn(do_where_the_primary_is(agent.handle().clone()));
    // Until somebody asks for the end, or PostgreSQL cannot be looked after any more.
    let ended = agent.run(stop, |_| ()).await;
    job.abort();
    Ok(match ended {
        Ended::Shutdown => ExitCode::SUCCESS,
        Ended::Fatal(_) => ExitCode::FAILURE,
    })
}

/// What this program is there for. It could use the local database, which takes writes here and now.
async fn do_where_the_primary_is(engine: EngineHandle) {
    let mut pieces = 0;
    loop {
        // Asked anew for every piece: it is over when the lease is, whatever else this node still believes.
        if let Some(lease) = engine.primary_lease() {
            pieces += 1;
            println!("{} does piece {pieces}, and has {:.1?} left for it", engine.me, lease.remaining(engine.clock().now()));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
