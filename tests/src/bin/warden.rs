//! Clears a test's directory when the test is gone; see `tests::sandbox`.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: warden DIRECTORY (and a pipe as standard input)");
        return ExitCode::from(2);
    };
    match tests::sandbox::watch_over(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("warden: {error:#}");
            ExitCode::FAILURE
        }
    }
}
