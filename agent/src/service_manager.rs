//! Telling systemd how we are: `READY`, `RELOADING`, `STOPPING`. Does nothing without `NOTIFY_SOCKET`.

use sd_notify::NotifyState;

/// The main loop is about to start, or a reload has been taken on.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload was asked for.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("the monotonic clock cannot be read: {error}"),
    }
}

/// The end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("the service manager was not told: {error}");
    }
}
