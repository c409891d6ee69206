//! Writes of this client to one key, one after another, whatever becomes of their callers.
//!
//! A caller that is gone does not take back what it has sent: Consul may carry it out a moment later, behind something that
//! was asked for since. So a write goes on without its caller until its answer is there or its time is over, and whoever
//! writes or reads the same key next waits for that. Between machines nothing of the kind can be promised, but a client does
//! not overtake itself.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use dcs_core::Deadline;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Failure;

/// One turn for each key that was ever written: the dozen keys of a cluster that one member writes.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<Semaphore>>>);

impl Turns {
    /// Waits until no write of `key` is under way.
    pub(crate) async fn wait(&self, key: &str, deadline: Deadline) -> Result<OwnedSemaphorePermit, Failure> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(key.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        let taken = deadline.bound("an earlier write of the same key", turn.acquire_owned()).await;
        let taken = taken.map_err(Failure::never_sent)?;
        taken.map_err(Failure::never_sent)
    }

    /// Writes `key` when it is its turn.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before its turn has come means that nothing is written; later, that it goes on by itself.
    pub(crate) async fn write<T, F>(&self, key: &str, deadline: Deadline, write: F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Send + 'static,
    {
        let turn = self.wait(key, deadline).await?;
        let writing = tokio::spawn(async move {
            let outcome = write.await;
            drop(turn);
            outcome
        });
        writing.await.map_err(Failure::late)?
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dcs_core::Fate;
    use tokio::sync::oneshot;

    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(5))
    }

    #[tokio::test]
    async fn a_write_whose_caller_is_gone_is_awaited_by_the_next() {
        let turns = Turns::default();
        let (sender, answer) = oneshot::channel();
        let first = turns.write("/a", soon(), async { answer.await.map_err(Failure::late) });
        let gone = tokio::time::timeout(Duration::from_millis(10), first).await;
        assert!(gone.is_err(), "it has no answer yet");

        drop(turns.wait("/b", soon()).await.unwrap());
        let short = Deadline::after(Duration::from_millis(10));
        let failure = turns.write("/a", short, async { Ok(()) }).await.unwrap_err();
        assert_eq!(failure.fate, Fate::NotApplied);
        sender.send(()).unwrap();
        drop(turns.wait("/a", soon()).await.unwrap());
        turns.write("/a", soon(), async { Ok(()) }).await.unwrap();
    }
}
