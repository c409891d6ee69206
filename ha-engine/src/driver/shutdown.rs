//! The end of the agent, in order (sections 14.2 and 14.3).

use std::sync::Arc;
use std::time::Duration;

use dcs_core::model::Role;
use dcs_core::{Deadline, Renewal};
use tokio::sync::mpsc;

use super::Engine;
use super::jobs::ask_whether_somebody_has_everything;
use crate::decide::Successors;
use crate::decide::action::ExitReason;
use crate::handle::Command;
use crate::ports::{StopEvent, StopHook, StopMode, StopOutcome, StopRequest};

/// How often candidates are asked while the server stops.
const ASK_CANDIDATES: Duration = Duration::from_millis(50);

impl Engine {
    /// Ends without touching PostgreSQL, or after stopping it, as the reason says.
    pub(super) async fn leave(&mut self, exit: &ExitReason) {
        if !exit.leave_postgres {
            self.stop_immediately().await;
        }
        self.fence.disarm();
    }

    /// Ends in order: long work, PostgreSQL, the lock, the member key.
    pub(super) async fn shut_down(&mut self) {
        self.cancel_task().await;
        if self.is_paused() {
            tracing::info!("Leader key is not deleted and Postgresql is not stopped due paused state");
            self.watchdog.disable().await;
            self.fence.disarm();
            return;
        }
        if self.memory.bootstrapping {
            self.abandon_bootstrap().await;
            return;
        }
        let view = self.view.clone();
        // After a failed load there is no view, and the lock may be ours all the same.
        let leads = self.lock_is_mine() || self.memory.lease.is_some();
        if !leads {
            self.leave_sync_duty().await;
        }
        let request = StopRequest {
            mode: StopMode::Fast,
            checkpoint_first: false,
            hook: StopHook::Run,
            timeout: self.settings.global.stop_timeout(),
            part_of_restart: false,
        };
        let (events, mut heard) = mpsc::channel(4);
        let postgres = Arc::clone(&self.postgres);
        let mut stop = tokio::spawn(async move { postgres.stop(request, Some(events)).await });
        let mut released = false;
        let mut shut_down_at = None;
        let mut listening = true;
        let mut renewing = true;
        let mut asks = tokio::time::interval(ASK_CANDIDATES);
        let mut renewals = tokio::time::interval(self.settings.global.loop_wait);
        let outcome = loop {
            tokio::select! {
                outcome = &mut stop => break outcome.unwrap_or(StopOutcome::Failed),
                event = heard.recv(), if listening => match event {
                    Some(StopEvent::ShutDown(position)) => shut_down_at = Some(position),
                    Some(StopEvent::BackendsGone) => self.watchdog.disable().await,
                    None => listening = false,
                },
                _ = asks.tick(), if leads && !released && shut_down_at.is_some() => {
                    if let (Some(view), Some(position)) = (&view, &shut_down_at)
                        && ask_whether_somebody_has_everything(
                            &*self.peers,
                            &Successors::of(view, &self.settings.global, &self.me, None, false),
                            position,
                        )
                        .await
                    {
                        self.postgres.set_role(Role::Demoted);
                        self.release_lock(Some(position.final_lsn)).await;
                        released = true;
                    }
                }
                // Everybody else finds that the engine is gone.
                Some(command) = self.mailbox.recv() => {
                    if matches!(command, Command::Shutdown) && renewing {
                        tracing::warn!("asked to end once more: the leader lock is not renewed any longer");
                        renewing = false;
                    }
                }
                // Hardening rule X13: a stop that takes longer than the lock lives must not lose it half way.
                _ = renewals.tick(), if leads && !released && renewing => {
                    if let Some(view) = &view && self.renew(view).await == Ok(Renewal::Lost) {
                        // Somebody else may lead now: nothing more may be acknowledged here.
                        released = true;
                        self.stop_immediately().await;
                    }
                }
            }
        };
        match outcome {
            StopOutcome::Stopped(position) => {
                self.watchdog.disable().await;
                self.fence.disarm();
                if leads && !released {
                    self.release_lock(position.map(|position| position.final_lsn)).await;
                }
                self.touch_stopped_member().await;
            }
            StopOutcome::Failed => {
                let watchdog = if self.watchdog.is_running() { " Leaving watchdog running." } else { "" };
                tracing::error!("PostgreSQL shutdown failed, leader key not removed.{watchdog}")
            }
        }
    }

    /// Undoes a bootstrap that is not finished, so that another node can make the cluster.
    async fn abandon_bootstrap(&mut self) {
        tracing::info!("removing initialize key after failed attempt to bootstrap the cluster");
        self.stop_immediately().await;
        let deadline = Deadline::after(self.settings.global.retry_timeout);
        if let Err(error) = self.dcs.cancel_initialization(deadline).await {
            tracing::error!("could not remove the initialize key: {}", error.chain());
        }
        if let Err(error) = self.postgres.move_data_directory_aside().await {
            tracing::error!("could not move the data directory aside: {error}");
        }
    }

    async fn touch_stopped_member(&mut self) {
        let deadline = Deadline::after(self.settings.global.retry_timeout);
        let server = self.postgres.observe(false, deadline).await;
        self.server = Some(Arc::new(server));
        self.off_duty = false;
        self.touch_member().await;
    }
}
