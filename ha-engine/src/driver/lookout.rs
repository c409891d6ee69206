//! Looking at the standbys between the cycles of a leader in synchronous mode.
//!
//! The looks are cheap and frequent, so they have a task of their own: the loop is woken only when a cycle would do
//! something. What is worth it was said by the last decision.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::{Clock, Deadline};
use tokio::sync::{mpsc, watch};

use crate::decide::sync::watch::SyncWatch;
use crate::ports::Postgres;

/// Bound of one look.
const LOOK: Duration = Duration::from_secs(1);

/// The task's handle. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Lookout {
    orders: watch::Sender<Option<SyncWatch>>,
    wakes: mpsc::Receiver<()>,
}

impl Lookout {
    /// Starts the task, with nothing to look out for.
    pub(super) fn start(clock: Arc<dyn Clock>, postgres: Arc<dyn Postgres>) -> Self {
        let orders = watch::Sender::new(None);
        let (sender, wakes) = mpsc::channel(1);
        // Detached on purpose: it ends with the sender of the orders.
        drop(tokio::spawn(look_out(clock, postgres, orders.subscribe(), sender)));
        Self { orders, wakes }
    }

    /// What to look out for from now on. Something that was seen before, and led to the decision, wakes nobody any more.
    pub(super) fn watch_for(&mut self, order: Option<SyncWatch>) {
        while self.wakes.try_recv().is_ok() {}
        self.orders.send_if_modified(|current| {
            let changes = order.is_some() || current.is_some();
            *current = order;
            changes
        });
    }

    /// Completes when something has been seen that a cycle would act on.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost by dropping it.
    pub(super) async fn has_seen_something(&mut self) {
        if self.wakes.recv().await.is_none() {
            std::future::pending().await
        }
    }
}

async fn look_out(
    clock: Arc<dyn Clock>,
    postgres: Arc<dyn Postgres>,
    mut orders: watch::Receiver<Option<SyncWatch>>,
    wakes: mpsc::Sender<()>,
) {
    loop {
        let order = orders.borrow_and_update().clone();
        if let Some(mut order) = order {
            loop {
                tokio::select! {
                    biased;
                    changed = orders.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        break;
                    }
                    () = tokio::time::sleep(order.pause(clock.now())) => {}
                }
                // Not interrupted: a statement that is dropped costs a connection.
                let Some(sample) = postgres.synchronous_replication(Deadline::after(LOOK)).await else { continue };
                if order.look(&sample, clock.now()) {
                    // Full: the loop has not even heard of the last time.
                    let _ = wakes.try_send(());
                    // One decision is enough for what was seen.
                    if orders.changed().await.is_err() {
                        return;
                    }
                    break;
                }
            }
        } else if orders.changed().await.is_err() {
            return;
        }
    }
}
