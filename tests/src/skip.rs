//! Tests that cannot run here.

use anyhow::Result;

use crate::agents::Agent;

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
    store_servers::report_not_run(thread.name().unwrap_or("a test"), lacks);
}
