//! Work on logical slots beside the loop: decoding what a slot skips may take long, and so may waiting for the transactions
//! that run while a slot is created.

use std::sync::Arc;

use tokio::task::{JoinError, JoinHandle};

use super::Engine;
use crate::cancel::CancelSource;
use crate::decide::slots::{LogicalReport, LogicalWork};
use crate::ports::Postgres;

/// The work that is under way, and what came of the last.
#[derive(Debug, Default)]
pub(super) struct SlotWork {
    running: Option<(JoinHandle<LogicalReport>, CancelSource)>,
    report: Option<LogicalReport>,
}

impl SlotWork {
    /// Begins `work`, unless something is under way: the cycle after its end orders what is still to be done.
    pub(super) fn begin(&mut self, postgres: &Arc<dyn Postgres>, work: LogicalWork) {
        if self.running.is_some() {
            return;
        }
        let source = CancelSource::new();
        let (postgres, cancel) = (Arc::clone(postgres), source.token());
        self.running = Some((tokio::spawn(async move { postgres.tend_logical_slots(&work, &cancel).await }), source));
    }

    /// No further slot is begun with.
    pub(super) fn stop(&self) {
        if let Some((_, cancel)) = &self.running {
            cancel.cancel();
        }
    }

    /// Waits for the end of what is under way, if there is something.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping it.
    pub(super) async fn ended(&mut self) -> Result<LogicalReport, JoinError> {
        match &mut self.running {
            Some((running, _)) => running.await,
            None => std::future::pending().await,
        }
    }

    /// Keeps the report of what has ended. Whether it is worth a cycle at once: a slot that was created is told to the others,
    /// one that is broken is copied.
    pub(super) fn keep(&mut self, report: Result<LogicalReport, JoinError>) -> bool {
        self.running = None;
        match report {
            Ok(report) => {
                let news = !(report.created.is_empty() && report.broken.is_empty());
                self.report = Some(report);
                news
            }
            Err(error) => {
                tracing::error!("the work on logical slots ended unexpectedly: {error}");
                false
            }
        }
    }

    /// What came of the last work; told once.
    pub(super) fn take_report(&mut self) -> Option<LogicalReport> {
        self.report.take()
    }
}

impl Engine {
    /// Forces `hot_standby_feedback` on, or not any more; ordered again by the next cycle if that fails.
    pub(super) async fn enforce_feedback(&mut self, on: bool) {
        let patience = self.deadline_before_renewal(self.clock.now());
        let outcome = match patience.bound("a new hot_standby_feedback", self.postgres.enforce_feedback(on)).await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(late) => Err(late.to_string()),
        };
        if let Err(error) = outcome {
            tracing::warn!("hot_standby_feedback could not be changed: {error}");
            let mut memory = self.memory.clone();
            memory.slots.enforces_feedback = !on;
            self.remember(memory);
        }
    }
}
