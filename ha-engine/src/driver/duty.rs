//! Leaving synchronous duty before this node goes away: a commit that waits for it would wait until it is back.

use std::time::Duration;

use dcs_core::model::MemberName;
use dcs_core::{Dcs, Deadline, Interest};
use tokio::sync::oneshot;

use super::Engine;
use super::jobs::{TaskEvent, Tools};
use crate::cancel::Cancel;
use crate::decide::sync::duty;

/// The longest wait for one change; a watch may miss something.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Waits, at most `limit`, until the leader no longer counts on `me`. A store that fails ends the wait: nobody could tell.
async fn wait_for_release(dcs: &dyn Dcs, me: &MemberName, limit: Duration, cancel: &Cancel) {
    let deadline = Deadline::after(limit);
    let mut told = false;
    while !deadline.has_passed() && !cancel.is_cancelled() {
        match dcs.load(deadline).await {
            Ok(view) if duty::has_duty(&view, me) => {}
            _ => return,
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!("Waiting for primary to release us from synchronous standby");
        }
        let interest = Interest { sync: true, ..Interest::FOLLOWER };
        tokio::select! {
            _ = dcs.wait(interest, deadline.remaining().min(LOOK_AGAIN)) => {}
            () = cancel.cancelled() => {}
        }
    }
}

fn unpublished() {
    tracing::warn!("Updating member state failed, skipping synchronous standby disable");
}

impl Tools {
    /// Before a task takes a standby down: tells the leader, and waits until it has heard.
    pub(super) async fn leave_sync_duty(&self) {
        let global = &self.settings.global;
        let should_announce = |view| duty::should_announce(global, &self.settings.tags, view, &self.me);
        if !should_announce(None) {
            return;
        }
        let view = self.dcs.load(Deadline::after(global.retry_timeout)).await.ok();
        if !should_announce(view.as_ref()) {
            return;
        }
        let (reply, published) = oneshot::channel();
        if !self.tell(TaskEvent::LeaveDuty(reply)).await || published.await != Ok(true) {
            return unpublished();
        }
        wait_for_release(&*self.dcs, &self.me, global.loop_wait * 2, &self.cancel).await;
    }
}

impl Engine {
    /// The same before this agent ends.
    pub(super) async fn leave_sync_duty(&mut self) {
        let global = &self.settings.global;
        let limit = global.loop_wait * 2;
        if !duty::should_announce(global, &self.settings.tags, self.view.as_deref(), &self.me) {
            return;
        }
        self.off_duty = true;
        if !self.touch_member().await {
            return unpublished();
        }
        wait_for_release(&*self.dcs, &self.me, limit, &Cancel::never()).await;
    }
}
