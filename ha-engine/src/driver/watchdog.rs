//! The watchdog beside the loop: opened, fed and closed by one task, in the order in which that was asked for.
//!
//! A device may hang, and the loop must not hang with it: the loop only leaves orders here. What a feed is worth is judged at
//! the last moment, by the lease that it stands for: a device that was fed for a lease is never alive longer than that lease.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::{Clock, Deadline, LeaderLease, Moment};
use tokio::sync::{mpsc, oneshot, watch};

use super::Engine;
use crate::decide::action::Severity;
use crate::decide::observation::WatchdogObservation;
use crate::decide::watchdog::{Attempt, Verdict, WatchdogPlan, description, judge};
use crate::ports::{StopEvent, StopOutcome, StopRequest, Watchdog, WatchdogInfo};
use crate::settings::{EffectiveSettings, WatchdogDriver, WatchdogMode};

/// Orders that may wait for a slow device. Feeds that do not fit are left out: nothing is fed by a device that hangs.
const ORDERS: usize = 16;
/// How long the loop waits to hear that the device is closed, or whether it is usable.
const ANSWER: Duration = Duration::from_secs(2);

enum Order {
    Activate(oneshot::Sender<bool>),
    Feed(LeaderLease),
    Disable(oneshot::Sender<()>),
    Look(oneshot::Sender<bool>),
}

/// The loop's end. The task ends with the last of these, and leaves an open device open.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    orders: mpsc::Sender<Order>,
    plan: Arc<watch::Sender<WatchdogPlan>>,
    running: watch::Receiver<bool>,
    /// When the renewal was sent that the device was fed for last.
    fed_for: Moment,
}

impl Keeper {
    /// Starts the task, with no device open.
    pub(super) fn start(clock: Arc<dyn Clock>, device: Arc<dyn Watchdog>, settings: &EffectiveSettings) -> Self {
        let (orders, received) = mpsc::channel(ORDERS);
        let (plan, plans) = watch::channel(plan_of(settings));
        let running = watch::Sender::new(false);
        let keeper = Self { orders, plan: Arc::new(plan), running: running.subscribe(), fed_for: Moment::ZERO };
        let wanted = plan_of(settings);
        let task = Task { clock, device, wanted, active: None, given_up: None, running, said: Vec::new() };
        // Detached on purpose: it ends with the senders of its orders.
        drop(tokio::spawn(task.run(received, plans)));
        keeper
    }

    /// Takes settings into use: at once what ends the use of a device, everything else with the next feed.
    pub(super) fn configure(&self, settings: &EffectiveSettings) {
        let plan = plan_of(settings);
        self.plan.send_if_modified(|current| {
            let changed = *current != plan;
            *current = plan;
            changed
        });
    }

    /// Whether the device is armed.
    pub(super) fn is_running(&self) -> bool {
        *self.running.borrow()
    }

    /// Arms the device. Whether it is armed, or this node may lead without.
    pub(super) async fn activate(&self, deadline: Deadline) -> bool {
        let (reply, answer) = oneshot::channel();
        let required = self.plan.borrow().settings.mode == WatchdogMode::Required;
        let asked = async { self.orders.send(Order::Activate(reply)).await.is_ok() && answer.await.unwrap_or(false) };
        match deadline.bound("arm the watchdog", asked).await {
            Ok(armed) => armed,
            Err(late) => {
                tracing::warn!("{late}");
                !required
            }
        }
    }

    /// Feeds the device for `lease`, once for every renewal.
    pub(super) fn feed(&mut self, lease: LeaderLease) {
        if lease.sent_at() <= self.fed_for || !self.is_running() {
            return;
        }
        self.fed_for = lease.sent_at();
        if self.orders.try_send(Order::Feed(lease)).is_err() {
            tracing::warn!("the watchdog does not react: it cannot be fed");
        }
    }

    /// Stops the device and closes it.
    pub(super) async fn disable(&self) {
        if !self.is_running() {
            return;
        }
        let (reply, answer) = oneshot::channel();
        let asked = async { self.orders.send(Order::Disable(reply)).await.is_ok() && answer.await.is_ok() };
        if let Err(late) = Deadline::after(ANSWER).bound("close the watchdog", asked).await {
            tracing::warn!("{late}");
        }
    }

