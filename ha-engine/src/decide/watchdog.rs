//! The watchdog: when it may be trusted, how it is timed, and when it is let go (section 3.3).
//!
//! The device resets the machine unless it is fed. Fed right after the lock was renewed, with a timeout that is shorter
//! than the lock's life by a margin, it resets the machine of a stuck leader before another node can take the lock.

use std::time::Duration;

use super::action::{Answer, Ask, Effect, Severity};
use super::cycle::{Cycle, Outcome};
use crate::settings::{WatchdogMode, WatchdogSettings};

/// The shortest time that a renewal may take and still feed the device. With a margin below it the guarantee is that much
/// weaker; without it a margin of 0 would reset every healthy machine.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// What a node's watchdog must do, with the timings of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchdogPlan {
    /// The node's own settings.
    pub settings: WatchdogSettings,
    /// The life of the leader lock.
    pub ttl: Duration,
    /// The period of the engine's cycle.
    pub loop_wait: Duration,
}

impl WatchdogPlan {
    /// After how many seconds without being fed the device resets the machine.
    pub fn timeout(&self) -> i64 {
        let ttl = seconds(self.ttl);
        if self.settings.safety_margin == -1 { ttl / 2 } else { ttl - self.settings.safety_margin }
    }

    /// How many seconds a cycle may be late before the device fires; negative: it would fire between two cycles.
    pub fn slack(&self) -> i64 {
        self.timeout() - seconds(self.loop_wait)
    }

    /// How long after a renewal was sent the device may be fed on the strength of it (hardening rule X1): fed later, it would
    /// fire only after the lock can have expired.
    pub fn patience(&self) -> Duration {
        let margin = seconds(self.ttl) - self.timeout();
        Duration::from_secs(u64::try_from(margin).unwrap_or(0)).max(LEAST_PATIENCE)
    }

    /// Whether a node with this plan may lead without a device.
    fn is_required(&self) -> bool {
        self.settings.mode == WatchdogMode::Required
    }
}

fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

/// What trying to arm the device has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It runs.
    Opened {
        /// What it calls itself.
        description: String,
        /// Whether closing it stops it.
        can_be_disabled: bool,
        /// The timeout that it says it has, in seconds.
        timeout: i64,
    },
    /// It could not be opened or set.
    Failed {
        /// What it calls itself.
        description: String,
        /// What was said.
        error: String,
    },
    /// There is none to try: an earlier attempt has failed, or the driver is unknown.
    NoDevice,
    /// With these timings it would fire between two cycles.
    TooTight,
}

/// What follows from an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the device is kept open and fed from now on.
    pub keep: bool,
    /// Whether this node may lead.
    pub may_lead: bool,
    /// What operators are told.
    pub lines: Vec<(Severity, String)>,
}

/// What follows from an attempt to arm the device.
pub fn judge(plan: &WatchdogPlan, attempt: &Attempt) -> Verdict {
    let (wanted, slack) = (plan.timeout(), plan.slack());
    let (ttl, loop_wait) = (seconds(plan.ttl), seconds(plan.loop_wait));
    let mut lines = Vec::new();
    let mut say = |severity, text: String| lines.push((severity, text));
    let mut running = None;
    match attempt {
        Attempt::TooTight => {
            say(Severity::Warning, format!("Watchdog not supported because leader TTL {ttl} is less than 2x loop_wait {loop_wait}"))
        }
        Attempt::Failed { description, error } => {
            let severity = if plan.is_required() { Severity::Warning } else { Severity::Debug };
            say(severity, format!("Could not activate {description}: {error}"));
        }
        Attempt::NoDevice => {}
        Attempt::Opened { description, can_be_disabled, timeout } => {
            running = Some((description, *timeout));
            if *timeout < loop_wait {
                say(Severity::Error, format!("loop_wait of {loop_wait} seconds is too long for watchdog {timeout} second timeout"));
                if *can_be_disabled {
                    say(Severity::Info, "Disabling watchdog due to unsafe timeout.".to_owned());
                    running = None;
                }
            }
            if running.is_some() && !can_be_disabled {
                say(
                    Severity::Warning,
                    "Watchdog implementation can't be disabled. Watchdog will trigger after Patroni loses leader key.".to_owned(),
                );
            }
        }
    }
    let Some((description, timeout)) = running else {
        if plan.is_required() {
            say(Severity::Error, "Configuration requires watchdog, but watchdog could not be configured.".to_owned());
        }
        return Verdict { keep: false, may_lead: !plan.is_required(), lines };
    };
    if timeout > wanted {
        if plan.is_required() {
            say(
                Severity::Error,
                format!(
                    "Configuration requires watchdog, but a safe watchdog timeout {wanted} could not be configured. Watchdog \
                     timeout is {timeout}."
                ),
            );
            return Verdict { keep: false, may_lead: false, lines };
        }
        say(Severity::Warning, format!("Watchdog timeout {timeout} seconds does not ensure safe termination within {wanted} seconds"));
    }
    say(Severity::Info, format!("{description} activated with {timeout} second timeout, timing slack {slack} seconds"));
    Verdict { keep: true, may_lead: true, lines }
}

/// What a device calls itself in the log.
pub fn description(settings: &WatchdogSettings, identity: Option<&str>, firmware: u32) -> String {
    let identity = identity.unwrap_or("Linux watchdog device");
    let firmware = if firmware == 0 { String::new() } else { format!(" (firmware {firmware})") };
    let place = if settings.is_default_device() { String::new() } else { format!(" at {}", settings.device.display()) };
    format!("{identity}{firmware}{place}")
}

/// Whether the device is armed, or this node may lead without. Asks for what is missing.
pub(super) fn is_armed(c: &Cycle<'_>) -> Outcome<bool> {
    let watchdog = c.obs.watchdog;
    if !watchdog.wanted || watchdog.running {
        return Ok(true);
    }
    Ok(matches!(c.need(Ask::ActivateWatchdog)?, Answer::WatchdogActivated(true)))
}

/// Lets the device go, if it runs.
pub(super) fn let_go(c: &mut Cycle<'_>) {
    if c.obs.watchdog.running && !c.effects.contains(&Effect::DisableWatchdog) {
        c.push(Effect::DisableWatchdog);
    }
}

/// A server that is no primary, on a node without the lock, has nothing that a reset would end.
pub(super) fn let_go_without_duty(c: &mut Cycle<'_>) {
    if !c.lock_is_mine() && !c.obs.server.is_or_becomes_primary() && c.memory.lease.is_none() && !c.memory.bootstrapping {
        let_go(c);
    }
}

#[cfg(test)]
mod tests;
