//! `quorate`: the agent beside a PostgreSQL; and, as `quorate raft-controller`, a node of the embedded store without one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use agent::config::{Environment, LocalConfig, LogLevel, ValidateOptions};
use agent::supervise::Agent;
use agent::telemetry::Log;
use clap::{Parser, Subcommand};
use dcs_core::chain;
use ha_engine::driver::Ended;
use ha_engine::postgres::lease_guard;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Exit status when the log could not be written at the end.
const LOG_STUCK: u8 = 5;

/// The name under which the witness of Patroni is started.
const RAFT_CONTROLLER_OF_PATRONI: &str = "patroni_raft_controller";

/// PostgreSQL high availability: the agent that runs beside every PostgreSQL.
#[derive(Debug, Parser)]
#[command(
    name = "quorate",
    version = concat!(env!("CARGO_PKG_VERSION"), " (compatible with Patroni 4.1.4)"),
    propagate_version = true,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
struct Arguments {
    /// Check the configuration, say everything that is wrong with it, and end.
    #[arg(long, group = "mode")]
    validate_config: bool,

    /// Write a configuration to start from, to CONFIG or on stdout, and end.
    #[arg(long, group = "mode")]
    generate_sample_config: bool,

    /// With --validate-config: ports that something listens on already are fine.
    #[arg(short, long)]
    ignore_listen_port: bool,

    /// With --validate-config: print the configuration, environment included.
    #[arg(short, long)]
    print: bool,

    /// The configuration: a YAML file, or a directory of them. Without it, `PATRONI_CONFIGURATION` or the `PATRONI_*`
    /// variables alone.
    #[arg(value_name = "CONFIG")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Guard the lease of the agent that has started this.
    #[command(name = lease_guard::ROLE, hide = true)]
    LeaseGuard {
        /// Which agent's.
        generation: u64,
        /// The data directory of its server.
        data_dir: PathBuf,
    },
    /// Run a node of the embedded store (`raft`) that votes and stores, without a PostgreSQL and a REST API.
    #[cfg(feature = "raft")]
    RaftController {
        /// The configuration, of which the sections `raft` and `log` are read. Without it, the `PATRONI_RAFT_*` variables.
        #[arg(value_name = "CONFIG")]
        config: Option<PathBuf>,
    },
    /// Form a new cluster of the embedded store from what this stopped node has, when its majority is lost for good.
    #[cfg(feature = "raft")]
    RaftRecover {
        /// The configuration, of which the section `raft` is read.
        #[arg(value_name = "CONFIG")]
        config: Option<PathBuf>,
        /// Do not ask for the id of the cluster.
        #[arg(long)]
        force: bool,
    },
}

/// What is run until a signal comes.
#[derive(Clone, Copy, Debug)]
enum Service {
    Agent,
    #[cfg(feature = "raft")]
    RaftController,
}

/// The command line. A program that is started under the name of Patroni's witness is one.
fn command_line(typed: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = typed.into_iter().collect();
    let name = arguments.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| name == RAFT_CONTROLLER_OF_PATRONI) {
        arguments.insert(1, "raft-controller".into());
    }
    arguments
}

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(command_line(std::env::args_os()));
    let environment = Environment::of_this_process();
    if arguments.validate_config {
        let options = ValidateOptions { ignore_listen_port: arguments.ignore_listen_port };
        return agent::config::validate_config(arguments.config.as_deref(), environment, options, arguments.print);
    }
    if arguments.generate_sample_config {
        return agent::config::generate_sample_config(arguments.config.as_deref(), &environment);
    }
    match arguments.command {
        None => serve(Service::Agent, arguments.config.as_deref(), environment),
        Some(Command::LeaseGuard { generation, data_dir }) => match lease_guard::run(generation, data_dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the lease guard is started by the agent: {error}");
                ExitCode::FAILURE
            }
        },
        #[cfg(feature = "raft")]
        Some(Command::RaftController { config }) => serve(Service::RaftController, config.as_deref(), environment),
        #[cfg(feature = "raft")]
        Some(Command::RaftRecover { config, force }) => recover(config.as_deref(), environment, force),
    }
}

