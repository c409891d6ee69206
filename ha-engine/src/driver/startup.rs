//! Start-up, in the order of section 14.1.

use std::time::Duration;

use dcs_core::Deadline;

use super::Engine;

/// Between two attempts to read the store: from here …
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// … doubling up to here.
const LAST_RETRY: Duration = Duration::from_secs(5);
/// How long a namesake has to answer.
const NAMESAKE: Duration = Duration::from_secs(3);
/// How long looking for a running postmaster may take.
const ADOPT: Duration = Duration::from_secs(10);

impl Engine {
    /// Waits for the store, makes sure that nobody else has this name, takes over what runs already. What is fatal.
    pub(super) async fn start_up(&mut self) -> Option<String> {
        let mut pause = FIRST_RETRY;
        let view = loop {
            match self.dcs.load(Deadline::after(self.settings.global.retry_timeout)).await {
                Ok(view) => break self.take_view(view),
                Err(error) => tracing::warn!("Can not get cluster from dcs, waiting on {}: {}", self.dcs.store_name(), error.chain()),
            }
            let jitter = Duration::from_millis(fastrand::u64(0..100));
            if self.stopped_while_waiting(pause + jitter).await {
                self.shutting_down = true;
                return None;
            }
            pause = (pause * 2).min(LAST_RETRY);
        };
        if let Some(api_url) = view.member(&self.me).and_then(|member| member.record.api_url.clone())
            && self.peers.is_alive(&api_url, Deadline::after(NAMESAKE)).await
        {
            return Some(format!("Can't start; there is already a node named '{}' running", self.me));
        }
        if self.config_revision.is_none() {
            let document = self.source.initial_dynamic();
            match self.source.effective(&document) {
                Ok(settings) => {
                    self.dynamic = document;
                    self.dcs.set_timing(settings.global.timing());
                    self.watchdog.configure(&settings);
                    self.settings = settings;
                }
                Err(error) => return Some(error.message),
            }
        }
        self.postgres.apply_settings(std::sync::Arc::clone(&self.settings), false).await;
        self.unapplied_settings = false;
        self.postgres.adopt(Deadline::after(ADOPT)).await;
        self.next_run = self.clock.now();
        None
    }

    /// Waits; `true` if somebody asked for the end meanwhile.
    async fn stopped_while_waiting(&mut self, pause: Duration) -> bool {
        let until = tokio::time::Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return false,
                command = self.mailbox.recv() => {
                    if matches!(command, None | Some(crate::handle::Command::Shutdown)) {
                        return true;
                    }
                }
            }
        }
    }
}
