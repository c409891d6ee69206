//! `quoratectl`: looking at PostgreSQL clusters, and operating them.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::ctl::main()
}
