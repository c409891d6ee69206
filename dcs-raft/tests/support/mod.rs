//! Raft nodes, each of which is a process of its own.
//!
//! A node is the test program itself, which looks at its environment before it does anything else ([`run_as_node`]). It
//! ends when its standard input does: then nobody is there any more who could end it.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test program uses its own part")]

pub mod load;
mod node;
pub mod nodes;

use std::future::Future;
use std::time::Duration;

pub use store_servers::eventually;

pub use self::node::{SECTION, run_as_node};

/// Long enough for anything that works, on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A trial that runs on a runtime of its own.
pub fn trial<F>(name: &'static str, test: fn() -> F) -> libtest_mimic::Trial
where
    F: Future<Output = ()> + 'static,
{
    libtest_mimic::Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(test());
        Ok(())
    })
}
