//! The inside of a node's process.

use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;

use dcs_core::BootClock;
use dcs_raft::{Config, Node};
use nix::sys::signal::Signal;
use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};

/// What a node finds in its environment: its section of the configuration, as JSON.
pub const SECTION: &str = "QUORATE_TEST_RAFT_NODE";

/// Makes this process a node, until its standard input ends if that is a pipe, if it was started as one. To be called before anything else.
pub fn run_as_node() {
    let Ok(section) = std::env::var(SECTION) else { return };
    let section: Map<String, Value> = serde_json::from_str(&section).expect("a section");
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_ansi(false).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let code = runtime.block_on(async {
        let config = Config::from_section(&section).expect("a good section");
        // A write beyond the limit of a file's size fails, as on a full disk, instead of ending the process.
        let _too_large = signal(SignalKind::from_raw(Signal::SIGXFSZ as i32)).expect("a signal handler");
        let node = match Node::start(config, Arc::new(BootClock)).await {
            Ok(node) => node,
            Err(error) => {
                tracing::error!("the node does not start: {error}");
                return 1;
            }
        };
        if std::fs::metadata("/dev/stdin").is_ok_and(|input| input.file_type().is_fifo()) {
            let nothing_to_read = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
            let _ended = nothing_to_read.await;
        } else {
            // Whoever started it has another way to end it.
            std::future::pending::<()>().await;
        }
        drop(node);
        0
    });
    std::process::exit(code);
}
