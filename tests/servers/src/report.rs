//! Tests that cannot run here.
//!
//! Rust's test runner knows no "skipped at run time". A test that lacks something says so on standard error, and also in the
//! file that `make test` prints at its end, and passes.

use std::fs::OpenOptions;
use std::io::Write;

/// The environment variable that names the file which collects what was skipped and why.
pub const REPORT: &str = "QUORATE_TEST_SKIPPED";

/// Says that something did not run and what it lacks.
pub fn report_not_run(what: &str, lacking: &str) {
    let line = format!("not run: {what}: {lacking}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os(REPORT)
        && let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path)
    {
        // One write of one line: lines of parallel tests do not mix.
        let _ = file.write_all(line.as_bytes());
    }
}
