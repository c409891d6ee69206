//! Taking new settings into use: usually over in a moment, but a stuck disk or a server that does not answer may make it
//! take long. A leader that waited for it would lose its lock.

use std::sync::Arc;

use tokio::task::{JoinError, JoinHandle};

use super::Engine;

impl Engine {
    /// Tells the server about new settings and waits for it, for a leader only as long as leaves time for the next renewal.
    /// What takes longer goes on beside the loop. It is not cancelled: the port would take what it has half done for done.
    /// `false`: a former one still goes on, and nothing was begun; the loop wakes at its end.
    pub(super) async fn apply_settings_in_time(&mut self, force_reload: bool) -> bool {
        if self.applying.as_ref().is_some_and(|former| !former.is_finished()) {
            tracing::info!("new settings have to wait until the former ones are in use");
            return false;
        }
        let (postgres, settings) = (Arc::clone(&self.postgres), Arc::clone(&self.settings));
        let patience = self.deadline_before_renewal(self.clock.now());
        let mut applying = tokio::spawn(async move { postgres.apply_settings(settings, force_reload).await });
        match patience.bound("new settings", &mut applying).await {
            Ok(ended) => report_panic(ended),
            Err(_) => {
                tracing::warn!("taking new settings into use takes long; going on without waiting for it");
                self.applying = Some(applying);
            }
        }
        true
    }
}

/// Waits for settings that are being taken into use beside the loop, if there are any.
pub(super) async fn ended(applying: &mut Option<JoinHandle<()>>) {
    match applying {
        Some(running) => report_panic(running.await),
        None => std::future::pending().await,
    }
}

fn report_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!("taking new settings into use ended unexpectedly: {error}");
    }
}
