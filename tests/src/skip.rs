//! Tests that cannot run here.
//!
//! Rust's test runner knows no "skipped at run time". A test that lacks something says so on standard error, and also in the file that
//! `make test` prints at its end, and passes.

use std::fs::OpenOptions;
use std::io::Write;

use anyhow::Result;

use crate::agents::Agent;

/// The file that collects what was skipped and why.
pub const REPORT: &str = "QUORATE_TEST_SKIPPED";

/// True for every agent but ours, and then it says that the test did not run: some promises are ours alone.
///
/// # Errors
///
/// If the environment asks for an agent that does not exist.
pub fn unless_quorate(reason: &str) -> Result<bool> {
    let other = Agent::from_environment()? != Agent::Quorate;
    if other {
        report(reason);
    }
    Ok(other)
}

/// Says that the running test did not run, and what it lacks.
pub fn report(lacks: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let line = format!("not run: {test}: {lacks}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os(REPORT)
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
    {
        // One write of one line: lines of parallel tests do not mix.
        let _ = file.write_all(line.as_bytes());
    }
}
