//! What else is around a pretended server: a network on which agents ask each other, a watchdog, a lease guard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use dcs_core::model::{Lsn, MemberName, Tags, Timeline};
use dcs_core::{Clock, Deadline};

use super::fake::World;
use crate::decide::failsafe::exclusion::FailsafeCall;
use crate::decide::observation::{PeerAnswer, PeerStatus, PeerTarget};
use crate::ports::{Hold, LeaseGuard, Peers, Watchdog, WatchdogError, WatchdogInfo};
use crate::settings::WatchdogSettings;

/// The network between agents.
#[derive(Debug)]
pub(super) struct FakePeers(pub(super) Arc<World>);

#[async_trait]
impl Peers for FakePeers {
    async fn poll(&self, targets: &[PeerTarget], _: Deadline) -> Vec<(MemberName, PeerAnswer)> {
        let answer = |name: &MemberName| {
            let server = self.0.server(name.as_str());
            if !server.running || server.stopping || self.0.agent(name.as_str()).is_none() {
                return PeerAnswer::Unreachable;
            }
            PeerAnswer::Status(PeerStatus {
                in_recovery: !server.primary,
                position: Lsn(if server.primary { 0 } else { server.lsn }),
                timeline: Timeline::known(server.timeline),
                tags: Tags::default(),
                watchdog_failed: false,
                scope: None,
                system_id: None,
            })
        };
        targets.iter().map(|target| (target.name.clone(), answer(&target.name))).collect()
    }

    async fn ask_for_word(&self, targets: &[PeerTarget], call: &FailsafeCall, _: Deadline) -> Option<BTreeMap<MemberName, Lsn>> {
        let mut positions = BTreeMap::new();
        for target in targets {
            let position = self.0.agent(target.name.as_str())?.give_word(call.clone()).ok()?;
            positions.extend(position.map(|position| (target.name.clone(), position)));
        }
        Some(positions)
    }

    async fn is_alive(&self, api_url: &str, _: Deadline) -> bool {
        self.0.servers().iter().any(|(name, server)| server.has_namesake && api_url.contains(&format!("//{name}:")))
    }
}

/// A watchdog that notes what is done to it.
#[derive(Debug)]
pub(super) struct FakeWatchdog {
    clock: Arc<dyn Clock>,
    /// Whether there is a device.
    pub(super) there: std::sync::atomic::AtomicBool,
    /// What was done, and when.
    pub(super) deeds: Mutex<Vec<(dcs_core::Moment, String)>>,
}

impl FakeWatchdog {
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock: Arc::clone(clock), there: true.into(), deeds: Mutex::default() })
    }

    fn note(&self, deed: impl Into<String>) {
        self.deeds.lock().expect("no test panics while it holds the deeds").push((self.clock.now(), deed.into()));
    }

    /// What was done.
    pub(super) fn deeds(&self) -> Vec<String> {
        self.deeds.lock().expect("no test panics while it holds the deeds").iter().map(|(_, deed)| deed.clone()).collect()
    }

    /// When it was fed last.
    pub(super) fn last_fed(&self) -> Option<dcs_core::Moment> {
        let deeds = self.deeds.lock().expect("no test panics while it holds the deeds");
        deeds.iter().rev().find(|(_, deed)| deed == "fed").map(|(at, _)| *at)
    }
}

#[async_trait]
impl Watchdog for FakeWatchdog {
    async fn open(&self, _: &WatchdogSettings) -> Result<WatchdogInfo, WatchdogError> {
        if !self.there.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(WatchdogError("no such device".to_owned()));
        }
        self.note("opened");
        Ok(WatchdogInfo { identity: "pretended".to_owned(), firmware: 0, can_set_timeout: true, can_be_disabled: true })
    }

    async fn set_timeout(&self, seconds: i64) -> Result<(), WatchdogError> {
        self.note(format!("timeout {seconds}"));
        Ok(())
    }

    async fn timeout(&self) -> Result<i64, WatchdogError> {
        let deeds = self.deeds();
        let set = deeds.iter().rev().find_map(|deed| deed.strip_prefix("timeout ")?.parse().ok());
        Ok(set.unwrap_or(60))
    }

    async fn keepalive(&self, not_after: dcs_core::Moment) -> Result<bool, WatchdogError> {
        if self.clock.now() > not_after {
            return Ok(false);
        }
        self.note("fed");
        Ok(true)
    }

    async fn close(&self) -> Result<(), WatchdogError> {
        self.note("closed");
        Ok(())
    }

    async fn is_usable(&self, _: &WatchdogSettings) -> bool {
        self.there.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// A lease guard that notes what it holds.
#[derive(Debug, Default)]
pub(super) struct FakeGuard(Mutex<Option<Hold>>);

impl FakeGuard {
    /// What it holds.
    pub(super) fn holds(&self) -> Option<Hold> {
        *self.0.lock().expect("no test panics while it holds the guard")
    }
}

impl LeaseGuard for FakeGuard {
    fn hold(&self, hold: Option<Hold>) {
        *self.0.lock().expect("no test panics while it holds the guard") = hold;
    }
}