    async fn is_usable(&self) -> bool {
        if self.plan.borrow().settings.mode != WatchdogMode::Required || self.is_running() {
            return true;
        }
        let (reply, answer) = oneshot::channel();
        let asked = async { self.orders.send(Order::Look(reply)).await.is_ok() && answer.await.unwrap_or(false) };
        Deadline::after(ANSWER).bound("look at the watchdog", asked).await.unwrap_or(false)
    }

    /// One look, for a decision.
    pub(super) async fn observe(&self) -> WatchdogObservation {
        let wanted = self.plan.borrow().settings.mode != WatchdogMode::Off;
        WatchdogObservation { wanted, running: self.is_running(), usable: self.is_usable().await }
    }
}

fn plan_of(settings: &EffectiveSettings) -> WatchdogPlan {
    WatchdogPlan { settings: settings.watchdog.clone(), ttl: settings.global.ttl, loop_wait: settings.global.loop_wait }
}

/// A device that is open.
struct Active {
    /// The plan that it was armed by.
    plan: WatchdogPlan,
    info: WatchdogInfo,
}

impl Active {
    fn description(&self) -> String {
        description(&self.plan.settings, Some(&self.info.identity), self.info.firmware)
    }
}

struct Task {
    clock: Arc<dyn Clock>,
    device: Arc<dyn Watchdog>,
    wanted: WatchdogPlan,
    active: Option<Active>,
    /// The plan that could not be carried out. It is not tried again before something about it changes.
    given_up: Option<WatchdogPlan>,
    running: watch::Sender<bool>,
    /// What was said about the last attempt, so that it is said once.
    said: Vec<(Severity, String)>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>, mut plans: watch::Receiver<WatchdogPlan>) {
        loop {
            let order = tokio::select! {
                biased;
                Ok(()) = plans.changed() => {
                    self.wanted = plans.borrow_and_update().clone();
                    if self.wanted.settings.mode == WatchdogMode::Off {
                        self.disable().await;
                    }
                    continue;
                }
                order = orders.recv() => order,
            };
            // Who asked may have stopped waiting.
            match order {
                Some(Order::Activate(reply)) => drop(reply.send(self.activate().await)),
                Some(Order::Feed(lease)) => self.feed(lease).await,
                Some(Order::Disable(reply)) => {
                    self.disable().await;
                    let _ = reply.send(());
                }
                Some(Order::Look(reply)) => drop(reply.send(self.is_usable().await)),
                None => return,
            }
        }
    }

    fn set_active(&mut self, active: Option<Active>) {
        self.running.send_replace(active.is_some());
        self.active = active;
    }

    /// Whether an attempt would end as the last one did.
    fn is_hopeless(&self) -> bool {
        self.wanted.settings.driver == WatchdogDriver::Unknown
            || self.given_up.as_ref().is_some_and(|plan| plan.settings.is_same_device_as(&self.wanted.settings))
    }

    async fn is_usable(&self) -> bool {
        self.wanted.slack() >= 0 && !self.is_hopeless() && self.device.is_usable(&self.wanted.settings).await
    }

    async fn activate(&mut self) -> bool {
        if self.active.is_some() || self.wanted.settings.mode == WatchdogMode::Off {
            return true;
        }
        let plan = self.wanted.clone();
        let mut opened = None;
        let attempt = if plan.slack() < 0 {
            Attempt::TooTight
        } else if self.is_hopeless() {
            Attempt::NoDevice
        } else {
            self.attempt(&plan, &mut opened).await
        };
        let Verdict { keep, may_lead, lines } = judge(&plan, &attempt);
        if self.said != lines {
            lines.iter().for_each(|(severity, line)| say(*severity, line));
            self.said = lines;
        }
        if let Some(info) = opened {
            let active = Active { plan: plan.clone(), info };
            self.set_active(Some(active));
            if !keep {
                self.disable().await;
            }
        }
        if !keep && !matches!(attempt, Attempt::TooTight) {
            self.given_up = Some(plan);
        }
        may_lead
    }

    async fn attempt(&self, plan: &WatchdogPlan, opened: &mut Option<WatchdogInfo>) -> Attempt {
        let failed = |identity: Option<&WatchdogInfo>, error: &dyn std::fmt::Display| Attempt::Failed {
            description: description(&plan.settings, identity.map(|info| info.identity.as_str()), identity.map_or(0, |info| info.firmware)),
            error: error.to_string(),
        };
        let info = match self.device.open(&plan.settings).await {
            Ok(info) => opened.insert(info).clone(),
            Err(error) => return failed(None, &error),
        };
        let timeout = async {
            if info.can_set_timeout {
                self.device.set_timeout(plan.timeout()).await?;
            }
            self.device.timeout().await
        };
        match timeout.await {
            Ok(timeout) => Attempt::Opened {
                description: description(&plan.settings, Some(&info.identity), info.firmware),
                can_be_disabled: info.can_be_disabled,
                timeout,
            },
            Err(error) => failed(Some(&info), &error),
        }
    }

    /// Hardening rule X1: fed only if the device then fires before the lease ends.
    async fn feed(&mut self, lease: LeaderLease) {
        let Some(active) = &self.active else { return };
        // By the plan that comes into force with this feed.
        let patience = if self.wanted.settings.mode == WatchdogMode::Off { active.plan.patience() } else { self.wanted.patience() };
        match self.device.keepalive(lease.sent_at() + patience).await {
            Ok(true) => {}
            Ok(false) => {
                let took = self.clock.now().saturating_since(lease.sent_at()).as_millis();
                tracing::warn!(
                    "not feeding the watchdog: the renewal of the leader lock is {took} ms old, more than its safety margin of {} ms",
                    patience.as_millis()
                );
                return;
            }
            Err(error) => tracing::error!("Error while sending keepalive: {error}"),
        }
        if active.plan != self.wanted {
            self.follow_plan().await;
        }
    }

    /// What has changed about the plan comes into force.
    async fn follow_plan(&mut self) {
        let wanted = self.wanted.clone();
        let Some(active) = &mut self.active else { return };
        if !active.plan.settings.is_same_device_as(&wanted.settings) {
            self.disable().await;
            self.activate().await;
            return;
        }
        let timeout_changed = active.plan.timeout() != wanted.timeout();
        active.plan = wanted;
        if !timeout_changed {
            return;
        }
        let (plan, description) = (active.plan.clone(), active.description());
        let timeout = async {
            self.device.set_timeout(plan.timeout()).await?;
            self.device.timeout().await
        };
        match timeout.await {
            Ok(timeout) => {
                tracing::info!("{description} updated with {timeout} second timeout, timing slack {} seconds", plan.slack());
            }
            Err(error) => tracing::error!("Error while sending keepalive: {error}"),
        }
    }

    async fn disable(&mut self) {
        let Some(active) = &self.active else { return };
        if !active.info.can_be_disabled {
            // Some more time for whoever has to clean up.
            let fed = self.device.keepalive(self.clock.now() + ANSWER).await;
            let timeout = self.device.timeout().await.unwrap_or_else(|_| active.plan.timeout());
            tracing::warn!(
                "Watchdog implementation can't be disabled. System will reboot after {timeout} seconds when watchdog times out."
            );
            if let Err(error) = fed {
                tracing::error!("Error while disabling watchdog: {error}");
            }
        }
        match self.device.close().await {
            Ok(()) => self.set_active(None),
            // It is still open, and still fires.
            Err(error) => tracing::error!("Error while disabling watchdog: {error}"),
        }
    }
}

/// Says it here, so that it bears the name of this part in the log.
fn say(severity: Severity, text: &str) {
    match severity {
        Severity::Debug => tracing::debug!("{text}"),
        Severity::Info => tracing::info!("{text}"),
        Severity::Warning => tracing::warn!("{text}"),
        Severity::Error => tracing::error!("{text}"),
    }
}

impl Engine {
    /// Stops the server. Once no client is left the watchdog is let go, not earlier: until then the machine must not outlive
    /// the lock.
    pub(super) async fn stop_and_disarm(&self, request: StopRequest) -> StopOutcome {
        let (events, mut heard) = mpsc::channel(4);
        let listen = async {
            while let Some(event) = heard.recv().await {
                if event == StopEvent::BackendsGone {
                    self.watchdog.disable().await;
                }
            }
        };
        let (outcome, ()) = tokio::join!(self.postgres.stop(request, Some(events)), listen);
        if matches!(outcome, StopOutcome::Stopped(_)) {
            self.watchdog.disable().await;
        }
        outcome
    }
}
