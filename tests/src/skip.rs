//! Tests that cannot run here.

use anyhow::Result;

use crate::agents::Agent;
use crate::stores::StoreKind;

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

/// True if a cluster cannot have this store here, and then it says why the test did not run.
///
/// # Errors
///
/// If the environment asks for an agent that does not exist.
pub fn unless_there(store: StoreKind) -> Result<bool> {
    if store == StoreKind::Raft {
        return unless_quorate("another agent does not have the embedded store");
    }
    let lacking = store.lacking();
    if let Some(lacks) = &lacking {
        report(lacks);
    }
    Ok(lacking.is_some())
}

/// Says that the running test did not run, and what it lacks.
pub fn report(lacks: &str) {
    let thread = std::thread::current();
    store_servers::report_not_run(thread.name().unwrap_or("a test"), lacks);
}
