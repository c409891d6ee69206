//! The tool itself: reads the command line, puts the context together, runs the command, and says how it ended.

use std::env;
use std::ffi::OsString;
use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::Environment;

use super::arguments::{Command, Invocation, Parsed};
use super::commands::{
    cluster_role, dsn, edit_config, failover, flush, history, list, pause, reinit, reload, remove, restart, show_config, switchover,
    version, why,
};
use super::context::Context;
use super::editor::Programs;
use super::failure::Failure;
use super::prompt::Console;
use super::rest_client::RestClient;
use super::settings::{self, Settings};
use super::stores::ConfiguredStores;
use super::time::LocalTime;
use super::{arguments, log};

/// Runs the tool with the arguments of this process.
pub fn main() -> ExitCode {
    log::start(|name| env::var(name).ok());
    let ended = match Invocation::parse(env::args_os()) {
        Ok(Parsed::Help(text)) => Console::standard().write(&text),
        Ok(Parsed::Run(invocation)) => run_to_end(*invocation, env::args_os().next()),
        Err(failure) => Err(failure),
    };
    let Err(failure) = ended else { return ExitCode::SUCCESS };
    if let Some(report) = failure.report() {
        // If even this cannot be written, the exit status has to do.
        let _ = std::io::stderr().write_all(report.as_bytes());
    }
    ExitCode::from(failure.exit_status())
}

fn run_to_end(invocation: Invocation, program: Option<OsString>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::error(format!("the tool cannot start: {error}")))?;
    let ended = runtime.block_on(until_interrupted(run(invocation, program)));
    // A thread may still wait for an answer that nobody needs any more.
    runtime.shutdown_background();
    ended
}

/// Gives the command up when the user interrupts it or the terminal goes away, so that it can clean up.
async fn until_interrupted(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::error(format!("signals cannot be caught: {error}")));
    let (mut interrupt, mut hangup, mut terminate) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?, listen(SignalKind::terminate())?);
    // The losing branches own nothing but the command, whose files and children go with it.
    tokio::select! {
        ended = command => ended,
        _ = interrupt.recv() => Err(Failure::Aborted),
        _ = hangup.recv() => Err(Failure::Aborted),
        _ = terminate.recv() => Err(Failure::Aborted),
    }
}

async fn run(invocation: Invocation, program: Option<OsString>) -> Result<(), Failure> {
    let Invocation { global, command } = invocation;
    if let Command::Missing(name) = command {
        return Err(Failure::error(format!("The command {name} is not part of this version yet")));
    }
    let config = settings::load(&global, Environment::of_this_process())?;
    for warning in config.warnings() {
        tracing::debug!("{warning}");
    }
    let mut context = Context {
        program: arguments::program(program.as_ref()),
        command: command.name(),
        settings: Settings::of(&config),
        console: Console::standard(),
        time: LocalTime::system(),
        agents: Box::new(RestClient::new(&config, global.insecure)?),
        #[cfg(feature = "raft")]
        raft: super::raft_nodes::configured(&config),
        stores: Box::new(ConfiguredStores::new(config)),
        programs: Programs::of_this_process(),
    };
    execute(&mut context, command).await
}

/// Runs one command.
///
/// # Errors
///
/// As the command says.
pub async fn execute(context: &mut Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(options) => list::run(context, options).await,
        Command::Switchover(options) => switchover::run(context, options).await,
        Command::Failover(options) => failover::run(context, options).await,
        Command::Restart(options) => restart::run(context, options).await,
        #[cfg(feature = "raft")]
        Command::Raft(options) => super::commands::raft::run(context, options).await,
        Command::Reload(options) => reload::run(context, options).await,
        Command::Reinit(options) => reinit::run(context, options).await,
        Command::ClusterRole(options) => cluster_role::run(context, options).await,
        Command::Pause(options) => pause::run(context, options).await,
        Command::History(options) => history::run(context, options).await,
        Command::ShowConfig(options) => show_config::run(context, options).await,
        Command::EditConfig(options) => edit_config::run(context, options).await,
        Command::Version(options) => version::run(context, options).await,
        Command::Flush(options) => flush::run(context, options).await,
        Command::Remove(options) => remove::run(context, options).await,
        Command::Dsn(options) => dsn::run(context, options).await,
        Command::Why(options) => why::run(context, options).await,
        Command::Missing(name) => Err(Failure::error(format!("The command {name} is not part of this version yet"))),
    }
}
