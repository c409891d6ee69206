//! Raft nodes, each of which is a process of its own.
//!
//! A node is the test program itself, which looks at its environment before it does anything else ([`run_as_node`]). It
//! ends when its standard input does: then nobody is there any more who could end it.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

pub mod load;
mod node;
pub mod nodes;

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

pub use self::node::run_as_node;

/// Long enough for anything that works, on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again, and tells what was seen last if it never becomes true.
pub async fn eventually<T, F, Fut>(what: &str, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) if begun.elapsed() >= PATIENCE => panic!("{what}: not within {PATIENCE:?}; last seen: {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

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
