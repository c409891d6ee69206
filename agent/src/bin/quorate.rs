//! `quorate`: the agent beside a PostgreSQL.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use agent::config::{Environment, LocalConfig, LogLevel, ValidateOptions};
use agent::supervise::Agent;
use agent::telemetry::Log;
use clap::Parser;
use dcs_core::chain;
use ha_engine::driver::Ended;
use tokio::signal::unix::{SignalKind, signal};

/// Exit status when the log could not be written at the end.
const LOG_STUCK: u8 = 5;

/// PostgreSQL high availability: the agent that runs beside every PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "quorate", version = concat!(env!("CARGO_PKG_VERSION"), " (compatible with Patroni 4.1.4)"))]
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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let environment = Environment::of_this_process();
    if arguments.validate_config {
        let options = ValidateOptions { ignore_listen_port: arguments.ignore_listen_port };
        return agent::config::validate_config(arguments.config.as_deref(), environment, options, arguments.print);
    }
    if arguments.generate_sample_config {
        return agent::config::generate_sample_config(arguments.config.as_deref(), &environment);
    }
    let log = match Log::install(LogLevel::Info) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("the log cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let local = match LocalConfig::load(arguments.config.as_deref(), environment) {
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
    let code = if apply_log_settings(&log, &local) { runtime.block_on(supervise(local, Arc::clone(&log))) } else { ExitCode::FAILURE };
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

/// Brings the agent up and keeps it until a signal or its own end.
async fn supervise(local: LocalConfig, log: Arc<Mutex<Log>>) -> ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a cryptography provider was installed before");
    }
    let (Ok(terminate), Ok(interrupt), Ok(hangup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        tracing::error!("signals cannot be handled on this system");
        return ExitCode::FAILURE;
    };
    let (stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let (mut terminate, mut interrupt) = (terminate, interrupt);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
        // Further signals change nothing: the shutdown is under way. The sender stays alive with this task.
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
    });
    let asked_to_stop = || {
        let mut stopped = stopped.clone();
        async move {
            // A closed channel means that the signal task has gone; then nobody can ask any more.
            if stopped.wait_for(|stopped| *stopped).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let agent = match Agent::start(local, asked_to_stop()).await {
        Ok(Some(agent)) => agent,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", chain(&error));
            return ExitCode::FAILURE;
        }
    };
    let handle = agent.handle().clone();
    tokio::spawn(async move {
        let mut hangup = hangup;
        while hangup.recv().await.is_some() {
            agent::service_manager::reloading();
            if handle.send(ha_engine::Command::Reload).await.is_err() {
                return;
            }
            agent::service_manager::ready();
        }
    });
    agent::service_manager::ready();
    let stopping = {
        let asked = asked_to_stop();
        async move {
            asked.await;
            agent::service_manager::stopping();
        }
    };
    let reloaded = |local: &LocalConfig| {
        apply_log_settings(&log, local);
    };
    match agent.run(stopping, reloaded).await {
        Ended::Shutdown => ExitCode::SUCCESS,
        Ended::Fatal(_) => ExitCode::FAILURE,
    }
}
