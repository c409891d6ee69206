//! What one acknowledged write costs on a disk: `cargo run --release -p dcs-raft --example storage_cost -- DIRECTORY`.

use std::path::Path;
use std::process::ExitCode;

use dcs_raft::message::LogEntry;
use dcs_raft::storage::{Batch, HardState, RedbStorage, Storage};
use tokio::time::Instant;

const WRITES: u64 = 500;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: storage_cost DIRECTORY (which must not hold a node)");
        return ExitCode::FAILURE;
    };
    match measure(Path::new(&directory)) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(directory: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let opening = Instant::now();
    let (mut storage, remembered) = RedbStorage::open(directory)?;
    let opened = opening.elapsed();
    if remembered.hard_state != HardState::default() {
        return Err(format!("there is a node in `{}`", directory.display()).into());
    }
    let mut times = Vec::new();
    for index in 1..=WRITES {
        let batch = Batch {
            hard_state: Some(HardState { term: 1, vote: 1, commit: index }),
            entries: vec![LogEntry { index, term: 1, data: vec![0; 200], ..LogEntry::default() }],
            ..Batch::default()
        };
        let start = Instant::now();
        storage.write(&batch)?;
        times.push(start.elapsed());
    }
    times.sort();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    let opening = Instant::now();
    drop(storage);
    drop(RedbStorage::open(directory)?);
    let reopened = opening.elapsed();
    Ok(format!(
        "made in {opened:?}; {WRITES} writes of one entry of 200 bytes: median {:?}, 90% {:?}, 99% {:?}; closed and opened again in {reopened:?}",
        at(50),
        at(90),
        at(99),
    ))
}