/// Runs the service with log, runtime and signals around it, until it ends.
fn serve(service: Service, config: Option<&Path>, environment: Environment) -> ExitCode {
    let log = match Log::install(LogLevel::Info) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("the log cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let local = match LocalConfig::load(config, environment) {
        Ok(local) => local,
        Err(error) => {
            eprintln!("{}", chain(&error));
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the asynchronous runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let log = Arc::new(Mutex::new(log));
    let code =
        if apply_log_settings(&log, &local) { runtime.block_on(supervise(service, local, Arc::clone(&log))) } else { ExitCode::FAILURE };
    // Blocking work that is still under way (a file system that hangs) must not hold up the end.
    runtime.shutdown_background();
    match Arc::into_inner(log).and_then(|log| log.into_inner().ok()).map(Log::shutdown) {
        Some(Err(stuck)) => {
            eprintln!("{stuck}");
            ExitCode::from(LOG_STUCK)
        }
        _ => code,
    }
}

/// Forms a new cluster of the embedded store, in a conversation.
#[cfg(feature = "raft")]
fn recover(config: Option<&Path>, environment: Environment, force: bool) -> ExitCode {
    use agent::ctl::failure::Failure;
    use agent::ctl::prompt::Console;

    let recovered = || {
        let local = LocalConfig::load(config, environment).map_err(|error| Failure::error(chain(&error)))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ended = runtime.block_on(agent::raft_recover::run(&local, force, &mut Console::standard()));
        runtime.shutdown_background();
        ended
    };
    let Err(failure) = recovered() else { return ExitCode::SUCCESS };
    if let Some(report) = failure.report() {
        eprint!("{report}");
    }
    ExitCode::from(failure.exit_status())
}

/// Takes the `log` section into use; `false` if it cannot be used, which is then said.
fn apply_log_settings(log: &Mutex<Log>, local: &LocalConfig) -> bool {
    let (settings, warnings) = match local.log() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{}", chain(&error));
            return false;
        }
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let applied = log.lock().unwrap_or_else(PoisonError::into_inner).apply(&settings);
    if let Err(error) = &applied {
        tracing::error!("{error}");
    }
    applied.is_ok()
}

/// What the operating system asks for.
struct Signals {
    /// How often the program was asked to stop.
    stopped: watch::Receiver<u32>,
    hangup: Signal,
}

impl Signals {
    /// Listens from now on.
    fn listen() -> std::io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let hangup = signal(SignalKind::hangup())?;
        let (stop, stopped) = watch::channel(0_u32);
        tokio::spawn(async move {
            // The sender stays alive with this task.
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                stop.send_modify(|times| *times = times.saturating_add(1));
            }
        });
        Ok(Self { stopped, hangup })
    }

    /// Completes when the program is asked to stop.
    fn asked_to_stop(&self) -> impl Future<Output = ()> + Send + use<> {
        self.asked_so_often(1)
    }

    /// Completes when the program was asked to stop so often.
    fn asked_so_often(&self, often: u32) -> impl Future<Output = ()> + Send + use<> {
        let mut stopped = self.stopped.clone();
        async move {
            // A closed channel means that the signal task has gone; then nobody can ask any more.
            if stopped.wait_for(|times| *times >= often).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Keeps the service up until a signal or its own end.
async fn supervise(service: Service, local: LocalConfig, log: Arc<Mutex<Log>>) -> ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a cryptography provider was installed before");
    }
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!("signals cannot be handled on this system: {error}");
            return ExitCode::FAILURE;
        }
    };
    match service {
        Service::Agent => run_agent(local, &log, signals).await,
        #[cfg(feature = "raft")]
        Service::RaftController => run_raft_controller(local, &log, signals).await,
    }
}

/// Brings the agent up and keeps it until a signal or its own end.
async fn run_agent(local: LocalConfig, log: &Mutex<Log>, signals: Signals) -> ExitCode {
    let agent = match Agent::start(local, signals.asked_to_stop()).await {
        Ok(Some(agent)) => agent,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", chain(&error));
            return ExitCode::FAILURE;
        }
    };
    let asked_to_stop = signals.asked_to_stop();
    let stopping = async move {
        asked_to_stop.await;
        agent::service_manager::stopping();
    };
    let (handle, again) = (agent.handle().clone(), signals.asked_so_often(2));
    tokio::spawn(async move {
        again.await;
        // An engine that is gone has nothing left to give up.
        let _ = handle.send(ha_engine::Command::Shutdown).await;
    });
    let handle = agent.handle().clone();
    tokio::spawn(async move {
        let mut hangup = signals.hangup;
        while hangup.recv().await.is_some() {
            agent::service_manager::reloading();
            if handle.send(ha_engine::Command::Reload).await.is_err() {
                return;
            }
            agent::service_manager::ready();
        }
    });
    agent::service_manager::ready();
    let reloaded = |local: &LocalConfig| {
        apply_log_settings(log, local);
    };
    match agent.run(stopping, reloaded).await {
        Ended::Shutdown => ExitCode::SUCCESS,
        Ended::Fatal(_) => ExitCode::FAILURE,
    }
}

/// Brings a witness up and keeps it until a signal or its own end.
#[cfg(feature = "raft")]
async fn run_raft_controller(local: LocalConfig, log: &Mutex<Log>, mut signals: Signals) -> ExitCode {
    for warning in local.warnings() {
        tracing::debug!("{warning}");
    }
    let mut controller = match agent::raft_controller::RaftController::start(local).await {
        Ok(controller) => controller,
        Err(error) => {
            tracing::error!("{}", chain(&error));
            return ExitCode::FAILURE;
        }
    };
    // Not when it has a cluster: the others may be started after it.
    agent::service_manager::ready();
    let mut asked_to_stop = std::pin::pin!(signals.asked_to_stop());
    let code = loop {
        tokio::select! {
            () = &mut asked_to_stop => break ExitCode::SUCCESS,
            // What went wrong was said by the node. The service manager may start it anew.
            _ = controller.ended() => break ExitCode::FAILURE,
            Some(()) = signals.hangup.recv() => {}
        }
        agent::service_manager::reloading();
        apply_log_settings(log, controller.reload().await);
        agent::service_manager::ready();
    };
    agent::service_manager::stopping();
    controller.stop().await;
    code
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Arguments {
        Arguments::try_parse_from(command_line(line.split(' ').map(OsString::from))).expect("a command line")
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_file_alone_is_the_configuration_of_an_agent() {
        for name in ["quorate", "/usr/bin/patroni"] {
            let arguments = parse(&format!("{name} /etc/quorate.yml"));
            assert!(arguments.command.is_none());
            assert_eq!(arguments.config.as_deref(), Some(Path::new("/etc/quorate.yml")));
        }
        let arguments = parse("quorate --validate-config -i q.yml");
        assert!(arguments.validate_config && arguments.ignore_listen_port && arguments.command.is_none());
    }

    #[cfg(feature = "raft")]
    #[test]
    fn the_witness_has_a_command_and_the_name_that_patroni_gives_it() {
        for line in ["quorate raft-controller w.yml", "/usr/bin/patroni_raft_controller w.yml"] {
            match parse(line).command {
                Some(Command::RaftController { config }) => assert_eq!(config.as_deref(), Some(Path::new("w.yml")), "{line}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}
