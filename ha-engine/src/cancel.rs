//! A flag that ends long work.

use tokio::sync::watch;

/// Tells long work to end. Clones share the flag.
#[derive(Clone, Debug)]
pub struct Cancel(watch::Receiver<bool>);

/// The side that cancels. Dropping it without cancelling lets the work finish.
#[derive(Debug)]
pub struct CancelSource(watch::Sender<bool>);

impl CancelSource {
    /// A new flag, not cancelled.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// The side that looks at it.
    pub fn token(&self) -> Cancel {
        Cancel(self.0.subscribe())
    }

    /// Cancels. Idempotent.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

impl Default for CancelSource {
    fn default() -> Self {
        Self::new()
    }
}

impl Cancel {
    /// A flag that nobody can set.
    pub fn never() -> Self {
        Self(watch::Sender::new(false).subscribe())
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for the cancellation; for ever if it never comes. Safe to drop.
    pub async fn cancelled(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
